"""Ranking reports: methods, each a score an architecture, held against ground truth.

Shape letters: A architectures, S seeds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.spaces import SearchSpace
from eval.ground_truth import GroundTruth
from eval.metrics import (
    Difference,
    Interval,
    Statistic,
    UndefinedStatistic,
    bootstrap,
    choose_one_of_oracle,
    disattenuated_spearman,
    failures_last,
    holm,
    kendall,
    nested_bootstrap,
    paired_difference,
    partial_spearman,
    rank_sum,
    ranking_table,
    reliability,
    spearman,
    split_half_kendall,
    split_half_kendall_top10,
    split_half_spearman,
)
from eval.proxies import PROXIES, score
from eval.scoring import Scorer, Scores

Vector = NDArray[np.float64]

# What the evaluator ranks by: see docs/ranking.md, "How good is the ranking".
PRIMARY = "generated weights, training loss"
SECONDARY = "generated weights, score-split loss"
COMBINED = "generated weights + parameters"


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of scoring: higher is better.

    Attributes:
        scores: [A]; nan where the score failed.
        seconds: wall time an architecture.
        training: wall time of what had to be trained before the first score (hypernetworks); nan if unknown.
    """

    scores: Vector
    seconds: float
    training: float = 0.0

    def total_seconds(self, candidates: int) -> float:
        """Wall time an architecture when the training is shared among so many candidates."""
        return self.seconds + self.training / candidates


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """A finished comparison with ground truth.

    Attributes:
        methods: method name -> scores.
        table: method name -> statistic name -> value and interval.
        differences: description -> paired interval.
        partial: method name -> partial Spearman given parameter count and NWOT.
        failures: method name -> number of architectures whose score is not finite; they rank last.
        adjusted: Kendall differences' p-values after Holm's correction, by description.
        noise: what the ground truth's seeds say of each other (empty with a single seed): "reliability" of its mean and
            "reliability_ranks"; "kendall", "spearman" and "kendall_top10" between disjoint halves of its seeds, which
            is the noise ceiling.
        disattenuated: method name -> Spearman corrected for the noise of the ground truth.
        nested: method name -> Kendall with ground-truth and hypernetwork seeds redrawn too.
        oracle: choose-1-of-100 of a perfect ranking; `mean` that of a random one.
    """

    truth: GroundTruth
    methods: dict[str, Method]
    table: dict[str, dict[str, Interval]]
    differences: dict[str, Difference]
    partial: dict[str, Interval]
    failures: dict[str, int]
    adjusted: dict[str, float]
    noise: dict[str, float]
    disattenuated: dict[str, Interval]
    nested: dict[str, Interval]
    oracle: float
    mean: float


def generated_methods(scores: Scores, seconds: float, training: float = 0.0) -> dict[str, Method]:
    """The scores that a hypernetwork gives: minus the loss on either split, as it is and at the best temperature."""
    columns = {
        PRIMARY: scores.train_loss,
        SECONDARY: scores.score_loss,
        f"{PRIMARY}, tempered": scores.train_tempered,
        f"{SECONDARY}, tempered": scores.score_tempered,
    }
    return {name: Method(-loss, seconds, training) for name, loss in columns.items()}


def timed_scores(scorer: Scorer, architectures: Sequence[Any]) -> tuple[Scores, float]:
    """Scores and seconds an architecture, compilation left out."""
    scorer(architectures[:1])
    start = time.perf_counter()
    scores = scorer(architectures)
    return scores, (time.perf_counter() - start) / len(architectures)


def free_methods(
    space: SearchSpace[Any], architectures: Sequence[Any], images: NDArray[np.float32], seed: int = 0
) -> dict[str, Method]:
    """Rows that need no hypernetwork: parameter count, FLOPs, NWOT, random."""

    def timed(scores: Callable[[Sequence[Any]], Any]) -> Method:
        scores(architectures[:1])
        start = time.perf_counter()
        values = np.asarray(scores(architectures), np.float64)
        return Method(values, (time.perf_counter() - start) / len(architectures))

    batch = images[: PROXIES["nwot"].images]
    no_labels = np.zeros(len(batch), np.int32)
    return {
        "parameters": timed(lambda some: [space.cost(a).parameters for a in some]),
        "FLOPs": timed(lambda some: [2 * space.cost(a).macs for a in some]),
        "NWOT": timed(lambda some: score(space, some, batch, no_labels, ["nwot"])["nwot"]),
        "random": timed(lambda some: np.random.default_rng(seed).permutation(len(some))),
    }


