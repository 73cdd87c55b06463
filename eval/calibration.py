"""Calibration: from what is cheap to know of an architecture to its accuracy, with an interval that holds.

A Gaussian process (or ridge) is fitted on a few trained architectures; cross-validation turns its own uncertainty into
intervals of stated coverage (CV+, Barber et al. 2021, with residuals in units of the predicted deviation).

Shape letters: A architectures, F features, L labelled architectures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import KFold

from architectures.checks import at_least
from eval.predictors import fitted

Floats = NDArray[np.float64]
Regressor = Literal["gp", "ridge"]


class Prediction(NamedTuple):
    """Predicted accuracies, each [A], in the units of the labels: the value and the ends of its interval.

    Ends lie in [0, 1]. The value is as the regressor gives it, since it ranks.
    """

    mean: Floats
    low: Floats
    high: Floats

    def coverage(self, accuracy_A: Floats) -> float:
        """Share of accuracies that lie in their interval."""
        return float(((self.low <= accuracy_A) & (accuracy_A <= self.high)).mean())


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How labels become predictions."""

    kind: Regressor = "gp"  # regressor
    level: float = 0.9  # share of architectures that an interval is to hold
    folds: int = 10  # of the cross-validation behind the intervals
    log_error: bool = True  # regress the logarithm of the error: differences between good networks count as much

    def __post_init__(self) -> None:
        if self.kind not in (kinds := get_args(Regressor)):
            raise ValueError(f"CalibrationConfig.kind={self.kind!r}: use {' or '.join(map(repr, kinds))}")
        if not 0 < self.level < 1:
            raise ValueError(f"CalibrationConfig.level={self.level}: must lie between 0 and 1")
        at_least(self, folds=2)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrator:
    """A fitted calibration; make it by `calibrate`.

    Attributes:
        config: how it was made.
        whole: regressor fitted on all labels.
        parts: a regressor for every fold, fitted without it.
        fold_L: the fold of every label.
        residual_L: |label - its fold's prediction| in units of the predicted deviation.
    """

    config: CalibrationConfig
    whole: Any
    parts: tuple[Any, ...]
    fold_L: NDArray[np.intp]
    residual_L: Floats

    def __call__(self, features_AF: Floats) -> Prediction:
        """Predictions for architectures with these features."""
        mean_A, _ = _moments(self.whole, features_AF)
        centres, widths = zip(*(_moments(part, features_AF) for part in self.parts), strict=True)
        reach_LA = self.residual_L[:, None] * np.stack(widths)[self.fold_L]
        low_LA, high_LA = np.stack(centres)[self.fold_L] - reach_LA, np.stack(centres)[self.fold_L] + reach_LA
        count = len(self.residual_L)
        rank = _rank(self.config.level, count)
        low_A = np.sort(low_LA, axis=0)[count - rank]
        high_A = np.sort(high_LA, axis=0)[rank - 1]
        back = _from_scale(self.config)
        low_A, high_A = np.minimum(low_A, mean_A), np.maximum(high_A, mean_A)
        return Prediction(back(mean_A), np.clip(back(low_A), 0, 1), np.clip(back(high_A), 0, 1))


