"""Small ONNX files, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT


class File:
    """Collects nodes and initialisers."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        """A random initialiser; by fan-in, or about 1."""
        values = self._rng.normal(size=shape)
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return self.constant(name, (values * (scale or fan_in**-0.5)).astype(np.float32))

    def constant(self, name: str, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"node_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def save(
        self,
        path: Path,
        inputs: dict[str, tuple[Sequence[Any], int]],
        output: str,
        *,
        opset: int = 17,
        rank: int = 2,
        kind: int = FLOAT,
    ) -> Path:
        """Writes the file; `inputs` maps names to (shape, element type), `rank` and `kind` are of the output."""
        ends = [helper.make_tensor_value_info(output, kind, [f"size_{i}" for i in range(rank)])]
        values = [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()]
        graph = helper.make_graph(self.nodes, "model", values, ends, self.tensors)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path))
        return path


def residual_network(path: Path) -> Path:
    """Convolutions with batch normalisation, a residual, a depthwise and a strided one, pooling, a linear head."""
    f = File()

    def conv_bn(x: str, name: str, inputs: int, outputs: int, relu: bool = True, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        y = f.node("Conv", x, f.weight(f"{name}.weight", outputs, inputs // groups, 3, 3), pads=[1] * 4, **attributes)
        ones = [f.constant(f"{name}.bn.{leaf}", np.ones(outputs, np.float32)) for leaf in ("weight", "var")]
        zeros = [f.constant(f"{name}.bn.{leaf}", np.zeros(outputs, np.float32)) for leaf in ("bias", "mean")]
        y = f.node("BatchNormalization", y, ones[0], zeros[0], zeros[1], ones[1])
        return f.node("Relu", y) if relu else y

    x = conv_bn("image", "stem", 3, 8)
    x = f.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = conv_bn(conv_bn(x, "block.1", 8, 8, group=8), "block.2", 8, 8, relu=False)
    x = f.node("Relu", f.node("Add", x, y))
    x = conv_bn(x, "down", 8, 16, strides=[2, 2])
    x = f.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
    x = f.node("Flatten", f.node("GlobalAveragePool", x))
    x = f.node("Gemm", x, f.weight("fc.weight", 10, 16), f.weight("fc.bias", 10, scale=0.01), transB=1)
    return f.save(path, {"image": (["batch", 3, 16, 16], FLOAT)}, x)


def transformer(path: Path, width: int = 8, heads: int = 2) -> Path:
    """Token and position embeddings, one block of attention and MLP, sizes computed as exporters write them."""
    f = File()

    def layer_norm(x: str, name: str) -> str:
        scale = f.constant(f"{name}.weight", np.ones(width, np.float32))
        return f.node("LayerNormalization", x, scale, f.constant(f"{name}.bias", np.zeros(width, np.float32)))

    def linear(x: str, name: str, inputs: int, outputs: int) -> str:
        y = f.node("MatMul", x, f.weight(f"{name}.weight", inputs, outputs))
        return f.node("Add", y, f.constant(f"{name}.bias", np.zeros(outputs, np.float32)))

    x = f.node("Gather", f.weight("tokens", 20, width, scale=0.5), "ids")
    x = f.node("Add", x, f.weight("positions", 1, 6, width, scale=0.5))
    length = f.node("Gather", f.node("Shape", "ids"), f.constant("one", np.array(1)))
    length = f.node("Unsqueeze", length, f.constant("axis", np.array([0])))
    split = f.node(
        "Concat", f.constant("b", np.array([-1])), length, f.constant("h", np.array([heads, width // heads])), axis=0
    )
    merged = f.node("Concat", f.constant("b2", np.array([-1])), length, f.constant("w", np.array([width])), axis=0)
    y = layer_norm(x, "ln1")
    q, k, v = (
        f.node("Transpose", f.node("Reshape", linear(y, name, width, width), split), perm=[0, 2, 1, 3])
        for name in ("q", "k", "v")
    )
    scores = f.node("MatMul", q, f.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = f.node("Div", scores, f.constant("root", np.array(2.0, np.float32)))
    y = f.node("MatMul", f.node("Softmax", scores, axis=-1), v)
    y = f.node("Reshape", f.node("Transpose", y, perm=[0, 2, 1, 3]), merged)
    x = f.node("Add", x, linear(y, "o", width, width))
    y = linear(layer_norm(x, "ln2"), "up", width, 2 * width)
    half = f.node("Mul", y, f.constant("half", np.array(0.5, np.float32)))
    erf = f.node("Erf", f.node("Div", y, f.constant("sqrt2", np.array(2**0.5, np.float32))))
    y = f.node("Mul", half, f.node("Add", erf, f.constant("plus", np.array(1.0, np.float32))))
    x = f.node("Add", x, linear(y, "down", 2 * width, width))
    first, _ = f.node("Split", x, f.constant("sizes", np.array([1, 5])), axis=1, outputs=2)
    first = f.node("Slice", first, *(f.constant(n, np.array([v])) for n, v in (("s", 0), ("e", 9), ("a", 1))))
    x = f.node("ReduceMean", first, axes=[1], keepdims=0)
    return f.save(path, {"ids": (["batch", 6], onnx.TensorProto.INT64)}, linear(x, "head", width, 4))
