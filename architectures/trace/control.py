"""Loops and branches: scans over layers are unrolled, scans over time are walked once with shared weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from architectures.trace.values import Entry, LeafRef, Value, no_axes, union

if TYPE_CHECKING:
    from architectures.trace.interpreter import Interpreter

MOST_UNROLLED = 512  # iterations of a scan that slices parameters; a longer one shares its leaves


def run_scan(interpreter: Interpreter, equation: Any, values: list[Value]) -> list[Value]:
    """A scan. Parameters that are scanned over are one layer an iteration; those that are not are shared over time."""
    parameters = equation.params
    closed, length = parameters["jaxpr"], parameters["length"]
    consts, carries = parameters["num_consts"], parameters["num_carry"]
    shared, carry, scanned = values[:consts], values[consts : consts + carries], values[consts + carries :]
    order = range(length)[::-1] if parameters["reverse"] else range(length)
    if any(value.leaves for value in scanned) and length <= MOST_UNROLLED:
        stacked: list[list[Value]] = []
        for index in order:
            outputs = interpreter.closed(closed, [*shared, *carry, *(_sliced(value, index) for value in scanned)])
            carry, rows = outputs[:carries], outputs[carries:]
            stacked.append(rows)
        columns = [_stacked(interpreter, list(rows), length) for rows in zip(*stacked, strict=True)] if stacked else []
        return [*carry, *columns]
    carry = _entered(interpreter, _reached(closed.jaxpr, [*shared, *carry, *scanned], consts, carries), carry)
    outputs = interpreter.closed(closed, [*shared, *carry, *(_sliced(value, None) for value in scanned)])
    _hand_on(interpreter, carry, outputs)
    rows = [_wider(value, length) for value in outputs[carries:]]
    return [*outputs[:carries], *rows]


def run_while(interpreter: Interpreter, equation: Any, values: list[Value]) -> list[Value]:
    """A loop of unknown length: its body is walked once."""
    parameters = equation.params
    of_condition, of_body = parameters["cond_nconsts"], parameters["body_nconsts"]
    shared, carry = values[of_condition : of_condition + of_body], values[of_condition + of_body :]
    body = parameters["body_jaxpr"]
    carry = _entered(interpreter, _reached(body.jaxpr, [*shared, *carry], of_body, len(carry)), carry)
    outputs = interpreter.closed(body, [*shared, *carry])
    _hand_on(interpreter, carry, outputs)
    return outputs


def run_cond(interpreter: Interpreter, equation: Any, values: list[Value]) -> list[Value]:
    """A choice: every branch is walked, and what they return is one of several."""
    branches = [interpreter.closed(branch, values[1:]) for branch in equation.params["branches"]]
    return [_stacked(interpreter, list(outcomes), None) for outcomes in zip(*branches, strict=True)]


def _sliced(value: Value, index: int | None) -> Value:
    """One iteration's slice of what is scanned over: of a parameter its own part, if the axis is the leaf's first."""
    shape = value.shape[1:]
    leaves: dict[LeafRef, Entry] = {}
    for ref, entry in value.leaves.items():
        leading = len(ref.part)
        if index is not None and entry.axes[0] == (leading,) and (leading,) not in entry.axes[1:]:
            ref = LeafRef(ref.index, (*ref.part, index))
        leaves[ref] = dataclasses.replace(entry, axes=entry.axes[1:])
    return dataclasses.replace(value, shape=shape, leaves=leaves)


def _wider(value: Value, length: int) -> Value:
    leaves = {ref: dataclasses.replace(entry, axes=((), *entry.axes)) for ref, entry in value.leaves.items()}
    return dataclasses.replace(value, shape=(length, *value.shape), leaves=leaves)


def _stacked(interpreter: Interpreter, values: list[Value], length: int | None) -> Value:
    """Values of several iterations (or branches) as one."""
    shape = values[0].shape if length is None else (length, *values[0].shape)
    data = [value for value in values if value.is_data]
    if len({value.source for value in data}) <= 1:
        leaves: dict[LeafRef, Entry] = {}
        for value in values:
            for ref, entry in value.leaves.items():
                old = leaves.get(ref, Entry(no_axes(len(entry.axes)), entry.how, entry.offset))
                leaves[ref] = dataclasses.replace(
                    entry, axes=tuple(union(pair) for pair in zip(old.axes, entry.axes, strict=True))
                )
        marks = frozenset().union(*(value.marks for value in values))
        joined = Value(values[0].shape, data[0].source if data else None, leaves, marks)
        return joined if length is None else _wider(joined, length)
    node = interpreter.drafts.add("mix", [interpreter.drafts.settle(value) for value in data], shape)
    for value in values:
        if not value.is_data:
            for ref, entry in value.leaves.items():
                interpreter.drafts.own_elementwise(node, ref, entry)
    return Value(shape, node)


def _entered(interpreter: Interpreter, reached: Sequence[bool], carry: Sequence[Value]) -> list[Value]:
    """The carries as the body sees them after some iterations: nodes where data gets into them."""
    result = []
    for is_reached, value in zip(reached, carry, strict=True):
        if not is_reached or len(value.shape) == 0:
            result.append(value)
            continue
        node = interpreter.drafts.add("carry", [interpreter.drafts.settle(value)] if value.is_data else [], value.shape)
        if not value.is_data:
            for ref, entry in value.leaves.items():
                interpreter.drafts.own_elementwise(node, ref, entry)
        result.append(Value(value.shape, node))
    return result


def _hand_on(interpreter: Interpreter, carry: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Notes in the nodes of carries what they are in the next iteration."""
    for value, output in zip(carry, outputs, strict=False):
        if value.source is not None and output.source is not None:
            node = interpreter.drafts.nodes[value.source]
            if node.op == "carry" and output.source > value.source:
                node.again = output.source


def _reached(jaxpr: Any, values: Sequence[Value], consts: int, carries: int) -> list[bool]:
    """Which carries depend on data after enough iterations: a zero initial carry is not a constant.

    Data (and parameters) flow from body inputs to body outputs; the carries are iterated to a fixpoint.
    """
    live = [value.is_data or bool(value.leaves) for value in values]
    while True:
        outputs = _flow(jaxpr, live)[:carries]
        merged = [old or new for old, new in zip(live[consts : consts + carries], outputs, strict=True)]
        if merged == live[consts : consts + carries]:
            return merged
        live[consts : consts + carries] = merged


def _flow(jaxpr: Any, live: Sequence[bool]) -> list[bool]:
    """Which outputs of a jaxpr depend on its live inputs, taking every equation as a whole."""
    reached = {var for var, is_live in zip(jaxpr.invars, live, strict=True) if is_live}
    for equation in jaxpr.eqns:
        if any(_hashable_in(atom, reached) for atom in equation.invars):
            reached.update(equation.outvars)
    return [_hashable_in(atom, reached) for atom in jaxpr.outvars]


def _hashable_in(atom: Any, reached: set[Any]) -> bool:
    return not hasattr(atom, "val") and atom in reached
