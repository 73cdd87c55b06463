from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from architectures.onnx import OnnxError, OnnxModel, load  # noqa: E402
from tests.architectures.onnx.models import FLOAT, File, residual_network, transformer  # noqa: E402

MODELS = [residual_network, transformer]


def feed(model: OnnxModel) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, 20, leaf.shape) if jnp.issubdtype(leaf.dtype, jnp.integer) else rng.normal(size=leaf.shape)
        for leaf in model.inputs
    ]


def run(path: Path, model: OnnxModel) -> np.ndarray:
    """What onnxruntime makes of a file."""
    kinds = [np.int64 if jnp.issubdtype(leaf.dtype, jnp.integer) else np.float32 for leaf in model.inputs]
    values = {n: v.astype(kind) for n, v, kind in zip(model.input_names, feed(model), kinds, strict=True)}
    result: np.ndarray = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, values)[0]
    return result


@pytest.mark.parametrize("write", MODELS)
def test_the_function_is_the_file(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path / "model.onnx")
    model = load(path, batch=3)
    (found,) = model.apply(
        model.params,
        model.state,
        *(jnp.asarray(value, leaf.dtype) for value, leaf in zip(feed(model), model.inputs, strict=True)),
    )
    np.testing.assert_allclose(found, run(path, model), atol=1e-5)


@pytest.mark.parametrize("write", MODELS)
def test_every_weight_has_an_owner(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    model = load(write(tmp_path / "model.onnx"))
    graph = model.graph()
    assert {"/".join(row.path) for row in graph.parameters} == set(model.params)
    owners = {"/".join(row.path): graph.ops[row.node] for row in graph.parameters}
    if write is residual_network:
        assert owners["stem.weight"] == owners["block.1.weight"] == "conv"
        assert owners["stem.bn.weight"] == owners["stem.bn.bias"] == "batch_norm"
        assert owners["fc.weight"] == owners["fc.bias"] == "dense"
        assert not {"stem.bn.mean", "stem.bn.var"} & set(model.params)
    else:
        assert {owners[f"{name}.weight"] for name in ("q", "k", "v", "o", "up", "down", "head")} == {"dense"}
        assert owners["tokens"] == "embedding"
        assert owners["ln1.weight"] == owners["ln2.bias"] == "layer_norm"


def test_other_weights_are_written_into_a_copy(tmp_path: Path) -> None:
    path = residual_network(tmp_path / "model.onnx")
    before, model = path.read_bytes(), load(path)
    other = {name: array + np.float32(0.125) for name, array in model.params.items()}
    model.save(other, tmp_path / "copy.onnx")
    copy = load(tmp_path / "copy.onnx")
    for name, array in other.items():
        np.testing.assert_array_equal(copy.params[name], array)
    assert path.read_bytes() == before
    assert np.abs(run(tmp_path / "copy.onnx", copy) - run(path, model)).max() > 1e-3


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    model = load(residual_network(tmp_path / "model.onnx"))
    with pytest.raises(ValueError, match=r"params\['fc.bias'\]: float32\[3\], .*model.onnx has float32\[10\]"):
        model.save({**model.params, "fc.bias": np.zeros(3, np.float32)}, tmp_path / "copy.onnx")
    with pytest.raises(ValueError, match=r"params: .fc\.bias. is not in both"):
        model.save({name: array for name, array in model.params.items() if name != "fc.bias"}, tmp_path / "copy.onnx")
    assert not (tmp_path / "copy.onnx").exists()


def test_unknown_ops_are_named_with_their_nodes(tmp_path: Path) -> None:
    f = File()
    x = f.node("Relu", f.node("Det", "x"))
    f.save(tmp_path / "odd.onnx", {"x": ([1, 2, 2], FLOAT)}, f.node("NonZero", x))
    with pytest.raises(OnnxError, match=r"odd.onnx: unknown .*'node_0' \(op Det\); node 'node_2' \(op NonZero\)"):
        load(tmp_path / "odd.onnx")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"not a model")
    with pytest.raises(OnnxError, match=r"no.onnx: no valid ONNX file"):
        load(tmp_path / "no.onnx")


def test_a_node_that_fails_is_named(tmp_path: Path) -> None:
    f = File()
    path = f.save(tmp_path / "bad.onnx", {"x": (["n", 3], FLOAT)}, f.node("MatMul", "x", f.weight("w", 4, 2)))
    with pytest.raises(
        OnnxError, match=r"bad.onnx: node 'node_0' \(op MatMul\) with inputs of shapes \[\(2, 3\), \(4, 2\)\]"
    ):
        load(path, n=2).graph()
