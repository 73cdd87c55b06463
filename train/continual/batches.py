"""Batches of a stream, each a function of the seed and the step alone, so that a resumed run sees the same.

Shape letters: n steps, B images of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.continual.learner import Chunk
from train.continual.streams import Part, Stream, Task
from train.data import batch_indices

MOST_PARTS = 16  # some 500 MB of MNIST's test images
_MEMORY, _REPLAY = 1, 2  # keep the random words of the memory and of the batches apart


class StreamBatches:
    """The batches of a run.

    The memory holds equally many images of every earlier task, of all classes alike, `memory` in all.
    """

    def __init__(self, stream: Stream, batch: int, memory: int, seed: int) -> None:
        self._stream, self._batch, self._memory, self._seed = stream, batch, memory, seed
        self._tasks: dict[int, Task] = {}
        self._kept: dict[int, Part] = {}
        self._parts: dict[tuple[int, str], Part] = {}

    def task(self, index: int) -> Task:
        """A checked task; the one in use is kept."""
        if index not in self._tasks:
            self._tasks = {index: self._stream.checked(index)}
        return self._tasks[index]

    def part(self, index: int, split: str) -> Part:
        """A split of a checked task; those of the first tasks are kept, because every later score asks for them."""
        if (index, split) not in self._parts:
            part: Part = getattr(self.task(index), split)
            if len(self._parts) >= MOST_PARTS:
                return part
            self._parts[index, split] = part
        return self._parts[index, split]

    def chunk(self, index: int, start: int, steps: NDArray[np.int32], replays: str) -> Chunk:
        """The batches of consecutive steps.

        Args:
            index: the current task.
            start: its first step.
            steps: [n], counted from the start of the stream.
            replays: "none": images of the current task; "memory": half of them from the memory; "balanced": any task
                so far, by equal chance, earlier ones from the memory; "all": the same from all images.
        """
        rows = [self._rows(index, start, int(step), replays) for step in steps]
        images, labels, tasks = (np.stack(parts) for parts in zip(*rows, strict=True))
        return Chunk(images, labels, tasks, steps)

    def _rows(self, index: int, start: int, step: int, replays: str) -> tuple[NDArray[Any], ...]:
        train = self.task(index).train
        chosen = batch_indices(len(train.labels), self._batch, self._seed + index, step - start)
        images, labels = train.images[chosen], train.labels[chosen]
        tasks = np.full(self._batch, index, np.int32)
        if replays != "none" and index > 0:
            rng = np.random.default_rng((self._seed, _REPLAY, step))
            if replays == "memory":
                replaced = np.arange(self._batch) >= self._batch // 2
                tasks[replaced] = rng.integers(0, index, int(replaced.sum()))
            else:
                tasks = rng.integers(0, index + 1, self._batch).astype(np.int32)
            for earlier in np.unique(tasks[tasks < index]):
                own, source = np.flatnonzero(tasks == earlier), self._source(int(earlier), index, replays)
                drawn = rng.integers(0, len(source.labels), len(own))
                images[own], labels[own] = source.images[drawn], source.labels[drawn]
        return images, labels, tasks

    def _source(self, earlier: int, index: int, replays: str) -> Part:
        """What is still at hand of an earlier task."""
        if earlier not in self._kept:
            train = self._stream.checked(earlier).train
            self._kept[earlier] = train if replays == "all" else self._shuffled(earlier, train).head(self._memory)
        return self._kept[earlier].head(None if replays == "all" else max(self._memory // index, 1))

    def _shuffled(self, earlier: int, train: Part) -> Part:
        """The images in an order whose every beginning holds all classes alike."""
        order = np.random.default_rng((self._seed, _MEMORY, earlier)).permutation(len(train.labels))
        labels = train.labels[order]
        turn = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            turn[own] = np.arange(len(own))
        order = order[np.argsort(turn, kind="stable")]
        return Part(train.images[order], train.labels[order])
