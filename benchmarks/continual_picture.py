"""A picture of what `continual.py` found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from eval.plots import COLOURS, save


def picture(results: Mapping[str, Any], stem: Path) -> list[Path]:
    """The reduced stream held and not held, and the cost of a step; once both parts are there."""
    reduced, cost = results.get("reduced_permuted"), results.get("cost")
    if not reduced or not cost:
        return []
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), width_ratios=(1, 1, 1.6))
    _matrix(axes[0], np.array(reduced["matrix"], np.float64), "earlier tasks held")
    _matrix(axes[1], np.array(reduced["matrix_beta0"], np.float64), "not held")
    for place, (kind, values) in enumerate(cost["milliseconds"].items()):
        tasks = sorted(values, key=int)
        curve = [values[count] for count in tasks]
        axes[2].plot([int(count) for count in tasks], curve, "o-", ms=3, color=COLOURS[place], label=kind)
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].set_xlabel("tasks")
    axes[2].set_ylabel("CPU ms a step")
    axes[2].legend(title="earlier tasks in a step", fontsize=8, frameon=False)
    axes[2].grid(alpha=0.25)
    figure.tight_layout()
    return save(figure, stem)


def _matrix(axes: Axes, matrix_TT: np.ndarray, title: str) -> None:
    axes.imshow(100 * matrix_TT, cmap="viridis", vmin=0, vmax=100)
    for row, column in np.argwhere(np.isfinite(matrix_TT)):
        value = 100 * matrix_TT[row, column]
        colour = "white" if value < 60 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(matrix_TT)), [str(task + 1) for task in range(len(matrix_TT))])
    axes.set_yticks(range(len(matrix_TT)), [str(task + 1) for task in range(len(matrix_TT))])
    axes.set_xlabel("accuracy on task, %")
    axes.set_ylabel("after task")
    axes.set_title(title, fontsize=9)