def combine(methods: Mapping[str, Method]) -> Method:
    """Rank sum of the primary score and the parameter count: no labels, no tuning."""
    parts = [methods[PRIMARY], methods["parameters"]]
    scores = rank_sum(*(failures_last(part.scores)[0] for part in parts))
    return Method(scores, sum(part.seconds for part in parts), sum(part.training for part in parts))


def compare(
    truth: GroundTruth,
    methods: dict[str, Method],
    resamples: int = 2000,
    seed: int = 0,
    members: Mapping[str, Sequence[Vector]] | None = None,
) -> Ranking:
    """All statistics with intervals, bootstrapped over isomorphism classes.

    Architectures on which a method fails rank last under it, and are counted.

    Args:
        truth: what methods are held against.
        methods: by name.
        resamples: of every bootstrap.
        seed: of every bootstrap.
        members: of methods that are means over hypernetworks of several seeds, the scores [A] of each.
    """
    filled = {name: failures_last(method.scores) for name, method in methods.items()}
    scores = {name: own for name, (own, _) in filled.items()}
    accuracy, classes = truth.accuracy, truth.classes

    def interval(statistic: Statistic, name: str, **arguments: Any) -> Interval:
        try:
            return bootstrap(statistic, scores[name], accuracy, classes, resamples, seed=seed, **arguments)
        except UndefinedStatistic:  # few classes, or seeds that hardly agree
            return Interval(statistic(scores[name], accuracy, **arguments), float("nan"), float("nan"))

    own = [name for name in (PRIMARY, SECONDARY) if name in methods]
    controls = [scores[name] for name in ("parameters", "NWOT") if name in methods]
    differences = _differences(scores, truth, resamples, seed) if "parameters" in methods else {}
    rows = [name for name in (COMBINED, *own, "parameters") if name in methods]
    noise = _noise(truth)
    reliable = noise.get("reliability_ranks", 0.0) > 0
    return Ranking(
        truth,
        methods,
        ranking_table(scores, accuracy, classes, resamples=resamples, seed=seed),
        differences,
        {name: interval(partial_spearman, name, controls=np.stack(controls, 1)) for name in own}
        if len(controls) == 2
        else {},
        {name: count for name, (_, count) in filled.items() if count},
        holm({name: value.p for name, value in differences.items() if name.startswith("Kendall")}),
        noise,
        {name: interval(disattenuated_spearman, name, runs=truth.runs) for name in rows} if reliable else {},
        {
            name: nested_bootstrap(kendall, np.stack(each), truth.runs, classes, resamples, seed=seed)
            for name, each in (members or {}).items()
        },
        choose_one_of_oracle(accuracy, 100),
        float(accuracy.mean()),
    )


def _differences(scores: Mapping[str, Vector], truth: GroundTruth, resamples: int, seed: int) -> dict[str, Difference]:
    """Every method against parameter count, in Kendall and in Spearman."""
    return {
        f"{label}: {name} minus parameters": paired_difference(
            statistic, own, scores["parameters"], truth.accuracy, truth.classes, resamples, seed=seed
        )
        for name, own in scores.items()
        if name != "parameters"
        for label, statistic in (("Kendall", kendall), ("Spearman", spearman))
    }


def _noise(truth: GroundTruth) -> dict[str, float]:
    if not truth.several:
        return {}
    return {
        "reliability": reliability(truth.runs),
        "reliability_ranks": reliability(truth.runs, ranks=True),
        "kendall": split_half_kendall(truth.runs),
        "spearman": split_half_spearman(truth.runs),
        "kendall_top10": split_half_kendall_top10(truth.runs),
    }
