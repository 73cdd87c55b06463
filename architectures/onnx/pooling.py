"""ONNX operators that pool windows and reduce axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.onnx.layers import window_padding
from architectures.onnx.registry import OPS, Node, Operator, Value, ints, op


def _windows(node: Node, x: Value) -> tuple[list[tuple[int, int]], list[int], Callable[..., tuple[Any, ...]]]:
    """Padding, what rounding up adds behind it, and the arguments of `reduce_window` for a padding."""
    rank = x.ndim - 2
    kernel = node.get("kernel_shape")
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    padding = window_padding(node, x.shape[2:], kernel, strides, dilations)
    beyond = [0] * rank
    if node.get("ceil_mode", 0):
        for i, (low, high) in enumerate(padding):
            room = x.shape[2 + i] + low + high - (kernel[i] - 1) * dilations[i] - 1
            last = -(-room // strides[i]) * strides[i]
            if last < x.shape[2 + i] + low:  # a window that would begin behind the image is none
                beyond[i] = last - room

    def arguments(padding: list[tuple[int, int]]) -> tuple[Any, ...]:
        return (1, 1, *kernel), (1, 1, *strides), ((0, 0), (0, 0), *padding), (1, 1, *[1] * rank), (1, 1, *dilations)

    return padding, beyond, arguments


def _beyond(padding: list[tuple[int, int]], beyond: list[int]) -> list[tuple[int, int]]:
    return [(low, high + more) for (low, high), more in zip(padding, beyond, strict=True)]


@op("MaxPool")
def _max_pool(node: Node, x: Value) -> Value:
    padding, beyond, arguments = _windows(node, x)
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min
    return lax.reduce_window(x, np.asarray(lowest, x.dtype), lax.max, *arguments(_beyond(padding, beyond)))


@op("AveragePool")
def _average_pool(node: Node, x: Value) -> Value:
    padding, beyond, arguments = _windows(node, x)
    zero, whole = np.zeros((), x.dtype), _beyond(padding, beyond)
    pooled = lax.reduce_window(x, zero, lax.add, *arguments(whole))
    counted = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    if node.get("count_include_pad", 0):
        if not any(beyond):
            return pooled / np.prod(node.get("kernel_shape"))
        counted = jnp.pad(counted, ((0, 0), (0, 0), *padding), constant_values=1)
        whole = [(0, more) for more in beyond]
    return pooled / lax.reduce_window(counted, zero, lax.add, *arguments(whole))


@op("GlobalAveragePool")
def _global_average_pool(node: Node, x: Value) -> Value:
    return jnp.mean(x, tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalMaxPool")
def _global_max_pool(node: Node, x: Value) -> Value:
    return jnp.max(x, tuple(range(2, x.ndim)), keepdims=True)


def _reduce(function: Callable[..., Array]) -> Operator:
    def run(node: Node, x: Value, axes: Value = None) -> Value:
        chosen = ints(axes) if axes is not None else node.get("axes") or []
        unnamed = () if node.get("noop_with_empty_axes", 0) else None
        return function(x, axis=tuple(chosen) or unnamed, keepdims=bool(node.get("keepdims", 1)))

    return run


OPS.update(
    {"ReduceMean": _reduce(jnp.mean), "ReduceSum": _reduce(jnp.sum), "ReduceMax": _reduce(jnp.max)}
    | {"ReduceMin": _reduce(jnp.min), "ReduceProd": _reduce(jnp.prod)}
    | {"ReduceL2": _reduce(lambda x, **axes: jnp.sqrt(jnp.sum(jnp.square(x), **axes)))}
)


@op("ArgMax")
def _argmax(node: Node, x: Value) -> Value:
    return jnp.argmax(x, node.get("axis", 0), keepdims=bool(node.get("keepdims", 1)))
