"""The graph while it is being traced: nodes, and who owns which parameter leaf."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from architectures.ops import Role
from architectures.trace.ops import NORMS
from architectures.trace.values import AxisRole, Entry, LeafRef, Value

_PRIORITY: dict[AxisRole, int] = {"stack": 0, "space": 1, "in": 2, "out": 3}

KERNEL_OWNERS = frozenset(("conv", "conv_transpose", "dense"))


@dataclasses.dataclass(frozen=True)
class Owned:
    """A leaf of a node: its role, what each of its axes is (kernels), and how it is used (see `Parameter`)."""

    ref: LeafRef
    role: Role
    axes: tuple[AxisRole, ...] = ()
    offset: bool = False
    curved: bool = False
    multiplies: bool = False


@dataclasses.dataclass
class Draft:
    """A node; `uses` are leaves that an earlier node owns (tied weights), `again` is what a carry is in the next
    iteration of its loop."""

    op: str
    inputs: list[int]
    shape: tuple[int, ...]
    attributes: dict[str, float]
    owned: list[Owned] = dataclasses.field(default_factory=list)
    uses: list[LeafRef] = dataclasses.field(default_factory=list)
    again: int | None = None


class Drafts:
    """Nodes in topological order."""

    def __init__(self, leaf_shapes: Sequence[tuple[int, ...]]) -> None:
        self.nodes: list[Draft] = []
        self.owner: dict[LeafRef, int] = {}
        self._leaf_shapes = leaf_shapes
        self._settled: dict[tuple[int, object], int] = {}
        self._derived: dict[int | None, tuple[int, frozenset[str]]] = {}

    def add(self, op: str, inputs: Sequence[int], shape: Sequence[int], **attributes: float) -> int:
        """Adds a node; returns its id. `channels_out` and `channels_in` default to those of the inputs."""
        unique = list(inputs if op == "sum" else dict.fromkeys(inputs))
        size = math.prod(shape)
        if "channels_out" not in attributes:
            attributes["channels_out"] = self._channels(op, unique, shape, size)
        attributes.setdefault(
            "channels_in",
            sum(self.nodes[i].attributes["channels_out"] for i in unique)
            if op == "concat"
            else max((self.nodes[i].attributes["channels_out"] for i in unique), default=attributes["channels_out"]),
        )
        self.nodes.append(Draft(op, unique, tuple(shape), attributes))
        return len(self.nodes) - 1

    def _channels(self, op: str, inputs: Sequence[int], shape: Sequence[int], size: int) -> float:
        """What lies along the channel axis, wherever that is: as the input has, unless the size tells otherwise."""
        if op == "concat" and sum(math.prod(self.nodes[i].shape) for i in inputs) == size:
            extents = {math.prod(self.nodes[i].shape) / self.nodes[i].attributes["channels_out"] for i in inputs}
            if len(extents) == 1:
                return sum(self.nodes[i].attributes["channels_out"] for i in inputs)
        channels = [self.nodes[i].attributes["channels_out"] for i in inputs]
        fits = [c for c in channels if c in shape]
        if fits and op not in ("matmul", "attend"):
            return max(fits)
        return shape[-1] if shape else 1

    def own(
        self,
        node: int,
        ref: LeafRef,
        role: Role,
        axes: Mapping[int, AxisRole] | None = None,
        offset: bool = False,
        curved: bool = False,
        multiplies: bool = False,
    ) -> None:
        """Makes `node` the owner of a leaf, unless an earlier node is: then it is one more use."""
        if ref in self.owner:
            if self.owner[ref] != node:
                self.nodes[node].uses.append(ref)
            return
        self.owner[ref] = node
        rank = len(self._leaf_shapes[ref.index]) - len(ref.part)
        full: tuple[AxisRole, ...] = ()
        if axes is not None:
            full = tuple(axes.get(axis + len(ref.part), "stack") for axis in range(rank))
        self.nodes[node].owned.append(Owned(ref, role, full, offset, curved, multiplies))

    def settle(self, value: Value) -> int:
        """The node whose output a value is: its source, or a new node for what was done since."""
        if value.source is None:
            return self._constant(value)
        op = op_since(value, math.prod(self.nodes[value.source].shape))
        if op is None:
            return value.source
        key = (value.source, frozenset(value.leaves) or op)
        if key not in self._settled:
            node = self.add(op, [value.source], value.shape)
            for ref, entry in value.leaves.items():
                self.own_elementwise(node, ref, entry)
            self._settled[key] = node
        return self._settled[key]

    def current(self, value: Value) -> Value:
        """A value of which the node already exists, as that node's output."""
        if value.source is None:
            return value
        what = frozenset(value.leaves) if value.leaves else (value.marks, value.shape)
        node = self._settled.get((value.source, what))
        return value if node is None else Value(value.shape, node)

    def settle_now(self, value: Value) -> Value:
        """`settle` for a value that others will read again: they shall find the node too (`current`)."""
        node = self.settle(value)
        if not value.leaves and value.source is not None:
            self._settled[value.source, (value.marks, value.shape)] = node
            self._derived[node] = (value.source, value.marks)
        return Value(value.shape, node)

    def rebased(self, values: list[Value]) -> list[Value]:
        """Values of which one is a function of what became a node only later, as functions of that node."""
        for node in {value.source for value in values}:
            if node not in self._derived:
                continue
            source, marks = self._derived[node]
            values = [
                dataclasses.replace(value, source=node, marks=value.marks - marks)
                if value.source == source and marks <= value.marks
                else value
                for value in values
            ]
        return values

    def own_elementwise(self, node: int, ref: LeafRef, entry: Entry) -> None:
        """Makes `node` own a leaf that entered by elementwise arithmetic."""
        op = self.nodes[node].op
        role: Role = "factor"
        if entry.inner:
            pass
        elif op in NORMS and not entry.curved:
            role = "scale" if entry.how == "mul" else "bias" if entry.how == "add" else "factor"
        elif op == "shift" and entry.how == "add":
            strength = entry.curved or not _nonunit(self.leaf_shape(ref))  # a scalar, or of an array that is added
            role = "factor" if strength else "bias"
        elif op in ("position", "constant", "carry", "concat", "mix", "sum"):
            role = "embedding" if len(_nonunit(self.leaf_shape(ref))) > 0 else "factor"
        axes: dict[int, AxisRole] | None = None
        if role == "embedding":
            spread = _nonunit(self.leaf_shape(ref))
            axes = {axis + len(ref.part): ("out" if axis == spread[-1] else "in") for axis in spread}
        self.own(node, ref, role, axes, entry.offset, entry.curved, entry.how == "mul" and not entry.inner)

    def _constant(self, value: Value) -> int:
        """A node for a value that depends on no data: parameters that are an input of their own, or a constant."""
        if value.leaves and (key := (-1, frozenset(value.leaves))) in self._settled:
            return self._settled[key]
        node = self.add("constant", [], value.shape)
        for ref, entry in value.leaves.items():
            self.own_elementwise(node, ref, entry)
        if value.leaves:
            self._settled[key] = node
        return node

    def constant_of(self, value: Value) -> int | None:
        """The node of the parameters that a value without data is a function of, if there is one."""
        return self._settled.get((-1, frozenset(value.leaves))) if value.parameters_only else None

    def copies(self, node: int) -> int:
        """How many products of their own a node's kernel is a stack of."""
        kernel = next((owned for owned in self.nodes[node].owned if owned.role == "kernel"), None)
        if kernel is None:
            return 1
        sizes = zip(self.leaf_shape(kernel.ref), kernel.axes, strict=True)
        return math.prod(size for size, role in sizes if role == "stack")

    def leaf_shape(self, ref: LeafRef) -> tuple[int, ...]:
        """Shape of a leaf, or of the part of it."""
        return self._leaf_shapes[ref.index][len(ref.part) :]


