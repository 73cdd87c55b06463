"""Memory for leaves, in blocks that the system backs with large pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNED = 64  # bytes: what JAX on a CPU takes over without a copy
BLOCK = 1 << 26  # bytes; NumPy asks for large pages from 4 MB on, where the system has them
LARGE = 1 << 24  # bytes: arrays of this size have a block of their own


def empty_arrays(leaves: Sequence[Any]) -> list[NDArray[Any]]:
    """Arrays of the shapes and dtypes of leaves, aligned so that JAX on a CPU takes them over without a copy.

    Arrays of less than 16 MB share blocks of 64 MB: asking for their memory page by page (4 kB) takes a quarter of the
    time in which the weights of a ResNet-50 are written. A block is freed with the last of its arrays.
    """
    sizes = [math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves]
    left = sum(_padded(size) for size in sizes if size < LARGE)
    block, used = _empty(0), 0
    arrays = []
    for leaf, size in zip(leaves, sizes, strict=True):
        if size >= LARGE:
            raw = _empty(size)
        else:
            if used + size > len(block):
                block, used = _empty(min(BLOCK, left)), 0
            raw = block[used : used + size]
            used += _padded(size)
            left -= _padded(size)
        arrays.append(raw.view(np.dtype(leaf.dtype)).reshape(leaf.shape))
    return arrays


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _empty(size: int) -> NDArray[np.uint8]:
    """[size] aligned."""
    raw = np.empty(size + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + size]
