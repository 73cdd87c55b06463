"""Configuration of a continual-learning run."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from architectures.checks import at_least, one_of
from ghn.config import GHNConfig
from train.config import SpaceConfig
from train.continual.heads import Scenario
from train.continual.streams import PermutedStream, RotatedStream, SplitStream, Stream, check_sizes
from train.data import DataConfig

Method = Literal["hypernetwork", "finetune", "joint", "scratch", "ewc", "online_ewc", "si", "replay", "lwf"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Which stream of tasks."""

    name: Literal["split", "permuted", "rotated"] = "split"
    data: DataConfig = DataConfig(image_size=None)
    tasks: int = 5  # how many
    train_images: int | None = None  # at most so many training images a task; None: all
    test_images: int | None = None  # at most so many test images a task; None: all
    classes_per_task: int = 2  # split
    degrees: float = 90.0  # rotated: angle of the last task
    seed: int = 0  # permuted: of the permutations

    def __post_init__(self) -> None:
        one_of(self, "name")
        check_sizes("StreamConfig", self.tasks, self.train_images, self.test_images)
        at_least(self, seed=0)

    def build(self) -> Stream:
        """The stream."""
        shared = (self.data, self.tasks, self.train_images, self.test_images)
        if self.name == "permuted":
            return PermutedStream(*shared, self.seed)
        if self.name == "rotated":
            return RotatedStream(*shared, self.degrees)
        return SplitStream(*shared, self.classes_per_task)


@dataclasses.dataclass(frozen=True)
class RegulariserConfig:
    """How the hypernetwork's output for earlier tasks is held (von Oswald et al. 2020)."""

    beta: float = 0.05  # strength; 0: earlier tasks are not held
    subset: int | None = 4  # earlier tasks drawn a step (at ten tasks four are as good as all); None: all of them
    targets: Literal["snapshot", "stored"] = "stored"  # made anew every step (constant memory), or once a task
    leaves: tuple[str, ...] = ()  # prefixes of the leaf groups that are held; none: all

    def __post_init__(self) -> None:
        one_of(self, "targets")
        at_least(self, beta=0)
        if self.subset is not None and self.subset < 1:
            raise ValueError(f"RegulariserConfig.subset={self.subset}: must be at least 1, or None for all tasks")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How a stream is gone through, whatever learns it."""

    steps: int = 300  # of each task
    batch: int = 128  # images a step
    memory: int = 200  # images of all earlier tasks together that replay, or the task classifier, may keep
    inference: Literal["entropy", "classifier"] = "entropy"  # of the task where it is not told
    evaluate: Literal["test", "score"] = "test"  # "score": on images held out of training, to select settings by
    seed: int = 0  # of initialisation, batches, draws
    log_every: int = 50  # steps in one compiled call, and between lines of metrics
    checkpoint_every: int = 1000  # steps, besides the end of every task

    def __post_init__(self) -> None:
        one_of(self, "inference", "evaluate")
        at_least(self, steps=1, batch=1, memory=1, log_every=1, checkpoint_every=1, seed=0)
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"ScheduleConfig.checkpoint_every={self.checkpoint_every}: must be a multiple of "
                f"log_every={self.log_every}"
            )


@dataclasses.dataclass(frozen=True)
class ContinualConfig:
    """One run over a stream. The default hypernetwork has some 121,000 parameters, its target at five tasks 83,000."""

    stream: StreamConfig = StreamConfig()
    space: SpaceConfig = SpaceConfig(name="mlp", widths=(100,), depths=(2,))
    target: str = "100-100"  # architecture of the space that is scored
    others: int = 0  # further random architectures of the space that are trained and protected beside the target
    change_at: int = 0  # number of the task before which the target is replaced; 0: never
    change_to: str = ""  # the new target, which was never emitted before
    scenario: Scenario = "CL1"  # task told; not told, labels within tasks; not told, to be named too
    heads: Literal["own", "shared"] = "own"  # outputs for every task, or one set for all
    method: Method = "hypernetwork"
    strength: float = 1.0  # of ewc, online_ewc, si, lwf; unused by others
    ghn: GHNConfig = GHNConfig(width=32, hidden=42, tile=50, decoder="chunks", residual=False)
    regulariser: RegulariserConfig = RegulariserConfig()
    learning_rate: float = (
        1e-2  # Adam's (baselines: 1e-3 is better) at the start of a task; falls to 0 over the task by a cosine
    )
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        one_of(self, "scenario", "heads", "method")
        if not self.learning_rate > 0:
            raise ValueError(f"ContinualConfig.learning_rate={self.learning_rate}: must be positive")
        if bool(self.change_at) != bool(self.change_to) or not 0 <= self.change_at < self.stream.tasks:
            raise ValueError(
                f"ContinualConfig.change_at={self.change_at}, change_to={self.change_to!r}: give both, a task from 1 "
                f"to {self.stream.tasks - 1} and an architecture, or neither"
            )
        if self.change_to and self.method != "hypernetwork":
            raise ValueError(
                f"ContinualConfig.change_to={self.change_to!r}: {self.method} has no weights for another target; "
                "use method='hypernetwork'"
            )
        at_least(self, others=0, strength=0)
