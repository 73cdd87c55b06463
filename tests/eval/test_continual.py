"""Runs over streams, compared: intervals, grouping by seed, transfer, files, errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from eval import cli
from eval.continual import estimate, report
from eval.continual_runs import read_runs
from train.continual import ContinualConfig


def write(folder: Path, method: str, seed: int, matrix: list[list[float | None]], **fields: object) -> Path:
    folder.mkdir()
    result = {
        "matrix": matrix,
        "stream": "split",
        "method": method,
        "scenario": "CL1",
        "seed": seed,
        "learner_parameters": 200,
        "target_parameters": 100,
        "memory_images": 0,
        **fields,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return configure(folder, method=method)


def configure(folder: Path, **changes: object) -> Path:
    """Writes the configuration of a run; names are dotted."""
    config = dataclasses.asdict(ContinualConfig())
    config["schedule"]["seed"] = json.loads((folder / "result.json").read_text())["seed"]
    for name, value in changes.items():
        *path, last = name.split("__")
        own = config
        for part in path:
            own = own[part]
        own[last] = value
    provenance = {"source": "made up"}
    (folder / "config.json").write_text(json.dumps({"config": config, "provenance": provenance}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    held = [write(tmp_path / f"h{s}", "hypernetwork", s, [[0.9, None], [0.88 + s / 100, 0.8]]) for s in range(3)]
    return [*held, *(write(tmp_path / f"s{s}", "scratch", s, [[0.9, None], [0.9, 0.75]]) for s in range(3))]


def test_interval_is_students() -> None:
    values = [0.8, 0.9, 0.85]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(estimate(values), (0.85, low, high))
    assert estimate([0.5]) == (0.5, None, None)


def test_report_groups_seeds_and_measures_transfer(runs: list[Path], tmp_path: Path) -> None:
    found = report(runs, tmp_path / "out", Console(quiet=True))
    values = found["split", "CL1", "hypernetwork"]
    assert values["average"].mean == pytest.approx(0.845)
    assert values["forgetting"].mean == pytest.approx((0.02 + 0.01 + 0.0) / 3)
    assert values["forward"].mean == pytest.approx(0.05)
    text = (tmp_path / "out" / "continual.md").read_text()
    assert "| split | CL1 | hypernetwork | 3 | 84.50 [83.26, 85.74] |" in text
    assert "200 / 100 (2.00)" in text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"matrix-split-CL1-scratch.png", "curves-split-CL1.svg", "continual.json"} <= names


def test_bad_folders_are_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no finished run there"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="split, CL1, scratch: seed 0 twice"):
        read_runs([*runs, write(tmp_path / "again", "scratch", 0, [[0.9, None], [0.9, 0.75]])])
    with pytest.raises(ValueError, match="different sizes"):
        read_runs([*runs, write(tmp_path / "big", "scratch", 9, [[0.9, None], [0.9, 0.7]], learner_parameters=1)])
    (runs[1] / "config.json").unlink()
    with pytest.raises(ValueError, match=r"h1: no finished run there \(config.json is missing\)"):
        read_runs(runs)
    (runs[0] / "result.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_runs(runs)


def test_settings_of_one_method_are_rows_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    for number, (strength, accuracy) in enumerate(((1.0, 0.5), (0.5, 0.6), (0.25, 0.7))):
        for seed in range(2):
            folder = write(tmp_path / f"e{number}{seed}", "ewc", seed, [[0.9, None], [accuracy, 0.8]])
            source = f"/copy{seed}/fashion-mnist-5k"  # the same data at another place
            runs.append(configure(folder, method="ewc", strength=strength, stream__data__source=source))
    found = report(runs, tmp_path / "out", Console(quiet=True))
    assert set(found) == {
        ("split", "CL1", name)
        for name in ("hypernetwork", "scratch", "ewc strength=1", "ewc strength=0.5", "ewc strength=0.25")
    }
    assert found["split", "CL1", "ewc strength=0.5"]["average"].mean == pytest.approx(0.7)
    assert found["split", "CL1", "ewc strength=0.5"]["forward"].mean == pytest.approx(0.05)
    assert "| split | CL1 | ewc strength=0.25 | 2 | 75.00" in (tmp_path / "out" / "continual.md").read_text()
    names = {path.name for path in (tmp_path / "out").glob("matrix*.png")}
    assert len(names) == 5 and "matrix-split-CL1-ewc_strength=0_25.png" in names


def test_forward_transfer_is_against_networks_of_the_same_stream(runs: list[Path], tmp_path: Path) -> None:
    for seed in range(3):
        folder = write(tmp_path / f"other{seed}", "scratch", seed, [[0.9, None], [0.9, 0.5]])
        runs.append(configure(folder, method="scratch", stream__train_images=7))
        folder = write(tmp_path / f"longer{seed}", "scratch", seed, [[0.9, None], [0.9, 0.6]])
        runs.append(configure(folder, method="scratch", schedule__steps=900))
    groups = read_runs(runs)
    assert {key[2] for key in groups} == {
        "hypernetwork stream.train_images=None",
        "scratch schedule.steps=300 stream.train_images=None",
        "scratch schedule.steps=900 stream.train_images=None",
        "scratch schedule.steps=300 stream.train_images=7",
    }
    found = report(runs, tmp_path / "out", Console(quiet=True))
    assert found["split", "CL1", "hypernetwork stream.train_images=None"]["forward"].mean == pytest.approx(0.05)


def test_no_runs_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ghn-eval", "continual"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "runs: none given" in capsys.readouterr().err
