"""Streams of tasks: small dataclasses that make task `t` when it is asked for.

A stream of your own is a subclass with one method:

    @dataclasses.dataclass(frozen=True)
    class Noisy(Stream):
        noise: float = 0.5  # standard deviation, for each task more

        def task(self, index: int) -> Task:
            def disturb(images: Images) -> Images:
                rng = np.random.default_rng(index)
                return images + index * self.noise * rng.standard_normal(images.shape, np.float32)

            return self.whole.mapped(f"noise {index}", disturb)

Shape letters: N images, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from train.data import DataConfig, DataError, Dataset, Splits, check_images, check_labels, load

Images: TypeAlias = NDArray[np.float32]


class Part(NamedTuple):
    """Images [N, H, W, C] float32, and labels [N] int32 from 0 within their task."""

    images: Images
    labels: NDArray[np.int32]

    def head(self, count: int | None) -> Part:
        """The first `count`; all for None."""
        return Part(self.images[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One task.

    Attributes:
        name: unique within its stream.
        train: to learn from, while the task is there.
        score: to select by (strengths of methods, settings).
        test: to report on.
        classes: number of its classes.
    """

    name: str
    train: Part
    score: Part
    test: Part
    classes: int

    def mapped(self, name: str, change: Callable[[Images], Images]) -> Task:
        """The same task with its images changed."""
        train, score, test = (part._replace(images=change(part.images)) for part in (self.train, self.score, self.test))
        return Task(name, train, score, test, self.classes)


def check_sizes(owner: str, tasks: int, train_images: int | None, test_images: int | None) -> None:
    """ValueError that names the field of `owner` where one of these numbers is below 1."""
    for name, value in (("tasks", tasks), ("train_images", train_images), ("test_images", test_images)):
        if value is not None and value < 1:
            none = "" if name == "tasks" else ", or None for all"
            raise ValueError(f"{owner}.{name}={value}: must be at least 1{none}")


@dataclasses.dataclass(frozen=True)
class Stream:
    """A sequence of tasks with equally many classes on images of one shape.

    Attributes:
        data: where the images come from.
        tasks: how many.
        train_images: at most so many training images a task, the first ones; None: all.
        test_images: the same of the test split, of each task.

    Raises:
        ValueError: a number below 1.
    """

    name: ClassVar[str] = "stream"

    data: DataConfig = DataConfig(image_size=None)
    tasks: int = 5
    train_images: int | None = None
    test_images: int | None = None

    def __post_init__(self) -> None:
        check_sizes(type(self).__name__, self.tasks, self.train_images, self.test_images)

    def task(self, index: int) -> Task:
        """Task `index`, always the same."""
        raise NotImplementedError

    @functools.cached_property
    def splits(self) -> Splits:
        """The data set that tasks are made of."""
        return _load(self.data)

    @functools.cached_property
    def whole(self) -> Task:
        """The whole data set as one task."""
        splits = self.splits
        train = _part(splits.train).head(self.train_images)
        test = _part(splits.test).head(self.test_images)
        return Task("all classes", train, _part(splits.score), test, splits.train.classes)

    @property
    def classes(self) -> int:
        """Classes of each task."""
        return self.whole.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.whole.train.images.shape[1:]
        return height, width, channels

    def checked(self, index: int) -> Task:
        """Task `index`.

        Raises:
            ValueError: there is no such task.
            DataError: one that does not fit the stream, or lacks a class.
        """
        if not 0 <= index < self.tasks:
            raise ValueError(f"task {index}: this stream has tasks 0 to {self.tasks - 1}")
        task = self.task(index)
        if task.classes != self.classes:
            raise DataError(f"{self.name} stream: task {index} has {task.classes} classes, expected {self.classes}")
        for part in ("train", "test"):
            images, labels = getattr(task, part)
            where = f"{self.name} stream, task {index} ({task.name}), {part}"
            check_images(images, self.input_shape, f"{where} images")
            check_labels(labels, task.classes, f"{where} labels")
            missing = sorted(set(range(task.classes)) - set(np.unique(labels).tolist()))
            if missing:
                raise DataError(
                    f"{where}: no image of class {', '.join(map(str, missing))} (of 0 to {task.classes - 1}); "
                    "every task needs all of its classes, give more images or other labels"
                )
        return task


@dataclasses.dataclass(frozen=True)
class SplitStream(Stream):
    """The classes of a data set, a few at a time (Zenke et al. 2017): 0 and 1, then 2 and 3, ...

    Attributes:
        classes_per_task: how many.
    """

    name: ClassVar[str] = "split"

    classes_per_task: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes_per_task < 2:
            raise ValueError(f"SplitStream.classes_per_task={self.classes_per_task}: must be at least 2")

    @property
    def classes(self) -> int:
        """Classes of each task."""
        return self.classes_per_task

    def task(self, index: int) -> Task:
        """The images of classes `index * classes_per_task` and up; ValueError where the data has no such classes."""
        first, count, splits = index * self.classes_per_task, self.classes_per_task, self.splits
        if first + count > splits.train.classes:
            raise ValueError(
                f"tasks={self.tasks}: task {index} wants classes {first} to {first + count - 1}, the data has "
                f"{splits.train.classes}; use at most {splits.train.classes // count} tasks"
            )

        def own(dataset: Dataset) -> Part:
            chosen = (dataset.labels >= first) & (dataset.labels < first + count)
            return Part(dataset.images[chosen], dataset.labels[chosen] - np.int32(first))

        name = " or ".join(splits.train.class_names[first : first + count])
        train, test = own(splits.train).head(self.train_images), own(splits.test).head(self.test_images)
        return Task(name, train, own(splits.score), test, count)


@dataclasses.dataclass(frozen=True)
class PermutedStream(Stream):
    """All classes, every task with its own permutation of the pixels; the first has none (Goodfellow et al. 2013).

    Attributes:
        seed: of the permutations.
    """

    name: ClassVar[str] = "permuted"

    seed: int = 0

    def task(self, index: int) -> Task:
        """Task `index`."""
        if index == 0:
            return dataclasses.replace(self.whole, name="permutation 0")
        order = np.random.default_rng((self.seed, index)).permutation(int(np.prod(self.input_shape)))

        def permute(images: Images) -> Images:
            return images.reshape(len(images), -1)[:, order].reshape(images.shape)

        return self.whole.mapped(f"permutation {index}", permute)


@dataclasses.dataclass(frozen=True)
class RotatedStream(Stream):
    """All classes, every task turned further: by 0 to `degrees` in equal steps. Corners take the value of the edge.

    Attributes:
        degrees: of the last task.
    """

    name: ClassVar[str] = "rotated"

    degrees: float = 90.0

    def angle(self, index: int) -> float:
        """Degrees of a task: what a hypernetwork may be conditioned on instead of a task."""
        return self.degrees * index / max(self.tasks - 1, 1)

    def task(self, index: int) -> Task:
        """Task `index`."""
        angle = self.angle(index)

        def turn(images: Images) -> Images:
            turned = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
            return np.asarray(turned, np.float32)

        return self.whole.mapped(f"{angle:g} degrees", turn)


_load = functools.lru_cache(maxsize=1)(load)  # runs of one process, seed after seed, read the files once


def _part(dataset: Dataset) -> Part:
    return Part(dataset.images, dataset.labels)
