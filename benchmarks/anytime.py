"""Early exits that a hypernetwork generates, against exits that are fitted in closed form: do they tell the same?

    python benchmarks/anytime.py

A hypernetwork is trained on networks with early exits, on the data in the package; its loss is averaged over exits.
Held-out classes of the ground truth in the package then get their curves of accuracy against FLOPs, on score images: by
generated exits, and by exits that are fitted to the same generated network. The area under a curve is what `ghn-eval
search --scorer anytime` searches by. With --single, a second hypernetwork is trained alike on networks with one end:
what exits cost the final answer, and what exits fitted to its networks tell. Hypernetworks are trained into --runs; a
killed benchmark goes on with them.
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
from eval.metrics import Interval, bootstrap, partial_spearman, spearman
from eval.search.anytime import Anytime, Exit, ExitSource, budgets_of
from ghn import Hypernetwork
from train.config import SpaceConfig, TrainConfig
from train.data import Splits, load
from train.loop import train

Floats = NDArray[np.float64]
GENERATED, FITTED, SINGLE = "generated", "fitted to the same network", "fitted, trained with one end"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    steps: int = 1500  # of training
    seed: int = 0  # of training
    single: bool = False  # also train a hypernetwork without early exits
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
    """Trains, makes the curves, writes the table."""
    if options.quick:
        quick = {"steps": 60, "cells": 12, "resamples": 200, "images": 200, "runs": options.runs / "quick"}
        options = dataclasses.replace(options, **quick)
    config = TrainConfig(steps=options.steps, seed=options.seed)
    name = f"{options.steps}-{options.seed}"
    early = train(dataclasses.replace(config, space=SpaceConfig(exits=True)), options.runs / f"exits-{name}")
    splits = load(config.data)
    truth = read_ground_truth("embedded", early.space).select(early.unseen)
    kept = set(truth.classes[: options.cells].tolist())
    truth = truth.select(lambda architecture: early.space.canonical(architecture) in kept)
    found = {
        GENERATED: curves(early, splits, truth.architectures, "generated", options.images),
        FITTED: curves(early, splits, truth.architectures, "fitted", options.images),
    }
    single_A = None
    if options.single:
        single = train(config, options.runs / f"single-{name}")
        found[SINGLE] = curves(single, splits, truth.architectures, "fitted", options.images)
        single_A = final_accuracies(single, splits, truth.architectures, options.images)
    flops_A = np.array([float(early.space.cost(cell).macs) for cell in truth.architectures])
    _finish(options, truth, found, flops_A, single_A)


def _finish(
    options: Options, truth: GroundTruth, found: dict[str, Curves], flops_A: Floats, single_A: Floats | None
) -> None:
    generated, fitted = found[GENERATED], found[FITTED]

    def between(one: Floats, other: Floats, statistic: Any = spearman, **arguments: Any) -> Interval:
        return bootstrap(statistic, one, other, truth.classes, options.resamples, **arguments)

    results: dict[str, Any] = {"n": len(truth.architectures), "exits": {}}
    header = ["exits", *(f"exit {number}, %" for number in range(1, generated.accuracy_AX.shape[1] + 1)), "area"]
    header += ["Spearman of the area: to generated exits'", "to FLOPs", "to their own final accuracy"]
    header += ["to trained accuracy", "ms a curve"]
    rows = []
    for key, own in found.items():
        correlations = {
            "generated": between(own.area_A, generated.area_A),
            "flops": between(own.area_A, flops_A),
            "own_final": between(own.area_A, own.final_A),
            "trained": between(own.area_A, truth.accuracy),
        }
        results["exits"][key] = {
            "accuracy": own.accuracy_AX.mean(0).tolist(),
            "area": float(own.area_A.mean()),
            "area_spearman": {other: interval.as_list() for other, interval in correlations.items()},
            "final_spearman_trained": between(own.final_A, truth.accuracy).as_list(),
            "seconds": own.seconds,
        }
        accuracies = [f"{100 * value:.1f}" for value in own.accuracy_AX.mean(0)]
        cells = [f"{own.area_A.mean():.3f}", *map(str, correlations.values()), f"{1000 * own.seconds:.0f}"]
        rows.append([key, *accuracies, *cells])
    exits = [between(*columns) for columns in zip(generated.accuracy_AX.T, fitted.accuracy_AX.T, strict=True)]
    given = between(generated.area_A, fitted.area_A, partial_spearman, controls=flops_A[:, None])
    results["exit_spearman"] = [interval.as_list() for interval in exits]
    results["area_spearman_given_flops"] = given.as_list()
    trained = (f"{key} {Interval(*own['final_spearman_trained'])}" for key, own in results["exits"].items())
    notes = [
        f"{results['n']} held-out classes, {options.images} images of each split; {options.steps} training steps, seed "
        f"{options.seed}.",
        f"Spearman of generated to fitted, accuracy exit by exit: {', '.join(map(str, exits))}; the area given FLOPs "
        f"(partial): {given}.",
        f"Spearman of the final exit's accuracy to trained accuracy: {', '.join(trained)}.",
    ]
    if single_A is not None:
        difference = between(generated.final_A, single_A, mean_difference)
        results["final_accuracy"] = {"exits": float(generated.final_A.mean()), "single": float(single_A.mean())}
        results["final_difference"] = difference.as_list()
        results["single_spearman_trained"] = between(single_A, truth.accuracy).as_list()
        points = Interval(*(100 * value for value in difference.as_list()))
        notes.append(
            f"Final accuracy with generated weights: {100 * generated.final_A.mean():.1f}% trained with early exits, "
            f"{100 * single_A.mean():.1f}% with one end; difference in points {points}. Spearman of the latter to "
            f"trained accuracy: {Interval(*results['single_spearman_trained'])}."
        )
    finish("anytime", results, header, rows, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
