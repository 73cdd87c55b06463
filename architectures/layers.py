"""Layers of the target networks, in the form that is fast on every backend: the one place where that is chosen.

Inside a `lax.switch` XLA:CPU does not bring convolution gradients into a form that its fast kernels accept, and
falls back to a naive loop (30 times slower). Convolutions here therefore carry their own gradient, written as two
plain forward convolutions. Average pooling is a separable sum of shifted copies (XLA:CPU's `reduce_window` takes
8 times longer at 64 x 16 x 16 x 16, forward and backward), and its gradient is the same sum.

Shape letters: B batch, H height, W width, C channels, I input channels, O output channels.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
BATCH_NORM_EPSILON = 1e-5
Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Layers:
    """How the layers of a target network are computed; passed to every op.

    Attributes:
        gradient: "canonical" writes convolution gradients as plain convolutions (needed inside a switch on CPU);
            "plain" leaves them to JAX.
        statistics_rows: batch normalisation takes its moments from the first so many rows of the batch (the whole
            batch when None). Rows after them are normalised by statistics that they did not enter.
        batch_axis: inside a `jax.shard_map`, the mesh axis over which the batch is spread; batch normalisation then
            takes its moments from the whole batch, not from the device's part of it.
        precision: what images and weights are cast to before a network runs on them (`cast`). Moments of batch
            normalisation are float32 in any case.

    Raises:
        ValueError: an unknown gradient or precision, fewer than 1 statistics row, or statistics rows of a batch that
            is spread over devices.
    """

    gradient: Literal["canonical", "plain"] = "canonical"
    statistics_rows: int | None = None
    batch_axis: str | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.gradient not in ("canonical", "plain"):
            raise ValueError(f"Layers.gradient={self.gradient!r}: use 'canonical' or 'plain'")
        if self.statistics_rows is not None and self.statistics_rows < 1:
            raise ValueError(f"Layers.statistics_rows={self.statistics_rows}: must be at least 1, or None for all rows")
        if self.statistics_rows is not None and self.batch_axis is not None:
            raise ValueError("Layers.statistics_rows: a device has only some of the rows; use no batch_axis with it")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"Layers.precision={self.precision!r}: use 'float32' or 'bfloat16'")

    def cast(self, arrays: Any) -> Any:
        """A pytree of arrays in the precision that networks run in."""
        return jax.tree.map(lambda array: jnp.asarray(array, self.precision), arrays)

    def conv(self, x_BHWI: Array, kernel: Array, stride: int = 1, dilation: int = 1) -> Array:
        """Convolution with 'SAME' padding; `kernel` is [kh, kw, I, O]; returns [B, ceil(H / stride), ..., O]."""
        if kernel.shape[:2] == (1, 1) and stride == 1:
            return x_BHWI @ kernel[0, 0]
        if stride == 1 and max(kernel.shape[:2]) > min(x_BHWI.shape[1:3]):
            return _matmul_conv(x_BHWI, kernel, dilation)
        if self.gradient == "plain":
            return _convolve(x_BHWI, kernel, stride, dilation)
        return _canonical_conv(x_BHWI, kernel, stride, dilation)

    def batch_norm(self, x_BHWC: Array, scale_C: Array, bias_C: Array) -> Array:
        """Batch normalisation by the statistics of this very batch (no running averages)."""
        x = x_BHWC.astype(jnp.float32)
        rows = x if self.statistics_rows is None else x[: self.statistics_rows]
        flat = rows.reshape(-1, rows.shape[-1])
        average = jnp.full((flat.shape[0],), 1.0 / flat.shape[0], flat.dtype)
        mean_C = average @ flat
        variance_C = average @ jnp.square(flat - mean_C)
        if self.batch_axis is not None:
            mean_C, variance_C = _pooled(mean_C, variance_C, self.batch_axis)
        gain_C = scale_C * lax.rsqrt(variance_C + BATCH_NORM_EPSILON)
        return (x * gain_C + (bias_C - mean_C * gain_C)).astype(x_BHWC.dtype)

    def avg_pool_3x3(self, x_BHWC: Array) -> Array:
        """Average over 3x3 neighbourhoods at stride 1; padding is not counted."""
        return _avg_pool_3x3(x_BHWC)

    def avg_pool_2x2(self, x_BHWC: Array) -> Array:
        """Average over 2x2 blocks at stride 2; an odd last row or column is averaged alone."""
        height, width, channels = x_BHWC.shape[1:]
        padded = jnp.pad(x_BHWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        blocks = padded.reshape(-1, (height + 1) // 2, 2, (width + 1) // 2, 2, channels).sum((2, 4))
        return blocks / _block_counts(height, width).astype(x_BHWC.dtype)


def _pooled(mean_C: Array, variance_C: Array, axis: str) -> tuple[Array, Array]:
    """Moments of all devices' rows from those of each, which are as many (Chan et al. 1979).

    One collective, and one in the gradient. Averages of x and x^2 would need no more, but lose digits; averages of x,
    then of (x - mean)^2, would need twice as many.
    """
    means_DC, variances_DC = jnp.unstack(lax.all_gather(jnp.stack([mean_C, variance_C]), axis), axis=1)
    mean_C = means_DC.mean(0)
    return mean_C, (variances_DC + jnp.square(means_DC - mean_C)).mean(0)


@functools.cache
def _neighbour_counts(height: int, width: int) -> np.ndarray:
    """How many neighbours of a pixel (itself included) lie inside: [H, W, 1]."""
    rows, columns = (np.minimum(np.arange(n), 1) + np.minimum(n - 1 - np.arange(n), 1) + 1 for n in (height, width))
    return (rows[:, None] * columns)[..., None].astype(np.float32)


@functools.cache
def _block_counts(height: int, width: int) -> np.ndarray:
    """How many pixels of a 2x2 block lie inside: [ceil(H / 2), ceil(W / 2), 1]."""
    rows, columns = (np.minimum(2, n - np.arange(0, n, 2)) for n in (height, width))
    return (rows[:, None] * columns)[..., None].astype(np.float32)


def _sum_3x3(x_BHWC: Array) -> Array:
    padded = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


@jax.custom_vjp
def _avg_pool_3x3(x_BHWC: Array) -> Array:
    return _sum_3x3(x_BHWC) / _neighbour_counts(*x_BHWC.shape[1:3]).astype(x_BHWC.dtype)


def _avg_pool_3x3_backward(_: None, g_BHWC: Array) -> tuple[Array]:
    return (_sum_3x3(g_BHWC / _neighbour_counts(*g_BHWC.shape[1:3]).astype(g_BHWC.dtype)),)


_avg_pool_3x3.defvjp(lambda x: (_avg_pool_3x3(x), None), _avg_pool_3x3_backward)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Pixels added before and after an axis so that ceil(size / stride) positions remain."""
    reach = (kernel - 1) * dilation
    total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    low = reach // 2 if stride > 1 and kernel % 2 else total // 2  # odd kernels centred, as PyTorch's padding = k // 2
    return low, max(total - low, 0)


