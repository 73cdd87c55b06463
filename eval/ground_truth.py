"""What rankings are held against: accuracies of architectures trained from scratch, one row an isomorphism class.

Shape letters: A architectures, S seeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import SearchSpace
from eval.tabular import DEFAULT_COLUMN, GroundTruthError, Record, read_records

COLLAPSED = 1.5  # a class whose mean accuracy is at most so many times chance has learnt nothing


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """One row an isomorphism class.

    Attributes:
        architectures: A representatives.
        classes: [A] isomorphism keys.
        runs: [A, S] accuracies as shares of 1, one column a seed; nan where a class lacks one.
        left_out: how many classes or runs of the file were not used, by reason.
        seconds: mean wall time of one training; nan where the file does not say.
        card: what the file says of itself (protocol, command, hours).
    """

    architectures: tuple[Any, ...]
    classes: NDArray[np.str_]
    runs: NDArray[np.float64]
    left_out: dict[str, int]
    seconds: float = float("nan")
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """[A] means over seeds."""
        return np.asarray(np.nanmean(self.runs, axis=1))

    @property
    def error(self) -> NDArray[np.float64] | None:
        """[A] standard errors of the means; None with a single seed, nan for a class with a single run."""
        count = (~np.isnan(self.runs)).sum(axis=1)
        if count.max() < 2:
            return None
        squares = np.nansum((self.runs - self.accuracy[:, None]) ** 2, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(count > 1, np.sqrt(squares / (count - 1) / count), np.nan))

    @property
    def several(self) -> bool:
        """Whether there is more than one seed, so that agreement between seeds can be told."""
        return self.runs.shape[1] > 1

    def select(self, keep: Callable[[Any], bool]) -> GroundTruth:
        """The part whose architectures satisfy `keep`."""
        rows = np.array([keep(architecture) for architecture in self.architectures], bool)
        architectures = tuple(a for a, kept in zip(self.architectures, rows, strict=True) if kept)
        left_out = {**self.left_out, "not selected": int((~rows).sum())}
        return dataclasses.replace(
            self, architectures=architectures, classes=self.classes[rows], runs=self.runs[rows], left_out=left_out
        )


def read_ground_truth(source: str | Path, space: SearchSpace[Any], column: str = DEFAULT_COLUMN) -> GroundTruth:
    """Reads a table of any layout of `eval.tabular`.

    Rows of one isomorphism class and seed are averaged. Classes that are disconnected or collapsed (a mean accuracy of
    at most 1.5 times chance) are left out and counted: they would widen the spread of accuracies at no merit of a
    ranking. So are trainings without a finite accuracy, and those of seeds that not all classes have, unless the table
    is uneven by design. Percentages (values above 1) become shares.

    Args:
        source: a file, or the name of a table in the package ("embedded").
        space: whose strings the architectures are.
        column: name of the accuracy column.

    Raises:
        GroundTruthError: file, column or value that cannot be read.
    """
    records = read_records(source, space, column)
    values: dict[str, dict[str, list[float]]] = {}
    representative: dict[str, Any] = {}
    disconnected, failed = set(), 0
    for record in records.rows:
        architecture = _architecture(record, space)
        key = space.canonical(architecture)
        if not space.connected(architecture):
            disconnected.add(key)
        elif not np.isfinite(record.accuracy):
            failed += 1
        else:
            representative.setdefault(key, architecture)
            values.setdefault(key, {}).setdefault(record.seed, []).append(record.accuracy)
    if len(values) < 3:
        raise GroundTruthError(f"{source}: only {len(values)} connected classes; a ranking needs at least 3")
    runs, extra = _runs(str(source), values, records.uneven)
    learnt = np.nanmean(runs, axis=1) > COLLAPSED / space.classes
    left_out = {
        "disconnected": len(disconnected),
        "collapsed": int((~learnt).sum()),
        "runs without a finite accuracy": failed,
        "runs of seeds that not all classes have": extra,
    }
    if learnt.sum() < 3:
        raise GroundTruthError(f"{source}: only {learnt.sum()} classes learnt anything; a ranking needs at least 3")
    architectures = tuple(a for a, kept in zip(representative.values(), learnt, strict=True) if kept)
    seconds = [record.seconds for record in records.rows if np.isfinite(record.seconds)]
    mean_seconds = float(np.mean(seconds)) if seconds else float("nan")
    return GroundTruth(
        architectures, np.array(list(values))[learnt], runs[learnt], left_out, mean_seconds, records.card
    )


def _architecture(record: Record, space: SearchSpace[Any]) -> Any:
    try:
        return space.from_string(record.architecture)
    except ValueError as error:
        raise GroundTruthError(f"{record.where}: {error}") from error


def _runs(
    source: str, values: Mapping[str, Mapping[str, list[float]]], uneven: bool
) -> tuple[NDArray[np.float64], int]:
    """[A, S] shares of 1, and how many runs were left out for being of seeds that not all classes have."""
    sets = [set(by_seed) for by_seed in values.values()]
    chosen = set.union(*sets) if uneven else set.intersection(*sets)
    if not chosen:
        raise GroundTruthError(f"{source}: no seed that all classes share; finish the table first")
    seeds = sorted(chosen, key=lambda seed: (len(seed), seed))
    runs = np.array(
        [[np.mean(by_seed[s]) if s in by_seed else np.nan for s in seeds] for by_seed in values.values()], np.float64
    )
    return (runs / 100 if np.nanmax(runs) > 1 else runs), sum(len(own - chosen) for own in sets)


class Tabulated:
    """A space restricted to the classes of a table, which may hold only part of it: what a search may touch."""

    def __init__(self, truth: GroundTruth, space: SearchSpace[Any]) -> None:
        """Takes every class of the table."""
        self.space = space
        self._architectures = truth.architectures
        self._accuracy = dict(zip(truth.classes.tolist(), truth.accuracy.tolist(), strict=True))

    def __contains__(self, architecture: Any) -> bool:
        """Whether the architecture's class is in the table."""
        return self.space.canonical(architecture) in self._accuracy

    def __len__(self) -> int:
        """Number of classes."""
        return len(self._accuracy)

    def accuracy(self, architecture: Any) -> float:
        """The tabulated accuracy of the architecture's class, as a share of 1.

        Raises:
            GroundTruthError: a class that the table lacks.
        """
        key = self.space.canonical(architecture)
        if key not in self._accuracy:
            raise GroundTruthError(
                f"architecture {self.space.to_string(architecture)}: its class is not in the table "
                f"({self.describe()}); ask `in` first"
            )
        return self._accuracy[key]

    @property
    def best(self) -> float:
        """The highest accuracy of any class."""
        return max(self._accuracy.values())

    def sample(self, seed: int | np.random.Generator) -> Any:
        """A uniformly random class of the table, by its representative."""
        return self._architectures[int(np.random.default_rng(seed).integers(len(self._architectures)))]

    def neighbours(self, architecture: Any) -> Iterator[Any]:
        """The architectures that differ in one choice and whose classes are in the table."""
        return (other for other in self.space.neighbours(architecture) if other in self)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same for tables of the same classes."""
        return hashlib.sha256("\n".join(sorted(self._accuracy)).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """What it is restricted to, for reports."""
        return f"restricted to the {len(self):,} tabulated classes of {self.space.name}"
