"""Runs over streams of tasks, compared: accuracies, what was forgotten, and how sure the figures are.

Shape letters: S seeds, T tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from eval.plots import accuracy_matrix, task_curves
from eval.report import markdown_table
from train.continual.build import RESULT
from train.continual.metrics import summarise

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
Key = tuple[str, str, str]  # stream, scenario, method


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


class Group(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        matrices: [S, T, T] accuracy on task j after task i.
        seeds: of the runs.
        learner_parameters: of what learned.
        target_parameters: of the target.
        memory_images: kept of earlier tasks.
    """

    matrices: NDArray[np.float64]
    seeds: tuple[int, ...]
    learner_parameters: int
    target_parameters: int
    memory_images: int


def read_runs(folders: Iterable[Path]) -> dict[Key, Group]:
    """The finished runs of these folders, by stream, scenario and method.

    Raises:
        ValueError: a folder without a finished run, two runs of one seed, runs of one method on unlike streams.
    """
    found: dict[Key, list[dict[str, Any]]] = {}
    for folder in folders:
        path = folder / RESULT
        try:
            result = json.loads(path.read_text())
            found.setdefault((result["stream"], result["scenario"], result["method"]), []).append(result)
        except FileNotFoundError as error:
            raise ValueError(f"{folder}: no finished run there ({RESULT} is missing); finish it first") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is damaged ({error!r}); run it again") from error
    return {key: _group(key, results) for key, results in found.items()}


def _group(key: Key, results: Sequence[Mapping[str, Any]]) -> Group:
    seeds = tuple(int(result["seed"]) for result in results)
    matrices = [np.array(result["matrix"], np.float64) for result in results]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{', '.join(key)}: seed {max(seeds, key=seeds.count)} twice; give each run once")
    shapes = {matrix.shape for matrix in matrices} | {()}
    sizes = {(result["learner_parameters"], result["target_parameters"], result["memory_images"]) for result in results}
    if len(shapes) > 2 or len(sizes) > 1:
        raise ValueError(f"{', '.join(key)}: runs of different sizes are not seeds of one; evaluate them apart")
    return Group(np.stack(matrices), seeds, *sizes.pop())


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
    """Shows and writes continual.md, continual.json, a heat map for each group and curves for each stream."""
    groups = read_runs(folders)
    out.mkdir(parents=True, exist_ok=True)
    table, rows, results = Table(*HEADER, title="continual learning, %"), [], {}
    for key, group in sorted(groups.items()):
        values = estimates(group, groups.get((key[0], key[1], "scratch")))
        results[key] = values
        rows.append(_row(key, group, values))
        table.add_row(*rows[-1])
        accuracy_matrix(group.matrices.mean(0), " ".join(key), out / "-".join(("matrix", *key)))
    for stream, scenario in sorted({key[:2] for key in groups}):
        curves = {key[2]: group.matrices.mean(0) for key, group in groups.items() if key[:2] == (stream, scenario)}
        task_curves(curves, f"{stream}, {scenario}", out / f"curves-{stream}-{scenario}")
    console.print(table)
    note = (
        "Mean over seeds with a 95% interval (Student's t), in percent. Parameters: learner / target (ratio); memory."
    )
    (out / "continual.md").write_text(f"# Continual learning\n\n{markdown_table([HEADER, *rows])}\n\n{note}\n")
    tree = {"/".join(key): {name: value._asdict() for name, value in found.items()} for key, found in results.items()}
    (out / "continual.json").write_text(json.dumps(tree, indent=2) + "\n")
    return results


def _row(key: Key, group: Group, values: Mapping[str, Estimate]) -> list[str]:
    shown = [values[name].percent() if name in values else "" for name in HEADER[4:9]]
    ratio = group.learner_parameters / group.target_parameters
    sizes = f"{group.learner_parameters:,} / {group.target_parameters:,} ({ratio:.2f})"
    memory = f"; {group.memory_images:,} images" if group.memory_images else ""
    return [*key, str(len(group.seeds)), *shown, sizes + memory]
