"""Intervals of ranking statistics by resampling isomorphism classes, and differences between methods.

A resample draws classes with replacement; statistics with a batched form in `eval.resampling` are computed on all
resamples at once.

Shape letters: A architectures, R resamples, H hypernetwork seeds, S ground-truth seeds.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval import resampling
from eval.resampling import Floats
from eval.statistics import BATCHED, RANKING_STATISTICS, Statistic, column, pair, positive

Counts = NDArray[np.int64]
Classes = Sequence[Hashable] | NDArray[Any]

_MOST_NAN = 0.05  # largest share of resamples on which a statistic may be undefined


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


@dataclass(frozen=True)
class Difference(Interval):
    """An interval of a difference, and the two-sided bootstrap p-value of there being none (see `holm`)."""

    p: float = math.nan


def draw(classes: Classes | None, rows: int, resamples: int, seed: int) -> Counts:
    """Copies [R, A] of every row in `resamples` draws of the classes with replacement."""
    positive("resamples", resamples)
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


def resampled(
    statistic: Statistic, scores: ArrayLike, truth: ArrayLike, copies: Counts, arguments: Mapping[str, Any]
) -> Floats:
    """`statistic` on every resample [R]; one without a batched form is called once for each on the repeated rows."""
    x, y = pair(scores, truth)
    batched = BATCHED.get(statistic)
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
    copies = draw(classes, len(column("scores", scores)), resamples, seed)
    return _interval(statistic, value, resampled(statistic, scores, truth, copies, arguments), level)


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
) -> Difference:
    """Interval of the statistic of method a minus that of method b, both on the same resamples; see `bootstrap`."""
    a = column("scores_a", scores_a)
    b = column("scores_b", scores_b, len(a))
    value = statistic(a, truth, **arguments) - statistic(b, truth, **arguments)
    copies = draw(classes, len(a), resamples, seed)
    samples = [resampled(statistic, scores, truth, copies, arguments) for scores in (a, b)]
    interval = _interval(statistic, value, samples[0] - samples[1], level)
    return Difference(interval.value, interval.low, interval.high, _p_value(samples[0] - samples[1]))


def _p_value(samples: Floats) -> float:
    """Twice the share of resamples on the rarer side of 0, with one resample more on it: never below 2 / (R + 1)."""
    drawn = samples[~np.isnan(samples)]
    rarer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(drawn) + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values by name: those at or below a may be claimed together, the chance of any false claim among them
    being at most a (Holm 1979, Scandinavian Journal of Statistics 6). nan stays nan and counts as no test."""
    tested = {name: p for name, p in p_values.items() if not math.isnan(p)}
    adjusted, largest = dict(p_values), 0.0
    for place, name in enumerate(sorted(tested, key=lambda name: tested[name])):
        largest = max(largest, min(1.0, (len(tested) - place) * tested[name]))
        adjusted[name] = largest
    return adjusted


def nested_bootstrap(
    statistic: Statistic,
    scores_HA: ArrayLike,
    runs_AS: ArrayLike,
    classes: Classes | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the statistic's mean over hypernetwork seeds, with every source of chance redrawn.

    A resample draws classes, for each of them as many of its ground-truth runs as it has, and hypernetwork seeds, all
    with replacement. Drawing runs again adds their noise a second time, so the interval leans to weaker rankings: it is
    the cautious one.

    Args:
        statistic: of (scores, truth).
        scores_HA: [H, A], one row a hypernetwork seed.
        runs_AS: [A, S] accuracies; nan where a class lacks a run.
        classes: [A] keys; None makes every row its own class.
        resamples: how many.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: shapes that do not fit, or a class without any run.
    """
    scores, runs = np.asarray(scores_HA, np.float64), np.asarray(runs_AS, np.float64)
    if scores.ndim != 2 or runs.ndim != 2 or scores.shape[1] != len(runs):
        raise ValueError(f"scores_HA, runs_AS: shapes {scores.shape} and {runs.shape}, expected [H, A] and [A, S]")
    truth = column("runs_AS", np.nanmean(runs, axis=1))
    value = float(np.mean([statistic(own, truth) for own in scores]))
    copies = draw(classes, len(runs), resamples, seed)
    packed, count = packed_runs(runs)
    rng = np.random.default_rng((seed, 1))
    samples = np.empty(resamples)
    for index, copy in enumerate(copies):
        rows = np.repeat(np.arange(len(runs)), copy)
        picks = (rng.random((len(rows), packed.shape[1])) * count[rows, None]).astype(np.intp)
        kept = np.arange(packed.shape[1]) < count[rows, None]
        drawn = np.where(kept, np.take_along_axis(packed[rows], picks, axis=1), 0.0).sum(axis=1) / count[rows]
        weights = np.bincount(rng.integers(len(scores), size=len(scores)), minlength=len(scores))
        samples[index] = sum(
            weight * statistic(own[rows], drawn) for weight, own in zip(weights, scores, strict=True) if weight
        ) / len(scores)
    return _interval(statistic, value, samples, level)


def packed_runs(runs_AS: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Runs [A, S] with those of each class moved to the left of its row, and their number [A]."""
    missing = np.isnan(runs_AS)
    order = np.argsort(missing, axis=1, kind="stable")
    return np.take_along_axis(runs_AS, order, axis=1), (~missing).sum(axis=1)


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
    copies = draw(classes, len(column("truth", truth)), resamples, seed)
    table: dict[str, dict[str, Interval]] = {}
    for method, scores in methods.items():
        try:
            table[method] = {
                name: _interval_or_nan(f, f(scores, truth), resampled(f, scores, truth, copies, {}))
                for name, f in (RANKING_STATISTICS if statistics is None else statistics).items()
            }
        except ValueError as error:
            raise ValueError(f"methods[{method!r}]: {error}") from error
    return table
