"""ONNX operators that move, copy and choose elements, and those that compute with sizes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from architectures.onnx.registry import Node, Value, ints, op


@op("Constant")
def _constant(node: Node) -> Value:
    from onnx import numpy_helper

    if "value" in node.attributes:
        return np.array(numpy_helper.to_array(node.get("value")))
    name, value = next(iter(node.attributes.items()))
    return np.asarray(value, np.float32 if "float" in name else np.int64)


@op("ConstantOfShape")
def _constant_of_shape(node: Node, shape: Value) -> Value:
    from onnx import numpy_helper

    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full(ints(shape), fill.reshape(()), fill.dtype)


@op("Shape")
def _shape(node: Node, x: Value) -> Value:
    return np.asarray(x.shape[node.get("start", 0) : node.get("end", None)], np.int64)


@op("Range")
def _range(node: Node, start: Value, limit: Value, delta: Value) -> Value:
    return np.arange(*(np.asarray(value).item() for value in (start, limit, delta)), dtype=np.asarray(start).dtype)


@op("Flatten")
def _flatten(node: Node, x: Value) -> Value:
    axis = node.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@op("Reshape")
def _reshape(node: Node, x: Value, shape: Value) -> Value:
    wanted = ints(shape)
    if not node.get("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


@op("Transpose")
def _transpose(node: Node, x: Value) -> Value:
    return jnp.transpose(x, node.get("perm"))


@op("Squeeze")
def _squeeze(node: Node, x: Value, axes: Value = None) -> Value:
    chosen = ints(axes) if axes is not None else node.get("axes")
    return jnp.squeeze(x, None if chosen is None else tuple(chosen))


@op("Unsqueeze")
def _unsqueeze(node: Node, x: Value, axes: Value = None) -> Value:
    return jnp.expand_dims(x, tuple(ints(axes) if axes is not None else node.get("axes")))


@op("Concat")
def _concat(node: Node, *inputs: Value) -> Value:
    return jnp.concatenate(inputs, node.get("axis"))


@op("Split")
def _split(node: Node, x: Value, sizes: Value = None) -> Value:
    axis = node.get("axis", 0)
    if sizes is None:
        each = -(-x.shape[axis] // node.get("num_outputs", node.outputs))
        ends = [each * i for i in range(1, node.outputs)]
    else:
        ends = np.cumsum(ints(sizes))[:-1].tolist()
    return tuple(jnp.split(x, ends, axis))


@op("Slice")
def _slice(node: Node, x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Value:
    first, last = ints(starts), ints(ends)
    chosen = list(range(len(first))) if axes is None else ints(axes)
    stride = [1] * len(first) if steps is None else ints(steps)
    index = [slice(None)] * x.ndim
    for axis, low, high, step in zip(chosen, first, last, stride, strict=True):
        index[axis] = slice(low, None if step < 0 and high < -x.shape[axis] else high, step)
    return x[tuple(index)]


@op("Gather")
def _gather(node: Node, x: Value, indices: Value) -> Value:
    return jnp.take(x, indices, node.get("axis", 0))


@op("Pad")
def _pad(node: Node, x: Value, pads: Value, fill: Value = None, axes: Value = None) -> Value:
    amounts = ints(pads)
    chosen = list(range(x.ndim)) if axes is None else ints(axes)
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        widths[axis] = (amounts[i], amounts[i + len(chosen)])
    mode = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}[node.get("mode", "constant")]
    if mode != "constant":
        return jnp.pad(x, widths, mode=mode)
    return jnp.pad(x, widths, constant_values=0 if fill is None else fill)


@op("Expand")
def _expand(node: Node, x: Value, shape: Value) -> Value:
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(ints(shape))))


@op("Tile")
def _tile(node: Node, x: Value, repeats: Value) -> Value:
    return jnp.tile(x, ints(repeats))


@op("DepthToSpace")
def _depth_to_space(node: Node, x: Value) -> Value:
    b, c, h, w = x.shape
    n = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(b, n, n, c // n**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(b, c // n**2, n, n, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(b, c // n**2, h * n, w * n)


@op("Resize")
def _resize(node: Node, x: Value, roi: Value = None, scales: Value = None, sizes: Value = None) -> Value:
    if node.get("mode", "nearest") != "nearest":
        raise NotImplementedError("Resize other than nearest")
    shape = ints(sizes) if sizes is not None else [int(s * f) for s, f in zip(x.shape, np.asarray(scales), strict=True)]
    factors = [new / old for new, old in zip(shape, x.shape, strict=True)]
    if any(factor != int(factor) for factor in factors):
        raise NotImplementedError("Resize by other than whole factors")
    for axis, factor in enumerate(factors):
        x = jnp.repeat(x, int(factor), axis) if factor > 1 else x
    return x
