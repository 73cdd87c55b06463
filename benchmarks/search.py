"""Does a hypernetwork make search cheaper in trained architectures, and is what it finds better than random?

(a) Regret against trained architectures: every look into a table of accuracies counts as one training. Random search,
    local search and regularised evolution look at what they propose; "screened" looks up the best by a score that
    needs no training, in order; "guided" begins there and goes on by a Gaussian process. Each score is also taken
    without the hypernetwork, by parameter count alone.

    python benchmarks/search.py --cifar10 DIR --table nasbench201.csv.gz

    Without --cifar10 the scores are those of --checkpoint, on its own data; without --table the table is the one in
    the package. All searches stay within the table's classes, and regret is taken there.
(b) The best five of a search by generated weights, trained from scratch, against random architectures of the same
    parameter band; data inside the package.
(c) How long scoring every class of NAS-Bench-201 takes, the hypernetwork's training included, beside training 40.

Hypernetworks are trained into --runs (where benchmarks/ranking.py puts them too); scores of the table's classes are
computed once and kept there as CSV.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from common import console, finish, interleaved, medians, progress
from numpy.typing import NDArray

import ghn
from architectures.spaces import NASBench201
from architectures.spaces.nasbench201 import ISOMORPHISM_CLASSES
from eval.ground_truth import GroundTruth, Tabulated, read_ground_truth
from eval.rank import load_matching, training_seconds
from eval.scoring import ScoreConfig, Scorer
from eval.search.algorithms import (
    Algorithm,
    EvolutionConfig,
    Guide,
    GuidedConfig,
    GuidedSearch,
    LocalSearch,
    RandomSearch,
    RegularisedEvolution,
)
from eval.search.command import run_search
from eval.search.config import SearchConfig
from eval.search.driver import Budget
from eval.search.features import described
from eval.search.history import Evaluation, Proposal
from eval.search.kept import kept_columns
from eval.search.problem import Problem
from eval.search.retrain_command import RetrainConfig, retrain
from eval.search.scorers import fingerprint
from ghn import Hypernetwork
from train.config import TrainConfig
from train.data import AugmentConfig, DataConfig, Splits
from train.loop import train
from train.target import Protocol, Trainer

Floats = NDArray[np.float64]
QUERIES = (20, 50, 100, 200)  # trained architectures at which regret is told


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    cifar10: Path | None = None  # folder of CIFAR-10 binaries: hypernetworks for (a) are trained on it
    table: Path | None = None  # accuracies for (a); None: the table in the package
    column: str = "cifar10_test_200ep"  # its accuracy column
    half: Literal["whole", "development", "reported"] = "whole"  # of its classes; guided's settings are from the second
    checkpoint: str = "demo"  # scores for (a) without --cifar10, and (b)
    runs: Path = Path("runs/benchmark-ranking")  # where hypernetworks are trained, scores kept and searches run
    hypernetworks: int = 3  # of different seeds, for (a) with --cifar10
    steps: int = 6000  # of each
    images: int = 500  # of each split that a score uses
    seeds: int = 100  # searches by every algorithm
    found: int = 5  # architectures of (b)
    random: int = 20  # that they are compared with
    trainings: int = 3  # of each
    evaluations: int = 600  # of the search in (b)
    skip: tuple[str, ...] = ()  # parts to leave out: "regret", "retrained", "times"
    quick: bool = False  # 5 seeds, 300 steps, a search of 48, 2 against 4 trained for one epoch
    out: Path = Path("benchmarks/results")  # results

    @property
    def name(self) -> str:
        """Of the files of results: a half of the table has its own."""
        return "search" if self.half == "whole" else f"search_{self.half}"


# ------------------------------------------------------------------------------------------------------ (a) regret


def hypernetworks_of(options: Options) -> list[tuple[Hypernetwork, DataConfig]]:
    """What scores the table's classes, with the data to score on."""
    if options.cifar10 is None:
        return [(ghn.load(options.checkpoint), DataConfig())]
    data = DataConfig(source=str(options.cifar10), image_size=16)
    config = TrainConfig(data=data, augment=AugmentConfig(crop=2, flip=True), steps=options.steps, held_out=0.7)
    seeds = [dataclasses.replace(config, seed=seed) for seed in range(options.hypernetworks)]
    return [(train(own, options.runs / f"nasbench201-{own.seed}"), data) for own in seeds]


