"""Judging predictors that are fitted on a few labels: as means over draws of these labels, with intervals over both.

Shape letters: A candidates, F features, D draws of labels, R resamples.
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

BATCHED: dict[str, Callable[..., Floats]] = {
    "spearman": resampling.spearman,
    "kendall": resampling.kendall,
    "kendall_top_half": functools.partial(resampling.within_top, resampling.kendall, 0.5),
    "kendall_top10": functools.partial(resampling.within_top, resampling.kendall, 0.1),
    "choose_1_of_100": functools.partial(resampling.choose_one_of, n=100),
}


class Judged(NamedTuple):
    """One score of the candidates for each draw of labels.

    Attributes:
        scores: [D, A].
        asked: [D, A] whether a candidate is judged: asked for, and not labelled in this draw.
        coverage: [D] share of the asked accuracies that lie in their intervals; nan of scores without intervals.
    """

    scores: Floats
    asked: NDArray[np.bool_]
    coverage: Floats


def draws_of_labels(may_A: NDArray[np.bool_], labels: int, draws: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """Rows that are labelled, one set a draw, out of those that may be; ValueError where they are too few."""
    pool = np.flatnonzero(may_A)
    if not 0 < labels <= len(pool):
        raise ValueError(f"labels={labels}: {len(pool)} architectures may be labelled")
    rng = np.random.default_rng(seed)
    return [rng.choice(pool, labels, replace=False) for _ in range(draws)]


def unlabelled(scores_A: Floats, asked_A: NDArray[np.bool_]) -> Judged:
    """A score that no labels enter."""
    return Judged(np.asarray(scores_A, np.float64)[None], asked_A[None], np.array([np.nan]))


def judge(
    features_AF: Floats,
    accuracy_A: Floats,
    asked_A: NDArray[np.bool_],
    draws: Sequence[NDArray[np.intp]],
    config: CalibrationConfig = CalibrationConfig(),
) -> Judged:
    """Calibrations from several draws of labels."""
    scores, coverage, asked = [], [], _asked(asked_A, draws)
    for number, (rows, judged) in enumerate(zip(draws, asked, strict=True)):
        prediction = calibrate(features_AF[rows], accuracy_A[rows], config, number)(features_AF)
        scores.append(prediction.mean)
        held = (prediction.low <= accuracy_A) & (accuracy_A <= prediction.high)
        coverage.append(held[judged].mean())
    return Judged(np.stack(scores), asked, np.array(coverage))


def judge_baseline(
    kind: Kind, features_AF: Floats, accuracy_A: Floats, asked_A: NDArray[np.bool_], draws: Sequence[NDArray[np.intp]]
) -> Judged:
    """A plain regressor of accuracy from the same draws."""
    scores = [predict(kind, features_AF[rows], accuracy_A[rows], features_AF) for rows in draws]
    return Judged(np.stack(scores), _asked(asked_A, draws), np.full(len(draws), np.nan))


def _asked(asked_A: NDArray[np.bool_], draws: Sequence[NDArray[np.intp]]) -> NDArray[np.bool_]:
    return np.stack([asked_A & ~np.isin(np.arange(len(asked_A)), rows) for rows in draws])


def over_draws(
    statistic: str,
    judged: Judged,
    accuracy_A: Floats,
    rival: Judged | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic (of BATCHED) as the mean over draws of labels, with a 95% interval over classes and draws.

    Every row is one class. With a rival, the difference to it, on the same classes and draws; a rival of one draw (a
    score without labels) is held against every draw.
    """
    f = BATCHED[statistic]

    def values(copies: Floats) -> Floats:
        """[D, R]."""
        rows = []
        for draw, (scores, asked) in enumerate(zip(judged.scores, judged.asked, strict=True)):
            own = f(scores, accuracy_A, copies * asked)
            if rival is not None:
                own = own - f(rival.scores[draw if len(rival.scores) > 1 else 0], accuracy_A, copies * asked)
            rows.append(own)
        return np.stack(rows)

    count, draws = len(accuracy_A), len(judged.scores)
    rng = np.random.default_rng(seed)
    copies_RA = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    blocks = np.array_split(copies_RA, resamples * count // resampling.BLOCK + 1)
    samples_RD = np.concatenate([values(block) for block in blocks], axis=1).T
    chosen_RD = rng.integers(draws, size=(resamples, draws))
    low, high = np.nanquantile(np.take_along_axis(samples_RD, chosen_RD, axis=1).mean(1), [0.025, 0.975])
    return Interval(float(values(np.ones((1, count))).mean()), float(low), float(high))


def report(
    judged: Judged, accuracy_A: Floats, rivals: dict[str, Judged], resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Statistics as [value, low, high], coverage, and by rival the paired differences to it."""
    coverage = judged.coverage
    known: dict[str, Any] = {"draws": len(coverage)}
    if np.isfinite(coverage).all():
        known |= {"coverage_90": float(coverage.mean()), "coverage_90_of_draws": [coverage.min(), coverage.max()]}

    def all_statistics(rival: Judged | None) -> dict[str, list[float]]:
        return {name: over_draws(name, judged, accuracy_A, rival, resamples, seed).as_list() for name in BATCHED}

    ahead = {f"minus {name}": all_statistics(rival) for name, rival in rivals.items()}
    return {**known, **all_statistics(None), **ahead}
