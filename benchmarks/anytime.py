"""Early exits that a hypernetwork generates, against exits that are fitted in closed form: do they tell the same?

    python benchmarks/anytime.py

Two hypernetworks are trained alike on the data in the package, one on networks with early exits (its loss is averaged
over exits) and one on networks with a single end. Every held-out class of the ground truth in the package then gets its
curve of accuracy against FLOPs, on score images: by generated exits, by exits fitted to the same network, and by exits
fitted to the network of the hypernetwork that knows a single end. The area under a curve is what `ghn-eval search
--scorer anytime` searches by. Hypernetworks are trained into --runs; a killed benchmark goes on.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import finish, progress
from numpy.typing import NDArray

from architectures.spaces import CellSpace
from eval.ground_truth import GroundTruth, read_ground_truth
from eval.metrics import Interval, bootstrap, spearman
from eval.search.anytime import Anytime, Exit, ExitSource, budgets_of
from ghn import Hypernetwork
from train.config import SpaceConfig, TrainConfig
from train.data import Splits, load
from train.loop import train

Floats = NDArray[np.float64]
GENERATED, FITTED, ONE_END = "generated", "fitted to the same network", "fitted, trained with one end"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    steps: int = 1500  # of training each hypernetwork
    seed: int = 0  # of both
    cells: int = 208  # held-out classes of the table, the first so many
    images: int = 500  # of each split
    resamples: int = 2000  # of the bootstrap
    runs: Path = Path("runs/benchmark-anytime")  # where hypernetworks are trained
    quick: bool = False  # 60 steps, 12 cells, 200 resamples
    out: Path = Path("benchmarks/results")  # results


@dataclasses.dataclass(frozen=True)
class Curves:
    """What one way of making exits gives on A architectures.

    Attributes:
        accuracy_AX: shares of 1, the earliest exit first.
        area_A: under the curves.
        seconds: of one curve, the median.
    """

    accuracy_AX: Floats
    area_A: Floats
    seconds: float

    @property
    def final_A(self) -> Floats:
        """Accuracy of the last exit."""
        return self.accuracy_AX[:, -1]


def curves(hypernetwork: Hypernetwork, splits: Splits, cells: Sequence[Any], source: ExitSource, images: int) -> Curves:
    """Of all cells."""
    assert isinstance(hypernetwork.space, CellSpace)
    curve, budgets = Anytime(hypernetwork, splits, images, source), budgets_of(hypernetwork.space)
    found: list[list[Exit]] = []
    seconds: list[float] = []
    with progress() as bar:
        for cell in bar.track(cells, description=f"curves, {source}"):
            start = time.perf_counter()
            found.append(curve(cell))
            seconds.append(time.perf_counter() - start)
    accuracy = np.array([[own.accuracy for own in exits] for exits in found])
    return Curves(accuracy, np.array([budgets.value(exits) for exits in found]), statistics.median(seconds))


def final_accuracies(hypernetwork: Hypernetwork, splits: Splits, cells: Sequence[Any], images: int) -> Floats:
    """[A] of the network's own end with generated weights, whatever exits it has."""
    space, x, y = hypernetwork.space, splits.score.images[:images], splits.score.labels[:images]
    logits = (space.apply(hypernetwork(space.graph(cell)), cell, x) for cell in cells)
    return np.array([float((np.asarray(own).argmax(-1) == y).mean()) for own in logits])


def mean_difference(one: Floats, other: Floats) -> float:
    """Of pairs."""
    return float((one - other).mean())


def main(options: Options) -> None:
    """Trains both, makes the curves, writes the table."""
    if options.quick:
        options = dataclasses.replace(
            options, steps=60, cells=12, resamples=200, runs=options.runs / "quick", images=200
        )
    config = TrainConfig(steps=options.steps, seed=options.seed)
    with_exits = dataclasses.replace(config, space=SpaceConfig(exits=True))
    name = f"{options.steps}-{options.seed}"
    early, single = train(with_exits, options.runs / f"exits-{name}"), train(config, options.runs / f"single-{name}")
    splits = load(config.data)
    truth = read_ground_truth("embedded", early.space).select(early.unseen)
    kept = set(truth.classes[: options.cells].tolist())
    truth = truth.select(lambda architecture: early.space.canonical(architecture) in kept)
    cells = truth.architectures
    found = {
        GENERATED: curves(early, splits, cells, "generated", options.images),
        FITTED: curves(early, splits, cells, "fitted", options.images),
        ONE_END: curves(single, splits, cells, "fitted", options.images),
    }
    _finish(options, truth, found, final_accuracies(single, splits, cells, options.images))


def _finish(options: Options, truth: GroundTruth, found: dict[str, Curves], single_A: Floats) -> None:
    def between(one: Floats, other: Floats, statistic: Any = spearman) -> Interval:
        return bootstrap(statistic, one, other, truth.classes, options.resamples)

    generated = found[GENERATED]
    results: dict[str, Any] = {
        "n": len(truth.architectures),
        "exits": {
            key: {
                "accuracy": own.accuracy_AX.mean(0).tolist(),
                "area": float(own.area_A.mean()),
                "area_spearman_generated": between(own.area_A, generated.area_A).as_list(),
                "area_spearman_own_final": between(own.area_A, own.final_A).as_list(),
                "area_spearman_trained": between(own.area_A, truth.accuracy).as_list(),
                "final_spearman_generated": between(own.final_A, generated.final_A).as_list(),
                "final_spearman_trained": between(own.final_A, truth.accuracy).as_list(),
                "seconds": own.seconds,
            }
            for key, own in found.items()
        },
        "final_with_exits": float(generated.final_A.mean()),
        "final_with_one_end": float(single_A.mean()),
        "final_difference": between(generated.final_A, single_A, mean_difference).as_list(),
        "final_with_one_end_spearman_trained": between(single_A, truth.accuracy).as_list(),
    }
    header = ["exits", *(f"exit {number}, %" for number in range(1, generated.accuracy_AX.shape[1] + 1)), "area"]
    header += ["Spearman of the area: to generated", "to its own final accuracy", "to trained accuracy", "ms a curve"]
    rows = []
    for key, own in results["exits"].items():
        columns = ("area_spearman_generated", "area_spearman_own_final", "area_spearman_trained")
        rows.append(
            [
                key,
                *(f"{100 * value:.1f}" for value in own["accuracy"]),
                f"{own['area']:.3f}",
                *(str(Interval(*own[column])) for column in columns),
                f"{1000 * own['seconds']:.0f}",
            ]
        )
    difference = Interval(*(100 * value for value in results["final_difference"]))
    notes = [
        f"{results['n']} held-out classes, {options.images} images of each split; {options.steps} training steps, seed "
        f"{options.seed}.",
        f"Final accuracy with generated weights: {100 * results['final_with_exits']:.1f}% by the hypernetwork with "
        f"early exits, {100 * results['final_with_one_end']:.1f}% by the one without; difference in points "
        f"{difference}.",
        "Spearman of final accuracy to trained accuracy: "
        + ", ".join(f"{key} {Interval(*own['final_spearman_trained'])}" for key, own in results["exits"].items())
        + f"; generated, trained with one end {Interval(*results['final_with_one_end_spearman_trained'])}.",
        f"Spearman of final accuracy, fitted to the same network, to generated: "
        f"{Interval(*results['exits'][FITTED]['final_spearman_generated'])}.",
    ]
    finish("anytime", results, header, rows, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
