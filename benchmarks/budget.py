"""At equal budgets, its own training included: does the hypernetwork rank best, and from how many candidates on?

    python benchmarks/budget.py

Ground truth: the table in the package, classes that no hypernetwork has seen. Every method gets the same number of
training steps of single networks (64 images, forward and backward): 1, 3 and 10 times what --unit steps of the
hypernetwork and scoring all candidates with it cost. A hypernetwork trains and scores; the supernet (delta = 0) too;
short training divides the steps among all candidates; regressors train as many networks as the steps buy, for one
seed of the table, and predict the others. Runs and short trainings are kept in --runs and found there again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from common import console, finish, progress
from numpy.typing import NDArray

from eval.calibration import feature_matrix
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.judging import BATCHED, Judged, draws_of_labels, judge_baseline, over_draws, unlabelled
from eval.metrics import Interval, failures_last
from eval.paths import path_features
from eval.predictors import one_hot
from eval.ranking import PRIMARY, Vector, combine, free_methods, generated_methods, timed_scores
from eval.report import cell
from eval.scoring import ScoreConfig, Scorer
from eval.two_stage import Looker, second_scores
from ghn import GHNConfig
from train.config import TrainConfig
from train.data import load
from train.finetune import FinetuneConfig
from train.loop import train
from train.target import Protocol

OURS, COMBINED = "generated weights", "generated weights + parameters"
SHOWN = ("kendall", "kendall_top_half", "choose_1_of_100")
FEWEST = 5  # labels that a regressor needs


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    unit: int = 2000  # steps of the hypernetwork in a budget of 1
    multiples: tuple[int, ...] = (1, 3, 10)  # budgets
    step_cost: float = 1.35  # steps of one network that a step of the hypernetwork costs (train_step.py: share 26%)
    images: int = 500  # training images on which a candidate is scored
    rate: float = 0.1  # peak learning rate of a short training
    draws: int = 10  # of the networks that a regressor may see
    classes: int | None = None  # take only so many
    runs: Path = Path("runs/benchmark-budget")  # where runs and short trainings are kept
    seed: int = 0  # of hypernetworks
    quick: bool = False  # 25 classes, 40 steps in a budget of 1, 200 resamples
    out: Path = Path("benchmarks/results")  # results

    @property
    def resamples(self) -> int:
        """Of every bootstrap."""
        return 200 if self.quick else 2000


class Rivals:
    """Every method as a function of the budget, on one table."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.config = TrainConfig(seed=options.seed)
        self.splits = load(self.config.data)
        image_shape = self.splits.train.images.shape[1:]
        self.space: Any = self.config.space.build(image_shape, self.splits.train.classes)
        truth = read_ground_truth("embedded", self.space).select(
            lambda a: self.space.held_out(a, self.config.held_out, self.config.held_out_seed)
        )
        kept = set(truth.classes[: options.classes].tolist())
        self.truth: GroundTruth = truth.select(lambda a: self.space.canonical(a) in kept)
        self.count = len(self.truth.architectures)
        self.score_cost = options.images / self.config.batch / 3  # a forward pass is a third of a step
        protocol = Protocol()
        self.full = protocol.epochs * (len(self.splits.train.labels) // protocol.batch)
        self.free = free_methods(self.space, self.truth.architectures, self.splits.train.images)
        self.asked = np.ones(self.count, bool)

    def steps(self, multiple: int) -> float:
        """Training steps of single networks in a budget."""
        return multiple * self.options.unit * self.options.step_cost + self.count * self.score_cost

    def one_shot(self, multiple: int) -> dict[str, Judged]:
        """By generated weights and by the weights of a supernet."""
        steps = multiple * self.options.unit
        own = self._generated(GHNConfig(), steps)
        shared = self._generated(GHNConfig(delta=False), round(steps * self.options.step_cost))
        methods = {OURS: own[PRIMARY], COMBINED: combine({**own, **self.free}), "supernet (delta = 0)": shared[PRIMARY]}
        return {name: self._judged(method.scores) for name, method in methods.items()}

    def _generated(self, ghn: GHNConfig, steps: int) -> dict[str, Any]:
        folder = self.options.runs / f"{'hypernetwork' if ghn.delta else 'supernet'}-{steps}-{self.options.seed}"
        trained = train(dataclasses.replace(self.config, ghn=ghn, steps=steps), folder)
        scorer = Scorer(trained, self.splits.train, self.splits.score, ScoreConfig(self.options.images))
        return generated_methods(*timed_scores(scorer, self.truth.architectures))

    def short_training(self, steps: int, looker: Looker) -> Judged:
        """By a training of so many steps from an ordinary initialiser."""
        with progress() as bar:
            rows = bar.track(self.truth.architectures, description=f"short training, {steps} steps")
            glances = [looker(architecture, "initialiser", steps) for architecture in rows]
        return self._judged(second_scores(glances))

    def regressors(self, labels: int) -> dict[str, Judged]:
        """By regressions on so many trained networks; the rest of what they know costs nothing."""
        accuracy = self.truth.runs[:, 0]
        rows = draws_of_labels(np.isfinite(accuracy), labels, self.options.draws)
        columns = {name: self.free[name].scores for name in ("parameters", "NWOT")}
        known = feature_matrix(columns, path_features(self.space, self.truth.architectures))
        encodings = one_hot(self.space, self.truth.architectures)
        return {
            "ridge on encodings": judge_baseline("ridge", encodings, accuracy, self.asked, rows),
            "Gaussian process on paths, parameters, NWOT": judge_baseline("gp", known, accuracy, self.asked, rows),
        }

    def _judged(self, scores: Vector) -> Judged:
        return unlabelled(failures_last(scores)[0], self.asked)

    def at(self, multiple: int, looker: Looker) -> dict[str, Judged]:
        """All methods at one budget."""
        steps = self.steps(multiple)
        methods = self.one_shot(multiple)
        methods["short training"] = self.short_training(max(1, int(steps / self.count)), looker)
        if (labels := int(steps / self.full)) >= FEWEST:
            methods |= self.regressors(min(labels, self.count // 2))
        return methods | {name: self._judged(self.free[name].scores) for name in ("parameters", "NWOT")}


def first_reaching(goal: float, costs: NDArray[np.float64], values: NDArray[np.float64]) -> float | None:
    """The cost at which a curve first reaches `goal`, between its points linear in the cost's logarithm; or never."""
    above = np.flatnonzero(values >= goal)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(costs[0])
    share = (goal - values[at - 1]) / (values[at] - values[at - 1])
    return float(np.exp(np.interp(share, [0, 1], np.log(costs[at - 1 : at + 1]))))


def main(options: Options) -> None:
    """All budgets, then where the hypernetwork begins to pay."""
    if options.quick:
        options = dataclasses.replace(options, classes=25, unit=40, runs=options.runs / "quick", draws=2)
    rivals = Rivals(options)
    accuracy = rivals.truth.accuracy
    shortest = train(
        dataclasses.replace(rivals.config, steps=options.unit),
        options.runs / f"hypernetwork-{options.unit}-{options.seed}",
    )
    looker = Looker(
        shortest, rivals.splits, {"initialiser": FinetuneConfig(options.rate)}, options.runs / "looks.sqlite"
    )
    budgets: dict[str, Any] = {}
    body: list[list[str]] = []
    for multiple in options.multiples:
        methods = rivals.at(multiple, looker)
        console.print(f"budget {multiple}: {rivals.steps(multiple):.0f} steps, {len(methods)} methods")
        own = judged(methods, accuracy, options.resamples)
        winner = max(own, key=lambda name: own[name]["kendall"][0])
        budgets[str(multiple)] = {
            "steps": rivals.steps(multiple),
            "short_training_steps": max(1, int(rivals.steps(multiple) / rivals.count)),
            "labels": int(rivals.steps(multiple) / rivals.full),
            "methods": own,
            "winner": winner,
        }
        body += [row(f"{multiple}x", name, methods, accuracy, values, options) for name, values in own.items()]
    pays = pays_from(rivals, budgets)
    results = {
        "n": rivals.count,
        "budgets": budgets,
        "pays_from": {multiple: own._asdict() for multiple, own in pays.items()},
    }
    header = ["budget", "method", *(name.replace("_", " ") for name in SHOWN), f"Kendall minus {COMBINED}"]
    finish("budget", results, header, body, notes(rivals, budgets, pays), options.seed, options.out)


def judged(methods: Mapping[str, Judged], accuracy: Vector, resamples: int) -> dict[str, dict[str, list[float]]]:
    """Statistics of every method with intervals."""
    return {
        name: {key: over_draws(key, method, accuracy, resamples=resamples).as_list() for key in BATCHED}
        for name, method in methods.items()
    }


def row(
    budget: str,
    name: str,
    methods: Mapping[str, Judged],
    accuracy: Vector,
    values: Mapping[str, list[float]],
    options: Options,
) -> list[str]:
    """One line of the table."""
    gap = over_draws("kendall", methods[name], accuracy, methods[COMBINED], options.resamples)
    cells = [cell(key, Interval(*values[key])) for key in SHOWN]
    return [budget, name, *cells, "" if name == COMBINED else str(gap)]


class Crossing(NamedTuple):
    """From how many candidates on short training that ranks as well costs more than the hypernetwork."""

    candidates: float | None  # None: short training costs no more a candidate, however many there are
    at_most: bool  # short training never ranked as well within these budgets: it costs at least what the largest gave


def pays_from(rivals: Rivals, budgets: Mapping[str, Any]) -> dict[str, Crossing]:
    """Where the hypernetwork of each budget begins to pay for its training."""
    points = sorted(
        (own["short_training_steps"], own["methods"]["short training"]["kendall"][0]) for own in budgets.values()
    )
    costs, values = (np.array(column, np.float64) for column in zip(*points, strict=True))
    answer: dict[str, Crossing] = {}
    for multiple, own in budgets.items():
        needed = first_reaching(own["methods"][OURS]["kendall"][0], costs, values)
        training = int(multiple) * rivals.options.unit * rivals.options.step_cost
        saved = (float(costs[-1]) if needed is None else needed) - rivals.score_cost
        answer[multiple] = Crossing(training / saved if saved > 0 else None, needed is None)
    return answer


def notes(rivals: Rivals, budgets: Mapping[str, Any], pays: Mapping[str, Crossing]) -> list[str]:
    """What the table says."""
    lines = [
        f"{rivals.count} classes that no hypernetwork has seen. A budget of 1: {rivals.options.unit} steps of the "
        f"hypernetwork, each worth {rivals.options.step_cost:g} of a single network, and {rivals.score_cost:.1f} for "
        f"scoring a candidate. Training a candidate for the table takes {rivals.full} steps."
    ]
    for multiple, own in budgets.items():
        candidates, at_most = pays[multiple]
        paying = "no number of candidates" if candidates is None else f"{candidates:.0f} candidates"
        lines.append(
            f"{multiple}x is {own['steps']:.0f} steps: {own['short_training_steps']} for each candidate, or "
            f"{own['labels']} trained networks. Best: {own['winner']}. Short training that ranks as well as generated "
            f"weights costs more from {'at most ' if at_most else ''}{paying} on."
        )
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options))