def _paddings(x: Array, kernel: Array, stride: int, dilation: int) -> list[tuple[int, int]]:
    return [same_padding(x.shape[1 + a], kernel.shape[a], stride, dilation) for a in (0, 1)]


def _convolve(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _paddings(x, kernel, stride, dilation),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
    )


def _matmul_conv(x: Array, kernel: Array, dilation: int) -> Array:
    """A convolution at stride 1 as one matrix product of shifted copies (im2col).

    For kernels of more positions than the image has pixels along an axis, for which XLA:CPU falls back to a naive loop
    (5x5 on 4x4 pixels, 32 channels, batch 64, forward and backward: 25 ms against 2.7). Positions that lie outside the
    image wherever the kernel is put are left out.
    """
    sizes = x.shape[1:3]
    offsets = [[i * dilation - (count - 1) * dilation // 2 for i in range(count)] for count in kernel.shape[:2]]
    used = [[i for i, o in enumerate(own) if abs(o) < size] for own, size in zip(offsets, sizes, strict=True)]
    pads = [max(abs(own[i]) for i in keep) for own, keep in zip(offsets, used, strict=True)]
    padded = jnp.pad(x, ((0, 0), (pads[0], pads[0]), (pads[1], pads[1]), (0, 0)))
    starts = [[pad + own[i] for i in keep] for pad, own, keep in zip(pads, offsets, used, strict=True)]
    copies = [padded[:, i : i + sizes[0], j : j + sizes[1]] for i in starts[0] for j in starts[1]]
    return jnp.concatenate(copies, -1) @ kernel[np.ix_(*used)].reshape(-1, kernel.shape[3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_conv(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    return _convolve(x, kernel, stride, dilation)


def _canonical_conv_forward(x: Array, kernel: Array, stride: int, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _canonical_conv_backward(stride: int, dilation: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Both gradients as plain NHWC x HWIO -> NHWC convolutions.

    The input's: g with the kernel flipped and its channel axes swapped. The kernel's: x with batch in the place of
    features, convolved by g.
    """
    x, kernel = saved
    pads_x, pads_kernel = [], []
    for axis, (low, _) in enumerate(_paddings(x, kernel, stride, dilation)):
        size, reach = x.shape[1 + axis], (kernel.shape[axis] - 1) * dilation
        spread = (g.shape[1 + axis] - 1) * stride + 1  # extent of g at the resolution of x
        pads_x.append((reach - low, size - spread + low))
        pads_kernel.append((low, reach + spread - size - low))
    grad_x = lax.conv_general_dilated(
        g,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        pads_x,
        lhs_dilation=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
    )
    grad_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (dilation, dilation),
        pads_kernel,
        rhs_dilation=(stride, stride),
        dimension_numbers=DIMENSIONS,
    )
    return grad_x, grad_kernel.transpose(1, 2, 0, 3)


_canonical_conv.defvjp(_canonical_conv_forward, _canonical_conv_backward)
