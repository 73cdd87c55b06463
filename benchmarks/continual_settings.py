"""What the parts of `continual.py` share: options, settings, and single runs whose results can be kept."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from kept import Kept

from eval.continual import Estimate, estimate
from train.continual import ContinualConfig, RegulariserConfig, ScheduleConfig, StreamConfig, learn
from train.continual.build import changed_learner, make_learner
from train.continual.config import METHODS, Method
from train.continual.learner import Learner
from train.continual.loop import score
from train.continual.metrics import Summary, summarise
from train.continual.scoring import lowest_entropy
from train.continual.streams import Stream
from train.data import DataConfig

Part: TypeAlias = Literal[
    "reduced",
    "split",
    "split_cl1",
    "split_cl3",
    "long",
    "permuted",
    "cifar",
    "dependency",
    "initialization",
    "change",
    "cost",
]
PARTS: tuple[Part, ...] = get_args(Part)
STRENGTHS = {"ewc": (1e1, 1e3, 1e5), "online_ewc": (1e1, 1e3, 1e5), "si": (1e-2, 1e0, 1e2), "lwf": (0.1, 1.0, 10.0)}
Rows = list[list[str]]  # part, what, result, besides, seeds
Matrix = list[list[float]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is run."""

    mnist: Path  # folder of the four idx files
    cifar: Path | None = None  # folder of CIFAR-10 binary batches; None: that stream is left out
    quick: bool = False  # one seed and few steps everywhere
    parts: tuple[Part, ...] = PARTS  # the others stay in the results as they are
    runs: Path = Path("runs/benchmark-continual")  # where single runs are kept: a killed benchmark goes on
    out: Path = Path("benchmarks/results")  # folder for the results
    seeds: int = 5  # of every row but those that say otherwise
    baselines: tuple[Method, ...] = METHODS[1:]  # of the streams

    @property
    def each(self) -> range:
        """Seeds of a row."""
        return range(1 if self.quick else self.seeds)

    def steps(self, full: int) -> int:
        """Steps of a task."""
        return min(full, 100) if self.quick else full

    @property
    def data(self) -> DataConfig:
        """MNIST at its own size."""
        return DataConfig(source=str(self.mnist), image_size=None)


def reduced_config(config: Config, **fields: Any) -> ContinualConfig:
    """The reduced permuted setting of the reference implementation."""
    stream = StreamConfig("permuted", config.data, tasks=3, train_images=4000, test_images=1000)
    schedule = ScheduleConfig(steps=config.steps(300))
    base = ContinualConfig(stream=stream, regulariser=RegulariserConfig(0.05, subset=None), schedule=schedule)
    return dataclasses.replace(base, **fields)


def scheduled(setting: ContinualConfig, **fields: Any) -> ContinualConfig:
    """With fields of its schedule replaced."""
    return dataclasses.replace(setting, schedule=dataclasses.replace(setting.schedule, **fields))


# -------------------------------------------------------------------------------------------------------- single runs


def learned(setting: ContinualConfig) -> Matrix:
    """Accuracies [T, T] of one run."""
    stream = setting.stream.build()
    matrix: Matrix = learn(stream, make_learner(setting, stream), setting.schedule).matrix.tolist()
    return matrix


def learned_scenarios(setting: ContinualConfig) -> dict[str, Matrix]:
    """Accuracies [T, T] of one hypernetwork: task told, inferred by a classifier, inferred by entropy.

    With heads of their own, tasks are trained alike whether they will be told or not, so one training serves all.
    """
    stream = setting.stream.build()
    blind = make_learner(dataclasses.replace(setting, scenario="CL3"), stream)
    told = make_learner(dataclasses.replace(setting, scenario="CL1"), stream)
    matrices = {name: np.full((stream.tasks,) * 2, np.nan) for name in ("told", "classifier", "entropy")}
    schedule = setting.schedule
    assert schedule.inference == "classifier"
    with tempfile.TemporaryDirectory() as folder:
        for task in range(stream.tasks):
            result = learn(stream, blind, schedule, Path(folder) / "run", stop=task + 1)
            parts = [getattr(stream.checked(earlier), schedule.evaluate) for earlier in range(task + 1)]
            matrices["classifier"][task] = result.matrix[task]
            matrices["told"][task, : task + 1] = score(told, result.state, parts)
            matrices["entropy"][task, : task + 1] = score(blind, result.state, parts, lowest_entropy)
    return {name: matrix.tolist() for name, matrix in matrices.items()}


