"""Judging predictors that are fitted on a few labels: as means over draws of these labels, with intervals over both.

Shape letters: A asked architectures, P those that may be labelled, F features, D draws of labels, R resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval import resampling
from eval.calibration import CalibrationConfig, calibrate
from eval.metrics import Interval
from eval.predictors import Floats, Kind, predict


class Judged(NamedTuple):
    """Predictions over several draws of labels: scores [D, A] and the coverage of each draw's intervals [D]."""

    scores: Floats
    coverage: Floats


def draws_of_labels(pool: int, labels: int, draws: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """Rows of the pool that are labelled, one set a draw; ValueError where the pool is too small."""
    if not 0 < labels <= pool:
        raise ValueError(f"labels={labels}: the pool of labelled architectures holds {pool}")
    rng = np.random.default_rng(seed)
    return [rng.choice(pool, labels, replace=False) for _ in range(draws)]


def judge(
    pool_PF: Floats,
    pool_accuracy: Floats,
    asked_AF: Floats,
    asked_accuracy: Floats,
    draws: Sequence[NDArray[np.intp]],
    config: CalibrationConfig = CalibrationConfig(),
) -> Judged:
    """Calibrations from several draws of labels out of a pool, on the same asked candidates."""
    predictions = [calibrate(pool_PF[rows], pool_accuracy[rows], config, n)(asked_AF) for n, rows in enumerate(draws)]
    coverage = [prediction.coverage(asked_accuracy) for prediction in predictions]
    return Judged(np.stack([prediction.mean for prediction in predictions]), np.array(coverage))


def judge_baseline(
    kind: Kind, pool_PF: Floats, pool_accuracy: Floats, asked_AF: Floats, draws: Sequence[NDArray[np.intp]]
) -> Floats:
    """[D, A] predictions of a plain regressor from the same draws."""
    return np.stack([predict(kind, pool_PF[rows], pool_accuracy[rows], asked_AF) for rows in draws])


BATCHED: dict[str, Callable[..., Floats]] = {
    "spearman": resampling.spearman,
    "kendall": resampling.kendall,
    "kendall_top_half": functools.partial(resampling.within_top, resampling.kendall, 0.5),
    "kendall_top10": functools.partial(resampling.within_top, resampling.kendall, 0.1),
    "choose_1_of_100": functools.partial(resampling.choose_one_of, n=100),
}


def over_draws(
    statistic: str,
    scores_DA: Floats,
    accuracy_A: Floats,
    rival_DA: Floats | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic as the mean over draws of labels, with a 95% interval that takes classes and draws anew.

    Every row is one class. With `rival_DA`, from the same draws, the difference to it, paired in classes and draws. A
    score that no labels enter is one draw, [1, A].
    """
    f = BATCHED[statistic]

    def value(scores: Floats, copies: Floats) -> Floats:
        return np.stack([f(row, accuracy_A, copies) for row in scores])

    def all_draws(copies: Floats) -> Floats:
        own = value(scores_DA, copies)
        return own if rival_DA is None else own - value(rival_DA, copies)

    count = len(accuracy_A)
    rng = np.random.default_rng(seed)
    copies = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    blocks = [all_draws(part) for part in np.array_split(copies, max(1, resamples * count // resampling.BLOCK + 1))]
    samples_DR = np.concatenate(blocks, axis=1)
    draws = samples_DR.shape[0]
    chosen_RD = rng.integers(draws, size=(resamples, draws))
    samples_R = samples_DR.T[np.arange(resamples)[:, None], chosen_RD].mean(1)
    low, high = np.nanquantile(samples_R, [0.025, 0.975])
    return Interval(float(all_draws(np.ones((1, count))).mean()), float(low), float(high))


def calibration_report(
    judged: Judged, labels: int, accuracy_A: Floats, rival_DA: Floats, rival: str, resamples: int = 2000
) -> dict[str, Any]:
    """What is to be told of a calibration: its statistics, its coverage, and how far it is ahead of a rival.

    Statistics are [value, low, high], means over draws of labels; a rival is fitted on the same draws.
    """
    statistics = {name: over_draws(name, judged.scores, accuracy_A, resamples=resamples) for name in BATCHED}
    ahead = {name: over_draws(name, judged.scores, accuracy_A, rival_DA, resamples=resamples) for name in BATCHED}
    return {
        "labels": labels,
        "draws": len(judged.coverage),
        "coverage_90": float(judged.coverage.mean()),
        "coverage_90_range": [float(judged.coverage.min()), float(judged.coverage.max())],
        **{name: interval.as_list() for name, interval in statistics.items()},
        f"minus_{rival}": {name: interval.as_list() for name, interval in ahead.items()},
    }
