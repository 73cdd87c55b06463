"""Who owns a kernel: convolutions, matrix products and lookups, and products that turn out to have none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from architectures.trace.drafts import axis_roles
from architectures.trace.layout import gather_axes, mean_size
from architectures.trace.values import AxisRole, Entry, Lookup, Value

if TYPE_CHECKING:
    from architectures.trace.interpreter import Interpreter


def convolution(interpreter: Interpreter, equation: Any, values: list[Value], shape: tuple[int, ...]) -> Value:
    """`conv_general_dilated`: roles of the kernel's axes from the dimension numbers."""
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    kernel_roles: list[AxisRole] = ["space"] * len(values[1].shape)
    kernel_roles[numbers.rhs_spec[0]], kernel_roles[numbers.rhs_spec[1]] = "out", "in"
    data_roles: list[AxisRole] = ["space"] * len(values[0].shape)  # a convolution's kernel is its second operand
    spatial = [values[1].shape[axis] for axis in numbers.rhs_spec[2:]]
    transposed = max(parameters["lhs_dilation"], default=1) > 1
    strides = parameters["lhs_dilation"] if transposed else parameters["window_strides"]
    groups = max(parameters["feature_group_count"], parameters["batch_group_count"])
    if values[0].leaves and not values[0].is_data:  # a learned constant as input (StyleGAN)
        values = [Value(values[0].shape, interpreter.drafts.settle(values[0])), values[1]]
    return contract(
        interpreter,
        "conv_transpose" if transposed else "conv",
        (values[0], values[1]),
        (data_roles, kernel_roles),
        shape,
        channels_in=values[1].shape[numbers.rhs_spec[1]] * groups,
        channels_out=shape[numbers.out_spec[1]],
        kernel=mean_size(spatial),
        stride=mean_size(strides),
        groups=groups,
        dilation=mean_size(parameters["rhs_dilation"]),
    )


def product(interpreter: Interpreter, equation: Any, values: list[Value], shape: tuple[int, ...]) -> Value:
    """`dot_general`: what is contracted is the inputs, what both operands share is a stack of products."""
    roles = _product_roles(values, equation.params["dimension_numbers"])
    return contract(interpreter, "dense", (values[0], values[1]), (roles[0], roles[1]), shape)


def kernel_of(equation: Any, values: Sequence[Value]) -> int | None:
    """Which operand of a matrix product is a kernel out of a stack that data has chosen; None where none is."""
    roles = _product_roles(values, equation.params["dimension_numbers"])
    for side, (value, own) in enumerate(zip(values, roles, strict=True)):
        other = values[1 - side]
        if value.lookup is not None and _is_kernel(value, own) and other.is_data and other.lookup is None:
            return side
    return None


