"""What equations do that are neither elementwise arithmetic nor kernels: pooling, reductions, joining, choosing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from architectures.trace import kernels, ops, products
from architectures.trace.drafts import op_since
from architectures.trace.layout import mean_size
from architectures.trace.values import Entry, Value, no_axes

if TYPE_CHECKING:
    from architectures.trace.interpreter import Interpreter

Values = list[Value]


def _product(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    waiting = products.waiting(equation, values, shape)
    return kernels.product(interpreter, equation, values, shape) if waiting is None else waiting


def _scatter(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    operand, updates = values[0], values[-1]
    if updates.is_data and not operand.is_data and not operand.leaves:
        return Value(shape, interpreter.drafts.add("aggregate", [interpreter.drafts.settle(updates)], shape))
    return interpreter.combine("mix", [operand, updates], shape)


def _pool(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    value = values[0]
    if not value.is_data:
        return value.in_shape(shape)
    parameters = equation.params
    window = parameters.get("window_dimensions") or parameters["window"]
    strides = parameters.get("window_strides") or (1,) * len(window)
    kernel, stride = (mean_size([size for size in sizes if size > 1]) for sizes in (window, strides))
    op = ops.POOLS[equation.primitive.name]
    return Value(
        shape, interpreter.drafts.add(op, [interpreter.drafts.settle(value)], shape, kernel=kernel, stride=stride)
    )


def _concatenate(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    data = [value for value in values if value.is_data]
    others = [value for value in values if not value.is_data]
    sources = {value.source for value in data}
    same = {frozenset(value.leaves) for value in data}
    sizes = [math.prod(interpreter.drafts.nodes[value.source].shape) for value in data if value.source is not None]
    done = {op_since(value, size) for value, size in zip(data, sizes, strict=True)}  # [x, relu(x)] is two things
    if len(sources) <= 1 and not (data and (any(value.leaves for value in others) or len(same) > 1 or len(done) > 1)):
        leaves = {ref: entry for value in values for ref, entry in value.leaves.items()}
        marks = frozenset().union(*(value.marks for value in values))
        return Value(shape, data[0].source if data else None, leaves, marks)
    learned = [value for value in others if value.leaves]
    node = interpreter.drafts.add("concat", [interpreter.drafts.settle(value) for value in data], shape)
    interpreter.absorb(node, learned)
    return Value(shape, node)


def _reduce(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    value, axes = interpreter.whole_stencil(values[0]), equation.params["axes"]
    if value.is_data:
        value = interpreter.settled_parameters(value)
        size = math.prod(interpreter.drafts.nodes[value.source].shape) if value.source is not None else 0
        done = {mark for mark in value.marks if not mark.startswith(ops.PART)} - {"moved"}  # all tokens but the first
        pooled = equation.params["axes"] == (len(value.shape) - 1,) and done <= {"reduce_sum", "reduce_inner"}
        op = None if value.leaves else op_since(value, size)
        if op in ops.ACTIVATIONS - {"activation"} or (op == "global_avg_pool" and pooled):
            value = interpreter.drafts.settle_now(value)
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    leaves = {
        ref: Entry(tuple(e.axes[a] for a in kept), e.how, e.offset, inner=e.inner) for ref, e in value.leaves.items()
    }
    kind = {"reduce_sum": "reduce_sum", "reduce_max": "reduce_max"}.get(equation.primitive.name, "reduce_other")
    marks = {
        kind,
        "reduce_batch" if 0 in axes else "reduce_last" if axes == (len(value.shape) - 1,) else "reduce_inner",
    }
    if not value.is_data:
        marks = {"rows"} if axes == (len(value.shape) - 1,) else set()
    return Value(shape, value.source, leaves, value.marks | marks)


def _select(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    cases = [value for value in values[1:] if value.is_data or value.leaves]
    if cases:
        return interpreter.combine("select_n", cases, shape)
    return Value(shape, values[0].source, {}, values[0].marks)


def _dynamic_slice(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    if values[0].parameters_only and any(value.is_data for value in values[1:]):
        return kernels.gather(interpreter, equation, values, shape)
    return interpreter.view(equation, values[0], shape) if values[0].is_data or values[0].leaves else Value(shape)


def _first(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    """What matters is the first operand that is data or holds parameters."""
    chosen = next((value for value in values if value.is_data or value.leaves), values[0])
    if chosen.is_data:
        chosen = interpreter.settled_parameters(chosen)
    axes = {ref: entry.axes for ref, entry in chosen.leaves.items()}
    padded = chosen.viewed(
        shape, axes if len(shape) == len(chosen.shape) else {ref: no_axes(len(shape)) for ref in axes}
    )
    return padded.marked("moved", *ops.parts(equation)[0]) if chosen.is_data else padded


def _update_slice(interpreter: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    return interpreter.combine("mix", values[:2], shape)


HANDLERS: dict[str, Callable[[Interpreter, Any, Values, tuple[int, ...]], Value]] = {
    "conv_general_dilated": kernels.convolution,
    "dot_general": _product,
    "ragged_dot_general": kernels.ragged_product,
    "gather": kernels.gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "concatenate": _concatenate,
    "select_n": _select,
    "pad": _first,
    **dict.fromkeys(ops.REDUCTIONS, _reduce),
    **dict.fromkeys(ops.SCATTERS, _scatter),
    **dict.fromkeys(ops.POOLS, _pool),
}
