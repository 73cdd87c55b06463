"""Statistics of a ranking of architectures.

Convention: `scores` [A] and `truth` [A] are floats, one per architecture, and higher is better for both. No sign is
hidden: a method that ranks backwards gets a negative correlation. Every statistic here is better when higher, except
`regret` and `best_rank`. Non-finite values, unequal lengths and fewer than 3 rows raise ValueError naming the
parameter; scores with failures go through `failures_last` first.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eval import resampling
from eval.resampling import Floats

Statistic = Callable[..., float]


# ---- input


def column(name: str, values: ArrayLike, length: int | None = None) -> Floats:
    """`values` as finite float64 [A] with A >= 3 (and A == length when given); ValueError naming `name` otherwise."""
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {checked.shape}")
    if length is not None and len(checked) != length:
        raise ValueError(f"{name}: {len(checked)} rows, expected {length}")
    if len(checked) < 3:
        raise ValueError(f"{name}: {len(checked)} rows, at least 3 are needed")
    bad = np.flatnonzero(~np.isfinite(checked))
    if bad.size:
        raise ValueError(f"{name}: {bad.size} non-finite of {len(checked)} values, the first at index {bad[0]}")
    return checked


def failures_last(scores: ArrayLike) -> tuple[Floats, int]:
    """Scores [A] whose non-finite entries are tied below all others, and how many those are.

    A score that fails on an architecture cannot choose it; leaving the architecture out would flatter the score."""
    filled = np.array(scores, dtype=np.float64)
    bad = ~np.isfinite(filled)
    if bad.all():
        return np.zeros_like(filled), int(bad.sum())
    if bad.any():
        lowest = filled[~bad].min()
        if lowest == np.finfo(np.float64).min:  # halves leave room below them, in the same order
            filled, lowest = filled / 2, lowest / 2
        filled[bad] = min(lowest - 1, np.nextafter(lowest, -np.inf))  # 1 is nothing beside scores above 2**53
    return filled, int(bad.sum())


def pair(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    """Both checked by `column`, of one length."""
    checked = column("scores", scores)
    return checked, column("truth", truth, len(checked))


def positive(name: str, value: int, most: int | None = None) -> int:
    """`value`, if it is a whole number in 1..most; ValueError naming `name` otherwise."""
    if not isinstance(value, int | np.integer):
        raise ValueError(f"{name}: {value!r} is not a whole number; give an int")
    if value < 1 or (most is not None and value > most):
        raise ValueError(f"{name}: {value} is not in 1..{'' if most is None else most}")
    return value


# ---- statistics of one ranking


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation of [A] and [A], ties by average rank; nan when either is constant."""
    return resampling.once(resampling.spearman, *pair(scores, truth))


def kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b of [A] and [A] (Kendall 1945, Biometrika 33); nan when either is constant."""
    x, y = pair(scores, truth)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(stats.kendalltau(x, y, method="asymptotic").statistic)


def top_fraction(truth: ArrayLike, fraction: float) -> NDArray[np.bool_]:
    """Mask [A] of the true top `fraction` (0 to 1, rounded up, at least 3 rows); ties go to the earlier row."""
    y = column("truth", truth)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in (0, 1]")
    rows = np.ones((1, len(y)))
    return np.asarray(resampling.top(y, rows, resampling.fraction_count(rows.sum(axis=1), fraction, 3))[0] > 0)


def _inside(statistic: Statistic, scores: ArrayLike, truth: ArrayLike, fraction: float) -> float:
    x, y = pair(scores, truth)
    mask = top_fraction(y, fraction)
    return statistic(x[mask], y[mask])


def kendall_top_half(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b within the true top half."""
    return _inside(kendall, scores, truth, 0.5)


