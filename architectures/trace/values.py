"""What tracing knows of an intermediate value: which node it comes from, what was done to it since, and which parameter
leaves have entered it without an owner yet.

A value is one of four kinds, told apart by `source` and `leaves`:

    source  leaves
    None    none      a constant (or, with the mark "state", a non-parameter input such as running statistics)
    None    some      arithmetic on parameters only: folds into whatever consumes it
    a node  none      data: a function without parameters of one node's output
    a node  some      data that parameters have entered elementwise: becomes a node when something reads it
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

AxisRole = Literal["stack", "space", "in", "out"]
Axes = tuple[tuple[int, ...], ...]  # for every axis of a value, the axes of a leaf that lie along it


@dataclasses.dataclass(frozen=True, order=True)
class LeafRef:
    """A parameter leaf, or the slice of it that one iteration of a scan over layers uses.

    Attributes:
        index: of the leaf among the flattened parameters.
        part: indices into its leading axes; empty for the whole leaf.
    """

    index: int
    part: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a leaf has entered a value.

    Attributes:
        axes: where the leaf's axes lie in the value (those that were reduced or indexed away are in none).
        how: "" while no data has been met; "mul", "add" or another primitive's name afterwards.
        offset: 1 was added to the leaf before it met data: (1 + scale) * x.
        curved: what met data is no multiple of the leaf, but its exponential, its inverse, it times an array, ...
        inner: it is one of several leaves whose matrix product the value holds.
    """

    axes: Axes
    how: str = ""
    offset: bool = False
    curved: bool = False
    inner: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product of two matrices that depend on no data (see `products`).

    Attributes:
        operands: the matrices.
        inner: the axis of each that is contracted.
        flipped: it has been transposed since.
        is_matrix: it has not been reshaped since.
    """

    operands: tuple[Value, Value]
    inner: tuple[int, int]
    flipped: bool = False
    is_matrix: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """Matrices of parameters that data has chosen (see `products`).

    Attributes:
        table: the stack of them.
        roles: of its axes; "in" for the one that is looked up in.
        index: the data.
    """

    table: Value
    roles: tuple[AxisRole, ...]
    index: Value


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An intermediate value.

    Attributes:
        shape: of the array.
        source: the node whose output it is a function of; None if it depends on no data.
        leaves: parameters that have entered and that no node owns yet.
        marks: what was done since the source, as far as it tells ops apart ("exp", "reduce_last", ...).
        literal: its number, for scalars written in the code and their broadcasts.
        varied: a constant whose elements differ, as those of positions and of noise do.
        product: of parameters, which it is, and which nothing has used yet.
        lookup: which it is, and which nothing has used yet.
    """

    shape: tuple[int, ...]
    source: int | None = None
    leaves: Mapping[LeafRef, Entry] = dataclasses.field(default_factory=dict)
    marks: frozenset[str] = frozenset()
    literal: float | None = None
    varied: bool = False
    product: Product | None = None
    lookup: Lookup | None = None

    @property
    def is_data(self) -> bool:
        """Whether it depends on an input."""
        return self.source is not None

    @property
    def parameters_only(self) -> bool:
        """Whether it depends on parameters and on no input."""
        return self.source is None and bool(self.leaves)

    def marked(self, *marks: str) -> Value:
        """The same with more marks."""
        return dataclasses.replace(self, marks=self.marks | set(marks))

    def viewed(self, shape: Sequence[int], axes: Mapping[LeafRef, Axes]) -> Value:
        """The same data in another layout."""
        leaves = {ref: dataclasses.replace(entry, axes=axes[ref]) for ref, entry in self.leaves.items()}
        return dataclasses.replace(self, shape=tuple(shape), leaves=leaves)

    def in_shape(self, shape: Sequence[int]) -> Value:
        """The same data in a shape along whose axes nothing is known to lie."""
        return self.viewed(shape, dict.fromkeys(self.leaves, no_axes(len(shape))))


def no_axes(rank: int) -> Axes:
    """Axes of a value that nothing is known to lie along."""
    return ((),) * rank


def union(parts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """All leaf axes of several value axes, each once."""
    return tuple(dict.fromkeys(axis for part in parts for axis in part))


def aligned(axes: Axes, rank: int) -> Axes:
    """Axes of an operand as those of a result of `rank`, which it is broadcast to (trailing axes align)."""
    return no_axes(rank - len(axes)) + axes if len(axes) <= rank else axes[len(axes) - rank :]


def reshaped(axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Where leaf axes lie after a reshape: axes merge and split in groups of equal size."""
    result: list[tuple[int, ...]] = [()] * len(new)
    i = j = 0
    while i < len(old) and j < len(new):
        first_i, first_j = i, j
        size_i, size_j = old[i], new[j]
        i, j = i + 1, j + 1
        while size_i != size_j and (i < len(old) or j < len(new)):
            if (size_i < size_j and i < len(old)) or j >= len(new):
                size_i, i = size_i * old[i], i + 1
            else:
                size_j, j = size_j * new[j], j + 1
        here = union(axes[first_i:i])
        for axis in range(first_j, j):
            if new[axis] > 1 or math.prod(old[first_i:i]) == 1:
                result[axis] = here
    return tuple(result)
