"""Learned baselines: regressors on the encodings of a few trained architectures, and on the beginning of training.

Shape letters: A architectures, F features, T epochs.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import RegressorMixin
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from architectures.spaces import SearchSpace

Floats = NDArray[np.float64]
Kind = Literal["ridge", "boosting", "gp"]
PENALTIES = tuple(10.0**power for power in range(-3, 5))


def one_hot(space: SearchSpace[Any], architectures: Sequence[Any]) -> Floats:
    """[A, F] encodings: every choice as one column for each value that it takes among these architectures.

    The choices are those that the executor reads, so that what does not reach a network's output does not differ.
    """
    codes = [space.encode(architecture) for architecture in architectures]
    rows = np.array([np.concatenate([np.ravel(part) for part in code.values()]) for code in codes])
    columns = [rows[:, [place]] == np.unique(rows[:, place]) for place in range(rows.shape[1])]
    return np.concatenate(columns, axis=1).astype(np.float64)


def regressor(kind: Kind, seed: int = 0) -> RegressorMixin:
    """A regressor that scales its features and chooses its own strength of regularisation.

    "ridge": penalty by leave-one-out; "boosting": 200 trees of depth 3; "gp": Gaussian process, linear + Matern 5/2 +
    noise, by marginal likelihood. The linear part is what few labels tell: without it, beyond them is only the mean.
    """
    if kind == "ridge":
        return make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    if kind == "boosting":
        return GradientBoostingRegressor(
            n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.7, random_state=seed
        )
    if kind == "gp":
        linear = ConstantKernel(1.0, (1e-3, 1e3)) * DotProduct(0.0, "fixed")  # features are centred, labels too
        smooth = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(10.0, (0.1, 1e4), nu=2.5)
        kernel = linear + smooth + WhiteKernel(0.1, (1e-6, 10.0))
        return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed))
    raise ValueError(f"kind={kind!r}: use 'ridge', 'boosting' or 'gp'")


def fitted(kind: Kind, known_AF: Floats, target_A: Floats, seed: int = 0) -> Any:
    """`regressor(kind)` fitted. That a Gaussian process stops at a bound of its scales is no failure, and not told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return regressor(kind, seed).fit(known_AF, target_A)


def predict(kind: Kind, known_AF: Floats, accuracy_A: Floats, asked_AF: Floats, seed: int = 0) -> Floats:
    """Predicted accuracies of the asked architectures from known ones; higher is better, in units of `accuracy_A`."""
    if len(known_AF) != len(accuracy_A) or len(accuracy_A) < 5:
        raise ValueError(f"accuracy_A: {len(accuracy_A)} for {len(known_AF)} architectures; at least 5 are needed")
    return np.asarray(fitted(kind, known_AF, accuracy_A, seed).predict(asked_AF), np.float64)


# ---- learning curves


def curve_features(curves_AT: Floats, features_AF: Floats | None = None) -> Floats:
    """[A, 3 T - 3 + F]: the curve so far, its first and second differences, and what is known beforehand."""
    parts = [curves_AT, np.diff(curves_AT, axis=1), np.diff(curves_AT, 2, axis=1)]
    return np.concatenate([*parts, *([] if features_AF is None else [features_AF])], axis=1)


class Extrapolation(NamedTuple):
    """Predicted final accuracies [A] and their standard deviation, one number."""

    mean: Floats
    deviation: float


