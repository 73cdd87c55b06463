"""The table of proxies: what a killed run left is kept, what was made otherwise is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from architectures.spaces import NASBench201
from eval.proxies import score
from eval.proxies.az_nas import PARTS, aggregate
from eval.proxies.command import ProxiesConfig, proxies
from eval.proxies.table import ProxyTable
from train.config import SpaceConfig
from train.data import DataConfig

SPACE = NASBench201(channels=2, stages=1, input_shape=(6, 6, 1))
CELLS = [SPACE.sample(seed) for seed in (2, 3, 4)]
NAMES = ("params", "flops", "nwot")
IMAGES = np.random.default_rng(0).standard_normal((4, 6, 6, 1)).astype(np.float32)
LABELS = np.arange(4)


def test_a_run_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    first = ProxyTable(path, SPACE, NAMES, 1)
    assert list(first.run(CELLS[:2], IMAGES, LABELS)) == [0, 1, 1]
    path.write_text(path.read_text()[:-7])  # the last row was being written
    again = ProxyTable(path, SPACE, NAMES, 1)
    assert list(again.run(CELLS, IMAGES, LABELS)) == [1, 1, 1]
    columns = again.finish(CELLS)
    expected = score(SPACE, CELLS, IMAGES, LABELS, NAMES, 1)
    assert list(columns) == list(NAMES)
    for name in NAMES:
        np.testing.assert_allclose(columns[name], expected[name], rtol=1e-7)


def test_a_table_made_otherwise_is_refused(tmp_path: Path) -> None:
    ProxyTable(tmp_path / "table.csv", SPACE, NAMES, 1)
    with pytest.raises(ValueError, match="other settings"):
        ProxyTable(tmp_path / "table.csv", SPACE, NAMES, 2)
    with pytest.raises(ValueError, match="no row for 3"):
        ProxyTable(tmp_path / "table.csv", SPACE, NAMES, 1).columns(CELLS)


def test_az_nas_is_written_once_all_candidates_are_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = ProxyTable(path, SPACE, ["az_nas"], 1)
    values = {cell: [float(3 * row + column) for column in range(4)] for row, cell in enumerate(CELLS)}
    with path.open("a") as file:
        for cell, row in values.items():
            file.write(",".join([SPACE.to_string(cell), "", *map(str, row)]) + "\n")
    columns = table.finish(CELLS)
    np.testing.assert_allclose(columns["az_nas"], aggregate([columns[name] for name in PARTS]))
    header, first, *_ = path.read_text().splitlines()
    assert header == "architecture,az_nas,az_expressivity,az_progressivity,az_trainability,az_complexity"
    assert float(first.split(",")[1]) == pytest.approx(columns["az_nas"][0])
    reopened = ProxyTable(path, SPACE, ["az_nas"], 1)
    np.testing.assert_allclose(reopened.columns(CELLS[::-1])["az_nas"], columns["az_nas"][::-1])


def test_a_run_of_fewer_candidates_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = ProxyTable(path, SPACE, ["az_nas"], 1)
    with path.open("a") as file:
        for row, cell in enumerate(CELLS):
            file.write(",".join([SPACE.to_string(cell), "", *map(str, range(row, row + 4))]) + "\n")
    table.finish(CELLS)
    before = table.rows()
    table.finish(CELLS[1:])
    assert table.rows() == before
    with path.open(newline="") as file:
        aggregated = {row["architecture"]: row["az_nas"] for row in csv.DictReader(file)}
    assert aggregated[SPACE.to_string(CELLS[0])] == ""
    assert all(aggregated[SPACE.to_string(cell)] for cell in CELLS[1:])


def test_a_table_is_a_csv_with_its_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out\.json: names the CSV.*end in \.csv"):
        ProxyTable(tmp_path / "out.json", SPACE, NAMES)
    (tmp_path / "mine.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"mine\.csv: exists, but no mine\.json says.*another --out"):
        ProxyTable(tmp_path / "mine.csv", SPACE, NAMES)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.csv": "mine\n"}


@pytest.mark.parametrize("change", [{"initialisations": 0}, {"images": 1}, {"seed": -1}])
def test_numbers_out_of_range_are_named(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"ProxiesConfig\.{name}={value}: must be at least"):
        ProxiesConfig(**change)  # type: ignore[arg-type]


def test_no_candidates_make_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="candidates '0': nothing to score"):
        proxies(ProxiesConfig(candidates="0"), tmp_path / "out.csv", Console(quiet=True))
    assert not (tmp_path / "out.csv").exists()


def test_the_command_writes_a_row_a_candidate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 6, 6), np.uint8), np.arange(20, dtype=np.uint8) % 4
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "tiny.npz", **arrays)
    config = ProxiesConfig(
        SpaceConfig(channels=2),
        DataConfig(source=str(tmp_path / "tiny.npz"), image_size=6, score_images=5),
        candidates="2",
        proxies=("params", "swap"),
        initialisations=1,
    )
    columns = proxies(config, tmp_path / "out.csv", Console(quiet=True))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "architecture,params,swap"
    assert len(lines) == 3
    assert (columns["params"] > 0).all() and (columns["swap"] > 1).all()
