"""Walks a jaxpr and drafts the graph: what each equation does to values, sources and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

from architectures.trace import control, ops, products
from architectures.trace.drafts import KERNEL_OWNERS, Drafts, op_since
from architectures.trace.handlers import HANDLERS
from architectures.trace.layout import view_axes
from architectures.trace.ops import NORMS
from architectures.trace.straight import straight_through
from architectures.trace.values import Entry, LeafRef, Lookup, Value, aligned, union

Values = list[Value]

CONTROL = frozenset(["scan", "while", "cond"])
SHIFT = 0.5  # least number that, added in front of a clamp, makes a hard sigmoid of it


class Interpreter:
    """Evaluates jaxprs on `Value`s; nodes go into `drafts`."""

    def __init__(self, drafts: Drafts) -> None:
        self.drafts = drafts
        self.lookups: dict[Lookup, Value] = {}  # those of parameters that are nodes
        self.products: dict[tuple[Value, Value], Value] = {}  # those of parameters that are nodes, by their operands

    # ------------------------------------------------------------------------------------------------------ walking

    def run(self, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]) -> Values:
        """The outputs of an (open) jaxpr."""
        environment: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, jex.Literal):
                shape = _shape(atom)
                number = float(atom.val) if math.prod(shape) == 1 and _is_number(atom.val) else None
                return Value(shape, literal=number)
            return environment[atom]

        passed = straight_through(jaxpr)
        for equation in jaxpr.eqns:
            if equation.outvars and equation.outvars[0] in passed:
                environment[equation.outvars[0]] = environment[passed[equation.outvars[0]]]
                continue
            results = self.equation(equation, [read(atom) for atom in equation.invars])
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, closed: Any, arguments: Sequence[Value]) -> Values:
        """The outputs of a closed jaxpr (or an open one without constants)."""
        jaxpr = getattr(closed, "jaxpr", closed)
        return [products.made(self, value) for value in self._inside(jaxpr, arguments)]

    def _inside(self, jaxpr: Any, arguments: Sequence[Value]) -> Values:
        return self.run(jaxpr, [Value(_shape(var)) for var in jaxpr.constvars], arguments)

    def equation(self, equation: Any, values: Values) -> Values:
        """What one equation returns."""
        name = equation.primitive.name
        values = [self.drafts.current(value) for value in values]
        shapes = [_shape(var) for var in equation.outvars]
        inner = _called(equation)
        if inner is not None and name not in CONTROL:
            return self._inside(getattr(inner, "jaxpr", inner), values)
        if any(value.product is not None or value.lookup is not None for value in values):
            result = products.carried(self, equation, values, shapes[0])
            if result is not None:
                return [result]
            values = [products.made(self, value) for value in values]
        if name in CONTROL:
            return getattr(control, f"run_{name}")(self, equation, values)
        if not any(value.source is not None or value.leaves or value.marks for value in values):
            literal = values[0].literal if values and name in ("broadcast_in_dim", "convert_element_type") else None
            varied = name in ops.VARIED or any(value.varied for value in values)
            return [Value(shape, literal=literal, varied=varied and math.prod(shape) > 1) for shape in shapes]
        handler = HANDLERS.get(name)
        if handler is not None:
            first = handler(self, equation, values, shapes[0])
            return [first, *(first.in_shape(shape) for shape in shapes[1:])]
        if name in ops.VIEWS or name in ops.SCANS_OF_ARRAYS:
            viewed = values if len(values) == len(shapes) else values[:1] * len(shapes)  # a sort moves all its operands
            results = [self.view(equation, value, shape) for value, shape in zip(viewed, shapes, strict=True)]
            marks = ops.parts(equation) or [[]] * len(results)
            return [v.marked(*own) if v.is_data else v for v, own in zip(results, marks, strict=True)]
        mark = ops.NONLINEAR.get(name)
        if name in ops.SILENT:
            mark = ""
        elif mark is None and name not in ops.LINEAR:
            mark = "mixed"
        return [self.combine(name, values, shape, mark) for shape in shapes]

    # --------------------------------------------------------------------------------------------------- elementwise

    def view(self, equation: Any, value: Value, shape: tuple[int, ...]) -> Value:
        """A value in another layout."""
        if equation.primitive.name in ops.MOVES and value.is_data:
            value = self.settled_parameters(value)
        axes = {ref: view_axes(equation, entry.axes, value.shape, shape) for ref, entry in value.leaves.items()}
        viewed = value.viewed(shape, axes)
        return viewed.marked("moved") if value.is_data and equation.primitive.name in ops.MOVES else viewed

    def combine(self, name: str, values: Values, shape: tuple[int, ...], mark: str | None = None) -> Value:
        """An elementwise operation of any number of operands.

        Args:
            name: the primitive.
            values: its operands.
            shape: of the result.
            mark: how the operation is remembered; "" for one that may be forgotten, None for a linear one.
        """
        values = self._normalised_constants(name, values, shape)
        if mark or any(value.leaves for value in values if not value.is_data):
            values = [self.whole_stencil(value) for value in values]
        if mark:
            values = [self.settled_parameters(value) if value.is_data else value for value in values]
        if len({value.source for value in values if value.is_data}) > 1:
            values = self.drafts.rebased(values)
        data = [value for value in values if value.is_data]
        others = [value for value in values if not value.is_data]
        if len({value.source for value in data}) > 1 or (name in ("add", "add_any") and _residual(data)):
            return self._join(name, data, others, shape)
        if name in ("mul", "div") and _of_different_parts(data):
            return self._join(name, data, others, shape)
        if len(data) == 1 and any(value.leaves or "state" in value.marks for value in others):
            data = [self._activated(data[0])]
            values = [*data, *others]
        how = _how(name)
        if how == "mul" and len(data) == 1 and any(value.leaves for value in others):
            data = [self._finished(data[0])]
            values = [*data, *others]
        if how == "add" and len(data) == 1 and self._more_than_a_norm(data[0], others, len(shape)):
            data = [Value(data[0].shape, self.drafts.settle(data[0]))]
            values = [*data, *others]
        leaves: dict[LeafRef, Entry] = {}
        added = others if name in ("add", "add_any") else others[:1] if name == "sub" and not values[0].is_data else []
        literal_one = any(value.literal == 1.0 for value in added)
        uneven = how == "mul" and not data and any(map(_is_varied, others))
        for value in values:
            for ref, entry in value.leaves.items():
                axes = aligned(entry.axes, len(shape))
                old = leaves.get(ref)
                if old is not None:
                    axes = tuple(union(pair) for pair in zip(old.axes, axes, strict=True))
                entered = entry.how or (how if data and not value.is_data else "")
                offset = entry.offset or (literal_one and not data)
                inverse = name == "div" and value is values[-1]
                bent = not value.is_data and (inverse or uneven or (bool(mark) and not data))
                inner = entry.inner or (old is not None and old.inner)
                leaves[ref] = Entry(axes, entered, offset, entry.curved or bent, inner)
        if data and name in ("add", "add_any", "sub"):
            leaves = self._without_biases(data[0], others, leaves)
        marks = frozenset().union(*(value.marks for value in values))
        if mark and not (name == "max" and "rsqrt" in marks and not data):
            marks |= {mark}
        if name in ("add", "add_any") and len(data) == 1 and not data[0].marks and _shifting(others):
            marks |= {"shifted"}
        if name == "sub" and not data and len(values) == 2 and set(values[0].leaves) & set(values[1].leaves):
            marks |= {"sub"}
        if name in ("sub", "add", "add_any") and len(data) == 2:
            reduced = any(m.startswith("reduce") for m in marks)  # less the mean of what was moved: no neighbours
            moved = "moved" in marks and not (parts_of(data[0]) == parts_of(data[1]) != set())
            marks |= {"stencil" if moved and not reduced else "sub"}
        if name == "mul" and len(data) == 2 and data[0].source is not None:
            gates = [bool(value.marks & {"logistic", "max"}) for value in data]  # x sigmoid(x); "hard" ones are clamped
            marks |= {"self" if gates[0] != gates[1] else "power"}
        if name == "div" and any("power" in v.marks and any(m.startswith("reduce") for m in v.marks) for v in data[1:]):
            marks |= {"rsqrt"}
        source = data[0].source if data else None
        return Value(shape, source, leaves, frozenset(marks))

    def _normalised_constants(self, name: str, values: Values, shape: tuple[int, ...]) -> Values:
        """Learned constants that are normalised along their last axis and then scaled along it, as data: a node is made
        of them, so that the scale belongs to a normalisation. The gains of normalised kernels lie across."""
        if name == "mul" and len(values) == 2 and all(value.parameters_only for value in values):
            for constant, scale in (values, values[::-1]):
                spread = [self._varying(ref, entry, len(shape)) for ref, entry in scale.leaves.items()]
                along = {axis for axes, _ in spread for axis in axes}
                if {"rsqrt", "rows"} <= constant.marks and not scale.marks and along == {len(shape) - 1}:
                    self.drafts.settle(Value(shape, None, constant.leaves))
                    return [self._as_output(value) if value is constant else value for value in values]
        sources = {value.source for value in values if value.is_data}
        known = [self.drafts.constant_of(value) for value in values]
        return [
            self._as_output(value) if node is not None and node in sources else value
            for value, node in zip(values, known, strict=True)
        ]

    def _as_output(self, value: Value) -> Value:
        """A function of a learned constant that is a node, as that of a node's output."""
        marks = {"reduce_last" if mark == "rows" else mark for mark in value.marks}
        return Value(value.shape, self.drafts.constant_of(value), {}, frozenset(marks))

    def settled_parameters(self, value: Value) -> Value:
        """A value whose elementwise parameters got a node, before something nonlinear is done to it.

        What may yet turn out to be the kernel of a convolution (StyleGAN's modulated ones) is left as it is.
        """
        if not value.leaves or any(self._kernel_like(ref, entry) for ref, entry in value.leaves.items()):
            return value
        return Value(value.shape, self.drafts.settle(value))

    def _activated(self, value: Value) -> Value:
        """A value whose activation got a node, before a normalisation or another parameter enters."""
        assert value.source is not None
        op = None if value.leaves else op_since(value, math.prod(self.drafts.nodes[value.source].shape))
        return self.drafts.settle_now(value) if op in ops.ACTIVATIONS - {"activation"} else value

    def whole_stencil(self, value: Value) -> Value:
        """A sum of neighbours as its own node, before anything but sums is done with it."""
        return self.drafts.settle_now(value) if value.is_data and "stencil" in value.marks else value

    def _kernel_like(self, ref: LeafRef, entry: Entry) -> bool:
        """Whether a leaf that was multiplied with data may be a kernel: at least two axes."""
        return entry.how == "mul" and sum(size > 1 for size in self.drafts.leaf_shape(ref)) >= 2

    def _finished(self, value: Value) -> Value:
        """A value that a parameter has been added to already has its node when the next factor enters: what follows is
        a second normalisation."""
        if any(entry.how == "add" for entry in value.leaves.values()):
            return Value(value.shape, self.drafts.settle(value))
        return value

    def _more_than_a_norm(self, value: Value, others: Values, rank: int) -> bool:
        """Whether data is a normalisation that what is added is no bias of: it has one, or the leaf varies along more
        than its channels (a position table)."""
        assert value.source is not None
        added = [(ref, entry) for other in others for ref, entry in other.leaves.items()]
        op = op_since(value, math.prod(self.drafts.nodes[value.source].shape))
        if not added or op not in NORMS | {"normalise"}:
            return False
        if any(entry.how == "add" for entry in value.leaves.values()):
            return True
        scaled = union(self._varying(ref, entry, rank)[0] for ref, entry in value.leaves.items() if entry.how == "mul")
        for ref, entry in added:
            along, leaf_axes = self._varying(ref, entry, rank)
            if (not set(along) <= set(scaled)) if scaled else len(leaf_axes) > 1:
                return True
        return False

    def _varying(self, ref: LeafRef, entry: Entry, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Along which axes of a value of this rank a leaf varies, and which axes of the leaf lie there."""
        shape, axes = self.drafts.leaf_shape(ref), aligned(entry.axes, rank)
        spread = [[own for own in part if shape[own - len(ref.part)] > 1] for part in axes]
        return tuple(axis for axis, part in enumerate(spread) if part), union(tuple(part) for part in spread)

    def _without_biases(self, value: Value, others: Values, leaves: dict[LeafRef, Entry]) -> dict[LeafRef, Entry]:
        """Gives parameters that are added to the very output of a kernel's owner to that owner, as its bias."""
        assert value.source is not None
        node = self.drafts.nodes[value.source]
        if node.op not in KERNEL_OWNERS or value.leaves or value.marks:
            return leaves
        channels = int(node.attributes["channels_out"])
        room = 0 if any(owned.role == "bias" for owned in node.owned) else channels * self.drafts.copies(value.source)
        whole = room  # of a stack of kernels, each has a bias of its own
        for other in others:
            for ref, entry in other.leaves.items():
                size = math.prod(self.drafts.leaf_shape(ref))
                part = size < channels and self._lies_along(ref, entry, value.shape, channels)
                if size <= room and (size in (channels, whole) or part):
                    self.drafts.own(value.source, ref, "bias", offset=leaves[ref].offset)
                    leaves = {key: entry for key, entry in leaves.items() if key != ref}
                    room -= size
        return leaves

    def _lies_along(self, ref: LeafRef, entry: Entry, shape: tuple[int, ...], size: int) -> bool:
        """Whether a vector lies along an axis of this size (which it fills together with others, or with zeros)."""
        along, own = self._varying(ref, entry, len(shape))
        return len(own) == 1 and [shape[axis] for axis in along] == [size]

    def _join(self, name: str, data: Values, others: Values, shape: tuple[int, ...]) -> Value:
        """A new node that reads several."""
        op = {"add": "sum", "add_any": "sum", "sub": "sum", "mul": "product", "div": "product"}.get(name, "mix")
        node = self.drafts.add(op, [self.drafts.settle(value) for value in data], shape)
        self.absorb(node, others)
        return Value(shape, node)

    def absorb(self, node: int, values: Values) -> None:
        """Gives a node the parameters that enter it beside data."""
        for value in values:
            for ref, entry in value.leaves.items():
                self.drafts.own_elementwise(node, ref, entry)


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(getattr(var.aval, "shape", ()))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _called(equation: Any) -> Any | None:
    """The jaxpr that an equation merely calls (jit, remat2, custom_jvp_call, custom_vjp_call, closed_call, ...)."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        jaxpr = getattr(inner, "jaxpr", inner)
        if inner is None or not hasattr(jaxpr, "invars") or equation.primitive.name in ops.POOLS:
            continue
        if (len(jaxpr.invars), len(jaxpr.outvars)) == (len(equation.invars), len(equation.outvars)):
            return inner
    return None


def _residual(data: Values) -> bool:
    """Whether a sum of two values of one source is a node.

    It is where one has parameters, or is an activation of the other, or they are the very same thing.
    """
    if len(data) != 2:
        return False
    for plain, other in (data, data[::-1]):
        op = None if other.leaves else op_since(other, math.prod(other.shape))
        if not (plain.marks or plain.leaves) and op in ops.ACTIVATIONS - {"activation"}:
            return True
    with_parameters = [bool(value.leaves) for value in data]
    untouched = not any(value.marks or value.leaves for value in data) and data[0].shape == data[1].shape
    if {"stencil" in value.marks for value in data} == {True, False} and not (data[0].marks and data[1].marks):
        return True
    return data[0] is data[1] or untouched or with_parameters in ([True, False], [False, True])


def parts_of(value: Value) -> set[str]:
    """The slices of its source that a value is a function of."""
    return {mark for mark in value.marks if mark.startswith(ops.PART)}


def _of_different_parts(data: Values) -> bool:
    """Whether two values are of different slices of one: a gate and what it opens."""
    parts = [parts_of(value) for value in data]
    return len(data) == 2 and all(parts) and parts[0] != parts[1]


def _is_varied(value: Value) -> bool:
    """Whether a value without parameters is an array of different numbers (and no statistics, which normalise)."""
    buffer = "state" in value.marks and "rsqrt" not in value.marks and math.prod(value.shape) > 1
    return not value.leaves and (value.varied or buffer)


def _shifting(others: Values) -> bool:
    """Whether a number is added that makes a hard sigmoid of the clamp that follows."""
    return any(value.literal is not None and value.literal >= SHIFT for value in others)


def _how(name: str) -> str:
    """By what kind of arithmetic parameters meet data."""
    if name in ("add", "add_any", "sub"):
        return "add"
    return "mul" if name in ("mul", "div") else name
