"""Statistics of a ranking of architectures, and their intervals by resampling isomorphism classes.

Convention: `scores` [A] and `truth` [A] are floats, one per architecture, and higher is better for both. No sign is
hidden: a method that ranks backwards gets a negative correlation. Every statistic here is better when higher, except
`regret`. Non-finite values, unequal lengths and fewer than 3 rows raise ValueError naming the parameter.

Bootstrap resamples are computed by the functions of `eval.resampling`.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eval import resampling
from eval.resampling import Floats

Counts = NDArray[np.int64]
Statistic = Callable[..., float]
Classes = Sequence[Hashable] | NDArray[Any]

_MOST_NAN = 0.05  # largest share of resamples on which a statistic may be undefined


# ---- input


def _column(name: str, values: ArrayLike, length: int | None = None) -> Floats:
    """`values` as finite float64 [A] with A >= 3 (and A == length when given); ValueError naming `name` otherwise."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {column.shape}")
    if length is not None and len(column) != length:
        raise ValueError(f"{name}: {len(column)} rows, expected {length}")
    if len(column) < 3:
        raise ValueError(f"{name}: {len(column)} rows, at least 3 are needed")
    bad = np.flatnonzero(~np.isfinite(column))
    if bad.size:
        raise ValueError(f"{name}: {bad.size} non-finite of {len(column)} values, the first at index {bad[0]}")
    return column


def _pair(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    checked = _column("scores", scores)
    return checked, _column("truth", truth, len(checked))


def _positive(name: str, value: int, most: int | None = None) -> int:
    if value < 1 or (most is not None and value > most):
        raise ValueError(f"{name}: {value} is not in 1..{'' if most is None else most}")
    return value


# ---- statistics of one ranking


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation of [A] and [A], ties by average rank; nan when either is constant."""
    return resampling.once(resampling.spearman, *_pair(scores, truth))


def kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b of [A] and [A] (Kendall 1945, Biometrika 33); nan when either is constant."""
    x, y = _pair(scores, truth)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(stats.kendalltau(x, y, method="asymptotic").statistic)


def top_fraction(truth: ArrayLike, fraction: float) -> NDArray[np.bool_]:
    """Mask [A] of the true top `fraction` (0 to 1, rounded up, at least 3 rows); ties go to the earlier row."""
    y = _column("truth", truth)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction} is not in (0, 1]")
    rows = np.ones((1, len(y)))
    return np.asarray(resampling.top(y, rows, resampling.fraction_count(rows.sum(axis=1), fraction, 3))[0] > 0)


def _inside(statistic: Statistic, scores: ArrayLike, truth: ArrayLike, fraction: float) -> float:
    x, y = _pair(scores, truth)
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
    x, y = _pair(scores, truth)
    return resampling.once(resampling.precision, x, y, k=_positive("k", k, len(x)))


def precision_at_10(scores: ArrayLike, truth: ArrayLike) -> float:
    """`precision_at` with k = 10."""
    return precision_at(scores, truth, 10)


def precision_at_10_percent(scores: ArrayLike, truth: ArrayLike) -> float:
    """`precision_at` with k a tenth of the rows, rounded up."""
    return resampling.once(resampling.precision, *_pair(scores, truth), fraction=0.1)


def regret(scores: ArrayLike, truth: ArrayLike, k: int = 10) -> float:
    """Best truth overall minus best truth among the predicted top k, in units of `truth`, >= 0; LOWER is better.

    Ties in score at the boundary give the expectation over random tie-breaking. ValueError unless 1 <= k <= A.
    Its bootstrap is rough: a resample often lacks the best row, so an interval says little about the extreme."""
    x, y = _pair(scores, truth)
    return resampling.once(resampling.regret, x, y, k=_positive("k", k, len(x)))


def choose_one_of(scores: ArrayLike, truth: ArrayLike, n: int = 100) -> float:
    """Expected truth of the best-scored row of a random subset of n rows drawn without replacement, in closed form.

    With rows ordered by score, best first, row r (from 0) of A is the pick with probability C(A-1-r, n-1) / C(A, n);
    tied scores share their probability evenly. n above A counts as A."""
    return resampling.once(resampling.choose_one_of, *_pair(scores, truth), n=_positive("n", n))


