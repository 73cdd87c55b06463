"""Accuracies of architectures trained from scratch, read from a CSV: what rankings are held against.

Shape letters: A architectures, S seeds.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import SearchSpace

ARCHITECTURE_COLUMNS = ("architecture", "arch_str")
PACKAGED = {  # name -> space -> file
    "embedded": {"nasbench201": "nasbench201_fashion_mnist_5k.csv", "smash": "smash_fashion_mnist_5k.csv"}
}


class GroundTruthError(ValueError):
    """A table that is missing or cannot be read; the message names file, line and the way out."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """One row an isomorphism class.

    Attributes:
        architectures: A representatives.
        classes: [A] isomorphism keys.
        runs: [A, S] accuracies as shares of 1, one column a seed (seeds that every class has).
        left_out: how many rows of the file were not used, by reason.
    """

    architectures: tuple[Any, ...]
    classes: NDArray[np.str_]
    runs: NDArray[np.float64]
    left_out: dict[str, int]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """[A] means over seeds."""
        return self.runs.mean(1)

    def select(self, keep: Callable[[Any], bool]) -> GroundTruth:
        """The part whose architectures satisfy `keep`."""
        rows = np.array([keep(architecture) for architecture in self.architectures], bool)
        architectures = tuple(a for a, kept in zip(self.architectures, rows, strict=True) if kept)
        left_out = {**self.left_out, "not selected": int((~rows).sum())}
        return GroundTruth(architectures, self.classes[rows], self.runs[rows], left_out)


def read_ground_truth(source: str | Path, space: SearchSpace[Any], column: str = "test_accuracy") -> GroundTruth:
    """Reads a CSV (or .csv.gz) with an architecture column, an accuracy column and, if it has one, a seed column.

    Rows of one isomorphism class and seed are averaged. Disconnected architectures are left out and counted: they
    would widen the spread of accuracies at no merit of the ranking. Percentages (values above 1) become shares.

    Args:
        source: a file, or the name of a table in the package ("embedded").
        space: whose strings the architectures are.
        column: name of the accuracy column.

    Raises:
        GroundTruthError: file, column or value that cannot be read.
    """
    values: dict[str, dict[str, list[float]]] = {}
    representative: dict[str, Any] = {}
    disconnected = 0
    for line, row in enumerate(_rows(source, space, column), start=2):
        name = next(name for name in ARCHITECTURE_COLUMNS if name in row)
        try:
            architecture, accuracy = space.from_string(row[name]), float(row[column])
        except ValueError as error:
            raise GroundTruthError(f"{source}, line {line}: {error}") from error
        if not space.connected(architecture):
            disconnected += 1
            continue
        key = space.canonical(architecture)
        representative.setdefault(key, architecture)
        values.setdefault(key, {}).setdefault(row.get("seed", "0"), []).append(accuracy)
    if len(values) < 3:
        raise GroundTruthError(f"{source}: only {len(values)} connected classes; a ranking needs at least 3")
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in values.values())), key=lambda seed: (len(seed), seed))
    if not seeds:
        raise GroundTruthError(f"{source}: no seed that all classes share; finish the table first")
    runs = np.array([[np.mean(by_seed[seed]) for seed in seeds] for by_seed in values.values()])
    if runs.max() > 1:
        runs = runs / 100
    extra = sum(len(set(by_seed) - set(seeds)) for by_seed in values.values())
    left_out = {"disconnected": disconnected, "runs of seeds that not all classes have": extra}
    return GroundTruth(tuple(representative.values()), np.array(list(values)), runs, left_out)


def _rows(source: str | Path, space: SearchSpace[Any], column: str) -> list[dict[str, str]]:
    if source in PACKAGED:
        tables = PACKAGED[str(source)]
        if space.name not in tables:
            raise GroundTruthError(
                f"ground truth {source!r}: there is none of {space.name}, only of {', '.join(tables)}"
            )
        text = (resources.files("eval") / "tables" / tables[space.name]).read_text()
    else:
        try:
            data = Path(source).read_bytes()
            text = (gzip.decompress(data) if str(source).endswith(".gz") else data).decode()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise GroundTruthError(
                f"ground truth {str(source)!r}: cannot be read ({error}); give a CSV file or {', '.join(PACKAGED)}"
            ) from error
    reader = csv.DictReader(text.splitlines())
    columns = reader.fieldnames or []
    if not any(name in columns for name in ARCHITECTURE_COLUMNS) or column not in columns:
        raise GroundTruthError(
            f"{source}: columns {', '.join(columns)}; needs {column!r} and one of {', '.join(ARCHITECTURE_COLUMNS)}"
        )
    return list(reader)
