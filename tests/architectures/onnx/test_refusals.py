"""What would be ignored or differ is an error that names the node, the op and the attribute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")

from architectures.onnx import OnnxError, load
from tests.architectures.onnx.compare import write
from tests.architectures.onnx.models import FLOAT, File, residual_network

ONES = [np.ones(2, np.float32)] * 4
TWICE = np.array([1, 1, 2, 2], np.float32)


@pytest.mark.parametrize(
    ("op", "constants", "options", "message"),
    [
        ("BatchNormalization", ONES, {"opset": 7, "spatial": 0}, "attribute spatial=0 is not known"),
        ("BatchNormalization", ONES, {"opset": 14, "training_mode": 1}, "attribute training_mode=1 is not known"),
        (
            "MaxPool",
            [],
            {"opset": 11, "kernel_shape": [2, 2], "outputs": 2, "output": 1},
            "output 'maxpool0_1' is not computed",
        ),
        ("Dropout", [], {"opset": 7, "outputs": 2, "output": 1}, "output 'dropout0_1' is not computed"),
        ("Dropout", [np.float32(0.5), np.array(True)], {"opset": 13}, "dropout that is not switched off"),
        ("Split", [], {"opset": 11, "axis": 2, "outputs": 2}, "5 elements do not split into 2 parts"),
        (
            "ConvTranspose",
            [np.ones((2, 3, 2, 2), np.float32)],
            {"opset": 11, "output_shape": [9, 9]},
            r"an output of \[9, 9\], larger than the transposed convolution's \[6, 6\]",
        ),
        (
            "Conv",
            [np.ones((3, 2, 1, 1), np.float32)],
            {"opset": 11, "auto_pad": "SAME_UPPER", "strides": [5, 5]},
            "auto_pad SAME_UPPER of windows of 1 with strides of 5 on 5",
        ),
        ("Resize", [None, TWICE], {"opset": 13, "mode": "linear"}, "'linear', other than nearest"),
        ("Resize", [None, np.array([1, 1, 2.25, 1], np.float32)], {"opset": 13}, "other than whole factors"),
        (
            "Resize",
            [None, None, np.array([10, 10])],
            {"opset": 18, "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
            "attribute keep_aspect_ratio_policy='not_larger' is not known",
        ),
    ],
)
def test_what_is_not_followed_is_named(
    tmp_path: Path, op: str, constants: list[Any], options: dict[str, Any], message: str
) -> None:
    model = load(write(tmp_path / "one.onnx", op, (1, 2, 5, 5), *constants, **options))
    with pytest.raises(OnnxError, match=rf"one.onnx: node 'node_0' \(op {op}\) .*{message}"):
        model.apply(model.params, model.state, np.ones((1, 2, 5, 5), np.float32))


@pytest.mark.parametrize(
    ("transformation", "rounding"),
    [("half_pixel", "floor"), ("asymmetric", "ceil"), ("align_corners", "floor"), ("tf_half_pixel_for_nn", "ceil")],
)
def test_a_resize_that_is_no_repeat_is_refused_by_name(tmp_path: Path, transformation: str, rounding: str) -> None:
    modes = {"coordinate_transformation_mode": transformation, "nearest_mode": rounding}
    empty = np.zeros(0, np.float32)
    model = load(write(tmp_path / "one.onnx", "Resize", (1, 2, 5, 5), empty, TWICE, opset=11, **modes))
    with pytest.raises(OnnxError, match=f"_mode '{transformation}', nearest_mode '{rounding}'"):
        model.apply(model.params, model.state, np.ones((1, 2, 5, 5), np.float32))


def test_old_opsets_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "old.onnx", "Relu", (2, 3), opset=6)
    with pytest.raises(OnnxError, match=r"old.onnx: opset 6, this reader knows the operators from opset 7 on"):
        load(path)


def test_operators_of_other_domains_are_not_taken_for_onnx_own(tmp_path: Path) -> None:
    import onnx

    f = File()
    path = f.save(tmp_path / "own.onnx", {"x": ([2, 3], FLOAT)}, f.node("Softmax", "x", domain="com.acme"))
    proto = onnx.load(path)
    proto.opset_import.add(domain="com.acme", version=1)
    onnx.save(proto, path)
    with pytest.raises(OnnxError, match=r"own.onnx: unknown .*'node_0' \(op com.acme.Softmax\)"):
        load(path)


def test_sizes_of_dimensions_that_the_file_does_not_have_are_refused(tmp_path: Path) -> None:
    path = residual_network(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"bathc: no dimension of the inputs of .*model.onnx; open are batch"):
        load(path, bathc=4)
    f = File()
    path = f.save(tmp_path / "closed.onnx", {"x": ([2, 3], FLOAT)}, f.node("Relu", "x"))
    with pytest.raises(ValueError, match=r"batch: no dimension of the inputs of .*closed.onnx; none is open"):
        load(path, batch=4)
