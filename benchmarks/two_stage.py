"""Screening without training, then short honest training of a shortlist: how well is the top 10% ranked?

(a) "embedded": the table in the package. The budget is a tenth of the training steps that the table took, all of its
    seeds counted. Several ways to spend it; where one leaves a choice (steps, share of the classes, weight of the first
    score), it is made on one half of the held-out classes and reported on the other, both ways round.
(b) "nasbench201": real 200-epoch accuracies of NAS-Bench-201, whose table holds accuracies after 12 epochs too: those
    are the short trainings.

    python benchmarks/two_stage.py [--cifar10 DIR --table nasbench201.csv.gz --cifar10-hypernetwork RUN]

Without the three options (b) is left out; RUN is what ranking.py or supernets.py trained on CIFAR-10. Short trainings
are kept in --runs and found again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tyro
from common import console, finish, progress
from scipy import stats

import ghn
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import (
    Interval,
    UndefinedStatistic,
    choose_one_of,
    kendall,
    kendall_top10,
    kendall_top_half,
    paired_difference,
    rank_sum,
    ranking_table,
    split_half_kendall_top10,
)
from eval.predictors import predict
from eval.rank import load_matching
from eval.ranking import PRIMARY, Vector, free_methods, generated_methods, timed_scores
from eval.scoring import ScoreConfig, Scorer
from eval.two_stage import Looker, Plan, Round, Start, choose, planned_scores, plans, second_scores
from train.data import DataConfig, Splits, load
from train.finetune import FinetuneConfig
from train.target import Protocol

Starts: TypeAlias = tuple[Start, ...]
GENERATED: Starts = ("generated",)
INITIALISER: Starts = ("initialiser",)
BOTH: Starts = (*GENERATED, *INITIALISER)
STATISTICS = {"kendall": kendall, "kendall_top_half": kendall_top_half, "kendall_top10": kendall_top10}
SCREENING = "screening alone"
LONG, SHORT = 200, 12  # epochs of NAS-Bench-201's trainings


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    checkpoint: str = "demo"  # hypernetwork of (a): screens, and generates weights to start from
    cifar10: Path | None = None  # folder of CIFAR-10 binaries, for (b)
    table: Path | None = None  # NAS-Bench-201 CSV with accuracies after 12 and 200 epochs, for (b)
    cifar10_hypernetwork: Path | None = None  # run of a hypernetwork trained on CIFAR-10 at 16 x 16, for (b)
    columns: tuple[str, str] = ("cifar10_valid_12ep", "cifar10_test_200ep")  # the short and the long of the table
    share: float = 0.1  # of the steps that the truth took
    steps: tuple[int, ...] = (62, 124, 248)  # choices for a short training; 62 are one pass over the images
    rounds: tuple[int, ...] = (62, 124, 248)  # steps of every round where there are several
    whole: int = 620  # steps of a whole one; 0: that attempt is left out
    rates: tuple[float, float] = (0.02, 0.1)  # peak learning rates from generated weights and from the initialiser
    images: int = 500  # images of each split that the screening score uses
    classes: int | None = None  # take only so many of each half
    runs: Path = Path("runs/benchmark-two-stage")  # where short trainings are kept
    quick: bool = False  # 15 classes a half, 2 and 4 steps, 200 resamples
    out: Path = Path("benchmarks/results")  # results

    @property
    def resamples(self) -> int:
        """Of every bootstrap."""
        return 200 if self.quick else 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Half:
    """One half of the classes.

    Attributes:
        truth: their accuracies.
        first: [A] screening scores.
        second: scores after training of some rows from a start for so many steps.
    """

    truth: GroundTruth
    first: Vector
    second: Callable[[list[int], Start, int], Vector]

    def scores(self, plan: Plan) -> Vector:
        """[A] after all rounds."""
        return planned_scores(self.first, plan, self.second)


Attempt = Callable[[Half, Half], tuple[Vector, str]]  # half to choose on, half to score -> scores, what was chosen


def chosen_of(candidates: Sequence[Plan]) -> Attempt:
    """The plan that is best on the other half."""

    def attempt(other: Half, own: Half) -> tuple[Vector, str]:
        plan = choose(candidates, other.first, other.truth.accuracy, other.second)
        return own.scores(plan), told(plan)

    return attempt


def told(plan: Plan) -> str:
    """In words."""
    return ", then ".join(
        f"{own.steps} steps on {own.share:.0%}" + (f" (first score's weight {own.weight:g})" if own.weight else "")
        for own in plan
    )


def learned(steps: int) -> Attempt:
    """A Gaussian process on the first score and on what short trainings from both starts show, fitted to the accuracies
    of the other half: the only attempt that sees labels."""

    def features(half: Half) -> Vector:
        rows = list(range(len(half.first)))
        columns = [half.first, *(half.second(rows, start, steps) for start in BOTH)]
        return np.stack([stats.rankdata(column) / len(rows) for column in columns], axis=1)

    def attempt(other: Half, own: Half) -> tuple[Vector, str]:
        predicted = predict("gp", features(other), other.truth.accuracy, features(own))
        return predicted, f"{steps} steps on 100% from either start"

    return attempt


def spent_in(budget: float, options: Options, count: int) -> dict[str, Attempt]:
    """Ways to spend the budget."""
    even = budget / len(options.rounds)

    def halving(start: Starts) -> Attempt:
        return chosen_of([tuple(Round(start, steps, min(1.0, even / steps)) for steps in options.rounds)])

    attempts = {
        "short, from generated weights": chosen_of(plans(count, budget, options.steps, [GENERATED])),
        "short, from the initialiser": chosen_of(plans(count, budget, options.steps, [INITIALISER])),
        "short, from both": chosen_of(plans(count, budget, options.steps, [BOTH])),
        "in rounds, from generated weights": halving(GENERATED),
        "in rounds, from the initialiser": halving(INITIALISER),
        "learned from the other half's accuracies": learned(options.steps[0]),
    }
    if options.whole:
        whole = Round(INITIALISER, options.whole, min(1.0, budget / options.whole))
        attempts["whole trainings of a few"] = chosen_of([(whole,)])
    return attempts


# --------------------------------------------------------------------------------------------------------- judging


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Every attempt on both halves.

    Attributes:
        truth: of both halves, in the order of the scores.
        scores: by attempt, [A] each; those of a half are shares of its classes that lie behind.
        chosen: by attempt, what was chosen on either half.
    """

    truth: GroundTruth
    scores: dict[str, Vector]
    chosen: dict[str, list[str]]

    def results(self, resamples: int) -> dict[str, Any]:
        """JSON values."""
        accuracy, classes = self.truth.accuracy, self.truth.classes
        found: dict[str, dict[str, Interval]] = ranking_table(self.scores, accuracy, classes, STATISTICS, resamples)
        screened = self.scores[SCREENING]
        methods = {
            name: {
                **{key: interval.as_list() for key, interval in own.items()},
                "choose_1_of_100": choose_one_of(self.scores[name], accuracy),
                "chosen": self.chosen[name],
                "gain_top10": _gain(self.scores[name], screened, self.truth, resamples).as_list(),
            }
            for name, own in found.items()
        }
        several = self.truth.several
        return {
            "n": len(accuracy),
            "methods": methods,
            "noise_ceiling_top10": split_half_kendall_top10(self.truth.runs) if several else None,
            "one_training_top10": one_training_top10(self.truth.runs) if several else None,
        }