@dataclasses.dataclass(frozen=True, eq=False)
class CurvePredictor:
    """Final accuracy from the first epochs of training (Baker et al. 2017): one regression for every length seen.

    Attributes:
        curves_AT: validation accuracies of A finished trainings after each of T epochs.
        final_A: their final accuracies, same units.
        features_AF: what is known of each architecture beforehand (encoding, size, hypernetwork score), if anything.
    """

    curves_AT: Floats
    final_A: Floats
    features_AF: Floats | None = None
    _models: dict[int, tuple[Any, float]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.curves_AT.ndim != 2 or len(self.curves_AT) != len(self.final_A) or len(self.final_A) < 5:
            raise ValueError(
                f"curves_AT: shape {self.curves_AT.shape} for {len(self.final_A)} final accuracies; "
                "give one row for each of at least 5 trainings"
            )

    def __call__(self, curves_AT: Floats, features_AF: Floats | None = None) -> Extrapolation:
        """Final accuracies of trainings of which the first epochs are given.

        The deviation is that of residuals in cross-validation over the finished trainings, cut to the same length.

        Raises:
            ValueError: more epochs than the finished trainings have, or features where they had none.
        """
        epochs = curves_AT.shape[1]
        if not 1 <= epochs <= self.curves_AT.shape[1]:
            raise ValueError(f"curves_AT: {epochs} epochs; finished trainings have 1 to {self.curves_AT.shape[1]}")
        if (features_AF is None) != (self.features_AF is None):
            raise ValueError("features_AF: give them for the finished trainings and for the asked ones, or for neither")
        model, deviation = self._fitted(epochs)
        return Extrapolation(np.asarray(model.predict(curve_features(curves_AT, features_AF))), deviation)

    def _fitted(self, epochs: int) -> tuple[Any, float]:
        """The regression on so many epochs and the deviation of its residuals, made once."""
        if epochs not in self._models:
            known = curve_features(self.curves_AT[:, :epochs], self.features_AF)
            folds = KFold(min(10, len(known)), shuffle=True, random_state=0)
            residuals = self.final_A - cross_val_predict(regressor("ridge"), known, self.final_A, cv=folds)
            self._models[epochs] = fitted("ridge", known, self.final_A), float(np.sqrt(np.mean(np.square(residuals))))
        return self._models[epochs]

    def chance_to_beat(self, best: float, curves_AT: Floats, features_AF: Floats | None = None) -> Floats:
        """[A] probabilities that final accuracies exceed `best`, residuals taken as Gaussian."""
        mean, deviation = self(curves_AT, features_AF)
        return np.asarray(stats.norm.sf(best, mean, max(deviation, 1e-12)))


class Stopped(NamedTuple):
    """What early stopping came to.

    Attributes:
        best: row of the best training that was finished; -1 where none ended with a finite accuracy.
        epochs: [A] that each training ran.
        finished: [A] whether it ran to its end.
    """

    best: int
    epochs: NDArray[np.int64]
    finished: NDArray[np.bool_]


def early_stopping(
    predictor: CurvePredictor,
    curves_AT: Floats,
    final_A: Floats,
    features_AF: Floats | None = None,
    confidence: float = 0.95,
    patience: int = 2,
) -> Stopped:
    """Trains candidates one after the other and ends each as soon as it will hardly beat the best so far.

    A training ends after the first epoch t >= `patience` at which P(final > best) < 1 - confidence (Baker et al. 2017),
    or at which its curve has a value that is not finite.

    Args:
        predictor: made from other trainings.
        curves_AT: what each training would show, epoch by epoch.
        final_A: what it would end with.
        features_AF: of each candidate, as the predictor knows them.
        confidence: of being beaten, in (0, 1).
        patience: epochs that every training gets.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie between 0 and 1")
    length = curves_AT.shape[1]
    epochs, finished = np.full(len(final_A), length), np.ones(len(final_A), bool)
    best = -1
    for row in range(len(final_A)):
        own = None if features_AF is None else features_AF[[row]]
        for epoch in range(patience, length) if best >= 0 else ():
            seen = curves_AT[[row], :epoch]
            if not np.isfinite(seen).all() or predictor.chance_to_beat(final_A[best], seen, own)[0] < 1 - confidence:
                epochs[row], finished[row] = epoch, False
                break
        if finished[row] and np.isfinite(final_A[row]) and (best < 0 or final_A[row] > final_A[best]):
            best = row
    return Stopped(best, epochs, finished)
