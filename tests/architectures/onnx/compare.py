"""One operator in a file of its own, run here and by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from architectures.onnx import load  # noqa: E402
from tests.architectures.onnx.models import FLOAT, File  # noqa: E402


def write(
    path: Path,
    op: str,
    shape: Sequence[int],
    *constants: Any,
    opset: int,
    outputs: int = 1,
    output: int = 0,
    rank: int | None = None,
    **attributes: Any,
) -> Path:
    """A file of one node.

    Args:
        path: of the file.
        op: of the node.
        shape: of its first input "x", of the file.
        constants: its other inputs; None leaves one out.
        opset: of the file.
        outputs: how many the node has.
        output: the one that the file gives.
        rank: of the output; that of the input where it is None.
        attributes: of the node.
    """
    f = File()
    names = ["" if value is None else f.constant(f"c{i}", value) for i, value in enumerate(constants)]
    results = f.node(op, "x", *names, outputs=outputs, **attributes)
    rank = len(shape) if rank is None else rank
    return f.save(path, {"x": (shape, FLOAT)}, results if outputs == 1 else results[output], opset=opset, rank=rank)


def agrees(path: Path) -> None:
    """Compares what the file gives here and under onnxruntime."""
    model = load(path)
    x = np.random.default_rng(1).normal(size=model.inputs[0].shape).astype(np.float32)
    (found,) = model.apply(model.params, model.state, jnp.asarray(x))
    (expected,) = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
