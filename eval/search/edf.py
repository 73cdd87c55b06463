"""Design spaces compared by the distribution of errors (Radosavovic et al. 2020, Designing network design spaces).

Two samples of architectures, of two spaces or of a space with and without a setting, are scored; the better space is
the one whose distribution lies further towards good scores. With generated weights a sample costs minutes.

Shape letters: A, B scores of either sample; R resamples.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from architectures.spaces import CellSpace, SearchSpace
from eval.charts import Axis, Chart
from eval.metrics import Interval
from eval.search.history import Evaluation
from eval.search.marginals import choices
from eval.search.problem import Problem

Floats = NDArray[np.float64]
FEWEST = 3  # scores of a distribution


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The empirical distribution of scores.

    Attributes:
        scores: [A], ascending; failed ones at -inf.
    """

    scores: Floats

    @classmethod
    def of(cls, scores: ArrayLike) -> Distribution:
        """From scores in any order.

        Raises:
            ValueError: fewer than 3.
        """
        values = np.asarray(scores, np.float64)
        if len(values) < FEWEST:
            raise ValueError(f"scores: {len(values)} of them; a distribution needs at least {FEWEST}")
        return cls(np.sort(np.nan_to_num(values, nan=-np.inf, neginf=-np.inf)))

    def at_least(self, score: ArrayLike) -> Floats:
        """The share of architectures that score at least so much: 1 minus RegNet's EDF of the error."""
        return 1 - np.searchsorted(self.scores, np.asarray(score, np.float64), side="left") / len(self.scores)

    @property
    def median(self) -> float:
        """The middle score, or the mean of the two middle ones; -inf where one of them is a failure."""
        return float(np.median(self.scores))

    def best_of(self, draws: int) -> float:
        """The expected best score of so many random architectures, drawn with replacement; -inf if all fail."""
        places = np.arange(1, len(self.scores) + 1) / len(self.scores)
        weights = places**draws - np.concatenate([[0.0], places[:-1]]) ** draws
        finite = np.isfinite(self.scores)
        if not finite.any():
            return -math.inf
        return float((weights[finite] * self.scores[finite]).sum() / weights[finite].sum())


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two distributions.

    Attributes:
        ahead: the chance that a random architecture of the first scores higher than one of the second (ties half),
            with a 95% bootstrap interval over both samples.
        median: of the first minus that of the second, with its interval; 0 where both are failures, infinite where
            one is.
        distance: the largest vertical gap between them (Kolmogorov and Smirnov).
        p: of no gap, two-sided.
        size: of either sample.
    """

    ahead: Interval
    median: Interval
    distance: float
    p: float
    size: tuple[int, int]


def compare(first: Distribution, second: Distribution, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Which of two spaces is better, by their scores."""
    a, b = first.scores, second.scores
    rng = np.random.default_rng(seed)
    drawn = [(np.sort(rng.choice(a, len(a))), rng.choice(b, len(b))) for _ in range(resamples)]
    ahead = [_ahead(own, other) for own, other in drawn]
    gaps = [_gap(float(np.median(own)), float(np.median(other))) for own, other in drawn]
    gap = stats.ks_2samp(a, b)
    return Comparison(
        _interval(_ahead(a, b), ahead),
        _interval(_gap(first.median, second.median), gaps),
        float(gap.statistic),
        float(gap.pvalue),
        (len(a), len(b)),
    )


def _ahead(ascending_A: Floats, scores_B: Floats) -> float:
    """P(a > b) + P(a = b) / 2."""
    below = np.searchsorted(ascending_A, scores_B, side="left") + np.searchsorted(ascending_A, scores_B, side="right")
    return float(1 - below.mean() / 2 / len(ascending_A))


def _gap(first: float, second: float) -> float:
    """first - second; two failures are as good as each other."""
    return 0.0 if first == second else first - second


