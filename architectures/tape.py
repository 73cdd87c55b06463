"""Tapes: networks of images as lists of units that the executor runs one after the other, with every size as data.

A unit reads one entry of a list, normalises and activates it, applies one op and writes the next entry:

    entry = op(activation(norm(entries[source]))) + bias,  added to, or laid beside the channels of, entries[add].

A network is a stem, a list of units for each resolution (a section), strided units that lead from a section to the
next, and a head. Any directed acyclic graph of such ops can be written so: residual, dense, and multi-branch cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from architectures.ops import Leaf

Norm = Literal["none", "batch", "layer", "group"]
Activation = Literal["none", "relu", "gelu", "silu"]
Kind = Literal[
    "skip",
    "conv",
    "dense",
    "depthwise",
    "max_pool",
    "avg_pool",
    "attention",
    "token_mix",
    "squeeze_excite",
    "position",
]
Head = Literal["average", "flatten"]

NORMS: tuple[Norm, ...] = ("none", "batch", "layer", "group")
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "gelu", "silu")
SMOOTH: tuple[Activation, ...] = ("gelu", "silu")
HEADS: tuple[Head, ...] = ("average", "flatten")
NORM_GROUPS = 4  # of group normalisation
STEP = 4  # every number of channels is a multiple of it
MAIN, SIDE = 0, 1  # entries of a section that are there before its first unit: what the section before hands over


@dataclasses.dataclass(frozen=True)
class Unit:
    """One step of a tape.

    Attributes:
        name: place of its leaves in the user's pytree, parts separated by slashes.
        source: the entry that it reads.
        kind: its op.
        inputs: channels that it reads.
        outputs: channels that it writes.
        norm, activation: what is done to its input first.
        kernel, stride, dilation, groups: of convolutions, depthwise ones and pools.
        heads: of attention.
        hidden: units of a token mixer or of squeeze-and-excite.
        bias: whether a convolution or dense layer has one.
        add: the entry that is added to, if any.
        offset: where its channels begin; above 0, they lie beside the channels of `add` instead of being added.
    """

    name: str
    source: int
    kind: Kind
    inputs: int
    outputs: int
    norm: Norm = "none"
    activation: Activation = "none"
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    heads: int = 1
    hidden: int = 0
    bias: bool = False
    add: int | None = None
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Tape:
    """A network.

    Attributes:
        stem: the strided unit that reads the image.
        entry: the section that the stem leads to.
        sections: the units of each resolution, the finest first; entries 0 and 1 are the main and side input.
        downs: for each section but the last, the units that lead to the main and the side input of the next.
        exit: the section that the head reads.
        final: the entry of it that the head reads.
        features: channels of that entry.
        head: global average pooling or flattening, before the classifier.
    """

    stem: Unit
    entry: int
    sections: tuple[tuple[Unit, ...], ...]
    downs: tuple[tuple[Unit | None, Unit | None], ...]
    exit: int
    final: int
    features: int
    head: Head


def tape_leaves(tape: Tape, sizes: Sequence[int], classes: int) -> dict[tuple[str, ...], Leaf]:
    """Path -> leaf of a whole network whose sections have so many pixels along an axis."""
    rows: dict[tuple[str, ...], Leaf] = {}

    def add(unit: Unit | None, pixels: int) -> None:
        if unit is not None:
            leaves = unit_leaves(unit, pixels)
            rows.update({(*unit.name.split("/"), *name.split("/")): leaf for name, leaf in leaves.items()})

    add(tape.stem, 1)
    for size, units in zip(sizes, tape.sections, strict=True):
        for unit in units:
            add(unit, size * size)
    for pair in tape.downs:
        for down in pair:
            add(down, 1)
    features = tape.features * (sizes[tape.exit] ** 2 if tape.head == "flatten" else 1)
    return rows | {
        ("head", "kernel"): Leaf("kernel", (1, 1, features, classes)),
        ("head", "bias"): Leaf("bias", (classes,)),
    }


def unit_leaves(unit: Unit, pixels: int) -> dict[str, Leaf]:
    """The leaves of a unit by the rest of their path, at a resolution of `pixels` pixels."""
    leaves: dict[str, Leaf] = {}
    if unit.norm != "none":
        leaves |= {f"norm/{name}": Leaf(name, (unit.inputs,)) for name in ("scale", "bias")}

    def dense(name: str, inputs: int, outputs: int) -> None:
        leaves[f"{name}/kernel"] = Leaf("kernel", (1, 1, inputs, outputs))
        leaves[f"{name}/bias"] = Leaf("bias", (outputs,))

    if unit.kind in ("conv", "dense", "depthwise"):
        inputs = 1 if unit.kind == "depthwise" else unit.inputs // unit.groups
        leaves["kernel"] = Leaf("kernel", (unit.kernel, unit.kernel, inputs, unit.outputs))
        if unit.bias:
            leaves["bias"] = Leaf("bias", (unit.outputs,))
    elif unit.kind == "attention":
        for name in ("query", "key", "value", "out"):
            dense(name, unit.inputs, unit.inputs)
    elif unit.kind == "token_mix":
        dense("in", pixels, unit.hidden)
        dense("out", unit.hidden, pixels)
    elif unit.kind == "squeeze_excite":
        dense("squeeze", unit.inputs, unit.hidden)
        dense("excite", unit.hidden, unit.inputs)
    elif unit.kind == "position":
        leaves["embedding"] = Leaf("embedding", (pixels, unit.inputs))
    return leaves
