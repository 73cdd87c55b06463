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
    Interval,
    bootstrap,
    choose_one_of_oracle,
    kendall,
    paired_difference,
    partial_spearman,
    rank_sum,
    ranking_table,
    reliability,
    spearman,
    split_half_kendall,
)
from eval.proxies import PROXIES, score
from eval.scoring import Scorer, Scores

Vector = NDArray[np.float64]

# What the evaluator ranks by: see the README, "Which score".
PRIMARY = "generated weights, training loss"
SECONDARY = "generated weights, score-split loss"
COMBINED = "generated weights + parameters"


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of scoring: higher is better.

    Attributes:
        scores: [A].
        seconds: wall time an architecture (training of hypernetworks not included).
    """

    scores: Vector
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """A finished comparison with ground truth.

    Attributes:
        methods: method name -> scores.
        table: method name -> statistic name -> value and interval.
        differences: description -> paired interval.
        partial: method name -> partial Spearman given parameter count and NWOT.
        reliability: of the ground truth's mean over its seeds (nan with a single seed).
        ceiling: Kendall between disjoint halves of the ground truth's seeds (nan with a single seed).
        oracle: choose-1-of-100 of a perfect ranking; `mean` that of a random one.
    """

    truth: GroundTruth
    methods: dict[str, Method]
    table: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    partial: dict[str, Interval]
    reliability: float
    ceiling: float
    oracle: float
    mean: float


def generated_methods(scores: Scores, seconds: float) -> dict[str, Method]:
    """The two scores that a hypernetwork gives."""
    return {PRIMARY: Method(-scores.train_loss, seconds), SECONDARY: Method(-scores.score_loss, seconds)}


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
    return Method(rank_sum(*(part.scores for part in parts)), sum(part.seconds for part in parts))


def compare(truth: GroundTruth, methods: dict[str, Method], resamples: int = 2000, seed: int = 0) -> Ranking:
    """All statistics with intervals, bootstrapped over isomorphism classes.

    Raises:
        ValueError: a method whose scores are not finite, with its name.
    """
    for name, method in methods.items():
        bad = int((~np.isfinite(method.scores)).sum())
        if bad:
            raise ValueError(f"method {name!r}: {bad} of {len(method.scores)} scores are not finite")
    accuracy, classes = truth.accuracy, truth.classes
    table = ranking_table(
        {name: m.scores for name, m in methods.items()}, accuracy, classes, resamples=resamples, seed=seed
    )
    differences, partial = {}, {}
    if "parameters" in methods:
        for name in methods:
            if name != "parameters":
                for label, statistic in (("Kendall", kendall), ("Spearman", spearman)):
                    differences[f"{label}: {name} minus parameters"] = paired_difference(
                        statistic,
                        methods[name].scores,
                        methods["parameters"].scores,
                        accuracy,
                        classes,
                        resamples,
                        seed=seed,
                    )
    if "parameters" in methods and "NWOT" in methods:
        controls = np.stack([methods["parameters"].scores, methods["NWOT"].scores], 1)
        for name in (PRIMARY, SECONDARY):
            if name in methods:
                partial[name] = bootstrap(
                    partial_spearman, methods[name].scores, accuracy, classes, resamples, seed=seed, controls=controls
                )
    several = truth.runs.shape[1] > 1
    return Ranking(
        truth,
        methods,
        table,
        differences,
        partial,
        reliability(truth.runs) if several else float("nan"),
        split_half_kendall(truth.runs) if several else float("nan"),
        choose_one_of_oracle(accuracy, 100),
        float(accuracy.mean()),
    )