def cached_scores(options: Options, hypernetwork: Hypernetwork, data: DataConfig, truth: GroundTruth) -> Floats:
    """[A, 2] minus the losses on training and on score images, from a file where they have been computed before."""
    path = options.runs / f"search-scores-{fingerprint(hypernetwork)}-{options.images}.csv"
    splits = load_matching(hypernetwork, data)
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))

    def compute(rows: list[int]) -> dict[str, Floats]:
        scores = scorer([truth.architectures[row] for row in rows])
        return {"train": -scores.train_loss, "score": -scores.score_loss}

    with progress() as bar:
        task = bar.add_task("scoring the table's classes", total=len(truth.architectures))
        keys = [str(a) for a in truth.architectures]
        kept = kept_columns(path, ("train", "score"), keys, compute, lambda count: bar.update(task, completed=count))
    return np.stack(list(kept.values()), axis=1)


def standard(column_A: Floats) -> Floats:
    """(value - median) / interquartile range."""
    return np.asarray((column_A - np.median(column_A)) / np.subtract(*np.quantile(column_A, [0.75, 0.25])))


Maker = Callable[[int], Algorithm]


def makers(problem: Problem, truth: GroundTruth, scores: Sequence[Floats]) -> dict[str, Maker]:
    """Every algorithm, given a seed; hypernetworks take turns."""
    space = problem.space
    parameters_A = standard(np.array([space.cost(a).parameters for a in truth.architectures], np.float64))
    paths_AF = described(space, truth.architectures)
    columns = [np.stack([standard(column) for column in own.T], axis=1) for own in scores]

    def guide(seed: int, generated: bool, parameters: bool) -> Guide:
        own = columns[seed % len(columns)]
        prior_A = generated * own[:, 0] + parameters * parameters_A
        prior_A = prior_A + 1e-9 * np.random.default_rng((seed, 2)).random(len(prior_A))  # equal counts: random order
        known = [np.maximum(own, -3)] * generated + [parameters_A[:, None]] * parameters
        return Guide(truth.architectures, prior_A, np.concatenate([*known, paths_AF], axis=1))

    def screened(generated: bool, parameters: bool) -> Maker:
        return lambda seed: Screened(problem, seed, guide(seed, generated, parameters))

    def guided(generated: bool, parameters: bool) -> Maker:
        return lambda seed: GuidedSearch(problem, seed, guide(seed, generated, parameters), GuidedConfig())

    kinds = {
        "generated weights + parameters": (True, True),
        "generated weights": (True, False),
        "parameters": (False, True),
    }
    return {
        "random": lambda seed: RandomSearch(problem, seed),
        "local search": lambda seed: LocalSearch(problem, seed),
        "regularised evolution": lambda seed: RegularisedEvolution(problem, seed),
        "regularised evolution, population 20": lambda seed: RegularisedEvolution(
            problem, seed, EvolutionConfig(population=20, tournament=5)
        ),
        **{f"screened, {name}": screened(*kind) for name, kind in kinds.items()},
        **{f"guided, {name}": guided(*kind) for name, kind in kinds.items()},
    }


class Screened(RandomSearch):
    """The pool in the order of a prior."""

    def __init__(self, problem: Problem, seed: int, guide: Guide) -> None:
        super().__init__(problem, seed)
        self._ordered = [guide.pool[row] for row in np.argsort(-guide.prior_A, kind="stable")]

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """The next."""
        return Proposal(self._ordered[index]) if index < len(self._ordered) else None


def regrets(maker: Maker, problem: Problem, seeds: int, queries: int) -> Floats:
    """[seeds, queries] points of accuracy below the table's best, after every query."""
    table = problem.table
    assert table is not None
    left = np.empty((seeds, queries))
    for seed in range(seeds):
        algorithm, top = maker(seed), 0.0
        for index in range(queries):
            asked = algorithm.ask(index, 1)
            if asked:  # else everything has been looked up
                proposal = asked[0]
                accuracy = table.accuracy(proposal.architecture)
                key, costs = problem.key(proposal.architecture), problem.costs(proposal.architecture)
                algorithm.note(index, proposal)
                algorithm.tell(
                    Evaluation(index, proposal.architecture, key, 0, accuracy, costs, parent=proposal.parent)
                )
                top = max(top, accuracy)
            left[seed, index] = 100 * (table.best - top)
            if top >= table.best:  # and so it stays
                left[seed, index:] = 0.0
                break
    return left


