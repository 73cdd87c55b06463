"""Straight-through estimators: x + (q - x), whose value is q and whose gradient, by a stop, is that of x.

Bengio et al. 2013 (arXiv:1308.3432); quantised autoencoders, hard Gumbel samples and binary networks are written so.
Read term by term, q would be a sum of three.
"""

from __future__ import annotations

from typing import Any

from jax.extend import core as jex

SAME = frozenset(("stop_gradient", "copy", "copy_p", "name"))


def straight_through(jaxpr: Any) -> dict[Any, Any]:
    """By the variable of every sum x + (q - x) of a jaxpr, in any order, that of q."""
    origin: dict[Any, Any] = {}
    differences: dict[Any, tuple[Any, ...]] = {}
    passed: dict[Any, Any] = {}

    def traced_back(atom: Any) -> Any:
        return atom if isinstance(atom, jex.Literal) else origin.get(atom, atom)

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "sub":
            differences[equation.outvars[0]] = tuple(map(traced_back, equation.invars))
        elif name in SAME:
            origin[equation.outvars[0]] = traced_back(equation.invars[0])
        elif differences and name in ("add", "add_any"):
            one, two = map(traced_back, equation.invars)
            for known, other in ((one, two), (two, one)):
                if isinstance(other, jex.Literal) or other not in differences:
                    continue
                quantised, less = differences[other]
                if less is known and not isinstance(quantised, jex.Literal):
                    passed[equation.outvars[0]] = quantised
    return passed
