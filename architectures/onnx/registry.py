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
    """An operator with its attributes, its number of outputs, and the version of the operator set it is written in."""

    op: str
    attributes: Mapping[str, Any]
    outputs: int
    opset: int
    _read: set[str] = dataclasses.field(default_factory=set, init=False, repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default of the specification."""
        self._read.add(name)
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def unread(self) -> list[str]:
        """Attributes that say something and that nobody has asked for."""
        from onnx import defs, helper

        known = defs.get_schema(self.op, self.opset).attributes
        defaults = {
            name: helper.get_attribute_value(known[name].default_value)
            for name in set(self.attributes) & set(known)
            if known[name].default_value.name
        }
        return [
            name
            for name, value in self.attributes.items()
            if name not in self._read | HARMLESS.get(self.op, set())
            and not (name in defaults and defaults[name] == value)
        ]


Operator = Callable[..., Any]
OPS: dict[str, Operator] = {}

# Inputs (by position) that are running statistics, and that say sizes or positions and never are weights.
STATISTICS = {"BatchNormalization": (3, 4)}
CONSTANTS = {"Clip": (1, 2), "Pad": (2,), "Resize": (1, 2)}

# Attributes that change no output that is computed here: they repeat a shape, or are of training or of other modes.
HARMLESS: dict[str, set[str]] = {
    "BatchNormalization": {"momentum"},
    "Conv": {"kernel_shape"},
    "ConvTranspose": {"kernel_shape"},
    "Dropout": {"ratio", "seed"},
    "MaxPool": {"storage_order"},
    "Resize": {"cubic_coeff_a", "exclude_outside", "extrapolation_value"},
}


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
