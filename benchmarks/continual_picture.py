"""A picture of what `continual.py` found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from eval.plots import COLOURS, save

SHOWN = {"split_mnist_cl1": "hypernetwork", "split_mnist_cl1/finetune": "fine-tuning"}


def picture(results: Mapping[str, Any], stem: Path) -> list[Path]:
    """Split-MNIST held and not held, and the cost of a step against the number of tasks; none of it where it is not
    there yet."""
    streams, cost = results.get("streams", {}), results.get("cost")
    if not cost or any(name not in streams for name in SHOWN):
        return []
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), width_ratios=(1, 1, 1.4))
    for place, (name, title) in enumerate(SHOWN.items()):
        _matrix(axes[place], np.array(streams[name]["matrix"], np.float64), f"Split-MNIST, {title}")
    for place, (kind, values) in enumerate(cost["milliseconds"].items()):
        tasks = sorted(values, key=int)
        axes[2].plot(
            [int(count) for count in tasks], [values[count] for count in tasks], "o-", ms=3, color=COLOURS[place]
        )
        axes[2].annotate(
            f"{kind} held a step", (int(tasks[-1]), values[tasks[-1]]), (-4, 4), textcoords="offset points", ha="right"
        )
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("tasks")
    axes[2].set_ylabel("ms a step")
    axes[2].grid(alpha=0.25)
    figure.tight_layout()
    return save(figure, stem)


def _matrix(axes: Axes, matrix_TT: np.ndarray, title: str) -> None:
    axes.imshow(100 * matrix_TT, cmap="viridis", vmin=50, vmax=100)
    for row, column in np.argwhere(np.isfinite(matrix_TT)):
        value = 100 * matrix_TT[row, column]
        axes.text(
            column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if value < 80 else "black"
        )
    axes.set_xlabel("accuracy on task, %")
    axes.set_ylabel("after task")
    axes.set_title(title, fontsize=9)
