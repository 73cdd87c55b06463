"""First node states as GHN-2 makes them: an embedding of the op plus embeddings of the binned sizes of its tensor.

Shape letters: N places, F features, D state width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from ghn.features import BOUNDS, FEATURES

SIZES = ("channels_out", "channels_in", "kernel", "kernel")  # of a tensor; height and width of a kernel are one here
LARGEST_CHANNELS, LARGEST_KERNEL = 8192, 16  # larger ones are taken for these


class ShapeEncoder(nnx.Module):
    """States [N, D] = embedding of the op + four embeddings of D / 4 side by side: channels out and in, kernel height
    and width, each in the nearest of GHN-2's bins (Knyazev et al. 2021, section 3.1).

    A node of which nothing is known (all sizes 1) has bins of its own, as nodes without parameters have there. Nothing
    else enters: no stride, size, depth or position.
    """

    def __init__(self, ops: int, width: int, kernel_tile: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.kernel_tile, self.classes = kernel_tile, classes
        part = width // 4

        def table(rows: int, columns: int) -> nnx.Param[Array]:
            return nnx.Param(jax.random.normal(rngs.params(), (rows, columns)))

        self.embedding = table(ops + 1, width)
        self.channels = table(len(channel_bins(classes)) + 1, part)
        self.kernels = table(len(kernel_bins(kernel_tile)) + 1, part)

    def __call__(
        self,
        op_N: Array | NDArray[np.int32],
        features_NF: Array | NDArray[np.float32],
        noise_Z: Array | NDArray[np.float32],
    ) -> Array:
        """[N, D] states; GHN-2 takes no noise, so Z is 0."""
        columns = [FEATURES.index(name) for name in SIZES]
        sizes = [
            jnp.rint(BOUNDS[name].restore(features_NF[:, column])).astype(jnp.int32)
            for name, column in zip(SIZES, columns, strict=True)
        ]
        known_N = jnp.stack(sizes).max(0) > 1
        channels, kernels = self.channels.get_value(), self.kernels.get_value()
        tables = (channels, channels, kernels, kernels)
        bins = (channel_lookup(self.classes),) * 2 + (kernel_lookup(self.kernel_tile),) * 2
        parts = [
            table[jnp.where(known_N, jnp.asarray(lookup)[jnp.minimum(size, len(lookup) - 1)], len(table) - 1)]
            for table, lookup, size in zip(tables, bins, sizes, strict=True)
        ]
        return self.embedding.get_value()[op_N] + jnp.concatenate(parts, -1)


def channel_bins(classes: int) -> NDArray[np.int64]:
    """Numbers of channels that have an embedding: denser where they are small, and the number of classes."""
    steps = (np.arange(8, 64, 8), np.arange(64, 4096, 16), np.arange(4096, LARGEST_CHANNELS + 1, 32))
    return np.unique(np.concatenate([[1, 3, classes], *steps]))


def kernel_bins(kernel_tile: int) -> NDArray[np.int64]:
    """Kernel sizes that have an embedding: odd ones up to 11 or the tile's, and two even ones."""
    return np.unique([*range(1, max(12, kernel_tile), 2), 14, LARGEST_KERNEL])


@functools.cache
def channel_lookup(classes: int) -> NDArray[np.int64]:
    """[1 + LARGEST_CHANNELS] bin of each number of channels: the nearest, but 8 for 4 to 7."""
    lookup = _nearest(channel_bins(classes), LARGEST_CHANNELS)
    lookup[4:8] = lookup[8]
    return lookup


@functools.cache
def kernel_lookup(kernel_tile: int) -> NDArray[np.int64]:
    """[1 + LARGEST_KERNEL] bin of each kernel size: the nearest, but 3 for 2."""
    lookup = _nearest(kernel_bins(kernel_tile), LARGEST_KERNEL)
    lookup[2] = lookup[3]
    return lookup


def _nearest(bins: NDArray[np.int64], largest: int) -> NDArray[np.int64]:
    """[1 + largest] index of the bin nearest to each size, the smaller of two that are as near."""
    return np.abs(np.arange(largest + 1)[:, None] - bins).argmin(1)