def calibrate(
    features_LF: Floats, accuracy_L: Floats, config: CalibrationConfig = CalibrationConfig(), seed: int = 0
) -> Calibrator:
    """Fits a calibration.

    Args:
        features_LF: of the labelled architectures, finite (`feature_matrix`).
        accuracy_L: their accuracies as shares of 1.
        config: regressor and intervals.
        seed: of the folds and of the regressor.

    Raises:
        ValueError: fewer labels than twice the folds or than the level needs, features that are not finite, accuracies
            outside [0, 1).
    """
    labels, folds = len(accuracy_L), config.folds
    if features_LF.shape[0] != labels or labels < 2 * folds:
        raise ValueError(f"accuracy_L: {labels} labels for {len(features_LF)} rows; at least {2 * folds} are needed")
    if (needed := _labels_for(config.level)) > labels:
        raise ValueError(
            f"CalibrationConfig.level={config.level}: {labels} labels hold no interval of that level, {needed} are "
            "needed; give more labels or a lower level"
        )
    if not np.isfinite(features_LF).all():
        raise ValueError("features_LF: not finite; feature_matrix says what to do with missing values")
    if accuracy_L.min() < 0 or accuracy_L.max() >= 1:
        raise ValueError("accuracy_L: give shares of 1, below 1")
    target_L = _to_scale(config)(accuracy_L)
    whole = fitted(config.kind, features_LF, target_L, seed)
    fold_L, residual_L, parts = np.zeros(labels, np.intp), np.zeros(labels), []
    for number, (inside, outside) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(features_LF)):
        part = _refitted(whole, features_LF[inside], target_L[inside])
        centre, width = _moments(part, features_LF[outside])
        fold_L[outside], residual_L[outside] = number, np.abs(target_L[outside] - centre) / width
        parts.append(part)
    return Calibrator(config, whole, tuple(parts), fold_L, residual_L)


def _rank(level: float, labels: int) -> int:
    """Which of the labels' residuals, the smallest being 1, bounds `level` of labels + 1 exchangeable ones."""
    return math.ceil(level * (labels + 1))


def _labels_for(level: float) -> int:
    """The fewest labels of which one residual bounds the level."""
    labels = max(1, math.floor(level / (1 - level)) - 1)  # may be off by rounding
    while _rank(level, labels) > labels:
        labels += 1
    return labels


def _refitted(whole: Any, features_LF: Floats, target_L: Floats) -> Any:
    """The same regressor fitted on fewer labels; a Gaussian process keeps its scales, which costs a tenth."""
    part = clone(whole)
    if hasattr(whole[-1], "kernel_"):
        part[-1].set_params(kernel=whole[-1].kernel_, optimizer=None)
    return part.fit(features_LF, target_L)


def _moments(fitted: Any, features_AF: Floats) -> tuple[Floats, Floats]:
    """Predicted means [A], and deviations [A] (1 of a regressor that predicts none)."""
    scaler, model = fitted[0], fitted[-1]
    if hasattr(model, "kernel_"):
        mean, deviation = model.predict(scaler.transform(features_AF), return_std=True)
        return np.asarray(mean), np.maximum(np.asarray(deviation), 1e-9)
    return np.asarray(fitted.predict(features_AF)), np.ones(len(features_AF))


def _to_scale(config: CalibrationConfig) -> Callable[[Floats], Floats]:
    return (lambda accuracy: -np.log1p(-accuracy)) if config.log_error else (lambda accuracy: accuracy)


def _from_scale(config: CalibrationConfig) -> Callable[[Floats], Floats]:
    return (lambda target: -np.expm1(-target)) if config.log_error else (lambda target: target)


# ---- features


def feature_matrix(columns: Mapping[str, Floats], *blocks: Floats) -> Floats:
    """[A, F] features of A candidates: scores as normal quantiles of their ranks, and blocks [A, ...] as they are.

    Ranks are taken among the candidates, labelled ones included: scales of scores differ wildly, their order is what
    they are made for. A missing value gets the middle rank and a column of its own says so.
    """
    parts: list[Floats] = []
    for column in columns.values():
        finite = np.isfinite(column)
        place = np.full(len(column), 0.5)
        place[finite] = (stats.rankdata(column[finite]) - 0.5) / finite.sum()
        parts += [stats.norm.ppf(place)[:, None]]
        if not finite.all():
            parts += [(~finite)[:, None].astype(np.float64)]
    return np.concatenate([*parts, *blocks], axis=1)


def principal(block_AF: Floats, components: int) -> Floats:
    """[A, components] of unit variance: the directions in which a block (a graph embedding) differs most."""
    centred = block_AF - block_AF.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    keep = min(components, int((sizes > 1e-9 * sizes.max()).sum()))
    return np.asarray(left[:, :keep] * np.sqrt(len(block_AF)))
