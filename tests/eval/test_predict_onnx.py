from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")

from architectures.onnx import OnnxError, load
from eval.predict import PredictConfig, predict
from tests.architectures.onnx.models import residual_network

QUIET = Console(quiet=True)


def test_a_copy_of_the_file_holds_the_prediction(tmp_path: Path) -> None:
    path, out = residual_network(tmp_path / "model.onnx"), tmp_path / "predicted.onnx"
    with QUIET.capture():
        predict(str(path), PredictConfig(), out, QUIET)
    before, after = load(path), load(out)
    assert set(before.params) == set(after.params)
    assert all(np.isfinite(array).all() for array in after.params.values())


def test_bad_input_is_named(tmp_path: Path) -> None:
    path = residual_network(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"out: .*weights.safetensors is no .onnx file"):
        predict(str(path), PredictConfig(), tmp_path / "weights.safetensors", QUIET)
    with pytest.raises(ValueError, match=r"missing\.onnx"):
        predict(str(tmp_path / "missing.onnx"), PredictConfig(), tmp_path / "out.onnx", QUIET)
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(OnnxError, match=r"no\.onnx: no valid ONNX file"):
        predict(str(tmp_path / "no.onnx"), PredictConfig(), tmp_path / "out.onnx", QUIET)
