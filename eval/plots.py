"""Figures from saved results, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eval.html_report import read_saved
from eval.metrics import Interval
from eval.ranking import PRIMARY
from eval.starts import Curves

COLOURS = ("#1f5fa8", "#d1702a", "#8a8a8a")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes stem.png and stem.svg; returns both paths."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return paths


def scatter(folder: Path) -> list[Path]:
    """Accuracy from scratch against the primary score, with standard errors, from the files of a finished ranking."""
    saved = read_saved(folder)
    figure, axes = plt.subplots(figsize=(6, 4.2))
    error = None if np.isnan(saved.error).all() else 100 * saved.error
    scores, accuracy = saved.scores[PRIMARY], 100 * saved.accuracy
    axes.errorbar(scores, accuracy, error, fmt="o", ms=4, lw=0.6, alpha=0.6, color=COLOURS[0])
    axes.set_xlabel("minus training loss with generated weights, nats")
    axes.set_ylabel("accuracy trained from scratch, %")
    spearman = Interval(*(float(end) for end in saved.values["methods"][PRIMARY]["spearman"]))
    axes.set_title(f"{len(saved.accuracy)} architectures, Spearman {spearman}", fontsize=10)
    axes.grid(alpha=0.25)
    return save(figure, folder / "scatter")


def training_curve(metrics: Path, stem: Path) -> list[Path]:
    """Loss and accuracy over steps from a metrics.jsonl."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    figure, left = plt.subplots(figsize=(6, 3.4))
    right = left.twinx()
    left.plot(steps, [line["loss"] for line in lines], color=COLOURS[0], lw=1)
    right.plot(steps, [100 * line["accuracy"] for line in lines], color=COLOURS[1], lw=1)
    left.set_xlabel("step")
    left.set_ylabel("training loss, nats", color=COLOURS[0])
    right.set_ylabel("training accuracy, %", color=COLOURS[1])
    left.set_title("weights generated for a random architecture at every step", fontsize=10)
    left.grid(alpha=0.25)
    return save(figure, stem)


def groups(accuracies: Mapping[str, Sequence[float]], ylabel: str, stem: Path) -> list[Path]:
    """One column of points a group, with its mean."""
    figure, axes = plt.subplots(figsize=(5, 3.6))
    for place, (name, values) in enumerate(accuracies.items()):
        axes.plot([place] * len(values), [100 * value for value in values], "o", color=COLOURS[place % 3], alpha=0.8)
        axes.hlines(100 * float(np.mean(values)), place - 0.2, place + 0.2, color=COLOURS[place % 3])
        axes.annotate(
            name, (place, 0), (0, -18), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center"
        )
    axes.set_xlim(-0.6, len(accuracies) - 0.4)
    axes.set_xticks([])
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25, axis="y")
    return save(figure, stem)


def start_curves(curves: Mapping[str, Mapping[str, Curves]], stops: Sequence[int], stem: Path) -> list[Path]:
    """A panel a network: test accuracy against training steps, a line a start, with standard errors."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(2.8 * columns, 2.3 * rows), squeeze=False, sharey=True)
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    for axes, (name, own) in zip(panels.flat, curves.items(), strict=False):
        for colour, (start, curve) in zip(COLOURS, own.items(), strict=False):
            error = None if np.isnan(curve.error_K).all() else 100 * curve.error_K
            axes.errorbar(stops, 100 * curve.mean_K, error, fmt="o-", ms=3, lw=1, color=colour, label=start)
        axes.set_xscale("symlog", linthresh=50)
        axes.set_xticks(stops, [str(stop) for stop in stops])
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.25)
    panels[0, 0].legend(fontsize=8)
    figure.supxlabel("steps", fontsize=9)
    figure.supylabel("test accuracy, %", fontsize=9)
    figure.tight_layout()
    return save(figure, stem)


def accuracy_matrix(matrix_TT: NDArray[np.float64], title: str, stem: Path) -> list[Path]:
    """Heat map of the accuracy on task j (column) after task i (row), in percent."""
    tasks = len(matrix_TT)
    figure, axes = plt.subplots(figsize=(1.8 + 0.45 * tasks, 1.4 + 0.4 * tasks))
    axes.imshow(100 * matrix_TT, cmap="viridis", vmin=0, vmax=100)
    if tasks <= 10:
        for row, column in np.argwhere(np.isfinite(matrix_TT)):
            value = 100 * matrix_TT[row, column]
            colour = "white" if value < 60 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("accuracy on task, %")
    axes.set_ylabel("after task")
    axes.set_title(title, fontsize=9)
    return save(figure, stem)


def task_curves(matrices: Mapping[str, NDArray[np.float64]], title: str, stem: Path) -> list[Path]:
    """Mean accuracy over the tasks so far, after each task, for every method."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name, matrix_TT in matrices.items():
        axes.plot(np.arange(1, len(matrix_TT) + 1), 100 * np.nanmean(matrix_TT, 1), "o-", ms=3, lw=1, label=name)
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("mean accuracy on them, %")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    return save(figure, stem)
