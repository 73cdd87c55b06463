"""The ONNX operator Resize, where it repeats elements."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from architectures.onnx.registry import Node, Value, ints, op


@op("Resize")
def _resize(node: Node, x: Value, *inputs: Value) -> Value:
    scales, sizes = _targets(node, inputs)
    if node.get("mode", "nearest") != "nearest":
        raise NotImplementedError(f"Resize in the mode {node.get('mode')!r}, other than nearest")
    axes = node.get("axes") or range(x.ndim)
    if sizes is not None:
        factors = [new / x.shape[axis] for new, axis in zip(ints(sizes), axes, strict=True)]
    else:
        factors = [float(factor) for factor in np.asarray(scales)]
    if any(factor != int(factor) or factor < 1 for factor in factors):
        raise NotImplementedError("Resize by other than whole factors")
    transformation, rounding = "asymmetric", "floor"  # before opset 11
    if node.opset >= 11:
        transformation = node.get("coordinate_transformation_mode", "half_pixel")
        rounding = node.get("nearest_mode", "round_prefer_floor")
    for axis, factor in zip(axes, map(int, factors), strict=True):
        if factor > 1:
            _check_repeats(transformation, rounding, x.shape[axis], factor)
            x = jnp.repeat(x, factor, axis)
    return x


def _targets(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, Value]:
    """Scales and sizes, one of which is None."""
    if node.opset < 11:
        (scales,) = inputs
        return scales, None
    _, scales, sizes = (*inputs, None, None, None)[:3]
    return (scales, None) if sizes is None or np.size(sizes) == 0 else (None, sizes)


def _check_repeats(transformation: str, rounding: str, size: int, factor: int) -> None:
    """Raises where the element that is nearest by these rules is not the one that is repeated."""
    positions = np.arange(size * factor)
    places: dict[str, NDArray[Any]] = {
        "half_pixel": (positions + 0.5) / factor - 0.5,
        "half_pixel_symmetric": (positions + 0.5) / factor - 0.5,
        "pytorch_half_pixel": (positions + 0.5) / factor - 0.5,
        "tf_half_pixel_for_nn": (positions + 0.5) / factor,
        "asymmetric": positions / factor,
        "align_corners": positions * ((size - 1) / (size * factor - 1)),
    }
    if transformation in places:
        place = places[transformation]
        nearest = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }
        if np.array_equal(np.clip(nearest[rounding], 0, size - 1), positions // factor):
            return
    raise NotImplementedError(
        f"Resize that repeats no elements: coordinate_transformation_mode {transformation!r}, nearest_mode {rounding!r}"
    )
