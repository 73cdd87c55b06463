from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from architectures.onnx import load  # noqa: E402
from ghn import OpenHypernetwork, predict_onnx  # noqa: E402
from tests.architectures.onnx.models import File, residual_network  # noqa: E402


def test_predicted_weights_run_under_onnxruntime(tmp_path: Path) -> None:
    path, out = residual_network(tmp_path / "model.onnx"), tmp_path / "predicted.onnx"
    prediction = predict_onnx(path, out, hypernetwork=OpenHypernetwork.create(), batch=2)
    original, written = load(path, batch=2), load(out, batch=2)
    assert {row.path for row in prediction.report.rows if row.source == "predicted"} == set(original.params)
    for name, array in prediction.params.items():
        np.testing.assert_array_equal(written.params[name], array)
        assert array.dtype == original.params[name].dtype
    assert not np.array_equal(written.params["fc.weight"], original.params["fc.weight"])
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    (logits,) = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"image": image})
    (expected,) = written.apply(prediction.params, written.state, image)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.isfinite(logits).all() and logits.std() > 1e-3


@pytest.mark.parametrize("kind", ["DOUBLE", "BFLOAT16", "FLOAT16"])
def test_weights_of_other_types_are_predicted_and_written_as_such(tmp_path: Path, kind: str) -> None:
    element = getattr(onnx.TensorProto, kind)
    f, dtype = File(), onnx.helper.tensor_dtype_to_np_dtype(element)
    rng = np.random.default_rng(0)

    def linear(x: str, name: str, inputs: int, outputs: int) -> str:
        kernel = f.constant(f"{name}.weight", (rng.normal(size=(outputs, inputs)) / 2).astype(dtype))
        return f.node("Gemm", x, kernel, f.constant(f"{name}.bias", np.full(outputs, 0.1).astype(dtype)), transB=1)

    y = linear(f.node("Relu", linear("x", "one", 4, 8)), "two", 8, 3)
    path, out = tmp_path / "model.onnx", tmp_path / "predicted.onnx"
    f.save(path, {"x": (["batch", 4], element)}, y, kind=element)
    original = load(path)
    assert set(original.params) == {"one.weight", "one.bias", "two.weight", "two.bias"}
    assert all(array.dtype == dtype for array in original.params.values())
    prediction = predict_onnx(path, out, hypernetwork=OpenHypernetwork.create())
    written = load(out)
    assert all(array.dtype == dtype for array in written.params.values())
    for name, array in prediction.params.items():
        np.testing.assert_array_equal(written.params[name].astype(array.dtype), array)
    if kind == "BFLOAT16":  # no kernel for it in onnxruntime on CPUs
        return
    x = rng.normal(size=(1, 4)).astype(dtype)
    (result,) = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (expected,) = written.apply(prediction.params, written.state, x)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, atol=1e-2 if kind == "FLOAT16" else 1e-5)


def test_a_dimension_that_the_file_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bathc: no dimension .*model.onnx; open are batch"):
        predict_onnx(residual_network(tmp_path / "model.onnx"), bathc=4)
