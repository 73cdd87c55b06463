from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from architectures.onnx import load  # noqa: E402
from ghn import OpenHypernetwork, predict_onnx  # noqa: E402
from tests.architectures.onnx.models import residual_network  # noqa: E402


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
