"""Which ops does a score credit, and what changes that?

    python benchmarks/bias.py [--cifar10 DIR --table nasbench201.csv.gz]

Ground truth: the table in the package; and with a table of NAS-Bench-201 the better half of the classes on which scores
are developed (ranking.py reports the others). No hypernetwork has seen them. Ranks of accuracy, and of every score,
are regressed on how many live edges of a cell carry each op; a coefficient says by how many percent of all classes an
edge moves a cell up. Scores differ from the first in one thing each: how long the hypernetwork was trained, its size,
the skeleton that its networks have, whether delta is there, the images, the batch statistics, how long networks are
trained from generated weights; and beside them trainings from an initialiser. On NAS-Bench-201, whose accuracies are
those of 15 cells, the number of cells in the hypernetwork's skeleton is varied. Runs are kept in --runs and found there
again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from common import console, finish, progress
from numpy.typing import NDArray
from scipy import stats

from eval.ground_truth import DEFAULT_COLUMN, read_ground_truth
from eval.metrics import failures_last, kendall
from eval.ranking import Vector, free_methods
from eval.scoring import ScoreConfig, Scorer
from eval.two_stage import Looker, second_scores
from ghn import GHNConfig
from train.config import SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig, load
from train.finetune import FinetuneConfig
from train.loop import train

SPACE, GHN = SpaceConfig(), GHNConfig()
OPS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    cifar10: Path | None = None  # folder of CIFAR-10 binaries
    table: Path | None = None  # NAS-Bench-201 CSV with arch_str and 200-epoch accuracies
    depths: tuple[int, ...] = (1, 3)  # cells a stage there
    only: Literal["embedded", "nasbench201"] | None = None  # just that part
    lengths: tuple[int, ...] = (1000, 3000, 10000)  # steps of hypernetworks; the middle one is what others vary
    tuning: tuple[int, ...] = (10, 62)  # steps from generated weights
    trainings: tuple[int, ...] = (9, 22, 67)  # steps from an initialiser
    rate: float = 0.1  # peak learning rate of those
    images: int = 500  # that a score uses
    classes: int | None = None  # take only so many
    runs: Path = Path("runs/benchmark-budget")  # where hypernetworks and short trainings are kept, budget.py's too
    seed: int = 0  # of hypernetworks
    quick: bool = False  # 30 classes, 10 to 30 steps, 50 resamples
    out: Path = Path("benchmarks/results")  # results


class Bench:
    """A table, its data, and scores of its classes."""

    def __init__(self, options: Options, name: str, config: TrainConfig, table: str | Path) -> None:
        self.options, self.name, self.config = options, name, config
        self.splits = load(config.data)
        self.space: Any = config.space.build(self.splits.train.images.shape[1:], self.splits.train.classes)
        column = "cifar10_test_200ep" if name == "nasbench201" else DEFAULT_COLUMN
        truth = read_ground_truth(table, self.space, column).select(self._unseen)
        if name == "nasbench201":
            middle = np.median(truth.accuracy)
            good = set(truth.classes[truth.accuracy >= middle].tolist())
            truth = truth.select(lambda a: self.space.canonical(a) in good)
        kept = set(truth.classes[: options.classes].tolist())
        self.truth = truth.select(lambda a: self.space.canonical(a) in kept)

    def _unseen(self, architecture: Any) -> bool:
        space, config = self.space, self.config
        unseen = space.held_out(architecture, config.held_out, config.held_out_seed)
        return unseen and (self.name == "embedded" or space.held_out(architecture, 0.5, seed=1))

    def hypernetwork(self, steps: int, space: SpaceConfig = SPACE, ghn: GHNConfig = GHN) -> Any:
        """Trained, or found."""
        plain = space == SPACE and dataclasses.replace(ghn, delta=True) == GHN
        kind = "hypernetwork" if ghn.delta else "supernet"
        changed = "" if plain else f"-{space.channels}-{space.cells}-{ghn.width}-{ghn.hidden}"
        config = dataclasses.replace(self.config, space=space, ghn=ghn, steps=steps)
        name = "" if self.name == "embedded" else f"{self.name}-"
        return train(config, self.options.runs / f"{name}{kind}-{steps}-{self.options.seed}{changed}")

    def score(self, hypernetwork: Any, unseen: bool = False, **fields: Any) -> Vector:
        """[A] minus the loss with generated weights."""
        config = ScoreConfig(self.options.images, finetune=FinetuneConfig(learning_rate=0.02), unseen=unseen, **fields)
        scores = Scorer(hypernetwork, self.splits.train, self.splits.score, config)(self.truth.architectures)
        return -(scores.score_loss if unseen else scores.train_loss)

    def depths(self) -> Iterator[tuple[str, Vector]]:
        """Skeletons of more and fewer cells, and the score."""
        steps = self.options.lengths[len(self.options.lengths) // 2]
        for cells in self.options.depths:
            trained = self.hypernetwork(steps, SpaceConfig(cells=cells))
            yield f"generated weights, {steps:,} steps, cells a stage: {cells}", self.score(trained)
        yield from self.free()

    def free(self) -> Iterator[tuple[str, Vector]]:
        """Scores without any training."""
        free = free_methods(self.space, self.truth.architectures, self.splits.train.images)
        yield from ((name, free[name].scores) for name in ("parameters", "NWOT"))

    def rows(self) -> Iterator[tuple[str, Vector]]:
        """What is varied, and the score."""
        options, middle = self.options, self.options.lengths[len(self.options.lengths) // 2]
        for steps in options.lengths:
            yield f"generated weights, {steps:,} steps", self.score(self.hypernetwork(steps))
        base = self.hypernetwork(middle)
        yield "the middle one, score images", self.score(base, unseen=True)
        yield "the middle one, batch statistics of 1,000 training images", self.score(base, calibration=1000)
        for steps in options.tuning:
            yield f"the middle one, {steps} steps of training from them", self.score(base, steps=steps)
        yield (
            "as the middle one, states 64 and decoders 128 wide",
            self.score(self.hypernetwork(middle, ghn=GHNConfig(width=64, message_width=32, hidden=128))),
        )
        yield "as the middle one, two cells a stage", self.score(self.hypernetwork(middle, SpaceConfig(cells=2)))
        yield "as the middle one, 16 channels", self.score(self.hypernetwork(middle, SpaceConfig(channels=16)))
        for steps in options.lengths:
            shared = self.hypernetwork(round(1.35 * steps), ghn=GHNConfig(delta=False))
            yield f"supernet (delta = 0), {round(1.35 * steps):,} steps", self.score(shared)
        looker = Looker(base, self.splits, {"initialiser": FinetuneConfig(options.rate)}, options.runs / "bias.sqlite")
        for steps in options.trainings:
            with progress() as bar:
                chosen = bar.track(self.truth.architectures, description=f"{steps} steps from an initialiser")
                yield (
                    f"{steps} steps from an initialiser",
                    second_scores([looker(own, "initialiser", steps) for own in chosen]),
                )
        yield from self.free()


def edge_counts(space: Any, architectures: list[Any]) -> NDArray[np.float64]:
    """[A, 1 + ops] a one, and how many edges that lead to the output carry each of OPS."""
    rows = []
    for architecture in architectures:
        live = [space.choices[index] for index in space.encode(architecture)["op"]]
        rows.append([1.0, *(float(live.count(name)) for name in OPS)])
    return np.array(rows)


def credits(counts: NDArray[np.float64], scores: Vector) -> Vector:
    """[ops] by how many percent of all classes one more edge of an op moves a cell up (ordinary least squares)."""
    ranks = 100 * stats.rankdata(scores) / len(scores)
    found: Vector = np.linalg.lstsq(counts, ranks, rcond=None)[0][1:]
    return found


def with_errors(counts: NDArray[np.float64], scores: Vector, resamples: int) -> tuple[Vector, Vector]:
    """[ops] credits and their standard errors over classes."""
    rng, count = np.random.default_rng(0), len(scores)
    draws = [rng.integers(count, size=count) for _ in range(resamples)]
    return credits(counts, scores), np.std([credits(counts[own], scores[own]) for own in draws], axis=0)


def main(options: Options) -> None:
    """All rows, on all classes and on those of the better half."""
    if options.quick:
        quick = {"lengths": (10, 20, 30), "tuning": (1, 2), "trainings": (1, 2, 3), "classes": 30}
        options = dataclasses.replace(options, runs=options.runs / "quick", **quick)
    results: dict[str, Any] = {}
    body: list[list[str]] = []
    if options.only != "nasbench201":
        bench = Bench(options, "embedded", TrainConfig(seed=options.seed), "embedded")
        add(options, bench, bench.rows(), results, body)
    if options.cifar10 is not None and options.table is not None and options.only != "embedded":
        data = DataConfig(source=str(options.cifar10), image_size=16)
        config = TrainConfig(seed=options.seed, data=data, augment=AugmentConfig(crop=2, flip=True), held_out=0.7)
        bench = Bench(options, "nasbench201", config, options.table)
        add(options, bench, bench.depths(), results, body)
    short = ("3x3", "1x1", "pool", "skip")
    header = ["data", "score", "Kendall", "in the better part", *short, *(f"{name}, better part" for name in short)]
    notes = [
        "Percent of classes (of the better part, in the last columns) that one more edge of an op moves a cell up, ± "
        "one standard error over classes. The better part: half of the classes of the package's table, a fifth of the "
        "good half of NAS-Bench-201, which is a tenth of all.",
        "A score that is noisy moves less for every op: compare how an op stands beside the others in its row.",
    ]
    finish("bias", results, header, body, notes, options.seed, options.out)


def add(
    options: Options, bench: Bench, rows: Iterator[tuple[str, Vector]], results: dict[str, Any], body: list[list[str]]
) -> None:
    """One table's rows, on all classes and on the better part, each shown as soon as it is there."""
    accuracy = bench.truth.accuracy
    counts = edge_counts(bench.space, bench.truth.architectures)
    better = accuracy >= np.quantile(accuracy, 0.5 if bench.name == "embedded" else 0.8)
    results[bench.name] = {"n": len(accuracy), "n_better": int(better.sum()), "scores": {}}
    for name, scores in itertools.chain([("accuracy", accuracy)], rows):
        scores = failures_last(scores)[0]
        own: dict[str, Any] = {
            "kendall": kendall(scores, accuracy),
            "kendall_better": kendall(scores[better], accuracy[better]),
        }
        line = [bench.name, name, f"{own['kendall']:.2f}", f"{own['kendall_better']:.2f}"]
        for part, chosen in (("all", np.ones(len(scores), bool)), ("better", better)):
            values, errors = with_errors(counts[chosen], scores[chosen], 50 if options.quick else 1000)
            own[part] = dict(zip(OPS, zip(values.tolist(), errors.tolist(), strict=True), strict=True))
            line += [f"{value:+.0f} ± {error:.0f}" for value, error in zip(values, errors, strict=True)]
        results[bench.name]["scores"][name] = own
        body.append(line)
        console.print(" | ".join(line), highlight=False)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
