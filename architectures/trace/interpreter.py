"""Walks a jaxpr and drafts the graph: what each equation does to values, sources and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core as jex

from architectures.trace import ops
from architectures.trace.drafts import KERNEL_OWNERS, AxisRole, Drafts, axis_roles, op_since
from architectures.trace.values import Axes, Entry, LeafRef, Value, aligned, no_axes, reshaped, union

Values = list[Value]


class Interpreter:
    """Evaluates jaxprs on `Value`s; nodes go into `drafts`."""

    def __init__(self, drafts: Drafts) -> None:
        self.drafts = drafts

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

        for equation in jaxpr.eqns:
            results = self.equation(equation, [read(atom) for atom in equation.invars])
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, closed: Any, arguments: Sequence[Value]) -> Values:
        """The outputs of a closed jaxpr (or an open one without constants)."""
        jaxpr = getattr(closed, "jaxpr", closed)
        return self.run(jaxpr, [Value(_shape(var)) for var in jaxpr.constvars], arguments)

    def equation(self, equation: Any, values: Values) -> Values:
        """What one equation returns."""
        name = equation.primitive.name
        values = [self.drafts.current(value) for value in values]
        shapes = [_shape(var) for var in equation.outvars]
        if name in ("scan", "while", "cond"):
            from architectures.trace import control

            return getattr(control, f"run_{name}")(self, equation, values)
        inner = _called(equation)
        if inner is not None:
            return self.closed(inner, values)
        if not any(value.source is not None or value.leaves or value.marks for value in values):
            literal = values[0].literal if values and name in ("broadcast_in_dim", "convert_element_type") else None
            return [Value(shape, literal=literal) for shape in shapes]
        handler: Callable[[Interpreter, Any, Values, tuple[int, ...]], Value] | None = HANDLERS.get(name)
        if handler is not None:
            first = handler(self, equation, values, shapes[0])
            return [first, *(self._like(first, shape) for shape in shapes[1:])]
        if name in ops.VIEWS or name in ops.SCANS_OF_ARRAYS:
            return [self.view(equation, values[0], shape) for shape in shapes]
        mark = ops.NONLINEAR.get(name)
        if name in ops.SILENT:
            mark = ""
        elif mark is None and name not in ops.LINEAR:
            mark = "mixed"
        return [self.combine(name, values, shape, mark) for shape in shapes]

    @staticmethod
    def _like(value: Value, shape: tuple[int, ...]) -> Value:
        return value.viewed(shape, {ref: no_axes(len(shape)) for ref in value.leaves})

    # --------------------------------------------------------------------------------------------------- elementwise

    def view(self, equation: Any, value: Value, shape: tuple[int, ...]) -> Value:
        """A value in another layout."""
        if equation.primitive.name in ops.MOVES and value.is_data:
            value = self._settled_parameters(value)
        axes = {ref: _view_axes(equation, entry.axes, value.shape, shape) for ref, entry in value.leaves.items()}
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
        if mark or any(value.leaves for value in values if not value.is_data):
            values = [self._whole_stencil(value) for value in values]
        if mark:
            values = [self._settled_parameters(value) if value.is_data else value for value in values]
        if len({value.source for value in values if value.is_data}) > 1:
            values = self.drafts.rebased(values)
        data = [value for value in values if value.is_data]
        others = [value for value in values if not value.is_data]
        if len({value.source for value in data}) > 1 or (name in ("add", "add_any") and _residual(data)):
            return self._join(name, data, others, shape)
        how = _how(name, data)
        if how == "mul" and len(data) == 1 and any(value.leaves for value in others):
            data = [self._finished(data[0])]
            values = [*data, *others]
        leaves: dict[LeafRef, Entry] = {}
        literal_one = name in ("add", "add_any") and any(value.literal == 1.0 for value in others)
        for value in values:
            for ref, entry in value.leaves.items():
                axes = aligned(entry.axes, len(shape))
                old = leaves.get(ref)
                if old is not None:
                    axes = tuple(union(pair) for pair in zip(old.axes, axes, strict=True))
                entered = entry.how or (how if data and not value.is_data else "")
                offset = entry.offset or (literal_one and not data)
                leaves[ref] = Entry(axes, entered, offset)
        if data and name in ("add", "add_any", "sub"):
            leaves = self._without_biases(data[0], others, leaves)
        marks = frozenset().union(*(value.marks for value in values))
        if mark and not (name == "max" and "rsqrt" in marks and not data):
            marks |= {mark}
        if name in ("sub", "add", "add_any") and len(data) == 2:
            marks |= {"stencil" if "moved" in marks else "sub"}
        if name == "mul" and len(data) == 2 and data[0].source is not None:
            marks |= {"self" if any("logistic" in value.marks for value in data) else "power"}
        if name == "div" and any("power" in v.marks and any(m.startswith("reduce") for m in v.marks) for v in data[1:]):
            marks |= {"rsqrt"}
        source = data[0].source if data else None
        return Value(shape, source, leaves, frozenset(marks))

    def _settled_parameters(self, value: Value) -> Value:
        """A value whose elementwise parameters got a node, before something nonlinear is done to it.

        What may yet turn out to be the kernel of a convolution (StyleGAN's modulated ones) is left as it is.
        """
        if not value.leaves or any(self._kernel_like(ref, entry) for ref, entry in value.leaves.items()):
            return value
        return Value(value.shape, self.drafts.settle(value))

    def _whole_stencil(self, value: Value) -> Value:
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

    def _without_biases(self, value: Value, others: Values, leaves: dict[LeafRef, Entry]) -> dict[LeafRef, Entry]:
        """Gives parameters that are added to the very output of a kernel's owner to that owner, as its bias."""
        assert value.source is not None
        node = self.drafts.nodes[value.source]
        if node.op not in KERNEL_OWNERS or value.leaves or value.marks:
            return leaves
        for other in others:
            for ref in other.leaves:
                size = math.prod(self.drafts.leaf_shape(ref))
                taken = any(owned.role == "bias" for owned in node.owned)
                if size == node.attributes["channels_out"] and not taken:
                    self.drafts.own(value.source, ref, "bias", offset=leaves[ref].offset)
                    leaves = {key: entry for key, entry in leaves.items() if key != ref}
        return leaves

    def _join(self, name: str, data: Values, others: Values, shape: tuple[int, ...]) -> Value:
        """A new node that reads several."""
        op = {"add": "sum", "add_any": "sum", "sub": "sum", "mul": "product", "div": "product"}.get(name, "mix")
        node = self.drafts.add(op, [self.drafts.settle(value) for value in data], shape)
        self._absorb(node, others)
        return Value(shape, node)

    def _absorb(self, node: int, values: Values) -> None:
        """Gives a node the parameters that enter it beside data."""
        for value in values:
            for ref, entry in value.leaves.items():
                self.drafts.own_elementwise(node, ref, entry)

    # ------------------------------------------------------------------------------------------------------- kernels

    def contract(
        self,
        op: str,
        operands: tuple[Value, Value],
        roles: tuple[Sequence[AxisRole], Sequence[AxisRole]],
        shape: tuple[int, ...],
        **attributes: float,
    ) -> Value:
        """A convolution or matrix product: finds its kernel among two operands, gives it an owner.

        Args:
            op: "conv", "conv_transpose" or "dense".
            operands: both of them; of two kernels the second (the larger, for a matrix product) is this node's.
            roles: what the axes of each are if it is the kernel.
            shape: of the result.
            attributes: of the node.
        """
        kernels = [i for i, (v, r) in enumerate(zip(operands, roles, strict=True)) if _is_kernel(v, r)]
        if not kernels:
            return self._without_kernel(op, operands, shape, attributes)
        kernel = kernels[-1]
        if len(kernels) > 1 and op == "dense" and math.prod(operands[0].shape) > math.prod(operands[1].shape):
            kernel = 0
        weight, data = operands[kernel], operands[1 - kernel]
        inputs: list[int] = []
        if data.is_data or data.leaves or "state" not in data.marks:
            inputs.append(self.drafts.settle(data))
        if weight.source is not None:
            inputs.append(weight.source)
        outputs = math.prod(size for size, role in zip(weight.shape, roles[kernel], strict=True) if role == "out")
        contracted = math.prod(size for size, role in zip(weight.shape, roles[kernel], strict=True) if role == "in")
        attributes = {"channels_in": contracted * attributes.get("groups", 1), "channels_out": outputs, **attributes}
        node = self.drafts.add(op, inputs, shape, **attributes)
        for ref, entry in weight.leaves.items():
            own = axis_roles(entry, roles[kernel])
            if _spans(entry, roles[kernel], weight) or len(weight.leaves) == 1:
                self.drafts.own(node, ref, "kernel", own, entry.offset)
            else:
                self.drafts.own(node, ref, "factor", None, entry.offset)
        return Value(shape, node)

    def _without_kernel(
        self, op: str, operands: tuple[Value, Value], shape: tuple[int, ...], attributes: dict[str, float]
    ) -> Value:
        """A product of data with data, or with a constant."""
        data = [value for value in operands if value.is_data or value.leaves]
        if not data:
            return Value(shape, marks=operands[0].marks | operands[1].marks)
        if len(data) == 1 and not (data[0].is_data and op != "dense"):
            (value,) = data
            if not value.is_data:  # parameters times a constant, such as the statistics of spectral normalisation
                return Value(shape, None, self._like(value, shape).leaves, value.marks | operands[0].marks)
            value = self._settled_parameters(self._whole_stencil(value))
            marks = value.marks | {"reduce_batch"} if operands[1].is_data else value.marks
            return Value(shape, value.source, self._like(value, shape).leaves, marks)
        inputs = [self.drafts.settle(value) for value in data]
        if op == "dense":
            op = "attend" if any(self.drafts.nodes[i].op == "softmax" for i in inputs) else "matmul"
            attributes = {}
        elif len(data) == 1:
            op, attributes = "avg_pool", {key: attributes[key] for key in ("kernel", "stride")}
        return Value(shape, self.drafts.add(op, inputs, shape, **attributes))


# ---------------------------------------------------------------------------------------------------------- handlers


def _convolution(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    kernel_roles: list[AxisRole] = ["space"] * len(values[1].shape)
    kernel_roles[numbers.rhs_spec[0]], kernel_roles[numbers.rhs_spec[1]] = "out", "in"
    data_roles: list[AxisRole] = ["space"] * len(values[0].shape)  # a convolution's kernel is its second operand
    spatial = [values[1].shape[axis] for axis in numbers.rhs_spec[2:]]
    transposed = max(parameters["lhs_dilation"], default=1) > 1
    strides = parameters["lhs_dilation"] if transposed else parameters["window_strides"]
    groups = max(parameters["feature_group_count"], parameters["batch_group_count"])
    if values[0].leaves and not values[0].is_data:  # a learned constant as input (StyleGAN)
        values = [Value(values[0].shape, self.drafts.settle(values[0])), values[1]]
    return self.contract(
        "conv_transpose" if transposed else "conv",
        (values[0], values[1]),
        (data_roles, kernel_roles),
        shape,
        channels_in=values[1].shape[numbers.rhs_spec[1]] * groups,
        channels_out=shape[numbers.out_spec[1]],
        kernel=_mean_size(spatial),
        stride=_mean_size(strides),
        groups=groups,
        dilation=_mean_size(parameters["rhs_dilation"]),
    )


def _product(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    (contracted, batch) = equation.params["dimension_numbers"]
    roles = []
    for value, inner, outer in zip(values, contracted, batch, strict=True):
        kinds: list[AxisRole] = ["out"] * len(value.shape)
        for axis in inner:
            kinds[axis] = "in"
        for axis in outer:
            kinds[axis] = "stack"
        roles.append(kinds)
    return self.contract("dense", (values[0], values[1]), (roles[0], roles[1]), shape)


def _gather(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    table, index = values[0], next((value for value in values[1:] if value.is_data), None)
    if table.parameters_only and index is not None:
        if "dimension_numbers" in equation.params:
            numbers = equation.params["dimension_numbers"]
            looked_up = set(numbers.start_index_map)
        else:  # dynamic_slice
            looked_up = {a for a, (old, new) in enumerate(zip(table.shape, shape, strict=True)) if old != new}
        roles: list[AxisRole] = ["in" if axis in looked_up else "out" for axis in range(len(table.shape))]
        width = math.prod(size for size, role in zip(table.shape, roles, strict=True) if role == "out")
        rows = math.prod(size for size, role in zip(table.shape, roles, strict=True) if role == "in")
        node = self.drafts.add("embedding", [self.drafts.settle(index)], shape, channels_in=rows, channels_out=width)
        for ref, entry in table.leaves.items():
            self.drafts.own(node, ref, "embedding", axis_roles(entry, roles), entry.offset)
        return Value(shape, node)
    if not table.is_data and not table.leaves:
        return Value(shape, None if index is None else index.source, {}, frozenset() if index is None else index.marks)
    leaves = {
        ref: Entry(_gather_axes(equation, entry.axes, len(shape)), entry.how, entry.offset)
        for ref, entry in table.leaves.items()
    }
    return Value(shape, table.source, leaves, table.marks)


def _scatter(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    operand, updates = values[0], values[-1]
    if updates.is_data and not operand.is_data and not operand.leaves:
        return Value(shape, self.drafts.add("aggregate", [self.drafts.settle(updates)], shape))
    return self.combine("mix", [operand, updates], shape)


def _pool(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    value = values[0]
    if not value.is_data:
        return self._like(value, shape)
    parameters = equation.params
    window = parameters.get("window_dimensions") or parameters["window"]
    strides = parameters.get("window_strides") or (1,) * len(window)
    kernel, stride = (_mean_size([size for size in sizes if size > 1]) for sizes in (window, strides))
    op = ops.POOLS[equation.primitive.name]
    return Value(shape, self.drafts.add(op, [self.drafts.settle(value)], shape, kernel=kernel, stride=stride))


def _concatenate(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    data = [value for value in values if value.is_data]
    others = [value for value in values if not value.is_data]
    sources = {value.source for value in data}
    same = {frozenset(value.leaves) for value in data}
    if len(sources) <= 1 and not (data and (any(value.leaves for value in others) or len(same) > 1)):
        leaves = {ref: entry for value in values for ref, entry in value.leaves.items()}
        marks = frozenset().union(*(value.marks for value in values))
        return Value(shape, data[0].source if data else None, leaves, marks)
    learned = [value for value in others if value.leaves]
    node = self.drafts.add("concat", [self.drafts.settle(value) for value in data], shape)
    self._absorb(node, learned)
    return Value(shape, node)


def _reduce(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    value, axes = self._whole_stencil(values[0]), equation.params["axes"]
    if value.is_data:
        value = self._settled_parameters(value)
        size = math.prod(self.drafts.nodes[value.source].shape) if value.source is not None else 0
        pooled = equation.params["axes"] == (len(value.shape) - 1,) and value.marks <= {"reduce_sum", "reduce_inner"}
        op = None if value.leaves else op_since(value, size)
        if op in ops.ACTIVATIONS - {"activation"} or (op == "global_avg_pool" and pooled):
            value = self.drafts.settle_now(value)
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    leaves = {ref: Entry(tuple(e.axes[a] for a in kept), e.how, e.offset) for ref, e in value.leaves.items()}
    kind = {"reduce_sum": "reduce_sum", "reduce_max": "reduce_max"}.get(equation.primitive.name, "reduce_other")
    marks = {
        kind,
        "reduce_batch" if 0 in axes else "reduce_last" if axes == (len(value.shape) - 1,) else "reduce_inner",
    }
    return Value(shape, value.source, leaves, value.marks | (marks if value.is_data else set()))


def _select(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    cases = [value for value in values[1:] if value.is_data or value.leaves]
    if cases:
        return self.combine("select_n", cases, shape)
    return Value(shape, values[0].source, {}, values[0].marks)


def _dynamic_slice(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    if values[0].parameters_only and any(value.is_data for value in values[1:]):
        return _gather(self, equation, values, shape)
    return self.view(equation, values[0], shape) if values[0].is_data or values[0].leaves else Value(shape)


def _first(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    """What matters is the first operand that is data or holds parameters."""
    chosen = next((value for value in values if value.is_data or value.leaves), values[0])
    if chosen.is_data:
        chosen = self._settled_parameters(chosen)
    axes = {ref: entry.axes for ref, entry in chosen.leaves.items()}
    padded = chosen.viewed(
        shape, axes if len(shape) == len(chosen.shape) else {ref: no_axes(len(shape)) for ref in axes}
    )
    return padded.marked("moved") if chosen.is_data else padded


def _update_slice(self: Interpreter, equation: Any, values: Values, shape: tuple[int, ...]) -> Value:
    return self.combine("mix", values[:2], shape)


HANDLERS: dict[str, Callable[[Interpreter, Any, Values, tuple[int, ...]], Value]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "concatenate": _concatenate,
    "select_n": _select,
    "pad": _first,
    **dict.fromkeys(ops.REDUCTIONS, _reduce),
    **dict.fromkeys(ops.SCATTERS, _scatter),
    **dict.fromkeys(ops.POOLS, _pool),
}


# ----------------------------------------------------------------------------------------------------------- helpers


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
    """Whether a sum of two values of one source is a node: one has parameters, or it is the very same thing twice."""
    if len(data) != 2:
        return False
    with_parameters = [bool(value.leaves) for value in data]
    untouched = not any(value.marks or value.leaves for value in data) and data[0].shape == data[1].shape
    if {"stencil" in value.marks for value in data} == {True, False} and not (data[0].marks and data[1].marks):
        return True
    return data[0] is data[1] or untouched or with_parameters in ([True, False], [False, True])


def _how(name: str, data: Values) -> str:
    """By what kind of arithmetic parameters meet data."""
    if name in ("add", "add_any", "sub"):
        return "add"
    return "mul" if name in ("mul", "div") else name


def _spans(entry: Entry, roles: Sequence[AxisRole], value: Value) -> bool:
    """Whether a leaf varies along inputs and along outputs (or everything that varies is there)."""
    own = set(axis_roles(entry, roles).values())
    return {"in", "out"} <= own or ("space" in own and "out" in own)


def _is_kernel(value: Value, roles: Sequence[AxisRole]) -> bool:
    if not value.leaves or ("in" not in roles and "out" not in roles):
        return False
    if value.source is None:
        return True
    return any(entry.how == "mul" and _spans(entry, roles, value) for entry in value.leaves.values())


def _mean_size(sizes: Sequence[int]) -> float:
    """The size along one axis of a square of as many pixels (3 x 3 x 3: 3; 1 x 5: 2.2)."""
    return math.prod(sizes) ** (1 / len(sizes)) if sizes else 1.0


def _view_axes(equation: Any, axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
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


def _gather_axes(equation: Any, axes: Axes, rank: int) -> Axes:
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
