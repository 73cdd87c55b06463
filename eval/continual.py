"""Runs over streams of tasks, compared: accuracies, what was forgotten, and how sure the figures are.

Shape letters: S seeds, T tasks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from eval.continual_runs import Group, Key, read_runs, scratch_for
from eval.plots import accuracy_matrix, task_curves
from eval.report import markdown_table
from train.continual.metrics import summarise
from train.metrics import write_whole

HEADER = (
    "stream",
    "scenario",
    "method",
    "seeds",
    "average",
    "during",
    "forgetting",
    "backward",
    "forward",
    "parameters",
)
LONGEST = 100  # characters of a file's name that are taken from settings


class Estimate(NamedTuple):
    """A mean over seeds and its 95% interval by Student's t; the ends are None for fewer than two seeds."""

    mean: float
    low: float | None
    high: float | None

    def percent(self) -> str:
        """As "97.31 [97.20, 97.42]"."""
        if self.low is None or self.high is None:
            return f"{100 * self.mean:.2f}"
        return f"{100 * self.mean:.2f} [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of independent runs.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("values: none; give at least one run")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def estimates(group: Group, scratch: Group | None = None) -> dict[str, Estimate]:
    """Every field of `Summary` over the seeds; forward transfer against scratch where that ran on the same seeds."""
    summaries = []
    for seed, matrix in zip(group.seeds, group.matrices, strict=True):
        alone = None
        if scratch is not None and seed in scratch.seeds:
            alone = np.diag(scratch.matrices[scratch.seeds.index(seed)])
        summaries.append(summarise(matrix, alone)._asdict())
    names = [name for name in summaries[0] if all(summary[name] is not None for summary in summaries)]
    return {name: estimate([summary[name] for summary in summaries]) for name in names}


def report(folders: Sequence[Path], out: Path, console: Console) -> dict[Key, dict[str, Estimate]]:
    """Shows and writes continual.md, continual.json, a heat map for each group and curves for each stream.

    Raises:
        ValueError: no runs, or one that cannot be read.
    """
    groups = read_runs(folders)
    out.mkdir(parents=True, exist_ok=True)
    table, rows, results = Table(*HEADER, title="continual learning, %"), [], {}
    for key, group in sorted(groups.items()):
        values = estimates(group, scratch_for(group, groups.values()))
        results[key] = values
        rows.append(_row(key, group, values))
        table.add_row(*rows[-1])
        accuracy_matrix(group.matrices.mean(0), " ".join(key), out / file_name("matrix", *key))
    for stream, scenario in sorted({key[:2] for key in groups}):
        curves = {key[2]: group.matrices.mean(0) for key, group in groups.items() if key[:2] == (stream, scenario)}
        task_curves(curves, f"{stream}, {scenario}", out / f"curves-{stream}-{scenario}")
    console.print(table)
    note = (
        "Mean over seeds with a 95% interval (Student's t), in percent. Settings are named where they tell rows of one "
        "method apart. Parameters: learner / target (ratio); memory."
    )
    write_whole(out / "continual.md", f"# Continual learning\n\n{markdown_table([HEADER, *rows])}\n\n{note}\n")
    tree = {"/".join(key): {name: value._asdict() for name, value in found.items()} for key, found in results.items()}
    write_whole(out / "continual.json", json.dumps(tree, indent=2) + "\n")
    return results


def file_name(*parts: str) -> str:
    """Parts joined by dashes, without what file names cannot have or a suffix would be read from."""
    text = re.sub(r"[^\w=-]+", "_", "-".join(parts))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _row(key: Key, group: Group, values: Mapping[str, Estimate]) -> list[str]:
    shown = [values[name].percent() if name in values else "" for name in HEADER[4:9]]
    ratio = group.learner_parameters / group.target_parameters
    sizes = f"{group.learner_parameters:,} / {group.target_parameters:,} ({ratio:.2f})"
    memory = f"; {group.memory_images:,} images" if group.memory_images else ""
    return [*key, str(len(group.seeds)), *shown, sizes + memory]
