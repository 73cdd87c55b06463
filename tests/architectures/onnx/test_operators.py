"""Operators whose meaning depends on the opset or on an attribute, against onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.architectures.onnx.compare import agrees, write

IMAGE = (1, 2, 5, 5)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def case(op: str, shape: tuple[int, ...], *constants: Any, **options: Any) -> Any:
    said = {name: value for name, value in options.items() if name != "rank"}
    return pytest.param(op, shape, constants, options, id=f"{op} {said}")


@pytest.mark.parametrize(
    ("op", "shape", "constants", "options"),
    [
        case("Split", (2, 7), opset=11, axis=1, split=[3, 4], outputs=2, output=1),
        case("Split", (2, 6), opset=11, axis=1, outputs=3, output=2),
        case("Split", (2, 7), ints(3, 4), opset=13, axis=1, outputs=2, output=1),
        case("Split", (2, 7), opset=18, axis=1, num_outputs=3, outputs=3, output=2),
        case("Squeeze", (2, 1, 3, 1), opset=11, axes=[1], rank=3),
        case("Squeeze", (2, 1, 3, 1), ints(1), opset=13, rank=3),
        case("Unsqueeze", (2, 3), opset=11, axes=[0, 2], rank=4),
        case("Unsqueeze", (2, 3), ints(0, 2), opset=13, rank=4),
        case("ReduceSum", (2, 3, 4), opset=12, axes=[1], keepdims=0, rank=2),
        case("ReduceSum", (2, 3, 4), ints(1), opset=13, keepdims=0, rank=2),
        case("ReduceSum", (2, 3, 4), ints(1), opset=13, noop_with_empty_axes=1),
        case("ReduceSum", (2, 3, 4), opset=13, noop_with_empty_axes=1),
        case("ReduceMean", (2, 3, 4), opset=17, axes=[0, 2]),
        case("ReduceMean", (2, 3, 4), ints(0, 2), opset=18),
        case("ReduceL2", (2, 3, 4), opset=18, noop_with_empty_axes=1),
        case("Clip", (2, 3), opset=10, min=-0.5, max=0.25),
        case("Clip", (2, 3), None, np.float32(0.25), opset=11),
        case("Pad", (2, 3), opset=10, pads=[0, 1, 2, 0], value=1.5),
        case("Pad", (2, 3), opset=10, pads=[0, 1, 1, 0], mode="edge"),
        case("Pad", (2, 3), ints(1, 2), np.float32(2), ints(-1), opset=18),
        case("Slice", (4, 5), opset=9, starts=[1, -3], ends=[3, 100]),
        case("Slice", (4, 5), opset=9, starts=[1], ends=[-1], axes=[1]),
        case("Slice", (4, 5), ints(3), ints(-100), ints(1), ints(-1), opset=13),
        case("Slice", (4, 5), ints(-100), ints(-200), ints(1), ints(-1), opset=13),
        case("Dropout", (2, 3), opset=7, ratio=0.25),
        case("Dropout", (2, 3), np.float32(0.5), np.array(False), opset=13, seed=3),
        case("Dropout", (2, 3), opset=7, outputs=2),
        case("MaxPool", IMAGE, opset=11, kernel_shape=[2, 2], outputs=2),
        case("Gemm", (2, 3), weight(3, 4), opset=11, alpha=0.25, beta=0.5),
        case("BatchNormalization", (2, 2, 3), *[np.ones(2, np.float32)] * 4, opset=14, momentum=0.5),
        case("MaxPool", IMAGE, opset=8, kernel_shape=[2, 2], storage_order=1),
    ],
)
def test_attributes_of_every_opset_are_followed(
    tmp_path: Path, op: str, shape: tuple[int, ...], constants: tuple[Any, ...], options: dict[str, Any]
) -> None:
    agrees(write(tmp_path / "one.onnx", op, shape, *constants, **options))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [7, 12, 13])
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}, {"axis": 2}])
def test_softmax_is_over_all_later_axes_before_opset_13(
    tmp_path: Path, op: str, opset: int, attributes: dict[str, int]
) -> None:
    agrees(write(tmp_path / "one.onnx", op, (2, 3, 4), opset=opset, **attributes))


@pytest.mark.parametrize(("opset", "length"), [(18, 2), (20, 2), (21, 4)])
def test_group_normalization_scales_groups_or_channels(tmp_path: Path, opset: int, length: int) -> None:
    scale, bias = weight(length), weight(length) + 1
    agrees(write(tmp_path / "one.onnx", "GroupNormalization", (2, 4, 3, 3), scale, bias, opset=opset, num_groups=2))


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "output_padding": [1, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"output_shape": [10, 8]},
        {"output_shape": [8, 10], "auto_pad": "SAME_UPPER"},
        {"output_shape": [8, 10], "auto_pad": "SAME_LOWER", "output_padding": [1, 1]},
        {"output_shape": [8, 9], "dilations": [2, 2], "kernel_shape": [3, 3]},
    ],
)
def test_transposed_convolution_cuts_what_the_node_says(tmp_path: Path, attributes: dict[str, Any]) -> None:
    kernel = weight(2, 3, 3, 3)
    agrees(write(tmp_path / "one.onnx", "ConvTranspose", IMAGE, kernel, opset=11, strides=[2, 2], **attributes))


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 2, 1]])
@pytest.mark.parametrize("counted", [{}, {"count_include_pad": 0}, {"count_include_pad": 1}])
def test_pooling_rounds_up(tmp_path: Path, size: int, pads: list[int], counted: dict[str, int]) -> None:
    op = "AveragePool" if counted else "MaxPool"
    windows = {"kernel_shape": [3, 3], "strides": [2, 3], "pads": pads, "ceil_mode": 1}
    agrees(write(tmp_path / "one.onnx", op, (1, 2, size, size), opset=19, **windows, **counted))


@pytest.mark.parametrize(
    ("opset", "transformation", "rounding"),
    [
        (11, "half_pixel", "round_prefer_floor"),
        (11, "pytorch_half_pixel", "round_prefer_ceil"),
        (11, "asymmetric", "floor"),
        (11, "tf_half_pixel_for_nn", "floor"),
        (13, "asymmetric", "floor"),
        (19, "half_pixel_symmetric", "round_prefer_floor"),
    ],
)
@pytest.mark.parametrize("factors", [(2, 3), (4, 1)])
def test_resize_that_repeats(
    tmp_path: Path, opset: int, transformation: str, rounding: str, factors: tuple[int, int]
) -> None:
    scales, none = np.array([1, 1, *factors], np.float32), np.zeros(0, np.float32)
    options = {"coordinate_transformation_mode": transformation, "nearest_mode": rounding}
    agrees(write(tmp_path / "scales.onnx", "Resize", IMAGE, none, scales, opset=opset, **options))
    sizes = ints(1, 2, 5 * factors[0], 5 * factors[1])
    agrees(write(tmp_path / "sizes.onnx", "Resize", IMAGE, none, none, sizes, opset=opset, **options))


def test_resize_of_other_forms(tmp_path: Path) -> None:
    agrees(write(tmp_path / "10.onnx", "Resize", IMAGE, np.array([1, 1, 2, 3], np.float32), opset=10))
    agrees(write(tmp_path / "18.onnx", "Resize", IMAGE, None, np.float32([2, 3]), opset=18, axes=[2, 3]))
