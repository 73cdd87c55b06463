"""Screening by generated weights, then short honest training of a shortlist: how well is the top 10% ranked?

    python benchmarks/two_stage.py

Ground truth: the table in the package. The budget is a tenth of the training steps that the table took, all of its
seeds counted. How it is spent (steps, size of the shortlist, start, weight of the first score) is chosen on one half of
the held-out classes and reported on the other. Short trainings are kept in --runs and found there again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import console, finish, progress

import ghn
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import (
    Interval,
    choose_one_of,
    kendall,
    kendall_top10,
    kendall_top_half,
    paired_difference,
    rank_sum,
    ranking_table,
    split_half_kendall_top10,
)
from eval.ranking import PRIMARY, Vector, free_methods, generated_methods, timed_scores
from eval.scoring import ScoreConfig, Scorer
from eval.two_stage import Looker, Plan, Start, choose, plans, second_scores, shortlisted, two_stage_scores
from train.data import DataConfig, load
from train.finetune import FinetuneConfig
from train.target import Protocol

STARTS: tuple[Start, ...] = ("generated", "initialiser")
STATISTICS = {"kendall": kendall, "kendall_top_half": kendall_top_half, "kendall_top10": kendall_top10}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    checkpoint: str = "demo"  # hypernetwork that screens, and that generates weights to start from
    table: str = "embedded"  # ground truth
    share: float = 0.1  # of the steps that the table took
    steps: tuple[int, ...] = (62, 124, 248, 620)  # choices for a short training; 62 are one pass over the images
    rates: tuple[float, float] = (0.02, 0.1)  # peak learning rates from generated weights and from the initialiser
    images: int = 500  # images of each split that the screening score uses
    classes: int | None = None  # take only so many of each half
    runs: Path = Path("runs/benchmark-two-stage")  # where short trainings are kept
    quick: bool = False  # 15 classes a half, 2 and 4 steps, 200 resamples
    out: Path = Path("benchmarks/results")  # results


class Half:
    """One half of the classes with its screening score."""

    def __init__(self, truth: GroundTruth, first: Vector, looker: Looker) -> None:
        self.truth, self.first, self._looker = truth, first, looker

    def second(self, start: Start, steps: int, count: int) -> dict[int, float]:
        """Row -> score after `steps` steps, for the `count` best by the first score."""
        rows = shortlisted(self.first, count)
        with progress() as bar:
            chosen = bar.track(rows, description=f"{start}, {steps} steps")
            glances = [self._looker(self.truth.architectures[row], start, steps) for row in chosen]
        return dict(zip(rows, second_scores(glances).tolist(), strict=True))

    def scores(self, plan: Plan) -> Vector:
        """Of both stages."""
        return two_stage_scores(self.first, self.second(plan.start, plan.steps, plan.shortlist), plan.weight)


def main(options: Options) -> None:
    """Chooses on the development half, reports on the other."""
    if options.quick:
        options = dataclasses.replace(options, classes=15, steps=(2, 4), runs=options.runs / "quick")
    resamples = 200 if options.quick else 2000
    hypernetwork = ghn.load(options.checkpoint)
    space = hypernetwork.space
    splits = load(DataConfig())
    truth = read_ground_truth(options.table, space).select(hypernetwork.unseen)
    full = Protocol().epochs * (len(splits.train.labels) // Protocol().batch)
    trainings = float((~np.isnan(truth.runs)).sum(axis=1).mean())
    budget = 3.0 if options.quick else options.share * full * trainings
    configs = {start: FinetuneConfig(learning_rate=rate) for start, rate in zip(STARTS, options.rates, strict=True)}
    looker = Looker(hypernetwork, splits, configs, options.runs / "looks.sqlite")
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))

    def half(development: bool) -> Half:
        own = truth.select(lambda architecture: space.held_out(architecture, 0.5, seed=1) == development)
        kept = set(own.classes[: options.classes].tolist())
        own = own.select(lambda architecture: space.canonical(architecture) in kept)
        methods = generated_methods(*timed_scores(scorer, own.architectures))
        methods |= free_methods(space, own.architectures, splits.train.images)
        return Half(own, rank_sum(*(methods[name].scores for name in (PRIMARY, "parameters", "NWOT"))), looker)

    development, reported = half(True), half(False)
    choices = plans(len(development.first), budget, options.steps, STARTS)
    looks = {
        (start, own): development.second(start, own, max(p.shortlist for p in choices if p.steps == own))
        for start in STARTS
        for own in sorted({plan.steps for plan in choices})
    }
    console.print(f"{len(choices)} plans of {budget:.0f} steps an architecture")
    chosen = {
        start: choose([p for p in choices if p.start == start], development.first, development.truth.accuracy, looks)
        for start in STARTS
    }
    best = choose(choices, development.first, development.truth.accuracy, looks)

    # The same plan means the same share of the shortlist on the other half.
    def moved(plan: Plan) -> Plan:
        count = max(3, round(plan.shortlist * len(reported.first) / len(development.first)))
        return dataclasses.replace(plan, shortlist=min(count, len(reported.first)))

    methods = {"screening alone (generated weights + parameters + NWOT)": reported.first}
    for start in STARTS:
        methods[f"two stages, from {_start(start)}"] = reported.scores(moved(chosen[start]))
    accuracy, classes = reported.truth.accuracy, reported.truth.classes
    table = ranking_table(methods, accuracy, classes, STATISTICS, resamples)
    name = f"two stages, from {_start(best.start)}"
    gain = paired_difference(kendall_top10, methods[name], reported.first, accuracy, classes, resamples)
    ceiling = split_half_kendall_top10(truth.runs) if truth.several else float("nan")
    _finish(options, table, methods, accuracy, chosen, best, gain, ceiling, budget, full * trainings)


def _start(start: Start) -> str:
    return "generated weights" if start == "generated" else "the initialiser"


def _finish(
    options: Options,
    table: dict[str, dict[str, Interval]],
    methods: dict[str, Vector],
    accuracy: Vector,
    chosen: dict[Start, Plan],
    best: Plan,
    gain: Interval,
    ceiling: float,
    budget: float,
    full: float,
) -> None:
    results: dict[str, Any] = {
        "n": len(accuracy),
        "budget_steps": budget,
        "training_all_steps": full,
        "chosen": dataclasses.asdict(best),
        "plans": {start: dataclasses.asdict(plan) for start, plan in chosen.items()},
        "methods": {
            name: {
                **{key: interval.as_list() for key, interval in own.items()},
                "choose_1_of_100": choose_one_of(methods[name], accuracy),
            }
            for name, own in table.items()
        },
        "gain_top10": gain.as_list(),
        "noise_ceiling_top10": None if np.isnan(ceiling) else ceiling,
    }
    header = ["method", *(key.replace("_", " ") for key in STATISTICS), "choose 1 of 100, %"]
    rows = [
        [name, *(str(own[key]) for key in STATISTICS), f"{100 * choose_one_of(methods[name], accuracy):.2f}"]
        for name, own in table.items()
    ]
    plan = chosen[best.start]
    notes = [
        f"{len(accuracy)} reported classes; {budget:.0f} training steps an architecture, where the table took "
        f"{full:.0f}. Chosen on the other half: {plan.shortlist} of its classes, {plan.steps} steps each, from "
        f"{_start(best.start)}, weight of the first score {plan.weight:g}.",
        f"Two stages minus screening alone, Kendall in the top 10%: {gain}.",
        f"What half of the table's own seeds reach against the other half there (noise ceiling): {ceiling:.2f}.",
    ]
    finish("two_stage", results, header, rows, notes, 0, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
