"""An endless, shuffled stream of batches that can be taken up at any step."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from train.data.datasets import Dataset
from train.data.draws import permutation
from train.data.readers import DataError


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> npt.NDArray[np.int32]:
    """The images of one step of the endless, shuffled stream over ``n`` images.

    Step ``s`` belongs to epoch ``s // (n // batch_size)``; each epoch has its own permutation of the images, and the
    ``n % batch_size`` images at its end are dropped. The result depends on the arguments alone.

    Args:
        n: number of images.
        batch_size: images a step, 1..n.
        seed: of the order, 0 or more.
        step: counted from 0 over the whole run.

    Returns:
        int32 ``[batch_size]``, all different, in 0..n - 1.

    Raises:
        DataError: an argument out of range.
    """
    _check_stream(n, batch_size, seed, step)
    epoch, position = divmod(step, n // batch_size)
    return permutation(n, seed, epoch)[position * batch_size : (position + 1) * batch_size].copy()


def batches(
    dataset: Dataset, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
    """An endless stream of batches, reshuffled every epoch; see :func:`batch_indices`.

    The batch of a step depends on the data, ``batch_size``, ``seed`` and the step alone: a stream started at step
    ``k`` gives exactly what remains of the stream from 0 after ``k`` batches.

    Returns:
        an iterator over (images float32 ``[batch_size, H, W, C]``, labels int32 ``[batch_size]``).

    Raises:
        DataError: an argument out of range, ``batch_size`` above the number of images included; at the call, not at
            the first batch.
    """
    _check_stream(len(dataset.labels), batch_size, seed, start_step)

    def stream() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
        step = start_step
        while True:
            chosen = batch_indices(len(dataset.labels), batch_size, seed, step)
            yield dataset.images[chosen], dataset.labels[chosen]
            step += 1

    return stream()


def _check_stream(n: int, batch_size: int, seed: int, step: int) -> None:
    """Check the arguments of the stream of batches."""
    for name, value, least in (("n", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("step", step, 0)):
        if value < least:
            raise DataError(f"{name}: found {value}; expected {least} or more")
    if batch_size > n:
        raise DataError(f"batch_size: found {batch_size}; expected 1..{n}, the number of images; use a smaller batch")
