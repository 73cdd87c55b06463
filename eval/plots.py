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

from eval.metrics import Interval

COLOURS = ("#1f5fa8", "#d1702a", "#8a8a8a")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes stem.png and stem.svg; returns both paths."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return paths


def scatter(
    scores: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    interval: Interval,
    xlabel: str,
    stem: Path,
    error: NDArray[np.float64] | None = None,
) -> list[Path]:
    """Accuracy from scratch [A] against score [A]; `error` is the standard error of each accuracy."""
    figure, axes = plt.subplots(figsize=(6, 4.2))
    axes.errorbar(
        scores,
        100 * accuracy,
        None if error is None else 100 * error,
        fmt="o",
        ms=4,
        lw=0.6,
        alpha=0.6,
        color=COLOURS[0],
    )
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy trained from scratch, %")
    axes.set_title(f"{len(scores)} unseen architectures, Spearman {interval}", fontsize=10)
    axes.grid(alpha=0.25)
    return save(figure, stem)


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
