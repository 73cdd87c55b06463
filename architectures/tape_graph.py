"""Tapes as graphs, in the vocabulary and with the attributes of traced models.

What `architectures.trace` would say of `tape_plain.forward`: a convolution, a dense layer, a normalisation, an
activation, a sum are nodes of their own; attention is seven of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from architectures.graph import ArchGraph, GraphBuilder
from architectures.tape import Tape, Unit
from architectures.tape_layout import Allocated, TapeShape, allocate
from architectures.tape_plain import readers

OPS = (
    "input",
    "conv",
    "dense",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "relu",
    "gelu",
    "silu",
    "sigmoid",
    "sum",
    "product",
    "concat",
    "query_key",
    "softmax",
    "attend",
    "position",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
)


Own = Callable[[int, str], None]  # (node, part of a unit's path): the node owns the leaves there


def graph(tape: Tape, shape: TapeShape) -> ArchGraph:
    """The graph of a tape with the places of its leaves in the space's layout."""
    return _Graph(tape, shape).build()


class _Graph:
    """Collects the nodes of one tape; `channels` are those of each node's output."""

    def __init__(self, tape: Tape, shape: TapeShape) -> None:
        self._tape, self._shape, self._plan = tape, shape, allocate(tape, shape)
        self._builder = GraphBuilder()
        self._channels: list[int] = []
        self._sizes: list[float] = []
        self._known: dict[tuple[int, str], int] = {}  # activations that several units read

    def build(self) -> ArchGraph:
        tape, shape = self._tape, self._shape
        image = self._add("input", [], shape.image, shape.sizes[0], channels_in=shape.image)
        main: int | None = None
        side: int | None = None
        x = image
        for index, section in enumerate(self._plan.sections):
            size = shape.sizes[index]
            if index == tape.entry:
                main = self._unit(self._plan.stem, image, size)
            if main is None:
                continue
            after = [tape.final] if index == tape.exit else [d.source for d in tape.downs[index] if d is not None]
            flattened = tape.final if index == tape.exit and tape.head == "flatten" else -1
            entries = self._section(section, [main, side], size, after, flattened)
            if index == tape.exit:
                x = _known(entries[tape.final])
                break
            main, side = (
                None if unit is None else self._unit(unit, _known(entries[unit.unit.source]), shape.sizes[index + 1])
                for unit in self._plan.downs[index]
            )
        if tape.head == "average":
            x = self._add("global_avg_pool", [x], tape.features, 1)
        kernel, bias = self._plan.head
        x = self._add("dense", [x], shape.classes, 1, channels_in=kernel.leaf.shape[2])  # of the values, if flattened
        for row in (kernel, bias):
            self._builder.parameter(row.path, x, row.leaf, row.place)
        return self._builder.build()

    def _add(self, op: str, inputs: list[int], channels: int, size: float, **attributes: float) -> int:
        attributes.setdefault("channels_in", max((self._channels[i] for i in inputs), default=channels))
        self._channels.append(channels)
        self._sizes.append(size)
        extent = max(1.0, round(size, 3))
        # A step of its own for every node: the fewest places for a hypernetwork to keep.
        return self._builder.node(op, inputs, len(self._sizes) - 1, channels_out=channels, size=extent, **attributes)

    def _section(
        self,
        section: Sequence[Allocated],
        entries: list[int | None],
        size: int,
        read_after: Sequence[int],
        flattened: int,
    ) -> list[int | None]:
        """The node of every entry; sums and concatenations that nothing else reads are one with what reads them."""
        reads = readers([allocated.unit for allocated in section]) + Counter(read_after)
        joined: dict[int, tuple[str, list[int]]] = {}  # entry -> its op and inputs, as long as it is no node yet

        def settled(entry: int) -> int:
            if entry in joined:
                op, inputs = joined.pop(entry)
                unit, channels = section[entry - 2].unit, [self._channels[i] for i in inputs]
                read = sum(channels) if op == "concat" else max(channels)
                entries[entry] = self._add(op, inputs, unit.offset + unit.outputs, size, channels_in=read)
            return _known(entries[entry])

        def terms(entry: int, op: str) -> list[int]:
            """What a sum or concatenation reads of an entry: its own terms, where nothing else reads it."""
            held = joined.get(entry)
            alone = held is not None and held[0] == op and reads[entry] == 1
            return joined.pop(entry)[1] if alone else [settled(entry)]

        for number, allocated in enumerate(section, start=2):
            unit = allocated.unit
            bare = unit.kind == "skip" and (unit.norm, unit.activation) == ("none", "none")
            if unit.add is None or not bare or unit.offset:
                flat = unit.kind == "skip" and number == flattened
                own = [self._unit(allocated, settled(unit.source), size, flat)]
            else:
                own = terms(unit.source, "sum")
            if unit.add is None:
                entries.append(own[0])
            else:
                op = "concat" if unit.offset else "sum"
                joined[number] = (op, [*terms(unit.add, op), *own])
                entries.append(None)
        for entry in list(joined):
            settled(entry)
        return entries

    def _unit(self, allocated: Allocated, x: int, size: int, flattened: bool = False) -> int:
        """The nodes of a unit; returns the last. What is flattened at once has all its values as channels."""
        unit, rows = (
            allocated.unit,
            {"/".join(row.path).removeprefix(f"{allocated.unit.name}/"): row for row in allocated.rows},
        )

        def own(node: int, prefix: str) -> None:
            for name, row in rows.items():
                if name.rpartition("/")[0] == prefix:
                    self._builder.parameter(row.path, node, row.leaf, row.place)

        before = self._sizes[x]  # of a strided unit, that of the resolution before
        last = (unit.inputs * size * size, 1.0) if flattened else (unit.inputs, before)
        if unit.norm != "none":
            x = self._add(f"{unit.norm}_norm", [x], *(last if unit.activation == "none" else (unit.inputs, before)))
            own(x, "norm")
        if unit.activation != "none":
            key = (x, unit.activation)
            if key not in self._known:
                self._known[key] = self._add(unit.activation, [x], *last)
            x = self._known[key]
        if unit.kind == "skip":
            return x
        if unit.kind in ("conv", "depthwise"):
            groups = unit.inputs if unit.kind == "depthwise" else unit.groups
            x = self._add(
                "conv",
                [x],
                unit.outputs,
                size,
                channels_in=unit.inputs,
                kernel=unit.kernel,
                stride=unit.stride,
                groups=groups,
                dilation=unit.dilation,
            )
        elif unit.kind == "dense":
            x = self._add("dense", [x], unit.outputs, size, channels_in=unit.inputs)
        elif unit.kind in ("max_pool", "avg_pool"):
            x = self._add(unit.kind, [x], unit.outputs, size, kernel=unit.kernel, stride=unit.stride)
        elif unit.kind == "position":
            x = self._add("position", [x], unit.outputs, size)
        else:
            compose = {"attention": self._attention, "token_mix": self._token_mix, "squeeze_excite": self._squeeze}
            return compose[unit.kind](unit, x, size, own)
        own(x, "")
        return x

    def _attention(self, unit: Unit, x: int, size: int, own: Own) -> int:
        width, tokens, heads = unit.inputs, size * size, unit.heads
        projected = {}
        for name in ("query", "key", "value"):
            projected[name] = self._add("dense", [x], width, size, channels_in=width)
            own(projected[name], name)
        scores = self._add("query_key", [projected["query"], projected["key"]], tokens, math.sqrt(heads * tokens))
        weights = self._add("softmax", [scores], tokens, math.sqrt(heads * tokens))
        read = self._add("attend", [weights, projected["value"]], width // heads, math.sqrt(heads * tokens))
        out = self._add("dense", [read], width, size, channels_in=width)
        own(out, "out")
        return out

    def _token_mix(self, unit: Unit, x: int, size: int, own: Own) -> int:
        side = math.sqrt(unit.inputs)
        hidden = self._add("dense", [x], unit.hidden, side, channels_in=size * size)
        own(hidden, "in")
        hidden = self._add("gelu", [hidden], unit.hidden, side)
        out = self._add("dense", [hidden], size * size, side, channels_in=unit.hidden)
        own(out, "out")
        self._sizes[out] = size  # whoever reads it, reads pixels again
        return out

    def _squeeze(self, unit: Unit, x: int, size: int, own: Own) -> int:
        hidden = self._add("global_avg_pool", [x], unit.inputs, 1)
        hidden = self._add("dense", [hidden], unit.hidden, 1, channels_in=unit.inputs)
        own(hidden, "squeeze")
        hidden = self._add("relu", [hidden], unit.hidden, 1)
        gate = self._add("dense", [hidden], unit.inputs, 1, channels_in=unit.hidden)
        own(gate, "excite")
        gate = self._add("sigmoid", [gate], unit.inputs, 1)
        return self._add("product", [x, gate], unit.inputs, size)


def _known(node: int | None) -> int:
    if node is None:
        raise ValueError("tape: a unit reads an entry that nothing was written to")
    return node
