"""Which decoder is best at equal size: tiles, factors of low rank, factors from coordinates?

    python benchmarks/decoders.py

Hypernetworks of NAS-Bench-201 on the data in the package that differ in the decoder alone; hidden units are chosen so
that all have as many parameters as the first. Each is trained as long, and then emits weights for the classes of the
ground truth in the package, which it has never seen: their accuracy on score images without any training, and how well
the order of their losses is that of trained accuracies. Runs are kept in --runs and found there again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from common import console, finish
from flax import nnx

from eval.ground_truth import read_ground_truth
from eval.metrics import bootstrap, kendall
from eval.rank import training_seconds
from eval.scoring import ScoreConfig, Scorer
from ghn import GHNConfig
from ghn.api import abstract_network
from train.config import TrainConfig
from train.data import load
from train.loop import train

ARMS: dict[str, dict[str, Any]] = {
    "tile": {},
    "low rank, 4": {"decoder": "lowrank", "rank": 4},
    "low rank, 16": {"decoder": "lowrank", "rank": 16},
    "coordinate, 16": {"decoder": "coordinate", "rank": 16},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    steps: int = 2000  # of every hypernetwork
    seeds: int = 1  # hypernetworks of each decoder
    images: int = 500  # of each split that a score uses
    classes: int | None = None  # take only so many
    runs: Path = Path("runs/benchmark-decoders")  # where hypernetworks are trained
    quick: bool = False  # 30 steps, 12 classes
    out: Path = Path("benchmarks/results")  # results


def parameter_count(space: Any, config: GHNConfig) -> int:
    """Of a hypernetwork that is not made."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract_network(space, config), nnx.Param)))


def matched(space: Any, change: dict[str, Any], goal: int) -> GHNConfig:
    """The configuration whose hypernetwork's size is nearest to `goal` parameters."""

    def size(hidden: int) -> int:
        return parameter_count(space, GHNConfig(**change, hidden=hidden))

    low, high = 1, 1024
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= goal else (low, middle)
    best = min((low, high), key=lambda hidden: abs(size(hidden) - goal))
    return GHNConfig(**change, hidden=best)


def main(options: Options) -> None:
    """Trains what is missing, scores, writes the table."""
    if options.quick:
        options = dataclasses.replace(options, steps=30, classes=12, runs=options.runs / "quick")
    base = TrainConfig(steps=options.steps)
    splits = load(base.data)
    space = base.space.build(splits.train.images.shape[1:], splits.train.classes)
    goal = parameter_count(space, GHNConfig())
    results: dict[str, Any] = {}
    rows = []
    for name, change in ARMS.items():
        config = matched(space, change, goal) if change else GHNConfig()
        own: dict[str, list[Any]] = {"loss": [], "accuracy": [], "kendall": [], "seconds": []}
        for seed in range(options.seeds):
            console.print(f"{name}: {config.hidden} hidden units, seed {seed}")
            run = options.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            hypernetwork = train(dataclasses.replace(base, ghn=config, seed=seed), run)
            truth = read_ground_truth("embedded", hypernetwork.space).select(hypernetwork.unseen)
            kept = set(truth.classes[: options.classes].tolist())
            truth = truth.select(lambda a, kept=kept: space.canonical(a) in kept)
            scores = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(options.images))(truth.architectures)
            ranked = bootstrap(kendall, -scores.train_loss, truth.accuracy, truth.classes, 2000)
            own["loss"].append(float(scores.score_loss.mean()))
            own["accuracy"].append(float(scores.score_accuracy.mean()))
            own["kendall"].append(ranked.as_list())
            own["seconds"].append(training_seconds(str(run)))
        count = hypernetwork.parameter_count
        results[name] = {"parameters": count, "hidden": config.hidden, **own}
        accuracy, loss = 100 * np.mean(own["accuracy"]), np.mean(own["loss"])
        ranks = " / ".join("{:.2f} [{:.2f}, {:.2f}]".format(*value) for value in own["kendall"])
        cells = [f"{count:,}", str(config.hidden), f"{loss:.3f}", f"{accuracy:.1f}", ranks]
        rows.append([name, *cells, f"{np.mean(own['seconds']):.0f}"])
    header = ["decoder", "parameters", "hidden units", "loss, nats", "accuracy, %", "Kendall", "training, s"]
    notes = [
        f"{options.steps} steps; loss and accuracy on {options.images} score images with generated weights, means over "
        f"{len(truth.architectures)} unseen classes; Kendall of the loss on training images with trained accuracy, 95% "
        "bootstrap over classes. Seconds depend on what else the machine does.",
    ]
    finish("decoders", {"decoders": results}, header, rows, notes, list(range(options.seeds)), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
