"""Watching the inside of any JAX function: its trace is run again, equation by equation, and shown to an observer.

A ReLU is a maximum with the constant 0 (`jax.nn.relu` is one inside); a block's output is what the function marks with
`jax.ad_checkpoint.checkpoint_name(x, "block")`, which costs nothing when nobody watches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

BLOCK = "block"
Watched = Callable[[JaxprEqn], bool]
Operands = Sequence[Any]
Show = Callable[..., Array]  # (operands, value of a watched equation) -> what takes the value's place


def is_relu(equation: JaxprEqn) -> bool:
    """Whether an equation is the maximum of something and 0."""
    return equation.primitive.name == "max" and relu_operand(equation) is not None


def relu_operand(equation: JaxprEqn) -> int | None:
    """Which operand of a maximum is compared with 0."""
    for place, operand in enumerate(equation.invars):
        if isinstance(operand, Literal) and np.ndim(operand.val) == 0 and operand.val == 0:
            return 1 - place
    return None


def is_block(equation: JaxprEqn) -> bool:
    """Whether an equation marks the output of a block."""
    return equation.primitive.name == "name" and equation.params["name"] == BLOCK


def watch(function: Callable[..., Any], watched: Watched, show: Show, *arguments: Any) -> Any:
    """`function(*arguments)`, with `show(operands, value)` called for every watched equation in order.

    Args:
        function: any traceable function.
        watched: which equations.
        show: gets the operands' values and the equation's own; what it returns takes the place of that.
        arguments: of the function.

    Raises:
        ValueError: a watched equation inside a loop or branch whose course depends on data.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    flat = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), watched, show)
    return jax.tree.unflatten(jax.tree.structure(shape), flat)


def _run(jaxpr: Jaxpr, consts: Operands, arguments: Operands, watched: Watched, show: Show) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    for equation in jaxpr.eqns:
        operands = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        results = _step(equation, operands, watched, show)
        values.update(zip(equation.outvars, results, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


def _step(equation: JaxprEqn, operands: Operands, watched: Watched, show: Show) -> Sequence[Any]:
    if watched(equation):
        return [show(operands, *_bind(equation, operands))]
    inner = list(_inner(equation))
    if not any(_holds(jaxpr.jaxpr, watched) for jaxpr in inner):
        return _bind(equation, operands)
    if equation.primitive.name == "scan":
        return _unrolled(equation, operands, watched, show)
    if equation.primitive.name in ("while", "cond"):
        raise ValueError(
            f"apply: a ReLU or a block lies inside a {equation.primitive.name!r}, whose course depends on data; "
            "write it as ordinary Python or as a scan"
        )
    if len(inner) != 1:
        raise ValueError(f"apply: cannot look into {equation.primitive.name!r}, which holds a ReLU or a block")
    return _run(inner[0].jaxpr, inner[0].consts, operands, watched, show)


def _bind(equation: JaxprEqn, operands: Operands) -> list[Any]:
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def _unrolled(equation: JaxprEqn, operands: Operands, watched: Watched, show: Show) -> list[Any]:
    """A scan, step by step."""
    params, body = equation.params, equation.params["jaxpr"]
    consts, carry = params["num_consts"], params["num_carry"]
    state, rows = list(operands[consts : consts + carry]), operands[consts + carry :]
    outputs: list[list[Any]] = []
    steps = range(params["length"])
    for step in reversed(steps) if params["reverse"] else steps:
        arguments = [*operands[:consts], *state, *(row[step] for row in rows)]
        results = _run(body.jaxpr, body.consts, arguments, watched, show)
        state = results[:carry]
        outputs.append(results[carry:])
    ordered = outputs[::-1] if params["reverse"] else outputs
    return [*state, *(jax.numpy.stack(column) for column in zip(*ordered, strict=True))]


def _inner(equation: JaxprEqn) -> Iterator[ClosedJaxpr]:
    """The programs that an equation holds."""
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr):
            yield value
        elif isinstance(value, Jaxpr):
            yield ClosedJaxpr(value, ())


def equations(jaxpr: Jaxpr) -> Iterator[tuple[JaxprEqn, int]]:
    """Every equation, those inside others included, and how often it runs (a loop of unknown length: once)."""
    for equation in jaxpr.eqns:
        yield equation, 1
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation):
            yield from ((deeper, times * count) for deeper, count in equations(inner.jaxpr))


def _holds(jaxpr: Jaxpr, watched: Watched) -> bool:
    return any(watched(equation) for equation, _ in equations(jaxpr))


def macs(jaxpr: Jaxpr) -> int:
    """Multiply-accumulates of all convolutions and matrix products."""
    total = 0
    for equation, times in equations(jaxpr):
        shapes: list[tuple[int, ...]] = [variable.aval.shape for variable in equation.invars]  # type: ignore[attr-defined]
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0  # type: ignore[attr-defined]
        if equation.primitive.name == "conv_general_dilated":
            total += (
                times * outputs * math.prod(shapes[1]) // shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            )
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += times * outputs * math.prod(shapes[0][axis] for axis in contracted)
    return total