def regret_part(options: Options) -> tuple[dict[str, Floats], int, str]:
    """Regrets [seeds, queries] by algorithm; the number of classes; what they are of."""
    sources = hypernetworks_of(options)
    space = sources[0][0].space
    source, column = ("embedded", "test_accuracy") if options.table is None else (options.table, options.column)
    truth = read_ground_truth(source, space, column)
    if options.half != "whole":
        truth = truth.select(lambda a: space.held_out(a, 0.5, seed=1) == (options.half == "development"))
    problem = Problem(space, table=Tabulated(truth, space))
    scores = [cached_scores(options, hypernetwork, data, truth) for hypernetwork, data in sources]
    found = {}
    with progress() as bar:
        made = makers(problem, truth, scores)
        task = bar.add_task("searching the table", total=len(made))
        for name, maker in made.items():
            found[name] = regrets(maker, problem, options.seeds, QUERIES[-1])
            bar.advance(task)
    kind = "CIFAR-10" if options.cifar10 is not None else f"checkpoint {options.checkpoint!r} on its own data"
    about = (
        f"{len(truth.architectures):,} tabulated classes ({options.half}), scores by {len(sources)} hypernetwork(s): "
        f"{kind}; the table: "
        f"{source if options.table is None else options.table.name}"
    )
    return found, len(truth.architectures), about


# --------------------------------------------------------------------------------------------- (b) and (c), and main


def retrained_part(options: Options) -> dict[str, Any]:
    """A search by generated weights, and what its best are worth."""
    out = options.runs / ("search-quick" if options.quick else "search")
    run_search(SearchConfig(controls=0), out, Budget(options.evaluations), console)
    protocol = Protocol(epochs=1) if options.quick else Protocol()
    config = RetrainConfig(
        top=options.found, random=options.random, seeds=options.trainings, protocol=protocol, resamples=2000
    )
    compared = retrain(config, out, console)
    assert compared is not None
    return {
        "found": compared.found,
        "random": compared.random,
        "relative_improvement": compared.relative_improvement.value,
        "interval": compared.relative_improvement.as_list()[1:],
        "p": compared.relative_improvement.p,
        "verdict": compared.verdict,
    }


