"""Reads an ONNX file: which of its arrays are weights, and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from architectures.onnx.model import DOMAINS, OnnxError, OnnxModel, named, opset_of
from architectures.onnx.registry import CONSTANTS, OPS, STATISTICS

OLDEST = 7  # the first opset with the broadcasting and the meaning of attributes that is followed here


def load(path: str | Path, **sizes: int) -> OnnxModel:
    """Reads an ONNX file.

    Args:
        path: of the file; tensors that it keeps in other files are read too.
        sizes: name of a dimension that the file leaves open (such as "batch") -> size; 1 for those not named.

    Raises:
        ImportError: the package `onnx` is missing.
        OnnxError: no ONNX file, one of an opset before 7, or an op that is not known: all of them are named, each with
            a node.
        ValueError: `sizes` names a dimension that the file does not leave open.
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
        onnx.checker.check_model(_checkable(proto))
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise OnnxError(f"{path}: no valid ONNX file ({str(error).strip().splitlines()[0]})") from error
    if opset_of(proto) < OLDEST:
        raise OnnxError(f"{path}: opset {opset_of(proto)}, this reader knows the operators from opset {OLDEST} on")
    unknown = {
        (node.domain, node.op_type): node
        for node in proto.graph.node
        if node.op_type not in OPS or node.domain not in DOMAINS
    }
    if unknown:
        listed = "; ".join(named(node) for node in unknown.values())
        raise OnnxError(f"{path}: unknown to this reader: {listed}. It knows {', '.join(sorted(OPS))}")
    arrays = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer}
    constant, state = _not_weights(proto, arrays)
    inputs = [value for value in proto.graph.input if value.name not in arrays]
    _check_sizes(path, inputs, sizes)
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


def _checkable(proto: Any) -> Any:
    """The file as ONNX's checker takes it: it refuses GroupNormalization before opset 21, which runtimes run."""
    if not any(node.op_type == "GroupNormalization" for node in proto.graph.node) or opset_of(proto) >= 21:
        return proto
    copy = type(proto)()
    copy.CopyFrom(proto)
    copy.opset_import.add(domain="unchecked", version=1)
    for node in copy.graph.node:
        if node.op_type == "GroupNormalization":
            node.domain = "unchecked"
    return copy


def _not_weights(proto: Any, arrays: Mapping[str, NDArray[Any]]) -> tuple[set[str], set[str]]:
    """Names of initialisers that are constants (integers, single numbers, sizes), and that are running statistics."""
    floating = {name for name, array in arrays.items() if jax.numpy.issubdtype(array.dtype, np.floating)}
    constant = {name for name, array in arrays.items() if name not in floating or array.ndim == 0}
    state: set[str] = set()
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in arrays and position in STATISTICS.get(node.op_type, ()):
                state.add(name)
            if name in arrays and position in CONSTANTS.get(node.op_type, ()):
                constant.add(name)
    return constant, state


def _check_sizes(path: Path, inputs: Sequence[Any], sizes: Mapping[str, int]) -> None:
    dimensions = [dimension for value in inputs for dimension in value.type.tensor_type.shape.dim]
    names = {dimension.dim_param for dimension in dimensions} - {""}
    for name in sizes:
        if name not in names:
            listed = f"open are {', '.join(sorted(names))}" if names else "none is open"
            raise ValueError(f"{name}: no dimension of the inputs of {path}; {listed}")


def _abstract(value: Any, sizes: Mapping[str, int]) -> jax.ShapeDtypeStruct:
    from onnx import helper

    tensor = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 1) for d in tensor.shape.dim]
    return jax.ShapeDtypeStruct(
        tuple(shape), jax.dtypes.canonicalize_dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    )