def _interval(value: float, samples: Sequence[float]) -> Interval:
    ascending = np.sort(samples)
    if np.isfinite(ascending).all():
        low, high = np.quantile(ascending, [0.025, 0.975])
    else:  # there is nothing between a failure and a score: the next sample further out
        last = len(ascending) - 1
        low, high = ascending[math.floor(0.025 * last)], ascending[math.ceil(0.975 * last)]
    return Interval(value, float(low), float(high))


def part(space: SearchSpace[Any], text: str) -> Callable[[Any], bool]:
    """A sub-space: "0 to 3 = skip_connect" keeps cells with that op on that edge, "0 to 3 != none" those without it.

    Other spaces have the names of their encoding's entries, as `eval.search.marginals.choices` tells them.

    Raises:
        ValueError: a choice or value that the space has not.
    """
    match = re.fullmatch(r"\s*(.+?)\s*(!?=)\s*(\S+)\s*", text)
    if match is None:
        raise ValueError(f"part {text!r}: write 'choice = value' or 'choice != value', as in '0 to 3 = skip_connect'")
    name, sign, value = match.groups()
    rng = np.random.default_rng(0)
    known = choices(space, [space.sample(rng) for _ in range(200)])
    if name not in known:
        raise ValueError(f"part {text!r}: no choice {name!r}; there are {', '.join(known)}")
    values = set(known[name]) | (set(space.choices) if isinstance(space, CellSpace) else set())
    if value not in values:
        raise ValueError(f"part {text!r}: {name!r} is one of {', '.join(sorted(values))}")

    def keep(architecture: Any) -> bool:
        return (_value(space, architecture, name) == value) == (sign == "=")

    return keep


def _value(space: SearchSpace[Any], architecture: Any, name: str) -> str:
    if isinstance(space, CellSpace):
        source, _, target = name.partition(" to ")
        return str(architecture.edges[space.wiring.index((int(source), int(target)))])
    entry, _, place = name.rpartition(" ")
    return str(np.ravel(space.encode(architecture)[entry])[int(place)])


def sample(problem: Problem, count: int, seed: int = 0, keep: Callable[[Any], bool] | None = None) -> list[Any]:
    """`count` random architectures of distinct classes, of a sub-space if one is given.

    Raises:
        ValueError: fewer are found in 200 draws for each.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for _ in range(200 * count):
        architecture = problem.sample(rng)
        if keep is None or keep(architecture):
            found.setdefault(problem.key(architecture), architecture)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"count={count}: only {len(found)} distinct classes of this part were found; ask for fewer")


def split(evaluations: Sequence[Evaluation], keep: Callable[[Any], bool]) -> tuple[list[float], list[float]]:
    """Scores of evaluations inside and outside a sub-space."""
    inside = [e.rank_value for e in evaluations if keep(e.architecture)]
    return inside, [e.rank_value for e in evaluations if not keep(e.architecture)]


def chart(distributions: Mapping[str, Distribution], unit: str) -> Chart:
    """The share of architectures that score at least so much, a line each; at most two stand out by colour.

    Raises:
        ValueError: every architecture failed.
    """
    scores = np.concatenate([own.scores[np.isfinite(own.scores)] for own in distributions.values()])
    if not len(scores):
        raise ValueError("scores: every architecture failed; there is nothing to draw")
    low = float(np.quantile(scores, 0.01))  # a few failures do not decide the scale
    places = np.linspace(low, float(scores.max()), 200)
    drawn = Chart(
        "share of architectures that score at least so much", Axis.over(unit, [low, scores.max()]), Axis("share", 0, 1)
    )
    styles = dict(zip(distributions, ["accent", "other", *[""] * len(distributions)], strict=False))
    for name, own in distributions.items():
        drawn.line(list(zip(places.tolist(), own.at_least(places).tolist(), strict=True)), styles[name])
    drawn.legend([(name, styles[name]) for name in distributions])
    return drawn
