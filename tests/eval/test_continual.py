"""Runs over streams, compared: intervals, grouping by seed, transfer, files, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from eval.continual import estimate, read_runs, report


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
    (runs[0] / "result.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_runs(runs)
