"""An ONNX file as a JAX function of its weights, and its weights written back into a copy of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.graph import ArchGraph
from architectures.onnx import elementwise, layers, shapes  # noqa: F401  (they fill OPS)
from architectures.onnx.registry import CONSTANTS, OPS, STATISTICS, Node, Value
from architectures.trace.api import trace


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
        for node in self._proto.graph.node:
            outputs = self._run(node, [values[name] if name else None for name in node.input])
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

    def _run(self, proto: Any, inputs: Sequence[Value | None]) -> Sequence[Value]:
        """The outputs of one node; at once, in NumPy, where nothing that it reads is traced or a parameter."""
        node = _node(proto)
        fixed = not any(isinstance(value, jax.Array) for value in inputs)
        try:
            if fixed:
                with jax.ensure_compile_time_eval():
                    result = _tuple(OPS[proto.op_type](node, *inputs))
                return [np.asarray(value) for value in result]
            return _tuple(OPS[proto.op_type](node, *inputs))
        except (TypeError, ValueError, IndexError, NotImplementedError) as error:
            shapes = [None if value is None else tuple(value.shape) for value in inputs]
            raise OnnxError(f"{self.path}: {_named(proto)} with inputs of shapes {shapes}: {error}") from error


def load(path: str | Path, **sizes: int) -> OnnxModel:
    """Reads an ONNX file.

    Args:
        path: of the file; tensors that it keeps in other files are read too.
        sizes: name of a dimension that the file leaves open (such as "batch") -> size; 1 for those not named.

    Raises:
        ImportError: the package `onnx` is missing.
        OnnxError: no ONNX file, or an op that is not known: all of them are named, each with a node.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError(
            "reading ONNX files needs the package onnx: pip install 'graph-hypernetwork[onnx]'"
        ) from error
    path = Path(path)
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise OnnxError(f"{path}: no valid ONNX file ({str(error).strip().splitlines()[0]})") from error
    unknown = {node.op_type: node for node in proto.graph.node if node.op_type not in OPS}
    if unknown:
        listed = "; ".join(_named(node) for node in unknown.values())
        raise OnnxError(f"{path}: unknown to this reader: {listed}. It knows {', '.join(sorted(OPS))}")
    arrays = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer}
    constant, state = _not_weights(proto, arrays)
    inputs = [value for value in proto.graph.input if value.name not in arrays]
    return OnnxModel(
        path,
        {name: array for name, array in arrays.items() if name not in constant | state},
        {name: arrays[name] for name in state},
        tuple(_abstract(value, sizes) for value in inputs),
        tuple(value.name for value in inputs),
        tuple(value.name for value in proto.graph.output),
        proto,
        {name: arrays[name] for name in constant},
    )


def _not_weights(proto: Any, arrays: Mapping[str, NDArray[Any]]) -> tuple[set[str], set[str]]:
    """Names of initialisers that are constants (integers, single numbers, sizes), and that are running statistics."""
    constant = {name for name, array in arrays.items() if array.dtype.kind != "f" or array.ndim == 0}
    state: set[str] = set()
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in arrays and position in STATISTICS.get(node.op_type, ()):
                state.add(name)
            if name in arrays and position in CONSTANTS.get(node.op_type, ()):
                constant.add(name)
    return constant, state


def _abstract(value: Any, sizes: Mapping[str, int]) -> jax.ShapeDtypeStruct:
    from onnx import helper

    tensor = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 1) for d in tensor.shape.dim]
    return jax.ShapeDtypeStruct(
        tuple(shape), jax.dtypes.canonicalize_dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    )


def _node(proto: Any) -> Node:
    from onnx import helper

    return Node(
        proto.op_type,
        {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute},
        len(proto.output),
    )


def _named(proto: Any) -> str:
    return f"node {proto.name or proto.output[0]!r} (op {proto.op_type})"


def _tuple(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)
