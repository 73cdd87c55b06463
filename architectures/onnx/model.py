"""An ONNX file as a JAX function of its weights, and its weights written back into a copy of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.graph import ArchGraph
from architectures.onnx import elementwise, layers, pooling, resize, shapes  # noqa: F401  (they fill OPS)
from architectures.onnx.registry import OPS, Node, Value
from architectures.trace.api import trace

DOMAINS = ("", "ai.onnx")  # names of ONNX's own operators


class OnnxError(ValueError):
    """A file that cannot be read as an architecture; the message names the file, the node and the op."""


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """A model that was read from an ONNX file.

    Attributes:
        path: of the file.
        params: name of the initialiser -> array, in the file's own layout: what `apply` takes.
        state: the same for running statistics of normalisation, which are not parameters.
        inputs: shapes and types of what the model is called with; a size that the file leaves open is 1.
        input_names, output_names: as the file has them.
    """

    path: Path
    params: Mapping[str, NDArray[Any]]
    state: Mapping[str, NDArray[Any]]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    _proto: Any
    _constants: Mapping[str, NDArray[Any]]

    def apply(self, params: Mapping[str, Value], state: Mapping[str, Value], *inputs: Value) -> tuple[Array, ...]:
        """The outputs of the model.

        Args:
            params: of the structure of `self.params`.
            state: of the structure of `self.state`.
            inputs: arrays in the order of `input_names`.

        Raises:
            ValueError: another number of inputs.
            OnnxError: a node that fails, named.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"inputs: {len(inputs)} given, {self.path} takes {', '.join(self.input_names)}")
        values: dict[str, Value] = {**self._constants, **params, **state}
        values |= dict(zip(self.input_names, inputs, strict=True))
        used = set(self.output_names).union(*(node.input for node in self._proto.graph.node))
        for node in self._proto.graph.node:
            outputs = self._run(node, [values[name] if name else None for name in node.input], used)
            values |= {name: value for name, value in zip(node.output, outputs, strict=False) if name}
        return tuple(jax.numpy.asarray(values[name]) for name in self.output_names)

    def graph(self) -> ArchGraph:
        """The computational graph; its parameter table holds the initialisers by name."""
        return trace(self.apply, dict(self.params), *self.inputs, state=dict(self.state))

    def save(self, params: Mapping[str, Any], path: str | Path) -> None:
        """Writes a copy of the file with other weights.

        Raises:
            ValueError: a name, shape or type that the file does not have.
        """
        from onnx import numpy_helper, save

        faults = sorted(set(params) ^ set(self.params))
        if faults:
            raise ValueError(f"params: {faults[0]!r} is not in both the weights given and {self.path}")
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        for tensor in proto.graph.initializer:
            if tensor.name in params:
                new, old = np.asarray(params[tensor.name]), self.params[tensor.name]
                if new.shape != old.shape or new.dtype != old.dtype:
                    raise ValueError(
                        f"params[{tensor.name!r}]: {new.dtype}{list(new.shape)}, {self.path} has "
                        f"{old.dtype}{list(old.shape)}"
                    )
                tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
        save(proto, str(path))

    def _run(self, proto: Any, inputs: Sequence[Value | None], used: Set[str]) -> Sequence[Value]:
        """The outputs of one node; at once, in NumPy, where nothing that it reads is traced or a parameter."""
        node = _node(proto, opset_of(self._proto))
        fixed = not any(isinstance(value, jax.Array) for value in inputs)
        result: Sequence[Value]
        try:
            if fixed:
                with jax.ensure_compile_time_eval():
                    result = [np.asarray(value) for value in _tuple(OPS[proto.op_type](node, *inputs))]
            else:
                result = _tuple(OPS[proto.op_type](node, *inputs))
            _check_complete(proto, node, result, used)
            return result
        except (TypeError, ValueError, IndexError, NotImplementedError) as error:
            shapes = [None if value is None else tuple(value.shape) for value in inputs]
            raise OnnxError(f"{self.path}: {named(proto)} with inputs of shapes {shapes}: {error}") from error


def opset_of(proto: Any) -> int:
    """The version of ONNX's own operators that a file is written in."""
    return max((int(entry.version) for entry in proto.opset_import if entry.domain in DOMAINS), default=1)


def _check_complete(proto: Any, node: Node, result: Sequence[Value], used: Set[str]) -> None:
    """Raises where a node says more, or gives more of what is used, than its operator here follows."""
    unread = node.unread()
    if unread:
        listed = ", ".join(f"{name}={node.get(name)!r}" for name in unread)
        raise NotImplementedError(f"the attribute {listed} is not known to this reader")
    missing = [name for name in proto.output[len(result) :] if name and name in used]
    if missing:
        raise NotImplementedError(f"the output {missing[0]!r} is not computed by this reader")


def _node(proto: Any, opset: int) -> Node:
    from onnx import helper

    return Node(
        proto.op_type,
        {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute},
        len(proto.output),
        opset,
    )


def named(proto: Any) -> str:
    """What messages call a node."""
    domain = "" if proto.domain in DOMAINS else f"{proto.domain}."
    return f"node {proto.name or proto.output[0]!r} (op {domain}{proto.op_type})"


def _tuple(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)
