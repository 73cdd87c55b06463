"""ONNX operators of layers: products and convolutions, normalisation, pooling, reductions.

Layouts are ONNX's own: images [B, C, *spatial], kernels [O, I / groups, *spatial].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.onnx.registry import OPS, Node, Operator, Value, ints, op


@op("Gemm")
def _gemm(node: Node, a: Value, b: Value, c: Value = None) -> Value:
    product = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    product = product if node.get("alpha", 1.0) == 1 else node.get("alpha") * product
    if c is None:
        return product
    return product + (c if node.get("beta", 1.0) == 1 else node.get("beta") * c)


@op("Conv")
def _conv(node: Node, x: Value, kernel: Value, bias: Value = None) -> Value:
    rank = x.ndim - 2
    strides = node.get("strides", [1] * rank)
    dilations = node.get("dilations", [1] * rank)
    padding = _padding(node, x.shape[2:], kernel.shape[2:], strides, dilations)
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
    pads, extra = node.get("pads", [0] * 2 * rank), node.get("output_padding", [0] * rank)
    reach = [(size - 1) * dilation for size, dilation in zip(kernel.shape[2:], dilations, strict=True)]
    padding = [(reach[i] - pads[i], reach[i] - pads[i + rank] + extra[i]) for i in range(rank)]
    flipped = jnp.flip(kernel, tuple(range(2, 2 + rank)))
    y = lax.conv_general_dilated(
        x, flipped, [1] * rank, padding, strides, dilations, dimension_numbers=_layout(rank, "IO")
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _layout(rank: int, kernel: str) -> tuple[str, str, str]:
    spatial = "DHW"[-rank:]
    return f"NC{spatial}", f"{kernel}{spatial}", f"NC{spatial}"


def _padding(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(low, high) of every spatial axis."""
    rank, auto = len(sizes), node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = node.get("pads", [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
        return [(pads[i], pads[i + rank]) for i in range(rank)]
    result = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
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
    y = _standardised(grouped, (2,), node.get("epsilon", 1e-5)).reshape(x.shape)
    return y * _per_channel(scale, x) + _per_channel(bias, x)


def _standardised(x: Value, axes: tuple[int, ...], epsilon: float) -> Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + epsilon)


# ------------------------------------------------------------------------------------------ pooling and reduction


def _pool(node: Node, x: Value, initial: float, function: Callable[..., Array], counted: bool) -> Array:
    rank = x.ndim - 2
    kernel = node.get("kernel_shape")
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    padding = _padding(node, x.shape[2:], kernel, strides, dilations)
    if node.get("ceil_mode", 0):  # windows that begin inside the image count, the rest of them is outside
        padding = [
            (low, high + (-(size + low + high - (extent - 1) * dilation - 1)) % stride)
            for (low, high), size, extent, stride, dilation in zip(
                padding, x.shape[2:], kernel, strides, dilations, strict=True
            )
        ]
    window = ((1, 1, *kernel), (1, 1, *strides), ((0, 0), (0, 0), *padding), (1, 1, *[1] * rank), (1, 1, *dilations))
    pooled = lax.reduce_window(x, np.asarray(initial, x.dtype), function, *window)
    if not counted:
        return pooled
    if node.get("count_include_pad", 0) and not node.get("ceil_mode", 0):
        return pooled / np.prod(kernel)
    inside = lax.reduce_window(jnp.ones((1, 1, *x.shape[2:]), x.dtype), np.zeros((), x.dtype), function, *window)
    return pooled / inside


@op("MaxPool")
def _max_pool(node: Node, x: Value) -> Value:
    return _pool(node, x, -np.inf, lax.max, counted=False)


@op("AveragePool")
def _average_pool(node: Node, x: Value) -> Value:
    return _pool(node, x, 0.0, lax.add, counted=True)


@op("GlobalAveragePool")
def _global_average_pool(node: Node, x: Value) -> Value:
    return jnp.mean(x, tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalMaxPool")
def _global_max_pool(node: Node, x: Value) -> Value:
    return jnp.max(x, tuple(range(2, x.ndim)), keepdims=True)


def _reduce(function: Callable[..., Array]) -> Operator:
    def run(node: Node, x: Value, axes: Value = None) -> Value:
        chosen = ints(axes) if axes is not None else node.get("axes")
        if not chosen and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, axis=tuple(chosen) if chosen else None, keepdims=bool(node.get("keepdims", 1)))

    return run


OPS.update(
    {"ReduceMean": _reduce(jnp.mean), "ReduceSum": _reduce(jnp.sum), "ReduceMax": _reduce(jnp.max)}
    | {"ReduceMin": _reduce(jnp.min), "ReduceProd": _reduce(jnp.prod)}
    | {"ReduceL2": _reduce(lambda x, **axes: jnp.sqrt(jnp.sum(jnp.square(x), **axes)))}
)


@op("ArgMax")
def _argmax(node: Node, x: Value) -> Value:
    return jnp.argmax(x, node.get("axis", 0), keepdims=bool(node.get("keepdims", 1)))
