"""Streams: each task is what its name says, the same whenever it is asked for, and checked."""

import dataclasses

import numpy as np
import pytest

from train.continual import PermutedStream, RotatedStream, SplitStream, Stream, Task
from train.continual.batches import StreamBatches
from train.continual.config import StreamConfig
from train.data import DataConfig, DataError


def test_split_divides_the_images(data: DataConfig) -> None:
    stream = SplitStream(data, tasks=2)
    tasks = [stream.checked(index) for index in range(2)]
    assert sum(len(task.train.labels) for task in tasks) == len(stream.splits.train.labels)
    for index, task in enumerate(tasks):
        whole = stream.splits.test
        np.testing.assert_array_equal(task.test.images, whole.images[whole.labels // 2 == index])
        np.testing.assert_array_equal(task.test.labels, whole.labels[whole.labels // 2 == index] % 2)


def test_permutations_differ_and_keep_the_pixels(data: DataConfig) -> None:
    stream = PermutedStream(data, tasks=3, train_images=50)
    first, second, third = (stream.checked(index).train for index in range(3))
    assert len(first.labels) == 50
    assert not np.array_equal(second.images, third.images)
    for other in (second, third):
        np.testing.assert_array_equal(np.sort(other.images.reshape(50, -1)), np.sort(first.images.reshape(50, -1)))
    np.testing.assert_array_equal(stream.checked(2).train.images, third.images)


def test_rotation_by_a_right_angle_is_exact(data: DataConfig) -> None:
    stream = RotatedStream(data, tasks=2, degrees=90)
    turned, plain = stream.checked(1).test.images, stream.checked(0).test.images
    assert stream.angle(1) == 90
    np.testing.assert_allclose(turned, np.rot90(plain, 1, (1, 2)), atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Broken(Stream):
    """Without class 1 in its second task."""

    def task(self, index: int) -> Task:
        task = self.whole
        kept = task.train.labels != index
        return dataclasses.replace(task, train=type(task.train)(task.train.images[kept], task.train.labels[kept]))


def test_bad_tasks_are_named(data: DataConfig) -> None:
    with pytest.raises(DataError, match=r"task 1 \(all classes\), train: no image of class 1"):
        Broken(data).checked(1)
    with pytest.raises(ValueError, match="task 5: this stream has tasks 0 to 4"):
        Broken(data).checked(5)
    with pytest.raises(ValueError, match="wants classes 4 to 5, the data has 4; use at most 2 tasks"):
        SplitStream(data, tasks=3).checked(2)


@pytest.mark.parametrize("stream", [StreamConfig, PermutedStream, SplitStream])
@pytest.mark.parametrize("change", [{"tasks": 0}, {"train_images": -5}, {"train_images": 0}, {"test_images": 0}])
def test_numbers_out_of_range_are_named(stream: type, change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{stream.__name__}.{name}={value}: must be at least 1"):
        stream(**change)


@pytest.mark.parametrize("replays", ["none", "memory", "balanced", "all"])
def test_batches_depend_on_the_step_alone_and_come_from_the_right_tasks(data: DataConfig, replays: str) -> None:
    stream, steps = PermutedStream(data, tasks=3), np.arange(80, 84, dtype=np.int32)
    one, other = (StreamBatches(stream, batch=16, memory=8, seed=1) for _ in range(2))
    other.chunk(1, 40, steps - 40, replays)
    chunk, again = one.chunk(2, 80, steps, replays), other.chunk(2, 80, steps, replays)
    for a, b in zip(chunk, again, strict=True):
        np.testing.assert_array_equal(a, b)
    present = set(np.unique(chunk.tasks).tolist())
    assert present == ({2} if replays == "none" else {0, 1, 2})
    seen: dict[int, set[bytes]] = {}
    for image, label, task in zip(*(part.reshape(-1, *part.shape[2:]) for part in chunk[:3]), strict=True):
        train = stream.task(int(task)).train
        where = np.flatnonzero((train.images == image).all((1, 2, 3)))
        assert label in train.labels[where]
        seen.setdefault(int(task), set()).add(image.tobytes())
    if replays in ("memory", "balanced"):
        assert all(len(seen[task]) <= 4 for task in (0, 1))  # 8 images, divided among two earlier tasks
