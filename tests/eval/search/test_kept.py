"""Columns in a file: none is computed twice, a line that a kill cut short is."""

from pathlib import Path

import numpy as np
import pytest

from eval.search import kept
from eval.search.kept import kept_columns


def test_columns_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CHUNK", 2)
    path, asked, seen = tmp_path / "new" / "kept.csv", list[list[int]](), list[int]()
    keys = ["a|~", "b,c", "d", "e", "f"]

    def compute(rows: list[int]) -> dict[str, np.ndarray]:
        asked.append(rows)
        return {"x": np.array(rows) / 3, "y": np.array([np.nan if row == 3 else -row for row in rows])}

    first = kept_columns(path, ("x", "y"), keys, compute, seen.append)
    np.testing.assert_array_equal(first["x"], np.arange(5) / 3)
    np.testing.assert_array_equal(first["y"], [0, -1, -2, np.nan, -4])
    assert asked == [[0, 1], [2, 3], [4]] and seen == [0, 2, 4, 5]
    path.write_text(path.read_text()[:-2])  # killed while it wrote the last line
    again = kept_columns(path, ("x", "y"), [*keys, "a|~"], compute)
    np.testing.assert_array_equal(again["x"], [*(np.arange(5) / 3), 0])
    assert asked[3:] == [[4]]
    with pytest.raises(ValueError, match=r"kept\.csv: columns key, x, y, not key, x"):
        kept_columns(path, ("x",), keys, compute)