def _gain(scores: Vector, screened: Vector, truth: GroundTruth, resamples: int) -> Interval:
    try:
        return paired_difference(kendall_top10, scores, screened, truth.accuracy, truth.classes, resamples)
    except UndefinedStatistic:  # the top 10% of a few classes
        return Interval(np.nan, np.nan, np.nan)


def one_training_top10(runs: Any) -> list[float]:
    """By seed [S] of the table's runs [A, S]: the top 10% of the other seeds' means as that seed's accuracies rank it.

    A whole training of every candidate reaches no more, whatever it costs.
    """
    return [
        kendall_top10(runs[:, seed], np.nanmean(np.delete(runs, seed, axis=1), axis=1)) for seed in range(runs.shape[1])
    ]


def judge(halves: tuple[Half, Half], attempts: Mapping[str, Attempt], whole: GroundTruth) -> Judged:
    """Every attempt on either half, with what it chooses on the other."""
    scores: dict[str, Vector] = {SCREENING: np.concatenate([_shares(half.first) for half in halves])}
    chosen: dict[str, list[str]] = {SCREENING: []}
    with progress() as bar:
        for name, attempt in bar.track(attempts.items(), description="attempts"):
            own = [attempt(halves[1 - place], halves[place]) for place in (0, 1)]
            scores[name] = np.concatenate([_shares(found) for found, _ in own])
            chosen[name] = [words for _, words in own]
    order = [str(a) for half in halves for a in half.truth.architectures]
    place = {str(a): row for row, a in enumerate(whole.architectures)}
    back = np.argsort([place[name] for name in order])
    return Judged(whole, {name: own[back] for name, own in scores.items()}, chosen)


def _shares(scores: Vector) -> Vector:
    return np.asarray(stats.rankdata(scores) / len(scores))


# ----------------------------------------------------------------------------------------------------------- parts


def embedded(options: Options) -> dict[str, Any]:
    """Part (a)."""
    hypernetwork = ghn.load(options.checkpoint)
    space, splits = hypernetwork.space, load(DataConfig())
    truth = read_ground_truth("embedded", space).select(hypernetwork.unseen)
    full = Protocol().epochs * (len(splits.train.labels) // Protocol().batch)
    trainings = float((~np.isnan(truth.runs)).sum(axis=1).mean())
    budget = 3.0 if options.quick else options.share * full * trainings
    configs: dict[Start, FinetuneConfig] = {
        "generated": FinetuneConfig(learning_rate=options.rates[0]),
        "initialiser": FinetuneConfig(learning_rate=options.rates[1]),
    }
    looker = Looker(hypernetwork, splits, configs, options.runs / "looks.sqlite")
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))

    def screened(own: GroundTruth) -> Half:
        def second(rows: list[int], start: Start, steps: int) -> Vector:
            return second_scores([looker(own.architectures[row], start, steps) for row in rows])

        return Half(own, label_free(space, scorer, own, splits), second)

    whole, halves = halved(truth, space, options)
    judged = judge((screened(halves[0]), screened(halves[1])), spent_in(budget, options, len(halves[0].classes)), whole)
    return {"budget": budget, "training_all": full * trainings, "unit": "steps"} | judged.results(options.resamples)