def kendall_top10(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b within the true top 10 percent."""
    return _inside(kendall, scores, truth, 0.1)


def spearman_top_half(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation within the true top half."""
    return _inside(spearman, scores, truth, 0.5)


def precision_at(scores: ArrayLike, truth: ArrayLike, k: int) -> float:
    """Share (0 to 1) of the predicted top k that is in the true top k.

    Ties in score at the boundary give the expectation over random tie-breaking, so that a constant score earns k / A
    whatever the order of the rows; ties in truth go to the earlier row. ValueError unless 1 <= k <= A."""
    x, y = pair(scores, truth)
    return resampling.once(resampling.precision, x, y, k=positive("k", k, len(x)))


def precision_at_10(scores: ArrayLike, truth: ArrayLike) -> float:
    """`precision_at` with k = 10."""
    return precision_at(scores, truth, 10)


def precision_at_10_percent(scores: ArrayLike, truth: ArrayLike) -> float:
    """`precision_at` with k a tenth of the rows, rounded up."""
    return resampling.once(resampling.precision, *pair(scores, truth), fraction=0.1)


def regret(scores: ArrayLike, truth: ArrayLike, k: int = 10) -> float:
    """Best truth overall minus best truth among the predicted top k, in units of `truth`, >= 0; LOWER is better.

    Ties in score at the boundary give the expectation over random tie-breaking. ValueError unless 1 <= k <= A.
    Its bootstrap is rough: a resample often lacks the best row, so an interval says little about the extreme."""
    x, y = pair(scores, truth)
    return resampling.once(resampling.regret, x, y, k=positive("k", k, len(x)))


def best_rank(scores: ArrayLike, truth: ArrayLike, k: int = 10) -> float:
    """True rank (1 is the best) of the best row among the predicted top k; LOWER is better.

    Ties in score at the boundary give the expectation over random tie-breaking; tied truths share the lowest rank.
    ValueError unless 1 <= k <= A. As rough on resamples as `regret`."""
    x, y = pair(scores, truth)
    return resampling.once(resampling.best_rank, x, y, k=positive("k", k, len(x)))


def choose_one_of(scores: ArrayLike, truth: ArrayLike, n: int = 100) -> float:
    """Expected truth of the best-scored row of a random subset of n rows drawn without replacement, in closed form.

    With rows ordered by score, best first, row r (from 0) of A is the pick with probability C(A-1-r, n-1) / C(A, n);
    tied scores share their probability evenly. n above A counts as A."""
    return resampling.once(resampling.choose_one_of, *pair(scores, truth), n=positive("n", n))


def choose_one_of_oracle(truth: ArrayLike, n: int = 100) -> float:
    """`choose_one_of` for a score equal to the truth: the expected best of n. The chance level is the mean truth."""
    return choose_one_of(truth, truth, n)


def relative_improvement(scores: ArrayLike, truth: ArrayLike, n: int = 100) -> float:
    """100 (a - r) / r in percent: a the accuracy of choosing 1 of n, r the mean accuracy (Yang et al. 2020, NAS
    evaluation is frustratingly hard); nan unless r is positive."""
    return resampling.once(resampling.relative_improvement, *pair(scores, truth), n=positive("n", n))


def partial_spearman(scores: ArrayLike, truth: ArrayLike, controls: ArrayLike) -> float:
    """Partial rank correlation of [A] and [A] given `controls` [A, K] (or [A]).

    Pearson correlation of the residuals of the average ranks regressed, with intercept, on the ranks of the controls;
    nan when the controls explain either ranking fully."""
    x, y = pair(scores, truth)
    table = np.asarray(controls, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise ValueError(f"controls: expected one or two axes, got shape {table.shape}")
    ranked = [stats.rankdata(column("controls", control, len(x))) for control in table.T]
    design = np.column_stack([np.ones(len(x)), *(control - control.mean() for control in ranked)])
    ranks = np.column_stack([stats.rankdata(x), stats.rankdata(y)])
    ranks -= ranks.mean(axis=0)
    left = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    sizes = np.linalg.norm(left, axis=0)
    if np.any(sizes <= 1e-9 * np.linalg.norm(ranks, axis=0)):
        return math.nan
    return float(left[:, 0] @ left[:, 1] / (sizes[0] * sizes[1]))


def rank_sum(*scores: ArrayLike) -> Floats:
    """Sum [A] of the average ranks of several scores [A]: a combination that uses no labels; higher is better."""
    if not scores:
        raise ValueError("scores: none given")
    first = column("scores", scores[0])
    return np.asarray(sum(stats.rankdata(column("scores", own, len(first))) for own in scores))


# ---- the statistics of every report

BATCHED: dict[Statistic, Callable[..., Floats]] = {
    spearman: resampling.spearman,
    kendall: resampling.kendall,
    kendall_top_half: partial(resampling.within_top, resampling.kendall, 0.5),
    kendall_top10: partial(resampling.within_top, resampling.kendall, 0.1),
    spearman_top_half: partial(resampling.within_top, resampling.spearman, 0.5),
    precision_at: resampling.precision,
    precision_at_10: partial(resampling.precision, k=10),
    precision_at_10_percent: partial(resampling.precision, fraction=0.1),
    regret: resampling.regret,
    best_rank: resampling.best_rank,
    choose_one_of: resampling.choose_one_of,
    relative_improvement: resampling.relative_improvement,
}

RANKING_STATISTICS: dict[str, Statistic] = {
    "kendall": kendall,
    "spearman": spearman,
    "kendall_top_half": kendall_top_half,
    "kendall_top10": kendall_top10,
    "spearman_top_half": spearman_top_half,
    "precision_at_10": precision_at_10,
    "precision_at_10_percent": precision_at_10_percent,
    "regret": regret,
    "best_rank_in_10": best_rank,
    "choose_1_of_100": choose_one_of,
    "relative_improvement": relative_improvement,
}