def axis_roles(entry: Entry, roles: Sequence[AxisRole]) -> dict[int, AxisRole]:
    """What each axis of a leaf is, from what the axes of the operand that it has become are."""
    result: dict[int, AxisRole] = {}
    for role, leaf_axes in zip(roles, entry.axes, strict=True):
        for axis in leaf_axes:
            if axis not in result or _PRIORITY[role] > _PRIORITY[result[axis]]:
                result[axis] = role
    return result


def op_since(value: Value, source_size: int) -> str | None:
    """The op that a value is of its source; None where it is the source's own output in another layout."""
    marks = value.marks
    normalised = "rsqrt" in marks and any(mark.startswith("reduce") for mark in marks)
    if value.leaves:
        return _parametric_op(value, normalised)
    if {"rsqrt", "state"} <= marks and not normalised:
        return "batch_norm"
    if "exp" in marks and ("reduce_sum" in marks or "reduce_any" in marks):
        return "softmax"
    if normalised:
        return "normalise"
    activation = _activation(marks)
    if math.prod(value.shape) < source_size and any(mark.startswith("reduce") for mark in marks):
        return "global_max_pool" if "reduce_max" in marks else "global_avg_pool"
    return activation or ("stencil" if "stencil" in marks else None)


def _activation(marks: frozenset[str]) -> str | None:
    if "erf" in marks or {"tanh", "power"} <= marks:
        return "gelu"
    if "logistic" in marks:
        return "silu" if "self" in marks else "sigmoid"
    if "tanh" in marks:
        return "tanh"
    if "exp" in marks or "log" in marks or "wave" in marks or "rsqrt" in marks:
        return "activation"
    if "max" in marks:
        if "self" in marks:
            return "silu"
        return "sigmoid" if "shifted" in marks else "relu"  # a clamp around a half: the "hard" one
    return "activation" if "power" in marks or "mixed" in marks else None


def _parametric_op(value: Value, normalised: bool) -> str:
    marks = value.marks
    if normalised:
        if "reduce_batch" in marks:
            return "batch_norm"
        if "reduce_last" in marks and "reduce_inner" not in marks:
            return "layer_norm" if "sub" in marks else "rms_norm"
        return "group_norm"
    if {"rsqrt", "state"} <= marks:
        return "batch_norm"
    hows = {entry.how for entry in value.leaves.values()}
    if hows == {"add"}:
        spread = max(
            sum(bool(axes) and size > 1 for axes, size in zip(e.axes, value.shape, strict=True))
            for e in value.leaves.values()
        )
        return "position" if spread > 1 else "shift"
    return "scale" if hows == {"mul"} else "gate"


def _nonunit(shape: Sequence[int]) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size > 1]
