"""Moments of what an initialiser returns, read off its jaxpr: nothing is drawn or computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

TRUNCATED = 0.879_625_66  # deviation of a normal distribution that is cut at two deviations


class Moments(NamedTuple):
    """Of the values of a leaf.

    Attributes:
        mean, deviation: over the leaf.
        sampled: values that they were estimated from; 0 where they are exact.
        draw: "normal", "truncated" (at two deviations of the normal), "uniform", "rotation" (columns of an orthogonal
            matrix), "sign", "mask" (0 and one other number) or "structure" (no draw: equal rows, a grid, one number in
            many places, a formula as of waves), where that is known; "" for others.
    """

    mean: float
    deviation: float
    sampled: int = 0
    draw: str = ""


_PASSED = frozenset(
    [
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "convert_element_type",
        "squeeze",
        "copy",
        "copy_p",
        "slice",
        "stop_gradient",
        "rev",
        "sharding_constraint",
        "reduce_precision",
        "optimization_barrier",
    ]
)
_RANDOM = ("random_", "rng_", "threefry")  # begin the names of what draws
_NUMBERS: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else math.nan,
    "max": max,
    "min": min,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "sqrt": lambda a: math.sqrt(a),
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "exp": math.exp,
    "log": math.log,
}


def moments_of(jaxpr: Any, arguments: Sequence[Moments | None]) -> list[Moments | None]:
    """Moments of the outputs; only equations that they depend on are looked at."""
    needed: set[Any] = {atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal)}
    used = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            used.append(equation)
            needed.update(atom for atom in equation.invars if not isinstance(atom, jex.Literal))
    known: dict[Any, Moments | None] = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Moments | None:
        if not isinstance(atom, jex.Literal):
            return known.get(atom)
        is_real = np.ndim(atom.val) == 0 and np.isreal(atom.val)  # also of complex type, whose `float` is an error
        return Moments(float(np.real(atom.val)), 0.0) if is_real else None

    for equation in reversed(used):
        known.update(zip(equation.outvars, _equation(equation, [read(atom) for atom in equation.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def written_down(jaxpr: Any) -> list[bool]:
    """Whether each output is computed from numbers alone: from no draw, no input, and no array from elsewhere (which
    may be drawn, or trained)."""
    foreign = {*jaxpr.invars, *jaxpr.constvars}

    def is_foreign(atom: Any) -> bool:
        return np.ndim(atom.val) > 0 if isinstance(atom, jex.Literal) else atom in foreign

    for equation in jaxpr.eqns:
        if any(map(is_foreign, equation.invars)) or _draws(equation):
            foreign.update(equation.outvars)
    return [not is_foreign(atom) for atom in jaxpr.outvars]


def _draws(equation: Any) -> bool:
    """Whether an equation, or one inside it, draws random numbers or reads an array from elsewhere."""
    if equation.primitive.name.startswith(_RANDOM):
        return True
    parts = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: hasattr(part, "jaxpr"))
    opened: list[Any] = [getattr(part, "jaxpr", part) for part in parts]
    inner = [part for part in opened if hasattr(part, "eqns")]
    return any(part.constvars or any(map(_draws, part.eqns)) for part in inner)


def _equation(equation: Any, values: list[Moments | None]) -> Sequence[Moments | None]:
    name, parameters = equation.primitive.name, equation.params
    unknown: list[Moments | None] = [None] * len(equation.outvars)
    drawn = _drawn(str(parameters.get("name", "")), values)
    if drawn is not None and len(unknown) == 1:
        return [drawn]
    if name == "scan":
        consts, carries = parameters["num_consts"], parameters["num_carry"]
        start = [*values[:consts], *[None] * carries, *values[consts + carries :]]
        outputs = moments_of(parameters["jaxpr"].jaxpr, start)
        return [*[None] * carries, *outputs[carries:]]
    inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if inner is not None and len(getattr(inner, "invars", ())) == len(values):
        return moments_of(inner, values)
    if name in _PASSED:
        return values[: len(unknown)]
    if name == "qr":  # the columns of its first result have length 1
        return [Moments(0.0, equation.outvars[0].aval.shape[-2] ** -0.5, draw="rotation"), *unknown[1:]]
    if name == "sign":
        return [Moments(0.0, 1.0, draw="sign")]
    if None in values or not values or len(unknown) > 1:
        return unknown
    present = [value for value in values if value is not None]
    if name == "concatenate":
        mean = float(np.mean([value.mean for value in present]))
        square = float(np.mean([value.mean**2 + value.deviation**2 for value in present]))
        return [Moments(mean, math.sqrt(max(square - mean**2, 0.0)))]
    if all(value.deviation == 0 for value in present) and name in _NUMBERS:
        try:
            return [Moments(_NUMBERS[name](*(value.mean for value in present)), 0.0)]
        except (ValueError, ZeroDivisionError, OverflowError):
            return unknown
    return [_linear(name, present)]


def _linear(name: str, values: list[Moments]) -> Moments | None:
    """Sums and products of which at most one is random."""
    if name == "neg":
        return Moments(-values[0].mean, values[0].deviation, draw=values[0].draw)
    if len(values) != 2:
        return None
    a, b = values
    if name in ("add", "sub"):
        sign = 1 if name == "add" else -1
        draw = "" if a.deviation and b.deviation else a.draw or b.draw
        return Moments(a.mean + sign * b.mean, math.hypot(a.deviation, b.deviation), draw=draw)
    if name == "mul" and b.draw == "sign" and a.mean == 0:
        return a
    if name == "mul" and 0 in (a.deviation, b.deviation):
        return Moments(a.mean * b.mean, abs(a.deviation * b.mean + b.deviation * a.mean), draw=a.draw or b.draw)
    if name == "div" and b.deviation == 0 and b.mean:
        return Moments(a.mean / b.mean, a.deviation / abs(b.mean), draw=a.draw)
    return None


def _drawn(function: str, values: list[Moments | None]) -> Moments | None:
    """Moments of JAX's own draws, which are functions of their own in a jaxpr."""
    bounds = [value.mean for value in values if value is not None and value.deviation == 0]
    if function in ("_normal", "_normal_real"):
        return Moments(0.0, 1.0, draw="normal")
    if function == "_truncated_normal" and bounds == [-2, 2]:
        return Moments(0.0, TRUNCATED, draw="truncated")
    if function == "_uniform" and len(bounds) == 2:
        low, high = bounds
        return Moments((low + high) / 2, abs(high - low) / math.sqrt(12), draw="uniform")
    return None
