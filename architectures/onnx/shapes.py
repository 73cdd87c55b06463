"""ONNX operators that move, copy and choose elements, and those that compute with sizes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from architectures.onnx.registry import Node, Value, ints, op


@op("Constant")
def _constant(node: Node) -> Value:
    from onnx import numpy_helper

    (name,) = node.attributes
    if name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        raise NotImplementedError(f"a constant as {name}")
    if name == "value":
        return np.array(numpy_helper.to_array(node.get(name)))
    return np.asarray(node.get(name), np.float32 if "float" in name else np.int64)


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
    axis, parts = node.get("axis", 0), node.get("num_outputs", node.outputs)
    given, size = node.get("split") if sizes is None else ints(sizes), x.shape[axis]
    if given is None:
        each = -(-size // parts)
        given = [each] * (parts - 1) + [size - each * (parts - 1)]
        if given[-1] < 0 or (each * parts != size and node.opset < 18):
            raise ValueError(f"{size} elements do not split into {parts} parts")
    if len(given) != node.outputs or sum(given) != size:
        raise ValueError(f"parts of {given} are not the {node.outputs} outputs of {size} elements")
    return tuple(jnp.split(x, np.cumsum(given)[:-1].tolist(), axis))


@op("Slice")
def _slice(
    node: Node, x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Value:
    given = {"starts": starts, "ends": ends, "axes": axes}
    if node.opset < 10:
        given = {name: node.get(name) for name in given}
    first, last = ints(given["starts"]), ints(given["ends"])
    chosen = list(range(len(first))) if given["axes"] is None else ints(given["axes"])
    stride = [1] * len(first) if steps is None else ints(steps)
    index = [slice(None)] * x.ndim
    for axis, low, high, step in zip(chosen, first, last, stride, strict=True):
        size = x.shape[axis]
        index[axis] = slice(max(low, -size), None if step < 0 and high < -size else high, step)
    return x[tuple(index)]


@op("Gather")
def _gather(node: Node, x: Value, indices: Value) -> Value:
    return jnp.take(x, indices, node.get("axis", 0))


@op("Pad")
def _pad(node: Node, x: Value, pads: Value = None, fill: Value = None, axes: Value = None) -> Value:
    if node.opset < 11:
        pads, fill = node.get("pads"), node.get("value", 0.0)
    amounts = ints(pads)
    chosen = list(range(x.ndim)) if axes is None else ints(axes)
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        widths[axis] = (amounts[i], amounts[i + len(chosen)])
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise NotImplementedError(f"padding in the mode {mode!r}")
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
