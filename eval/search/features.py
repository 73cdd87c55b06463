"""What is known of architectures without training them, one at a time: columns of scores, and features from them.

`eval.combination` ranks a fixed set of candidates among each other. A search meets its candidates one after the other,
so here every column is told in units of a fixed reference: (value - median) / interquartile range of some random
architectures.

Shape letters: A architectures, F features, R reference architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import CellSpace, SearchSpace
from eval.paths import path_features
from eval.proxies import score
from eval.scoring import ScoreConfig, Scorer
from eval.search.problem import Problem
from ghn import Hypernetwork
from train.data import Splits

Floats = NDArray[np.float64]
GENERATED, SCORE_SPLIT, PARAMETERS, NWOT = "generated weights", "generated weights, score split", "parameters", "nwot"
COLUMNS = (GENERATED, SCORE_SPLIT, PARAMETERS, NWOT)
REFERENCE = 64  # random architectures that give columns their units


class Columns:
    """Scores of architectures by name, higher is better: two of generated weights, parameter count, NWOT."""

    def __init__(self, hypernetwork: Hypernetwork, splits: Splits, config: ScoreConfig) -> None:
        """Compiles nothing yet."""
        self._space: SearchSpace[Any] = hypernetwork.space
        self._scorer = Scorer(hypernetwork, splits.train, splits.score, config)
        self._batch = splits.train.images[:128], splits.train.labels[:128]

    def __call__(self, architectures: Sequence[Any]) -> dict[str, Floats]:
        """[A] each."""
        scores = self._scorer(architectures)
        parameters = np.array([self._space.cost(architecture).parameters for architecture in architectures], np.float64)
        nwot = score(self._space, architectures, *self._batch, proxies=["nwot"], initialisations=1)["nwot"]
        return {GENERATED: -scores.train_loss, SCORE_SPLIT: -scores.score_loss, PARAMETERS: parameters, NWOT: nwot}


class Features:
    """Columns in units of a reference, and what can be read off an architecture's encoding."""

    def __init__(
        self,
        problem: Problem,
        columns: Callable[[Sequence[Any]], Mapping[str, Floats]],
        reference: Sequence[Any] | None = None,
    ) -> None:
        """Scores the reference, random architectures of the problem unless they are given.

        Args:
            problem: of the architectures.
            columns: `Columns`, or what looks them up.
            reference: gives the units.
        """
        if reference is None:
            rng = np.random.default_rng(0)
            reference = [problem.sample(rng) for _ in range(REFERENCE)]
        self._problem, self._columns = problem, columns
        known = {name: column[np.isfinite(column)] for name, column in columns(reference).items()}
        self._middle = {name: float(np.median(column)) for name, column in known.items()}
        self._spread = {name: float(np.subtract(*np.quantile(c, [0.75, 0.25]))) or 1.0 for name, c in known.items()}

    def columns(self, architectures: Sequence[Any]) -> dict[str, Floats]:
        """[A] each, in units of the reference; nan where a score failed."""
        return self.standard(self._columns(architectures))

    def standard(self, columns: Mapping[str, Floats]) -> dict[str, Floats]:
        """Columns that were computed before, in units of the reference."""
        return {name: (column - self._middle[name]) / self._spread[name] for name, column in columns.items()}

    def matrix(self, architectures: Sequence[Any], columns: Mapping[str, Floats]) -> Floats:
        """[A, F]: standard columns (failed scores at -3) beside paths of a cell, or the encoding in other spaces."""
        values = np.stack([np.nan_to_num(column, nan=-3.0) for column in columns.values()], axis=1)
        return np.concatenate([values, described(self._problem.space, architectures)], axis=1)


def described(space: SearchSpace[Any], architectures: Sequence[Any]) -> Floats:
    """[A, F] what is known from the architecture alone."""
    if isinstance(space, CellSpace):
        return path_features(space, architectures)
    codes = [space.encode(architecture) for architecture in architectures]
    return np.array([np.concatenate([np.ravel(part) for part in code.values()]) for code in codes], np.float64)


def combined(columns: Mapping[str, Floats]) -> Floats:
    """[A] the sum of standard columns: a score without labels; nan where one failed."""
    return np.asarray(np.sum(list(columns.values()), axis=0))
