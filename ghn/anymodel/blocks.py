"""Memory for leaves, in blocks that the system backs with large pages and that are used again.

Asking the system for memory (and having it zeroed) takes longer than writing weights to it: a third of what a
ResNet-50 takes. So blocks come back here when the last of their arrays is gone, up to KEPT bytes, and serve the next
prediction.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNED = 64  # bytes: what JAX on a CPU takes over without a copy
BLOCK = 1 << 26  # bytes; NumPy asks for large pages from 4 MB on, where the system has them
LARGE = 1 << 24  # bytes: arrays of this size have a block of their own
KEPT = 1 << 27  # bytes of blocks that nobody uses


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
    """[size] aligned, of a block whose size is a power of two: so models of about the same size find each other's. What
    is not written to takes no memory."""
    return np.asarray(Lease(1 << (size - 1).bit_length() if size else 0))[:size]


class Pool:
    """Blocks that nobody uses, the latest last."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a block may come back while this very thread is in here
        self._blocks: list[NDArray[np.uint8]] = []

    def take(self, size: int) -> NDArray[np.uint8]:
        """[size] aligned bytes of any values."""
        with self._lock:
            for index in reversed(range(len(self._blocks))):
                if len(self._blocks[index]) == size:
                    return self._blocks.pop(index)
        raw = np.empty(size + ALIGNED, np.uint8)
        start = -raw.ctypes.data % ALIGNED
        return raw[start : start + size]

    def give_back(self, block: NDArray[np.uint8]) -> None:
        """Keeps a block, and lets the oldest go where there are too many."""
        with self._lock:
            self._blocks.append(block)
            while self.bytes > KEPT:
                self._blocks.pop(0)

    @property
    def bytes(self) -> int:
        """Held."""
        return sum(map(len, self._blocks))


POOL = Pool()


class Lease:
    """A block for as long as an array of it lives: arrays hold on to the lease, which holds on to the block."""

    _block = np.empty(0, np.uint8)  # what there is to give back if the memory is not to be had

    def __init__(self, size: int) -> None:
        self._block = POOL.take(size)
        self.__array_interface__ = self._block.__array_interface__

    def __del__(self) -> None:
        if len(self._block):
            POOL.give_back(self._block)
