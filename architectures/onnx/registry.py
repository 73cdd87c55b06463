"""The table of ONNX operators that can be read, and what an operator is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Value = Any  # a JAX array, or a NumPy array that is known while the model is read


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator with its attributes and its number of outputs."""

    op: str
    attributes: Mapping[str, Any]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default of the specification."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


Operator = Callable[..., Any]
OPS: dict[str, Operator] = {}

# Inputs (by position) that are running statistics, and that say sizes or positions and never are weights.
STATISTICS = {"BatchNormalization": (3, 4)}
CONSTANTS = {"Clip": (1, 2), "Pad": (2,), "Resize": (1, 2)}


def op(name: str) -> Callable[[Operator], Operator]:
    """Registers an operator."""

    def register(function: Operator) -> Operator:
        OPS[name] = function
        return function

    return register


def ints(value: Value) -> list[int]:
    """A list of sizes or positions that must be known while the model is read."""
    if isinstance(value, jax.core.Tracer):
        raise NotImplementedError("sizes or positions that depend on data have no fixed graph")
    return [int(item) for item in np.ravel(np.asarray(value))]
