"""ONNX operators of layers: products, convolutions and normalisation.

Layouts are ONNX's own: images [B, C, *spatial], kernels [O, I / groups, *spatial].
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from architectures.onnx.registry import Node, Value, op


@op("Gemm")
def _gemm(node: Node, a: Value, b: Value, c: Value = None) -> Value:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


@op("Conv")
def _conv(node: Node, x: Value, kernel: Value, bias: Value = None) -> Value:
    rank = x.ndim - 2
    strides = node.get("strides", [1] * rank)
    dilations = node.get("dilations", [1] * rank)
    padding = window_padding(node, x.shape[2:], kernel.shape[2:], strides, dilations)
    y = lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilations,
        dimension_numbers=_layout(rank, "OI"),
        feature_group_count=node.get("group", 1),
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


@op("ConvTranspose")
def _conv_transpose(node: Node, x: Value, kernel: Value, bias: Value = None) -> Value:
    rank = x.ndim - 2
    if node.get("group", 1) != 1:
        raise NotImplementedError("transposed convolutions in groups")
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    extra = node.get("output_padding", [0] * rank)
    reach = [(size - 1) * dilation for size, dilation in zip(kernel.shape[2:], dilations, strict=True)]
    cut = _transposed_padding(
        node, [(x.shape[2 + i] - 1) * strides[i] + reach[i] + 1 + extra[i] for i in range(rank)], x.shape[2:], strides
    )
    padding = [(reach[i] - cut[i][0], reach[i] - cut[i][1] + extra[i]) for i in range(rank)]
    flipped = jnp.flip(kernel, tuple(range(2, 2 + rank)))
    y = lax.conv_general_dilated(
        x, flipped, [1] * rank, padding, strides, dilations, dimension_numbers=_layout(rank, "IO")
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _transposed_padding(
    node: Node, full: Sequence[int], sizes: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """(low, high) that a transposed convolution cuts off its full result, for every spatial axis."""
    rank, auto = len(full), node.get("auto_pad", "NOTSET")
    pads, wanted = node.get("pads", [0] * 2 * rank), node.get("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID"):
        return [(pads[i], pads[i + rank]) if auto == "NOTSET" else (0, 0) for i in range(rank)]
    if wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    totals = [size - out for size, out in zip(full, wanted, strict=True)]
    if min(totals) < 0:
        raise NotImplementedError(f"an output of {list(wanted)}, larger than the transposed convolution's {list(full)}")
    lows = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in totals]
    return [(low, total - low) for low, total in zip(lows, totals, strict=True)]


def _layout(rank: int, kernel: str) -> tuple[str, str, str]:
    spatial = "DHW"[-rank:]
    return f"NC{spatial}", f"{kernel}{spatial}", f"NC{spatial}"


def window_padding(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(low, high) of every spatial axis, for convolution and pooling."""
    rank, auto = len(sizes), node.get("auto_pad", "NOTSET")
    pads = node.get("pads", [0] * 2 * rank)
    if auto in ("NOTSET", "VALID"):
        return [(pads[i], pads[i + rank]) if auto == "NOTSET" else (0, 0) for i in range(rank)]
    result = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = (-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size
        if total < -1:  # the specification and runtimes differ on where the first window begins
            raise NotImplementedError(f"auto_pad {auto} of windows of {extent} with strides of {stride} on {size}")
        total = max(total, 0)
        low = total // 2 if auto == "SAME_UPPER" else total - total // 2
        result.append((low, total - low))
    return result


# ------------------------------------------------------------------------------------------------- normalisation


def _per_channel(vector: Value, x: Value) -> Value:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


@op("BatchNormalization")
def _batch_normalization(node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Value:
    gain = scale * lax.rsqrt(jnp.asarray(variance) + node.get("epsilon", 1e-5))
    return (x - _per_channel(mean, x)) * _per_channel(gain, x) + _per_channel(bias, x)


@op("LayerNormalization")
def _layer_normalization(node: Node, x: Value, scale: Value, bias: Value = None) -> Value:
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    y = _standardised(x, axes, node.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


@op("InstanceNormalization")
def _instance_normalization(node: Node, x: Value, scale: Value, bias: Value) -> Value:
    y = _standardised(x, tuple(range(2, x.ndim)), node.get("epsilon", 1e-5))
    return y * _per_channel(scale, x) + _per_channel(bias, x)


@op("GroupNormalization")
def _group_normalization(node: Node, x: Value, scale: Value, bias: Value) -> Value:
    groups = node.get("num_groups")
    grouped = x.reshape(x.shape[0], groups, -1)
    y = _standardised(grouped, (2,), node.get("epsilon", 1e-5))
    if node.opset < 21:  # a scale and a bias for every group
        return (y * _per_channel(scale, y) + _per_channel(bias, y)).reshape(x.shape)
    return y.reshape(x.shape) * _per_channel(scale, x) + _per_channel(bias, x)


def _standardised(x: Value, axes: tuple[int, ...], epsilon: float) -> Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + epsilon)
