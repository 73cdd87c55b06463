"""Continual learning: streams of tasks, the hypernetwork that holds them, and what it is compared with."""

from train.continual.build import run
from train.continual.config import ContinualConfig, RegulariserConfig, ScheduleConfig, StreamConfig
from train.continual.heads import Heads
from train.continual.learner import HypernetworkLearner, Learner
from train.continual.loop import Result, learn
from train.continual.streams import Part, PermutedStream, RotatedStream, SplitStream, Stream, Task

__all__ = [
    "ContinualConfig",
    "Heads",
    "HypernetworkLearner",
    "Learner",
    "Part",
    "PermutedStream",
    "RegulariserConfig",
    "Result",
    "RotatedStream",
    "ScheduleConfig",
    "SplitStream",
    "Stream",
    "StreamConfig",
    "Task",
    "learn",
    "run",
]
