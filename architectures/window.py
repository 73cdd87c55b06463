"""Depthwise convolution and max pooling as sums and maxima of shifted copies, in the form that XLA:CPU runs fast.

Its `feature_group_count` takes 7 times as long (3x3, 32 channels, 16x16, batch 64, forward and backward), its gradient
of `reduce_window` 10 times.

Shape letters: B batch, H height, W width, C channels, K kernel positions along an axis.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.layers import same_padding


def shifted(x_BHWC: Array, kernel: int, stride: int, fill: float) -> list[Array]:
    """What lies under each position of a kernel with 'SAME' padding, in row-major order of positions."""
    sizes = x_BHWC.shape[1:3]
    pads = [same_padding(size, kernel, stride, 1) for size in sizes]
    padded = jnp.pad(x_BHWC, ((0, 0), *pads, (0, 0)), constant_values=fill)
    ends = [-(-size // stride) for size in sizes]
    starts = itertools.product(range(kernel), repeat=2)
    spans = [(count - 1) * stride + 1 for count in ends]
    return [padded[:, i : i + spans[0] : stride, j : j + spans[1] : stride] for i, j in starts]


def depthwise(x_BHWC: Array, kernel_KKC: Array, stride: int = 1, dilation: int = 1) -> Array:
    """Convolution of every channel with an odd kernel of its own, 'SAME' padding; [B, ceil(H / stride), ..., C].

    A stride leaves out what is computed without one: the sizes are small, and a program of its own would be long.
    """
    return _depthwise(x_BHWC, kernel_KKC, dilation)[:, ::stride, ::stride]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: Array, kernel: Array, dilation: int) -> Array:
    """Kernel row by kernel row, in a loop: all positions at once would be a program 50 times as long for 7x7."""
    padded, size = _padded(x, len(kernel), dilation), x.shape[1:3]

    def row(index: Array | int, total: Array) -> Array:
        band = lax.dynamic_slice_in_dim(padded, index * dilation, size[0], 1)
        weights = kernel[index]
        copies = [band[:, :, j * dilation : j * dilation + size[1]] * weights[j] for j in range(len(kernel))]
        return total + functools.reduce(jnp.add, copies)

    if len(kernel) <= 3:
        return functools.reduce(lambda total, index: row(index, total), range(len(kernel)), jnp.zeros_like(x))
    return lax.fori_loop(0, len(kernel), row, jnp.zeros_like(x))


def _padded(x: Array, kernel: int, dilation: int) -> Array:
    pads = [same_padding(size, kernel, 1, dilation) for size in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _depthwise_backward(dilation: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """The input's gradient is the same sum with the kernel flipped; the kernel's, a product with every shifted copy."""
    x, kernel = saved
    size, (height, width) = len(kernel), x.shape[1:3]
    padded = _padded(x, size, dilation)
    ones = jnp.ones(g[..., 0].size, g.dtype)

    def position(index: Array) -> Array:
        start = (0, index // size * dilation, index % size * dilation, 0)
        copy = lax.dynamic_slice(padded, start, (len(x), height, width, x.shape[-1]))
        return ones @ (copy * g).reshape(-1, g.shape[-1])

    rows = lax.map(position, jnp.arange(size * size))
    return _depthwise(g, jnp.flip(kernel, (0, 1)), dilation), rows.reshape(kernel.shape)


def _depthwise_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, dilation), (x, kernel)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool_3x3(x_BHWC: Array, stride: int = 1) -> Array:
    """Largest of 3x3 neighbours; gradients go to the first of equal ones, as `lax.reduce_window`'s do."""
    return functools.reduce(jnp.maximum, shifted(x_BHWC, 3, stride, -np.inf))


def _max_pool_forward(x: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    y = max_pool_3x3(x, stride)
    return y, (x, y)


def _max_pool_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    x, y = saved
    free = jnp.ones(y.shape, bool)
    parts = []
    for copy in shifted(x, 3, stride, -np.inf):
        parts.append(jnp.where(free & (copy == y), g, 0))
        free &= copy != y
    pads = [same_padding(size, 3, stride, 1) for size in x.shape[1:3]]
    total = jnp.zeros_like(x)
    for (i, j), part in zip(itertools.product(range(3), repeat=2), parts, strict=True):
        spread = [
            (start - low, size - (start - low) - (count - 1) * stride - 1, stride - 1)
            for start, (low, _), size, count in zip((i, j), pads, x.shape[1:3], y.shape[1:3], strict=True)
        ]
        total = total + lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    return (total,)


max_pool_3x3.defvjp(_max_pool_forward, _max_pool_backward)