def learned_change(setting: ContinualConfig) -> list[float]:
    """Mean accuracy on tasks before the change of target: of the old target, of the new one at once and at the end;
    and that of the new one on the tasks since."""
    stream = setting.stream.build()
    learner, since = make_learner(setting, stream), setting.change_at
    new = changed_learner(setting, learner)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        state = learn(stream, learner, setting.schedule, run, stop=since).state
        before, at_change = (_mean_score(one, state, stream, since) for one in (learner, new))
        last = learn(stream, learner, setting.schedule, run, later={since: new}).matrix[-1]
    return [before, at_change, float(last[:since].mean()), float(last[since:].mean())]


def _mean_score(learner: Learner, state: Any, stream: Stream, tasks: int) -> float:
    return float(np.mean(score(learner, state, [stream.checked(task).test for task in range(tasks)])))


# -------------------------------------------------------------------------------------------------------------- seeds


def seeded(kept: Kept, setting: ContinualConfig, seeds: Sequence[int]) -> list[Matrix]:
    """Accuracies [T, T] of each seed."""
    return [kept(learned, scheduled(setting, seed=seed)) for seed in seeds]


def summaries(matrices: Sequence[Matrix]) -> list[Summary]:
    """Of each seed."""
    return [summarise(np.array(matrix, np.float64)) for matrix in matrices]


def average(matrices: Sequence[Matrix]) -> Estimate:
    """Average accuracy after the last task, over the seeds."""
    return estimate([one.average for one in summaries(matrices)])


def forgetting(matrices: Sequence[Matrix]) -> float:
    """Mean forgetting over the seeds."""
    return estimate([one.forgetting for one in summaries(matrices)]).mean


def mean_matrix(matrices: Sequence[Matrix]) -> list[list[float | None]]:
    """Mean over the seeds as JSON; None above the diagonal."""
    mean = np.mean(np.array(matrices, np.float64), 0).tolist()
    return [[None if math.isnan(value) else round(value, 5) for value in row] for row in mean]


def tuned(kept: Kept, setting: ContinualConfig, tasks: int | None = None) -> ContinualConfig:
    """With the strength that does best on score images of a seed that is not reported."""
    stream = dataclasses.replace(setting.stream, data=selecting(setting.stream.data))
    if tasks is not None:
        stream = dataclasses.replace(stream, tasks=tasks)
    trial = scheduled(dataclasses.replace(setting, stream=stream), evaluate="score", seed=UNREPORTED)

    def worth(strength: float) -> float:
        return average([kept(learned, dataclasses.replace(trial, strength=strength))]).mean

    return dataclasses.replace(setting, strength=best_strength(setting.method, worth))


UNREPORTED = 100  # seed on which settings are chosen


def selecting(data: DataConfig) -> DataConfig:
    """With images held out of training, by which settings are chosen."""
    return dataclasses.replace(data, score_images=5000)


def best_strength(method: Method, worth: Callable[[float], float]) -> float:
    """The strength of the method's grid that is worth most.

    The grid grows tenfold or hundredfold, as it is spaced, while its best lies at an edge, at most twice.
    """
    grid, worth = list(STRENGTHS[method]), functools.cache(worth)
    ratio = grid[1] / grid[0]
    for _ in range(2):
        best = max(grid, key=worth)
        if best == grid[0]:
            grid = [best / ratio, *grid]
        elif best == grid[-1]:
            grid = [*grid, best * ratio]
    return max(grid, key=worth)
