"""Matrices that are made of parameters, by a product or by a lookup: what they are shows only where they are used.

    x @ (w + a @ b)     an addition to a kernel: a and b are factors of it
    x @ (a @ b)         two kernels, one after the other
    attend(q @ w, ...)  a learned constant that goes through a layer, as any other

    x @ w[i]            one of many kernels
    x + w[i]            a row of a table

So such a value waits (`Value.product`, `Value.lookup`) until an operation is met that tells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from architectures.trace.kernels import contract, kernel_of, looked_up_rows, product
from architectures.trace.layout import view_axes
from architectures.trace.values import AxisRole, Product, Value

if TYPE_CHECKING:
    from architectures.trace.interpreter import Interpreter

SAME = frozenset(["convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision", "sharding_constraint"])
LAYOUTS = frozenset(["transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim"])


def waiting(equation: Any, values: Sequence[Value], shape: tuple[int, ...]) -> Value | None:
    """The product of two matrices without data, which waits for its use; None for any other product."""
    (contracted, batch) = equation.params["dimension_numbers"]
    matrices = all(value.parameters_only and len(value.shape) == 2 for value in values)
    if not matrices or any(map(len, batch)) or any(len(axes) != 1 for axes in contracted):
        return None
    inner = contracted[0][0], contracted[1][0]
    leaves = {}
    for side, value in enumerate(values):
        for ref, entry in value.leaves.items():
            outer = entry.axes[1 - inner[side]]
            leaves[ref] = dataclasses.replace(entry, axes=((), outer) if side else (outer, ()), inner=True)
    return Value(shape, None, leaves, product=Product((values[0], values[1]), inner))


def carried(interpreter: Interpreter, equation: Any, values: Sequence[Value], shape: tuple[int, ...]) -> Value | None:
    """What an operation makes of products that wait; None if they are to be made into nodes first."""
    name = equation.primitive.name
    if any(value.lookup is not None for value in values):
        return _chosen(interpreter, equation, values, shape)
    waits = next(value for value in values if value.product is not None)
    others = [value for value in values if value is not waits]
    if name in SAME:
        return dataclasses.replace(waits, shape=shape)
    if name in LAYOUTS:
        return _viewed(equation, waits, shape)
    if name in ("mul", "div", "neg") and waits.shape == shape:
        return waits if not any(value.is_data or value.leaves for value in others) else None
    if len(others) != 1:
        return None
    (other,) = others
    if name in ("add", "add_any", "sub") and _is_matrix_like(waits, other):
        return interpreter.combine(name, [dataclasses.replace(waits, product=None), other], shape)
    if name == "dot_general":
        again = waiting(equation, values, shape)
        return again if again is not None or not other.is_data else _one_after_the_other(interpreter, equation, values)
    return None


def made(interpreter: Interpreter, value: Value) -> Value:
    """A product that has waited, as the output of a layer whose input is a learned constant."""
    if value.lookup is not None:
        if value.lookup not in interpreter.lookups:
            interpreter.lookups[value.lookup] = looked_up_rows(interpreter, value.lookup, value.shape)
        return Value(value.shape, interpreter.lookups[value.lookup].source)
    if value.product is None:
        return value
    operands, inner = value.product.operands, value.product.inner
    if operands not in interpreter.products:
        sizes = [operand.shape[1 - axis] for operand, axis in zip(operands, inner, strict=True)]
        first, second = (made(interpreter, operand) for operand in operands)
        output = contract(interpreter, "dense", (first, second), (_roles(inner[0]), _roles(inner[1])), tuple(sizes))
        interpreter.products[operands] = output
    return Value(value.shape, interpreter.products[operands].source)


def _roles(inner: int) -> list[AxisRole]:
    """Of the axes of a matrix, of which one is contracted."""
    return ["in", "out"] if inner == 0 else ["out", "in"]


def _viewed(equation: Any, value: Value, shape: tuple[int, ...]) -> Value:
    assert value.product is not None
    axes = {ref: view_axes(equation, entry.axes, value.shape, shape) for ref, entry in value.leaves.items()}
    turned = equation.primitive.name == "transpose" and value.product.is_matrix
    product = dataclasses.replace(value.product, flipped=turned != value.product.flipped, is_matrix=turned)
    return dataclasses.replace(value.viewed(shape, axes), product=product)


def _chosen(interpreter: Interpreter, equation: Any, values: Sequence[Value], shape: tuple[int, ...]) -> Value | None:
    """What an operation makes of matrices that data has chosen from a stack: experts, where data is multiplied by them
    (unless their rows have been looked up before)."""
    name = equation.primitive.name
    if name in SAME | LAYOUTS:
        return interpreter.view(equation, values[0], shape)
    side = kernel_of(equation, values) if name == "dot_general" else None
    if side is None or values[side].lookup in interpreter.lookups:
        return None
    plain = [dataclasses.replace(value, lookup=None) for value in values]
    other = made(interpreter, values[1 - side])
    return product(interpreter, equation, [plain[0], other] if side == 0 else [other, plain[1]], shape)


def _is_matrix_like(product: Value, other: Value) -> bool:
    """Whether another value is what a product of parameters is an addition to: of its shape, varying along two axes,
    and none of its own operands (as in a residual connection)."""
    if not other.parameters_only or other.product is not None or other.shape != product.shape:
        return False
    if set(other.leaves) & set(product.leaves):
        return False
    sizes = [
        sum(bool(axes) and size > 1 for axes, size in zip(entry.axes, other.shape, strict=True))
        for entry in other.leaves.values()
    ]
    return max(sizes) >= 2


def _one_after_the_other(interpreter: Interpreter, equation: Any, values: Sequence[Value]) -> Value | None:
    """Data times a product of kernels: a layer for each. The very output of a layer is taken for keys, which learned
    queries are compared with."""
    ((of_first, of_second), batch) = equation.params["dimension_numbers"]
    side = 0 if values[0].product is not None else 1
    data, value = values[1 - side], values[side]
    assert value.product is not None and data.source is not None
    axes, (axis, *more) = ((of_second, of_first)[side], (of_first, of_second)[side])
    keys = interpreter.drafts.nodes[data.source].op == "dense" and not (data.marks or data.leaves)
    if any(map(len, batch)) or more or not value.product.is_matrix or keys:
        return None
    roles: list[AxisRole] = ["in" if place in axes else "out" for place in range(len(data.shape))]
    rest = tuple(size for place, size in enumerate(data.shape) if place not in axes)
    outputs = value.shape[1 - axis]
    result = _chain(interpreter, data, roles, value, axis, rest)
    return dataclasses.replace(result, shape=(*rest, outputs) if side else (outputs, *rest))


def _chain(
    interpreter: Interpreter, data: Value, roles: list[AxisRole], value: Value, axis: int, rest: tuple[int, ...]
) -> Value:
    """Data times a matrix along one of its axes, layer by layer; `rest` are the sizes of data that stay."""
    if value.product is None or not value.product.is_matrix:
        kernel = made(interpreter, value)
        return contract(interpreter, "dense", (data, kernel), (roles, _roles(axis)), (*rest, kernel.shape[1 - axis]))
    near = 1 - axis if value.product.flipped else axis
    operands, inner = value.product.operands, value.product.inner
    between = _chain(interpreter, data, roles, operands[near], 1 - inner[near], rest)
    outer: list[AxisRole] = ["out"] * len(rest)
    return _chain(interpreter, between, [*outer, "in"], operands[1 - near], inner[1 - near], rest)
