"""Which ops does a score credit, and what changes that?

    python benchmarks/bias.py

Ground truth: the table in the package, classes that no hypernetwork has seen. Ranks of accuracy, and of every score,
are regressed on how many live edges of a cell carry each op; a coefficient says by how many percent of all classes an
edge moves a cell up. Scores differ from the first in one thing each: how long the hypernetwork was trained, its size,
the skeleton that its networks have, whether delta is there, the images, the batch statistics, how long networks are
trained from generated weights; and beside them trainings from an initialiser. Runs are kept in --runs and found there
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import console, finish, progress
from numpy.typing import NDArray
from scipy import stats

from eval.ground_truth import read_ground_truth
from eval.metrics import failures_last, kendall, kendall_top_half
from eval.ranking import Vector, free_methods
from eval.scoring import ScoreConfig, Scorer
from eval.two_stage import Looker, second_scores
from ghn import GHNConfig
from train.config import SpaceConfig, TrainConfig
from train.data import load
from train.finetune import FinetuneConfig
from train.loop import train

SPACE, GHN = SpaceConfig(), GHNConfig()
OPS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

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
    """The table, the data, and scores of its classes."""

    def __init__(self, options: Options) -> None:
        self.options, self.config = options, TrainConfig(seed=options.seed)
        self.splits = load(self.config.data)
        self.space = self._space(SpaceConfig())
        config = self.config
        truth = read_ground_truth("embedded", self.space).select(
            lambda a: self.space.held_out(a, config.held_out, config.held_out_seed)
        )
        kept = set(truth.classes[: options.classes].tolist())
        self.truth = truth.select(lambda a: self.space.canonical(a) in kept)

    def _space(self, config: SpaceConfig) -> Any:
        images = self.splits.train.images
        return config.build(images.shape[1:], self.splits.train.classes)

    def hypernetwork(self, steps: int, space: SpaceConfig = SPACE, ghn: GHNConfig = GHN) -> Any:
        """Trained, or found."""
        plain = space == SPACE and dataclasses.replace(ghn, delta=True) == GHN
        kind = "hypernetwork" if ghn.delta else "supernet"
        changed = "" if plain else f"-{space.channels}-{space.cells}-{ghn.width}-{ghn.hidden}"
        config = dataclasses.replace(self.config, space=space, ghn=ghn, steps=steps)
        return train(config, self.options.runs / f"{kind}-{steps}-{self.options.seed}{changed}")

    def score(self, hypernetwork: Any, unseen: bool = False, **fields: Any) -> Vector:
        """[A] minus the loss with generated weights."""
        config = ScoreConfig(self.options.images, finetune=FinetuneConfig(learning_rate=0.02), unseen=unseen, **fields)
        scores = Scorer(hypernetwork, self.splits.train, self.splits.score, config)(self.truth.architectures)
        return -(scores.score_loss if unseen else scores.train_loss)

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
        free = free_methods(self.space, self.truth.architectures, self.splits.train.images)
        yield from ((name, free[name].scores) for name in ("parameters", "NWOT"))


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
    resamples = 50 if options.quick else 1000
    bench = Bench(options)
    accuracy = bench.truth.accuracy
    counts = edge_counts(bench.space, bench.truth.architectures)
    better = accuracy >= np.median(accuracy)
    results: dict[str, Any] = {}
    body: list[list[str]] = []

    def add(name: str, scores: Vector) -> None:
        scores = failures_last(scores)[0]
        own = {"kendall": kendall(scores, accuracy), "kendall_top_half": kendall_top_half(scores, accuracy)}
        line = [name, f"{own['kendall']:.2f}", f"{own['kendall_top_half']:.2f}"]
        for part, rows in (("all", np.ones(len(scores), bool)), ("better_half", better)):
            values, errors = with_errors(counts[rows], scores[rows], resamples)
            own[part] = dict(zip(OPS, zip(values.tolist(), errors.tolist(), strict=True), strict=True))
            line += [f"{value:+.0f} ± {error:.0f}" for value, error in zip(values, errors, strict=True)]
        results[name] = own
        body.append(line)
        console.print(" | ".join(line), highlight=False)

    add("accuracy from scratch", accuracy)
    for name, scores in bench.rows():
        add(name, scores)
    short = ("3x3", "1x1", "pool", "skip")
    header = ["score", "Kendall", "in the better half", *short, *(f"{name}, better half" for name in short)]
    notes = [
        f"{len(accuracy)} classes, {int(better.sum())} in the better half. Percent of classes (of the half) that one "
        "more edge of an op moves a cell up, ± one standard error over classes.",
        "A score that is noisy moves less for every op: compare how an op stands beside the others in its row.",
    ]
    finish("bias", {"n": len(accuracy), "scores": results}, header, body, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
