"""Where the weights of memory-bank networks lie, and the graph of one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jax import Array

from architectures.graph import ArchGraph, GraphBuilder, Place
from architectures.layout import LeafGroup, WeightArrays
from architectures.ops import Leaf, Leaves, conv_leaves
from architectures.spaces.banks import BankNetwork, Block, Conv, Layer

if TYPE_CHECKING:
    from architectures.spaces.smash import SMASH

OPS = ("input", "stem_conv_3x3", "read_conv_1x1", "conv", "sum", "leave_conv_1x1", "avg_pool_2x2", "head", "linear")


def conv_leaf(conv: Conv, inputs: int, outputs: int) -> Leaves:
    """Leaves of a grouped convolution with batch normalisation."""
    return {**conv_leaves(conv.kernel, inputs // conv.groups, outputs)}


def layout(space: SMASH) -> dict[str, LeafGroup]:
    """All leaf groups; every group's variants are the shapes that its leaves can have."""
    groups: dict[str, LeafGroup] = {}

    def add(prefix: str, slots: int, variants: list[Leaves], generated: bool = True) -> None:
        for name in variants[0]:
            leaves = tuple(dict.fromkeys(variant[name] for variant in variants))
            groups[f"{prefix}/{name}"] = LeafGroup(f"{prefix}/{name}", slots, leaves, len(leaves) > 1, generated)

    add("stem", 1, [conv_leaves(3, space.input_shape[2], n) for n in space.widths(0)])
    depth, most = space.layers[-1], range(1, space.banks[-1] + 1)
    for index in range(space.blocks):
        widths, prefix = space.widths(index), f"block{index}"
        units = [(n, n * multiple) for n in widths for multiple in space.units]
        add(f"{prefix}/read", depth, [conv_leaves(1, banks * n, u) for banks in most for n, u in units])
        inner = [conv_leaf(conv, u, u) for conv in space.convs for _, u in units]
        outer = [conv_leaf(conv, u, n) for conv in space.convs for n, u in units]
        add(f"{prefix}/inner", 2 * depth, inner, space.generate_all)
        add(f"{prefix}/outer", 2 * depth, outer, space.generate_all)
        following = (space.features,) if index + 1 == space.blocks else space.widths(index + 1)
        add(f"leave{index}", 1, [conv_leaves(1, k * n, m) for k in space.banks for n in widths for m in following])
    head = {
        "kernel": Leaf("head_kernel", (space.features, space.classes)),
        "bias": Leaf("head_bias", (space.classes,)),
    }
    add("classifier", 1, [head])
    return groups


def part(arrays: WeightArrays, prefix: str) -> dict[str, Array]:
    """The arrays of groups below a prefix, by the rest of their names."""
    prefix += "/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def only(arrays: WeightArrays, prefix: str) -> dict[str, Array]:
    """The same for groups of a single slot, that slot alone."""
    return {name: array[0] for name, array in part(arrays, prefix).items()}


def steps(space: SMASH) -> int:
    """Steps of the deepest network: input, stem; a block's layers, its 1x1 convolution and pooling; head, linear."""
    return 2 + space.blocks * (4 * space.layers[-1] + 2) + 1


def graph(space: SMASH, network: BankNetwork) -> ArchGraph:
    """The graph of a network."""
    return _Graph(space).build(network)


@functools.cache
def _variant_index(group: LeafGroup) -> Mapping[Leaf, int]:
    return {leaf: index for index, leaf in enumerate(group.variants)}


