"""The residual skeleton into which cell spaces stack their cells: its layout, its forward pass, its graph.

The skeleton is NAS-Bench-201's (Dong & Yang 2020, figure 1): stem; stages of cells with a residual block of stride 2
between them that doubles the channels; batch normalisation, ReLU, global average pooling, linear classifier. With early
exits, every stage ends in these last four, and each exit has leaves of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
from jax import Array

from architectures.executor import Around, Observe
from architectures.graph import GraphBuilder, Place
from architectures.layers import Layers
from architectures.layout import LeafGroup, WeightArrays
from architectures.ops import Leaf, Leaves, conv_leaves

if TYPE_CHECKING:
    from architectures.spaces.cell import CellSpace

FIXED_OPS = (
    "input",
    "stem_conv_3x3",
    "nor_conv_3x3",
    "avg_pool_2x2",
    "conv_1x1",
    "sum",
    "batch_norm_relu",
    "global_avg_pool",
    "linear",
)

Stage = Callable[[int, Array], tuple[Array, Array | float]]


def exit_prefixes(space: CellSpace) -> dict[int, str]:
    """Stage -> how the group names of its exit begin; the last stage's, the network's own end, with nothing."""
    early = {stage: f"exit{stage}/" for stage in range(space.stages - 1)} if space.exits else {}
    return {**early, space.stages - 1: ""}


def _fixed_parts(space: CellSpace) -> dict[str, Leaves]:
    """The leaves of every part that is no cell, by the prefix of their group names."""
    parts: dict[str, Leaves] = {"stem": conv_leaves(3, space.input_shape[2], space.channels)}
    for stage in range(1, space.stages):
        inputs, outputs = space.channels * 2 ** (stage - 1), space.channels * 2**stage
        parts[f"reduction{stage}/a"] = conv_leaves(3, inputs, outputs)
        parts[f"reduction{stage}/b"] = conv_leaves(3, outputs, outputs)
        parts[f"reduction{stage}/shortcut"] = {"kernel": Leaf("kernel", (1, 1, inputs, outputs))}
    for stage, prefix in exit_prefixes(space).items():
        width = space.channels * 2**stage
        parts[f"{prefix}norm"] = {"scale": Leaf("scale", (width,)), "bias": Leaf("bias", (width,))}
        parts[f"{prefix}classifier"] = {
            "kernel": Leaf("head_kernel", (width, space.classes)),
            "bias": Leaf("head_bias", (space.classes,)),
        }
    return parts


def _variants(space: CellSpace, stage: int) -> dict[str, dict[str, Leaf]]:
    """Leaf name -> op name -> leaf, for the cells of a stage."""
    variants: dict[str, dict[str, Leaf]] = {}
    for op in space.ops:
        for name, leaf in op.leaves(space.channels * 2**stage).items():
            owners = variants.setdefault(name, {})
            if any(other.role != leaf.role for other in owners.values()):
                raise ValueError(f"op {op.name!r}: leaf {name!r} is a {leaf.role}, but another op's {name!r} is not")
            owners[op.name] = leaf
    return variants


def layout(space: CellSpace) -> dict[str, LeafGroup]:
    """All leaf groups of the skeleton and its cells."""
    groups = {
        f"{part}/{name}": LeafGroup(f"{part}/{name}", 1, (leaf,))
        for part, leaves in _fixed_parts(space).items()
        for name, leaf in leaves.items()
    }
    for stage in range(space.stages):
        for name, owners in _variants(space, stage).items():
            key = f"stage{stage}/{name}"
            groups[key] = LeafGroup(key, space.cells * len(space.wiring), tuple(owners.values()))
    return groups


def stage_slots(arrays: WeightArrays, stage: int) -> dict[str, Array]:
    """Leaf name -> [cells * edges, ...] of a stage."""
    prefix = f"stage{stage}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _part(arrays: WeightArrays, part: str) -> dict[str, Array]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array[0] for name, array in arrays.items() if name.startswith(prefix)}


def _relu_conv_bn(weights: Mapping[str, Array], x: Array, layers: Layers, stride: int = 1) -> Array:
    y = layers.conv(jax.nn.relu(x), weights["kernel"], stride)
    return layers.batch_norm(y, weights["scale"], weights["bias"])


def block_number(cells: int, stage: int) -> int:
    """Number of the first cell of a stage: the stem is block 0, the residual block before a stage comes before it."""
    return 1 + stage * (cells + 1)


def forward(
    space: CellSpace,
    arrays: WeightArrays,
    images: Array,
    layers: Layers,
    stage: Stage,
    observe: Observe | None = None,
    around: Around | None = None,
) -> tuple[tuple[Array, ...], Array | float]:
    """Logits [B, classes] of every exit, the final one last, and summed observations.

    `stage(index, x)` runs the cells of a stage. What leads to the final logits alone is observed; early exits that the
    caller drops cost a compiled program nothing.
    """
    total: Array | float = 0.0

    def seen(x: Array) -> Array | float:
        return 0.0 if observe is None else observe(x)

    def watched(number: int, run: Callable[[Array], Array], x: Array) -> Array:
        nonlocal total
        if around is None:
            return run(x)
        x, observed = around(number, run, x)
        total = total + observed
        return x

    def stem(images: Array) -> Array:
        own = _part(arrays, "stem")
        return layers.batch_norm(layers.conv(images, own["kernel"]), own["scale"], own["bias"])

    def reduction(index: int, x: Array) -> Array:
        nonlocal total
        hidden = _relu_conv_bn(_part(arrays, f"reduction{index}/a"), x, layers, stride=2)
        total = total + seen(x) + seen(hidden)
        shortcut = layers.conv(layers.avg_pool_2x2(x), _part(arrays, f"reduction{index}/shortcut")["kernel"])
        return shortcut + _relu_conv_bn(_part(arrays, f"reduction{index}/b"), hidden, layers)

    def end(prefix: str, x: Array) -> tuple[Array, Array]:
        norm, classifier = _part(arrays, f"{prefix}norm"), _part(arrays, f"{prefix}classifier")
        hidden = layers.batch_norm(x, norm["scale"], norm["bias"])
        return hidden, jax.nn.relu(hidden).mean((1, 2)) @ classifier["kernel"] + classifier["bias"]

    x = hidden = watched(0, stem, images)
    answers: list[Array] = []
    prefixes = exit_prefixes(space)
    for index in range(space.stages):
        if index > 0:
            x = watched(block_number(space.cells, index) - 1, functools.partial(reduction, index), x)
        x, observed = stage(index, x)
        total = total + observed
        if index in prefixes:
            hidden, logits = end(prefixes[index], x)
            answers.append(logits)
    return tuple(answers), total + seen(hidden)


def build_graph(space: CellSpace, edges: Sequence[str], builder: GraphBuilder) -> None:
    """Adds the whole network with the cell `edges` to `builder`."""
    fixed = _fixed_parts(space)
    size = space.input_shape[0]

    def own(node: int, part: str) -> None:
        for name, leaf in fixed[part].items():
            builder.parameter((*part.split("/"), name), node, leaf, Place(f"{part}/{name}", 0, 0))

    def conv(op: str, inputs: list[int], part: str, size: int, kernel: int = 3, stride: int = 1) -> int:
        channels_in, channels_out = fixed[part]["kernel"].shape[2:]
        node = builder.node(
            op, inputs, channels_in=channels_in, channels_out=channels_out, kernel=kernel, stride=stride, size=size
        )
        own(node, part)
        return node

    def end(x: int, stage: int, prefix: str, size: int) -> None:
        width = space.channels * 2**stage
        x = builder.node("batch_norm_relu", [x], channels_in=width, channels_out=width, size=size)
        own(x, f"{prefix}norm")
        x = builder.node("global_avg_pool", [x], channels_in=width, channels_out=width, kernel=size, size=1)
        x = builder.node("linear", [x], channels_in=width, channels_out=space.classes, size=1)
        own(x, f"{prefix}classifier")

    x = builder.node("input", [], channels_in=space.input_shape[2], channels_out=space.input_shape[2], size=size)
    x = conv("stem_conv_3x3", [x], "stem", size)
    prefixes = exit_prefixes(space)
    for stage in range(space.stages):
        if stage > 0:
            part, size = f"reduction{stage}", (size + 1) // 2
            a = conv("nor_conv_3x3", [x], f"{part}/a", size, stride=2)
            b = conv("nor_conv_3x3", [a], f"{part}/b", size)
            width = space.channels * 2 ** (stage - 1)
            pool = builder.node(
                "avg_pool_2x2", [x], channels_in=width, channels_out=width, kernel=2, stride=2, size=size
            )
            shortcut = conv("conv_1x1", [pool], f"{part}/shortcut", size, kernel=1)
            x = builder.node("sum", [b, shortcut], channels_in=2 * width, channels_out=2 * width, size=size)
        variants = _variants(space, stage)
        for cell in range(space.cells):
            x = _add_cell(space, edges, builder, x, stage, cell, size, variants)
        if stage in prefixes:
            end(x, stage, prefixes[stage], size)


def _add_cell(
    space: CellSpace,
    edges: Sequence[str],
    builder: GraphBuilder,
    x: int,
    stage: int,
    cell: int,
    size: int,
    variants: Mapping[str, Mapping[str, Leaf]],
) -> int:
    """One cell that reads node `x`; returns its output node.

    Steps are those of the cell with every edge present, so that all architectures share one schedule.
    """
    width = space.channels * 2**stage
    ops = {op.name: op for op in space.ops}
    reads: list[list[int]] = [[] for _ in range(space.nodes)]
    nodes, start = [x], builder.step(x)
    for edge, (source, target) in enumerate(space.wiring):
        op = ops[edges[edge]]
        if op.name != "none":
            node = builder.node(
                op.name,
                [nodes[source]],
                step=start + 2 * source + 1,
                channels_in=width,
                channels_out=width,
                kernel=op.kernel,
                size=size,
                position=(edge + 1) / len(space.wiring),
            )
            reads[target].append(node)
            slot = cell * len(space.wiring) + edge
            for name, leaf in op.leaves(width).items():
                path = (f"stage{stage}", f"cell{cell}", f"edge_{source}_{target}", op.name, name)
                place = Place(f"stage{stage}/{name}", slot, list(variants[name]).index(op.name))
                builder.parameter(path, node, leaf, place)
        if source == target - 1:  # the last edge into this node
            nodes.append(
                builder.node(
                    "sum", reads[target], step=start + 2 * target, channels_in=width, channels_out=width, size=size
                )
            )
    return nodes[-1]