def choose_one_of_oracle(truth: ArrayLike, n: int = 100) -> float:
    """`choose_one_of` for a score equal to the truth: the expected best of n. The chance level is the mean truth."""
    return choose_one_of(truth, truth, n)


def partial_spearman(scores: ArrayLike, truth: ArrayLike, controls: ArrayLike) -> float:
    """Partial rank correlation of [A] and [A] given `controls` [A, K] (or [A]).

    Pearson correlation of the residuals of the average ranks regressed, with intercept, on the ranks of the controls;
    nan when the controls explain either ranking fully."""
    x, y = _pair(scores, truth)
    table = np.asarray(controls, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise ValueError(f"controls: expected one or two axes, got shape {table.shape}")
    columns = [stats.rankdata(_column("controls", column, len(x))) for column in table.T]
    design = np.column_stack([np.ones(len(x)), *(column - column.mean() for column in columns)])
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
    first = _column("scores", scores[0])
    return np.asarray(sum(stats.rankdata(_column("scores", column, len(first))) for column in scores))


# ---- intervals


@dataclass(frozen=True)
class Interval:
    """A statistic on the full data and the ends of its interval, all in the statistic's own units."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """[value, low, high], for JSON."""
        return [self.value, self.low, self.high]

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _draw(classes: Classes | None, rows: int, resamples: int, seed: int) -> Counts:
    """Copies [R, A] of every row in `resamples` draws of the classes with replacement."""
    _positive("resamples", resamples)
    keys = list(range(rows)) if classes is None else classes.tolist() if isinstance(classes, np.ndarray) else classes
    if len(keys) != rows:
        raise ValueError(f"classes: {len(keys)} rows, expected {rows}")
    index: dict[Hashable, int] = {}
    member = np.array([index.setdefault(key, len(index)) for key in keys])
    if len(index) < 3:
        raise ValueError(f"classes: {len(index)} distinct, at least 3 are needed to resample")
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(len(index), size=len(index)), minlength=len(index)) for _ in range(resamples)]
    return np.stack(drawn)[:, member]


def _resampled(
    statistic: Statistic, scores: ArrayLike, truth: ArrayLike, copies: Counts, arguments: Mapping[str, Any]
) -> Floats:
    """`statistic` on every resample [R]; one without a batched form is called once for each on the repeated rows."""
    x, y = _pair(scores, truth)
    batched = _BATCHED.get(statistic)
    if batched is not None:
        step = max(1, resampling.BLOCK // len(x))
        parts = [copies[i : i + step].astype(np.float64) for i in range(0, len(copies), step)]
        return np.concatenate([batched(x, y, part, **arguments) for part in parts])
    values = np.empty(len(copies))
    for i, count in enumerate(copies):
        rows = np.repeat(np.arange(len(x)), count)
        moved = {k: np.asarray(v)[rows] if np.shape(v)[:1] == x.shape else v for k, v in arguments.items()}
        values[i] = statistic(x[rows], y[rows], **moved)
    return values


class UndefinedStatistic(ValueError):
    """A statistic that is nan on too many resamples to have an interval."""


def _interval(statistic: Statistic, value: float, samples: Floats, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is not in (0, 1)")
    bad = int(np.isnan(samples).sum())
    if bad > _MOST_NAN * len(samples):
        name = getattr(statistic, "__name__", "statistic")
        raise UndefinedStatistic(f"{name}: undefined (nan) on {bad} of {len(samples)} resamples")
    tail = (1 - level) / 2
    low, high = np.quantile(samples[~np.isnan(samples)], [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _interval_or_nan(statistic: Statistic, value: float, samples: Floats) -> Interval:
    try:
        return _interval(statistic, value, samples, 0.95)
    except UndefinedStatistic:
        return Interval(value, float("nan"), float("nan"))


def bootstrap(
    statistic: Statistic,
    scores: ArrayLike,
    truth: ArrayLike,
    classes: Classes | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> Interval:
    """Percentile interval of `statistic(scores, truth, **arguments)` over resampled classes (Efron 1979).

    `classes` [A] are keys: a drawn class brings all its rows; None makes every row its own class. An argument with
    A rows (such as `controls`) is resampled along. Resamples on which the statistic is nan are left out;
    ValueError when they are more than 5 percent, or when there are fewer than 3 classes."""
    value = statistic(scores, truth, **arguments)
    copies = _draw(classes, len(_column("scores", scores)), resamples, seed)
    return _interval(statistic, value, _resampled(statistic, scores, truth, copies, arguments), level)


def paired_difference(
    statistic: Statistic,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    truth: ArrayLike,
    classes: Classes | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> Interval:
    """Interval of the statistic of method a minus that of method b, both on the same resamples; see `bootstrap`."""
    a = _column("scores_a", scores_a)
    b = _column("scores_b", scores_b, len(a))
    value = statistic(a, truth, **arguments) - statistic(b, truth, **arguments)
    copies = _draw(classes, len(a), resamples, seed)
    samples = [_resampled(statistic, scores, truth, copies, arguments) for scores in (a, b)]
    return _interval(statistic, value, samples[0] - samples[1], level)


# ---- noise between seeds


def _seeds(runs: ArrayLike) -> Floats:
    table = np.asarray(runs, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"runs: expected [A, S] with S >= 2, got shape {table.shape}")
    return np.column_stack([_column("runs", column) for column in table.T])


def reliability(runs: ArrayLike) -> float:
    """Reliability of the mean over S seeds of `runs` [A, S]: S r / (1 + (S - 1) r), r the mean pairwise Pearson.

    Spearman 1910 and Brown 1910 (British Journal of Psychology 3). nan when a seed is constant; a negative r gives a
    negative value without a meaning beyond "no agreement"."""
    table = _seeds(runs)
    count = table.shape[1]
    if np.any(np.ptp(table, axis=0) == 0):
        return math.nan
    r = float(np.asarray(np.corrcoef(table.T))[np.triu_indices(count, 1)].mean())
    below = 1 + (count - 1) * r
    return count * r / below if below > 0 else math.nan


def split_half_kendall(runs: ArrayLike, splits: int = 100, seed: int = 0) -> float:
    """Mean tau-b between the means of two disjoint random halves of the seeds of `runs` [A, S] (an odd S leaves one
    out in each split): a low estimate of the noise ceiling, since a half is noisier than the whole."""
    table = _seeds(runs)
    half = table.shape[1] // 2
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(table.shape[1]) for _ in range(_positive("splits", splits))]
    halves = [(table[:, o[:half]].mean(axis=1), table[:, o[half : 2 * half]].mean(axis=1)) for o in orders]
    return float(np.mean([kendall(a, b) for a, b in halves]))


# ---- the table

_BATCHED: dict[Statistic, Callable[..., Floats]] = {
    spearman: resampling.spearman,
    kendall: resampling.kendall,
    kendall_top_half: partial(resampling.within_top, resampling.kendall, 0.5),
    kendall_top10: partial(resampling.within_top, resampling.kendall, 0.1),
    spearman_top_half: partial(resampling.within_top, resampling.spearman, 0.5),
    precision_at: resampling.precision,
    precision_at_10: partial(resampling.precision, k=10),
    precision_at_10_percent: partial(resampling.precision, fraction=0.1),
    regret: resampling.regret,
    choose_one_of: resampling.choose_one_of,
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
    "choose_1_of_100": choose_one_of,
}


def ranking_table(
    methods: Mapping[str, ArrayLike],
    truth: ArrayLike,
    classes: Classes | None,
    statistics: Mapping[str, Statistic] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """95 percent intervals for every method and statistic (RANKING_STATISTICS when None), all on the same resamples.

    A statistic that is undefined on too many resamples (of few or tied scores) has its value and an interval of nan.

    `methods` maps a name to scores [A]. Equal to `bootstrap` with the same seed; ValueError names the method."""
    copies = _draw(classes, len(_column("truth", truth)), resamples, seed)
    table: dict[str, dict[str, Interval]] = {}
    for method, scores in methods.items():
        try:
            table[method] = {
                name: _interval_or_nan(f, f(scores, truth), _resampled(f, scores, truth, copies, {}))
                for name, f in (RANKING_STATISTICS if statistics is None else statistics).items()
            }
        except ValueError as error:
            raise ValueError(f"methods[{method!r}]: {error}") from error
    return table