def ragged_product(interpreter: Interpreter, equation: Any, values: list[Value], shape: tuple[int, ...]) -> Value:
    """`ragged_dot_general`: rows in groups, each with a kernel of its own, as experts have."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    roles = _product_roles(values[:2], numbers.dot_dimension_numbers)
    for axis in numbers.rhs_group_dimensions:
        roles[1][axis] = "stack"
    return contract(interpreter, "dense", (values[0], values[1]), (roles[0], roles[1]), shape)


def _product_roles(values: Sequence[Value], numbers: Any) -> list[list[AxisRole]]:
    """Of the axes of both operands of a product, were they its kernel."""
    roles = []
    for value, contracted, batch in zip(values, *numbers, strict=True):
        kinds: list[AxisRole] = ["out"] * len(value.shape)
        for axis in contracted:
            kinds[axis] = "in"
        for axis in batch:
            kinds[axis] = "stack"
        roles.append(kinds)
    return roles


def gather(interpreter: Interpreter, equation: Any, values: list[Value], shape: tuple[int, ...]) -> Value:
    """`gather` and `dynamic_slice`: data looks up rows of parameters (an embedding), or constants index."""
    table, index = values[0], next((value for value in values[1:] if value.is_data), None)
    if table.parameters_only and index is not None:
        if "dimension_numbers" in equation.params:
            numbers = equation.params["dimension_numbers"]
            looked_up = set(numbers.start_index_map)
        else:  # dynamic_slice
            looked_up = {a for a, (old, new) in enumerate(zip(table.shape, shape, strict=True)) if old != new}
        roles: list[AxisRole] = ["in" if axis in looked_up else "out" for axis in range(len(table.shape))]
        lookup = Lookup(table, tuple(roles), index)
        matrices = sum(size > 1 for size, role in zip(table.shape, roles, strict=True) if role == "out") >= 2
        if roles[0] != "in" or "in" in roles[1:] or not matrices or "dimension_numbers" not in equation.params:
            return looked_up_rows(interpreter, lookup, shape)
        chosen = {}  # perhaps a kernel for every element, out of a stack: a product tells
        for ref, entry in table.leaves.items():
            inside = gather_axes(equation, ((), *entry.axes[1:]), len(shape))
            chosen[ref] = dataclasses.replace(entry, axes=inside, how="mul")
        return Value(shape, index.source, chosen, lookup=lookup)
    if not table.is_data and not table.leaves:
        return Value(shape, None if index is None else index.source, {}, frozenset() if index is None else index.marks)
    leaves = {
        ref: Entry(gather_axes(equation, entry.axes, len(shape)), entry.how, entry.offset, inner=entry.inner)
        for ref, entry in table.leaves.items()
    }
    return Value(shape, table.source, leaves, table.marks)


def looked_up_rows(interpreter: Interpreter, lookup: Lookup, shape: tuple[int, ...]) -> Value:
    """The output of an embedding."""
    table, roles = lookup.table, lookup.roles
    width = math.prod(size for size, role in zip(table.shape, roles, strict=True) if role == "out")
    rows = math.prod(size for size, role in zip(table.shape, roles, strict=True) if role == "in")
    inputs = [interpreter.drafts.settle(lookup.index)]
    node = interpreter.drafts.add("embedding", inputs, shape, channels_in=rows, channels_out=width)
    for ref, entry in table.leaves.items():
        if entry.inner:
            interpreter.drafts.own(node, ref, "factor", None, entry.offset)
        else:
            interpreter.drafts.own(node, ref, "embedding", axis_roles(entry, roles), entry.offset)
    return Value(shape, node)


def contract(
    interpreter: Interpreter,
    op: str,
    operands: tuple[Value, Value],
    roles: tuple[Sequence[AxisRole], Sequence[AxisRole]],
    shape: tuple[int, ...],
    **attributes: float,
) -> Value:
    """A convolution or matrix product: finds its kernel among two operands, gives it an owner.

    Args:
        interpreter: that walks.
        op: "conv", "conv_transpose" or "dense".
        operands: both of them; of two kernels the second (the larger, for a matrix product) is this node's.
        roles: what the axes of each are if it is the kernel.
        shape: of the result.
        attributes: of the node.
    """
    kernels = [i for i, (v, r) in enumerate(zip(operands, roles, strict=True)) if _is_kernel(v, r)]
    if not kernels:
        return _without_kernel(interpreter, op, operands, shape, attributes)
    alone = [i for i in kernels if operands[i].parameters_only]
    if len(alone) == 1:  # the other is data that was multiplied by parameters
        kernels = alone
    kernel = kernels[-1]
    if len(kernels) > 1 and op == "dense":
        copied = [_is_copied(operand) for operand in operands]  # learned queries, one for each of a batch
        first_is_larger = math.prod(operands[0].shape) > math.prod(operands[1].shape)
        kernel = 0 if (first_is_larger and copied == [False, False]) or copied == [False, True] else 1
    weight, data = operands[kernel], operands[1 - kernel]
    inputs: list[int] = []
    if data.is_data or data.leaves or "state" not in data.marks:
        inputs.append(interpreter.drafts.settle(data))
    if weight.source is not None:
        inputs.append(weight.source)
    outputs = math.prod(size for size, role in zip(weight.shape, roles[kernel], strict=True) if role == "out")
    contracted = math.prod(size for size, role in zip(weight.shape, roles[kernel], strict=True) if role == "in")
    attributes = {"channels_in": contracted * attributes.get("groups", 1), "channels_out": outputs, **attributes}
    node = interpreter.drafts.add(op, inputs, shape, **attributes)
    for ref, entry in weight.leaves.items():
        own = axis_roles(entry, roles[kernel])
        if not entry.inner and (_spans(entry, roles[kernel]) or len(weight.leaves) == 1):
            interpreter.drafts.own(node, ref, "kernel", own, entry.offset)
        else:
            interpreter.drafts.own(node, ref, "factor", None, entry.offset, multiplies=not entry.inner)
    return Value(shape, node)


def _without_kernel(
    interpreter: Interpreter,
    op: str,
    operands: tuple[Value, Value],
    shape: tuple[int, ...],
    attributes: dict[str, float],
) -> Value:
    """A product of data with data, or with a constant."""
    data = [value for value in operands if value.is_data or value.leaves]
    if not data:
        return Value(shape, marks=operands[0].marks | operands[1].marks)
    if len(data) == 1 and not (data[0].is_data and op != "dense"):
        (value,) = data
        if not value.is_data:  # parameters times a constant, such as the statistics of spectral normalisation
            return Value(shape, None, value.in_shape(shape).leaves, value.marks | operands[0].marks)
        value = interpreter.settled_parameters(interpreter.whole_stencil(value))
        marks = value.marks | {"reduce_batch"} if operands[1].is_data else value.marks
        return Value(shape, value.source, value.in_shape(shape).leaves, marks)
    inputs = [interpreter.drafts.settle(value) for value in data]
    if op == "dense":
        op = "attend" if any(interpreter.drafts.nodes[i].op == "softmax" for i in inputs) else "matmul"
        attributes = {}
    elif len(data) == 1:
        op, attributes = "avg_pool", {key: attributes[key] for key in ("kernel", "stride")}
    return Value(shape, interpreter.drafts.add(op, inputs, shape, **attributes))


def _is_copied(value: Value) -> bool:
    """Whether a value without data was broadcast along an axis."""
    if not value.parameters_only:
        return False
    along = zip(value.shape, *(entry.axes for entry in value.leaves.values()), strict=True)
    return any(size > 1 and not any(axes) for size, *axes in along)


def _is_kernel(value: Value, roles: Sequence[AxisRole]) -> bool:
    if not value.leaves or ("in" not in roles and "out" not in roles):
        return False
    if value.source is None:
        return True
    return any(entry.how == "mul" and _spans(entry, roles) for entry in value.leaves.values())


def _spans(entry: Entry, roles: Sequence[AxisRole]) -> bool:
    """Whether a leaf varies along inputs and along outputs (or everything that varies is there)."""
    own = set(axis_roles(entry, roles).values())
    return {"in", "out"} <= own or ("space" in own and "out" in own)
