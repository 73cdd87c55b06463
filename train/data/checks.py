"""Checks of images, labels and where data came from; each error names what was found and what was expected."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from train.data.readers import DataError

Provenance: TypeAlias = dict[str, str | int]


def check_provenance(found: Mapping[str, str | int], recorded: Mapping[str, str | int]) -> None:
    """Refuse data that is not the data of an earlier run.

    Args:
        found: ``Splits.provenance`` of the data just loaded.
        recorded: ``Splits.provenance`` as an earlier run stored it.

    Raises:
        DataError: the two differ; the message names every entry that does.
    """
    different = [
        f"{key}: found {found.get(key, '(absent)')}, recorded {recorded.get(key, '(absent)')}"
        for key in sorted({*found, *recorded})
        if found.get(key) != recorded.get(key)
    ]
    if different:
        raise DataError(
            f"the data set is not the recorded one ({'; '.join(different)}); "
            "load the data with the recorded configuration and files, or start a new run"
        )


def check_images(images: npt.ArrayLike, shape: tuple[int, int, int], name: str = "images") -> None:
    """Check a batch of normalised images.

    Args:
        images: expected float32 ``[N, H, W, C]``, at least one image, every value finite.
        shape: ``(H, W, C)`` expected of each image, in pixels and channels.
        name: what the message calls ``images``.

    Raises:
        DataError: the wrong type or shape, no images, or a value that is NaN or infinite.
    """
    array = np.asarray(images)
    expected = f"float32 [N, {', '.join(str(side) for side in shape)}]"
    if array.dtype != np.float32:
        raise DataError(f"{name}: found {array.dtype} of shape {array.shape}; expected {expected}, normalised")
    if array.ndim != 4 or array.shape[1:] != tuple(shape):
        raise DataError(f"{name}: found the shape {array.shape}; expected {expected}")
    if array.shape[0] == 0:
        raise DataError(f"{name}: found no images (shape {array.shape}); expected {expected} with N of at least 1")
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(axis) for axis in np.unravel_index(int(np.argmin(finite)), array.shape))
        raise DataError(f"{name}: found {array[index]} at index {index}; expected finite values, {expected}")


def check_labels(labels: npt.ArrayLike, classes: int, name: str = "labels") -> None:
    """Check class labels.

    Args:
        labels: expected whole numbers ``[N]``, at least one, in 0..classes - 1.
        classes: number of classes.
        name: what the message calls ``labels``.

    Raises:
        DataError: the wrong type or shape, no labels, or a label out of range.
    """
    array = np.asarray(labels)
    expected = f"whole numbers 0..{classes - 1}, shape [N]"
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name}: found {array.dtype} of shape {array.shape}; expected {expected}")
    if array.ndim != 1:
        raise DataError(f"{name}: found the shape {array.shape}; expected {expected}")
    if array.size == 0:
        raise DataError(f"{name}: found no labels; expected {expected} with N of at least 1")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if wrong.size:
        raise DataError(f"{name}: found {int(array[wrong[0]])} at index {int(wrong[0])}; expected {expected}")
