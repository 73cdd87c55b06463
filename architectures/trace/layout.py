"""Where a leaf's axes lie after a value was viewed or indexed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from architectures.trace.values import Axes, no_axes, reshaped, union


def view_axes(equation: Any, axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
    """Where leaf axes lie after a view."""
    name, parameters = equation.primitive.name, equation.params
    if name == "reshape":
        return reshaped(axes, old, new)
    if name == "transpose":
        return tuple(axes[axis] for axis in parameters["permutation"])
    if name == "squeeze":
        dropped = {axis % len(old) for axis in parameters["dimensions"]}
        return tuple(own for axis, own in enumerate(axes) if axis not in dropped)
    if name == "broadcast_in_dim":
        result: list[tuple[int, ...]] = [()] * len(new)
        for own, target in zip(axes, parameters["broadcast_dimensions"], strict=True):
            result[target] = own
        return tuple(result)
    return axes if len(old) == len(new) else no_axes(len(new))


def gather_axes(equation: Any, axes: Axes, rank: int) -> Axes:
    """Where leaf axes lie after indexing with constants."""
    numbers = equation.params["dimension_numbers"]
    gone = set(numbers.collapsed_slice_dims) | set(getattr(numbers, "operand_batching_dims", ()))
    kept = [own for axis, own in enumerate(axes) if axis not in gone]
    result: list[tuple[int, ...]] = [()] * rank
    for own, target in zip(kept, numbers.offset_dims, strict=False):
        result[target] = own
    looked_up = union(axes[axis] for axis in numbers.start_index_map if axis in gone)
    free = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    for axis in free:
        result[axis] = looked_up
    return tuple(result)


def mean_size(sizes: Sequence[int]) -> float:
    """The size along one axis of a square of as many pixels (3 x 3 x 3: 3; 1 x 5: 2.2)."""
    return math.prod(sizes) ** (1 / len(sizes)) if sizes else 1.0