class _Graph:
    """Collects the nodes of one network."""

    def __init__(self, space: SMASH) -> None:
        self._space, self._builder = space, GraphBuilder()

    def build(self, network: BankNetwork) -> ArchGraph:
        space, add = self._space, self._builder.node
        channels, size = space.input_shape[2], space.resolution(0)
        x = add("input", [], channels_in=channels, channels_out=channels, size=size)
        first = network.blocks[0].channels
        x = add("stem_conv_3x3", [x], channels_in=channels, channels_out=first, kernel=3, size=size)
        self._own(x, "stem", 0, ("stem",), conv_leaves(3, channels, first))
        for index, block in enumerate(network.blocks):
            last = index + 1 == space.blocks
            following = space.features if last else network.blocks[index + 1].channels
            x = self._block(block, index, x, following, last)
        x = add("head", [x], channels_in=space.features, channels_out=space.features, kernel=size, size=1)
        x = add("linear", [x], channels_in=space.features, channels_out=space.classes, size=1)
        head = {name: space.layout[f"classifier/{name}"].variants[0] for name in ("kernel", "bias")}
        self._own(x, "classifier", 0, ("classifier",), head)
        return self._builder.build()

    def _block(self, block: Block, index: int, x: int, following: int, last: bool) -> int:
        """All layers of a block and the way out; returns the node that the next block reads."""
        add, size = self._builder.node, self._space.resolution(index)
        start = 2 + index * (4 * self._space.layers[-1] + 2)
        writers: list[list[int]] = [[] for _ in range(block.banks)]
        writers[0].append(x)

        def holding(banks: tuple[int, ...]) -> list[int]:
            return sorted({node for bank in banks for node in writers[bank]})

        for row, layer in enumerate(block.layers):
            written = self._layer(block, layer, index, row, start + 4 * row, holding(layer.read))
            for bank in layer.write:
                writers[bank].append(written)
        everything = tuple(range(block.banks))
        inputs = block.banks * block.channels
        step = start + 4 * self._space.layers[-1]
        x = add(
            "leave_conv_1x1",
            holding(everything),
            step=step,
            channels_in=inputs,
            channels_out=following,
            size=size,
            position=1,
        )
        self._own(x, f"leave{index}", 0, (f"leave{index}",), conv_leaves(1, inputs, following))
        if last:
            return x
        size = self._space.resolution(index + 1)
        return add("avg_pool_2x2", [x], channels_in=following, channels_out=following, kernel=2, stride=2, size=size)

    def _layer(self, block: Block, layer: Layer, index: int, row: int, step: int, inputs: list[int]) -> int:
        """Read, convolutions and the sum that is written; returns the latter."""
        add = self._builder.node
        where = {"size": self._space.resolution(index), "position": (row + 1) / (self._space.layers[-1] + 1)}
        prefix, path_of_layer = f"block{index}", (f"block{index}", f"layer{row}")
        wide = len(layer.read) * block.channels
        units = add("read_conv_1x1", inputs, step=step, channels_in=wide, channels_out=layer.units, **where)
        self._own(units, f"{prefix}/read", row, (*path_of_layer, "read"), conv_leaves(1, wide, layer.units))
        ends = []
        for column, path in enumerate(layer.paths):
            x = units
            for name, conv in (("inner", path.inner), ("outer", path.outer)):
                if conv is not None:
                    outputs = layer.units if name == "inner" else block.channels
                    x = add(
                        "conv",
                        [x],
                        step=step + (1 if name == "inner" else 2),
                        channels_in=layer.units,
                        channels_out=outputs,
                        kernel=conv.kernel,
                        dilation=conv.dilation,
                        groups=conv.groups,
                        **where,
                    )
                    leaves = conv_leaf(conv, layer.units, outputs)
                    self._own(x, f"{prefix}/{name}", 2 * row + column, (*path_of_layer, f"path{column}", name), leaves)
            ends.append(x)
        return add("sum", ends, step=step + 3, channels_in=block.channels, channels_out=block.channels, **where)

    def _own(self, node: int, group: str, slot: int, path: tuple[str, ...], leaves: Leaves) -> None:
        for name, leaf in leaves.items():
            key = f"{group}/{name}"
            place = Place(key, slot, _variant_index(self._space.layout[key])[leaf])
            self._builder.parameter((*path, name), node, leaf, place)