def times_part(options: Options) -> dict[str, Any]:
    """Seconds of scoring all classes, from some of them, and of training 40, from a few: taken in turns."""
    hypernetwork = ghn.load(options.checkpoint)
    splits: Splits = load_matching(hypernetwork, DataConfig())
    space = hypernetwork.space
    assert isinstance(space, NASBench201)
    scorer = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images, unseen=False))
    trainer = Trainer(space, splits, Protocol(epochs=1 if options.quick else Protocol().epochs))
    cells, turn = [space.sample(seed) for seed in range(64)], itertools.count()
    arms = {"score": lambda: scorer(cells), "train": lambda: trainer(cells[next(turn)], [0])}
    clock = {
        name: list[float]() for name in arms
    }  # CPU seconds: what a machine that others use takes away is not in it

    def timed(name: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            arms[name]()
            clock[name].append(time.process_time() - start)

        return run

    repeats, epochs = (2, Protocol().epochs) if options.quick else (5, 1)
    seconds = medians(interleaved({name: timed(name) for name in arms}, repeats))
    cpu = {name: statistics.median(own[1:]) for name, own in clock.items()}  # the first compiled
    each, one = seconds["score"] / len(cells), seconds["train"] * epochs
    learning = hypernetwork_seconds(options)
    return {
        "scored_all_s": ISOMORPHISM_CLASSES * each + learning,
        "train_40_s": 40 * one,
        "score_one_s": each,
        "train_one_s": one,
        "score_one_cpu_s": cpu["score"] / len(cells),
        "train_one_cpu_s": cpu["train"] * epochs,
        "hypernetwork_training_s": learning,
    }


def hypernetwork_seconds(options: Options) -> float:
    """Seconds of training a hypernetwork for (b)'s data: of a finished run, or from the speed of 300 steps."""
    whole, part = options.runs / "embedded-0", options.runs / "search-speed"
    if (whole / "metrics.jsonl").exists():
        return training_seconds(str(whole))
    train(TrainConfig(steps=300), part)
    return training_seconds(str(part)) * TrainConfig().steps / 300


def seconds_at(results: dict[str, Any], classes: int) -> dict[str, dict[str, float]]:
    """Seconds until so many trained architectures, by algorithm."""
    ahead = classes * results["score_one_s"] + results["hypernetwork_training_s"]
    return {
        name: {str(q): q * results["train_one_s"] + ("generated" in name) * ahead for q in QUERIES}
        for name in results["regret"]
    }


def plot(found: dict[str, Floats], path: Path) -> None:
    """Mean regret with the middle half of the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="trained architectures", ylabel="regret, points of accuracy", xscale="log")
    for name, left in found.items():
        places = np.arange(1, left.shape[1] + 1)
        (line,) = axes.plot(places, left.mean(0), label=name, linestyle="--" if name[-10:] == "parameters" else "-")
        axes.fill_between(places, *np.quantile(left, [0.25, 0.75], axis=0), color=line.get_color(), alpha=0.12)
    axes.set_yscale("symlog", linthresh=0.05)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(options: Options) -> None:
    """All parts that are not left out."""
    if options.quick:
        options = dataclasses.replace(
            options, seeds=min(options.seeds, 5), steps=300, found=2, random=4, trainings=1, evaluations=48
        )
    results: dict[str, Any] = {"regret": None, "seeds": options.seeds, "retrained": None}
    rows, notes, classes = [], [], 0
    if "regret" not in options.skip:
        found, classes, about = regret_part(options)
        results["regret"] = {
            name: {str(q): float(left[:, q - 1].mean()) for q in QUERIES} for name, left in found.items()
        }
        results["bands"] = {
            name: {str(q): np.quantile(left[:, q - 1], [0.1, 0.5, 0.9]).tolist() for q in QUERIES}
            for name, left in found.items()
        }
        for name, left in found.items():
            bands = {q: np.quantile(left[:, q - 1], [0.1, 0.9]) for q in QUERIES}
            rows.append(
                [name, *(f"{left[:, q - 1].mean():.3f} [{bands[q][0]:.3f}, {bands[q][1]:.3f}]" for q in QUERIES)]
            )
        notes.append(f"Regret in points of accuracy, mean and 10% to 90% of {options.seeds} seeds; {about}.")
        goal = found["regularised evolution"][:, -1].mean()
        for name, left in found.items():
            below = np.flatnonzero(left.mean(0) <= goal)
            reached = f"after {below[0] + 1}" if len(below) else "not within 200"
            notes.append(f"{name}: reaches evolution's mean regret after 200 queries ({goal:.3f}) {reached}.")
        plot(found, options.out / f"{options.name}.svg")
    if "retrained" not in options.skip:
        results["retrained"] = retrained_part(options)
        notes.append(f"Found by generated weights: {results['retrained']['verdict']}")
    if "times" not in options.skip:
        results |= times_part(options)
        told = f"{results['hypernetwork_training_s']:.0f} s of it training the hypernetwork"
        notes.append(
            f"Scoring {ISOMORPHISM_CLASSES:,} classes on {options.images} training images: "
            f"{results['scored_all_s']:.0f} s ({told}); training 40 from scratch once: "
            f"{results['train_40_s']:.0f} s. In CPU seconds, scoring one takes {results['score_one_cpu_s']:.3f}, "
            f"training one {results['train_one_cpu_s']:.1f}."
        )
    if results["regret"] and "times" not in options.skip:
        results["seconds"] = seconds_at(results, classes)
        notes.append(
            "Seconds (a query is a training of this machine's protocol; scores of the table's classes and the training "
            "of their hypernetwork are paid beforehand): "
            + "; ".join(
                f"{name} {own['20']:.0f} after 20, {own['200']:.0f} after 200"
                for name, own in results["seconds"].items()
            )
            + "."
        )
    header = ["algorithm", *(f"after {q}" for q in QUERIES)]
    finish(options.name, results, header, rows, notes, options.seeds, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
