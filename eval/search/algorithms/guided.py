"""Search guided by what is known without training: a prior score first, then a Gaussian process on features.

Bayesian optimisation with expected improvement (Jones et al. 1998) over a fixed pool. What makes it cheap in trained
architectures is what it begins with: a label-free score of the whole pool (generated weights, alone or with proxies)
and features of it.

Shape letters: A architectures of the pool, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import clone

from eval.predictors import fitted
from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem

Floats = NDArray[np.float64]
REFIT = 1.2  # scales of the process are fitted anew when there are so many times as many labels


@dataclasses.dataclass(frozen=True)
class GuidedConfig:
    """How labels are spent."""

    initial: int = 3  # drawn from the best by the prior, before anything is fitted
    best: int = 20  # how many of the pool count as the best by the prior then
    reach: float = 0.015  # later: this share of the pool for every label

    def __post_init__(self) -> None:
        if self.initial < 3 or self.best < self.initial:
            raise ValueError(f"GuidedConfig.initial={self.initial}, best={self.best}: at least 3, and best no fewer")
        if not 0 < self.reach <= 1:
            raise ValueError(f"GuidedConfig.reach={self.reach}: a share of the pool, above 0 and at most 1")


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """What is known of a pool of architectures, one a class.

    Attributes:
        pool: A architectures.
        prior_A: a score, higher is better.
        features_AF: for the Gaussian process, finite.
    """

    pool: Sequence[Any]
    prior_A: Floats
    features_AF: Floats


class GuidedSearch(Algorithm):
    """Asks for the label that is expected to improve most on the best one."""

    def __init__(self, problem: Problem, seed: int, guide: Guide, config: GuidedConfig = GuidedConfig()) -> None:
        """Takes the part of the pool that the problem allows.

        Args:
            problem: what may be proposed.
            seed: of every draw.
            guide: what is known beforehand.
            config: how labels are spent.

        Raises:
            ValueError: nothing of the pool is allowed.
        """
        super().__init__(problem, seed)
        rows = [row for row, architecture in enumerate(guide.pool) if problem.allows(architecture)]
        if not rows:
            raise ValueError(f"pool: none of {len(guide.pool)} architectures meets the constraints; loosen them")
        self._config = config
        self._pool = [guide.pool[row] for row in rows]
        self._features_AF = guide.features_AF[rows]
        self._order = np.argsort(-guide.prior_A[rows], kind="stable")  # rows of the pool, the best by the prior first
        self._row = {problem.key(architecture): row for row, architecture in enumerate(self._pool)}
        self._labels: dict[int, float] = {}
        self._current: _Fitted | None = None  # on the labels so far
        self._scales: tuple[int, Any] = (0, None)  # labels that the scales were fitted on, and the fitted model

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """By the prior, then by expected improvement; None when the pool is used up."""
        free = np.array([(key, 0) not in taken for key in self._row], bool)
        if not free.any():
            return None
        if index < self._config.initial or len(self._labels) < 3:
            best = [row for row in self._order[: self._config.best] if free[row]] or np.flatnonzero(free).tolist()
            return Proposal(self._pool[best[int(self.rng(index).integers(len(best)))]])
        reach = round(self._config.reach * len(self._pool) * len(self._labels))
        near = self._order[: max(self._config.best, reach)]
        open_ = [row for row in near if free[row]] or np.flatnonzero(free).tolist()
        return Proposal(self._pool[open_[int(np.argmax(self._expected(open_)))]])

    def tell(self, evaluation: Evaluation) -> None:
        """One more label; failed evaluations count as the worst seen."""
        row = self._row.get(evaluation.key)
        if row is not None:
            worst = min((v for v in self._labels.values()), default=0.0)
            self._labels[row] = evaluation.score if np.isfinite(evaluation.score) else worst
            self._current = None

    def _expected(self, rows: list[int]) -> Floats:
        """Logarithms of the improvements expected of some rows on the best label, labels being their ranks."""
        mean, deviation = self._model().predict_moments(self._features_AF[rows])
        z = (mean - 1.0) / deviation
        return np.asarray(np.log(np.maximum(deviation * (z * stats.norm.cdf(z) + stats.norm.pdf(z)), 1e-300)))

    def _model(self) -> _Fitted:
        """Fitted on all labels; scales of the process are fitted at fixed numbers of labels only."""
        if self._current is None:
            rows, label_L = list(self._labels), np.array(list(self._labels.values()))
            count = fitting_point(len(rows))
            if self._scales[0] != count:
                first = self._features_AF[rows[:count]], stats.rankdata(label_L[:count]) / count
                self._scales = (count, fitted("gp", *first, self.seed))
            whole = self._scales[1]
            model = clone(whole)
            model[-1].set_params(kernel=whole[-1].kernel_, optimizer=None)
            model.fit(self._features_AF[rows], stats.rankdata(label_L) / len(rows))
            self._current = _Fitted(model)
        return self._current


class _Fitted:
    """A scaler and a Gaussian process."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict_moments(self, features_AF: Floats) -> tuple[Floats, Floats]:
        """Means and deviations [A]."""
        mean, deviation = self._model[-1].predict(self._model[0].transform(features_AF), return_std=True)
        return np.asarray(mean), np.maximum(np.asarray(deviation), 1e-9)


def fitting_point(labels: int) -> int:
    """The largest of 3, 4, 5, 6, 8, 10, ... (each a fifth more) up to `labels`: a resumed search fits at the same."""
    count = 3
    while int(np.ceil(REFIT * count)) <= labels:
        count = int(np.ceil(REFIT * count))
    return count