def nasbench201(options: Options) -> dict[str, Any]:
    """Part (b)."""
    assert options.table is not None and options.cifar10 is not None
    hypernetwork = ghn.load(str(options.cifar10_hypernetwork))
    space = hypernetwork.space
    splits = load_matching(hypernetwork, DataConfig(source=str(options.cifar10), image_size=16))
    short, truth = (
        read_ground_truth(options.table, space, column).select(hypernetwork.unseen) for column in options.columns
    )
    after = dict(zip(map(space.canonical, short.architectures), short.accuracy.tolist(), strict=True))
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))

    def screened(own: GroundTruth) -> Half:
        def second(rows: list[int], start: Start, steps: int) -> Vector:
            return np.array([after[space.canonical(own.architectures[row])] for row in rows])

        return Half(own, label_free(space, scorer, own, splits), second)

    whole, halves = halved(truth, space, options)
    budget, weights = options.share * LONG, (0.0, 0.1, 0.2, 0.3, 0.5)
    attempts = {
        "12 epochs": chosen_of([(Round(INITIALISER, SHORT, 1.0),)]),
        "12 epochs, weighed with the screening score": chosen_of(
            [(Round(INITIALISER, SHORT, share, weight),) for share in (0.25, 0.5, 1.0) for weight in weights]
        ),
    }
    judged = judge((screened(halves[0]), screened(halves[1])), attempts, whole)
    return {"budget": budget, "training_all": LONG, "unit": "epochs"} | judged.results(options.resamples)


def label_free(space: Any, scorer: Scorer, truth: GroundTruth, splits: Splits) -> Vector:
    """[A] the screening score: generated weights, parameter count and NWOT, as ranks."""
    methods = generated_methods(*timed_scores(scorer, truth.architectures))
    methods |= free_methods(space, truth.architectures, splits.train.images)
    return rank_sum(*(methods[name].scores for name in (PRIMARY, "parameters", "NWOT")))


def halved(truth: GroundTruth, space: Any, options: Options) -> tuple[GroundTruth, tuple[GroundTruth, GroundTruth]]:
    """The classes that are used, and their two halves, by a hash."""

    def half(development: bool) -> GroundTruth:
        return truth.select(lambda architecture: space.held_out(architecture, 0.5, seed=1) == development)

    development, reported = half(True), half(False)
    kept = {name for half in (development, reported) for name in half.classes[: options.classes].tolist()}

    def cut(own: GroundTruth) -> GroundTruth:
        return own.select(lambda architecture: space.canonical(architecture) in kept)

    return cut(truth), (cut(development), cut(reported))


def main(options: Options) -> None:
    """Both parts, where their data are at hand."""
    if options.quick:
        options = dataclasses.replace(
            options, classes=15, steps=(2, 4), rounds=(1, 2, 4), whole=8, runs=options.runs / "quick"
        )
    console.print("embedded")
    results: dict[str, Any] = {"embedded": embedded(options), "nasbench201": None}
    given = [value is not None for value in (options.cifar10, options.table, options.cifar10_hypernetwork)]
    if any(given) and not all(given):
        raise ValueError("--cifar10, --table, --cifar10-hypernetwork: give all three, or none")
    if all(given):
        console.print("nasbench201")
        results["nasbench201"] = nasbench201(options)
    header = ["data", "method", *(key.replace("_", " ") for key in STATISTICS), "choose 1 of 100, %"]
    header.append("Kendall in the top 10% above screening")
    rows, notes = [], []
    for part, found in results.items():
        if found is None:
            continue
        for name, own in found["methods"].items():
            gain = "" if name == SCREENING else str(Interval(*own["gain_top10"]))
            cells = [str(Interval(*own[key])) for key in STATISTICS]
            rows.append([part, name, *cells, f"{100 * own['choose_1_of_100']:.2f}", gain])
        unit = found["unit"]
        notes.append(
            f"{part}: {found['n']} classes; {found['budget']:.0f} {unit} an architecture may be spent, where the "
            f"truth took {found['training_all']:.0f}."
        )
        if found["one_training_top10"] is not None:
            whole = ", ".join(f"{value:.2f}" for value in found["one_training_top10"])
            notes.append(
                f"{part}: what can be reached there: one half of the table's seeds ranks the top 10% as the other half "
                f"does with a Kendall of {found['noise_ceiling_top10']:.2f}; one whole training of *every* "
                f"architecture, against the means of the other seeds: {whole}."
            )
        notes.extend(
            f"{part}, {name}, chosen on either half: {'; '.join(own['chosen'])}."
            for name, own in found["methods"].items()
            if own["chosen"]
        )
    finish("two_stage", results, header, rows, notes, 0, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
