"""Columns of scores that are kept in a CSV file, a row an architecture, so that none is computed twice.

Shape letters: A architectures.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHUNK = 160  # rows that a kill may cost


def kept_columns(
    path: Path,
    names: Sequence[str],
    keys: Sequence[str],
    compute: Callable[[list[int]], Mapping[str, Floats]],
    watch: Callable[[int], None] | None = None,
) -> dict[str, Floats]:
    """[A] each, from the file where they are there, else computed and written.

    Args:
        path: of the file; its name should say what decides the values.
        names: of the columns.
        keys: of A architectures.
        compute: the columns of some of them, by row.
        watch: called with the number of rows that are there, at first and after every chunk.

    Raises:
        ValueError: a file with other columns.
    """
    header = ["key", *names]
    known: dict[str, list[float]] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        whole = path.read_text()
        found, *rows = csv.reader(whole[: whole.rfind("\n") + 1].splitlines())  # a last line may be cut short
        if found != header:
            raise ValueError(
                f"{path}: columns {', '.join(found)}, not {', '.join(header)}; delete it or choose another"
            )
        known = {row[0]: [float(value) for value in row[1:]] for row in rows}
        path.write_text(whole[: whole.rfind("\n") + 1])
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(header)
    left = [row for row, key in enumerate(keys) if key not in known]
    if watch is not None:
        watch(len(keys) - len(left))
    for start in range(0, len(left), CHUNK):
        part = left[start : start + CHUNK]
        columns = compute(part)
        values = np.stack([columns[name] for name in names], axis=1).tolist()
        known |= {keys[row]: own for row, own in zip(part, values, strict=True)}
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([keys[row], *map(repr, known[keys[row]])] for row in part)
        if watch is not None:
            watch(len(keys) - len(left) + start + len(part))
    table = np.array([known[key] for key in keys]).reshape(len(keys), len(names))
    return dict(zip(names, table.T, strict=True))
