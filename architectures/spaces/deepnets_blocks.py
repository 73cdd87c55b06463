"""From a network of the DeepNets space to its tape: what every kind of block consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from architectures.spaces.deepnets_text import STRIDED_KINDS, Block, DeepNet, Stage
from architectures.spaces.sections import Section, Value
from architectures.tape import MAIN, SIDE, STEP, Tape, Unit
from architectures.tape_layout import squeezed

# ------------------------------------------------------------------------------------------------------------ blocks


def _plain(section: Section, name: str, block: Block, x: Value) -> Value:
    return section.conv(f"{name}/conv", x, kernel=block["k"], dilation=block["d"], groups=block["g"])


def _sep(section: Section, name: str, block: Block, x: Value) -> Value:
    h = section.depthwise(f"{name}/depthwise", x, block["k"], dilation=block["d"])
    return section.conv(f"{name}/pointwise", h, x.channels)


def _basic(section: Section, name: str, block: Block, x: Value) -> Value:
    """He et al. 2016, figure 2."""
    x = section.settled(x, f"{name}/start")
    h = section.conv(f"{name}/conv1", x, kernel=block["k"])
    return _basic_end(section, name, block, h, x)


def _basic_end(section: Section, name: str, block: Block, h: Value, x: Value) -> Value:
    h = section.conv(f"{name}/conv2", h, x.channels, kernel=block["k"])
    return section.activated(section.added(f"{name}/end", h, x))


def _pre(section: Section, name: str, block: Block, x: Value) -> Value:
    """The same with normalisation and activation first (He et al. 2016, Identity mappings)."""
    x = section.settled(x, f"{name}/start")
    h = section.conv(f"{name}/conv1", section.ready(x), kernel=block["k"])
    return section.unit(f"{name}/conv2", h, "conv", kernel=block["k"], bias=section.norm == "none", add=x.entry)


def _bottle(section: Section, name: str, block: Block, x: Value) -> Value:
    """He et al. 2016, figure 5; with groups, Xie et al. 2017."""
    x = section.settled(x, f"{name}/start")
    inner = _multiple(x.channels // 2)
    h = section.conv(f"{name}/conv1", x, inner)
    h = section.conv(f"{name}/conv2", h, inner, block["k"], groups=block["g"])
    return _bottle_end(section, name, h, x)


def _bottle_end(section: Section, name: str, h: Value, x: Value) -> Value:
    return section.activated(section.added(f"{name}/end", section.conv(f"{name}/conv3", h, x.channels), x))


def _mb(section: Section, name: str, block: Block, x: Value) -> Value:
    """Inverted bottleneck (Sandler et al. 2018, figure 4); with squeeze-and-excite, Tan & Le 2019."""
    x = section.settled(x, f"{name}/start")
    h = section.conv(f"{name}/expand", x, x.channels * block["e"])
    h = section.depthwise(f"{name}/depthwise", h, block["k"])
    return section.added(f"{name}/end", _mb_end(section, name, block, h, x.channels), x)


def _mb_end(section: Section, name: str, block: Block, h: Value, outputs: int) -> Value:
    if block.excited:
        h = section.unit(f"{name}/excite", h, "squeeze_excite", hidden=squeezed(h.channels))
    return dataclasses.replace(section.conv(f"{name}/project", h, outputs), activation="none")


def _next(section: Section, name: str, block: Block, x: Value) -> Value:
    """Liu et al. 2022, figure 4."""
    x = section.settled(x, f"{name}/start")
    h = section.unit(f"{name}/depthwise", x, "depthwise", kernel=block["k"], bias=True)
    return _perceptron(section, name, section.tokens(h), x, block["e"])


def _perceptron(section: Section, name: str, h: Value, x: Value, expansion: int) -> Value:
    h = section.unit(f"{name}/dense1", h, "dense", x.channels * expansion, bias=True)
    return section.unit(
        f"{name}/dense2", dataclasses.replace(h, activation="gelu"), "dense", x.channels, bias=True, add=x.entry
    )


def _attn(section: Section, name: str, block: Block, x: Value) -> Value:
    """Dosovitskiy et al. 2021, equation 2."""
    x = section.settled(x, f"{name}/start")
    return section.unit(f"{name}/attention", section.tokens(x), "attention", heads=block["h"], add=x.entry)


def _mlp(section: Section, name: str, block: Block, x: Value) -> Value:
    """The same, equation 3."""
    x = section.settled(x, f"{name}/start")
    return _perceptron(section, name, section.tokens(x), x, block["e"])


def _mix(section: Section, name: str, block: Block, x: Value) -> Value:
    """Tolstikhin et al. 2021, equation 1."""
    x = section.settled(x, f"{name}/start")
    hidden = section.pixels * block["e"]
    return section.unit(f"{name}/mix", section.tokens(x), "token_mix", hidden=hidden, add=x.entry)


def _pool(section: Section, name: str, block: Block, x: Value) -> Value:
    """Yu et al. 2022, figure 1: a transformer's block with average pooling in attention's place."""
    x = section.settled(x, f"{name}/start")
    return section.unit(f"{name}/pool", section.tokens(x), "avg_pool", kernel=3, add=x.entry)


def _dense(section: Section, name: str, block: Block, x: Value) -> Value:
    """Layers that each read all before them (Huang et al. 2017), then a 1x1 convolution back to the stage's width."""
    x = section.settled(x, f"{name}/start")
    held = x
    for layer in range(block["n"]):
        grown = section.unit(
            f"{name}/layer{layer}",
            section.ready(held),
            "conv",
            block["w"],
            kernel=block["k"],
            bias=section.norm == "none",
            add=held.entry,
            offset=held.channels,
        )
        held = Value(grown.entry, held.channels + block["w"])
    return section.unit(f"{name}/end", section.ready(held), "conv", x.channels, bias=section.norm == "none")


def _sum(section: Section, name: str, block: Block, x: Value) -> Value:
    """A sum of branches, each activated, convolved and normalised, as in DARTS (Liu et al. 2019)."""
    x = section.settled(x, f"{name}/start")
    read = x if x.active else section.activated(x)
    total: Value | None = None
    for index, branch in enumerate(block.branches):
        path = f"{name}/{branch}{index}"
        h, last = _branch(section, path, branch, x if branch in ("skip", "max", "avg") else read, x.channels)
        total = last(h, total)
    assert total is not None
    return total


def _branch(
    section: Section, path: str, branch: str, x: Value, outputs: int
) -> tuple[Value, Callable[[Value, Value | None], Value]]:
    """What a branch reads at its last unit, and that unit as a function of it and of the sum so far."""

    def end(kind: str, **sizes: Any) -> Callable[[Value, Value | None], Value]:
        return lambda h, total: section.unit(
            path, h, kind, outputs, add=None if total is None else total.entry, **sizes
        )

    def normalised(h: Value) -> tuple[Value, Callable[[Value, Value | None], Value]]:
        return dataclasses.replace(h, activation="none"), end("skip")

    if branch in ("skip", "max", "avg"):
        return x, end("skip" if branch == "skip" else f"{branch}_pool", **({} if branch == "skip" else {"kernel": 3}))
    if branch.startswith("sep"):
        return normalised(section.separable(path, x, outputs, int(branch[-1])))
    dilation = 2 if branch.startswith("dil") else 1
    return normalised(section.conv(f"{path}/conv", x, outputs, int(branch[-1]), dilation=dilation))


def _cat(section: Section, name: str, block: Block, x: Value) -> Value:
    """Branches side by side (Szegedy et al. 2015), each with its share of the channels."""
    x = section.settled(x, f"{name}/start")
    count = len(block.branches)
    share = x.channels // count // STEP * STEP
    if share == 0:
        raise ValueError(f"{name}: {x.channels} channels are too few for {count} branches side by side")
    held: Value | None = None
    for index, branch in enumerate(block.branches):
        path, outputs = f"{name}/{branch}{index}", share if index + 1 < count else x.channels - share * (count - 1)
        h, kernel, dilation = x, 1, 1
        if branch in ("max", "avg"):
            h = section.unit(f"{path}/pool", h, f"{branch}_pool", kernel=3)
        elif branch.startswith("sep"):
            h = section.depthwise(f"{path}/depthwise", h, int(branch[-1]))
        elif branch not in ("skip", "conv1"):
            h = section.conv(f"{path}/reduce", h, _multiple(x.channels // 2))
            kernel, dilation = int(branch[-1]), 2 if branch.startswith("dil") else 1
        place = {} if held is None else {"add": held.entry, "offset": held.channels}
        y = section.unit(
            f"{path}/conv", h, "conv", outputs, kernel=kernel, dilation=dilation, bias=section.norm == "none", **place
        )
        held = Value(y.entry, outputs + (0 if held is None else held.channels))
    assert held is not None
    return section.ready(held)


def _pos(section: Section, name: str, block: Block, x: Value) -> Value:
    """Positions are added to what is neither normalised nor activated."""
    return section.unit(f"{name}/position", Value(x.entry, x.channels), "position")


BLOCKS: dict[str, Callable[[Section, str, Block, Value], Value]] = {
    "plain": _plain,
    "sep": _sep,
    "basic": _basic,
    "pre": _pre,
    "bottle": _bottle,
    "mb": _mb,
    "next": _next,
    "attn": _attn,
    "mlp": _mlp,
    "mix": _mix,
    "pool": _pool,
    "dense": _dense,
    "sum": _sum,
    "cat": _cat,
    "pos": _pos,
}
UNNORMALISED = ("pre", "next", "attn", "mlp", "mix", "pool", "dense", "sum", "mb", "pos")  # what a network ends in


def _multiple(channels: int) -> int:
    return max(channels // STEP, 1) * STEP


# ---------------------------------------------------------------------------------------------------------- networks


def entry_of(stem: str) -> int:
    """The section that a stem leads to."""
    return {"conv": 0, "half": 1, "patch": int(stem[-1]) // 2}[stem[:-1]]


def lower(network: DeepNet, sizes: Sequence[int], image: int) -> Tape:
    """The tape of a network in a space of sections with so many pixels along an axis, for images of `image` channels.

    Raises:
        ValueError: more stages than there are sections, or a stage that begins in a way that its blocks do not have.
    """
    entry = entry_of(network.stem)
    if entry + len(network.stages) > len(sizes):
        raise ValueError(
            f"{len(network.stages)} stages from {sizes[entry] if entry < len(sizes) else 'no'} pixels on; "
            f"the space ends at {sizes[-1]}"
        )
    sections = [Section(index, size, network.norm, network.activation) for index, size in enumerate(sizes)]
    downs: list[tuple[Unit | None, Unit | None]] = [(None, None)] * (len(sizes) - 1)
    patched = network.stem.startswith("patch")
    x = Value(MAIN, network.stages[0].width)
    if not patched:
        x = sections[entry].ready(x)
    for number, stage in enumerate(network.stages):
        section = sections[entry + number]
        blocks = list(enumerate(stage.blocks))
        if number > 0:
            x, downs[entry + number - 1] = _descend(sections[entry + number - 1], section, stage, x)
            blocks = blocks[1:] if stage.down == "block" else blocks
        for index, block in blocks:
            x = BLOCKS[block.kind](section, f"block{index}", block, x)
    last = sections[entry + len(network.stages) - 1]
    blocks_written = [block.kind for stage in network.stages for block in stage.blocks]
    if not x.due and (not blocks_written or blocks_written[-1] in UNNORMALISED):
        tokens = bool(blocks_written) and blocks_written[-1] in ("next", "attn", "mlp", "mix", "pool", "pos")
        x = last.tokens(x) if tokens else last.ready(x)
    x = last.settled(x, "norm")
    stem = _stem(network, image)
    exit_ = entry + len(network.stages) - 1
    return Tape(
        stem, entry, tuple(tuple(s.units) for s in sections), tuple(downs), exit_, x.entry, x.channels, network.head
    )


def _stem(network: DeepNet, image: int) -> Unit:
    kernel, patched = int(network.stem[-1]), network.stem.startswith("patch")
    stride = {"conv": 1, "half": 2, "patch": kernel}[network.stem[:-1]]
    bias = patched or network.norm == "none"
    return Unit("stem", 0, "conv", image, network.stages[0].width, kernel=kernel, stride=stride, bias=bias)


def _descend(before: Section, after: Section, stage: Stage, x: Value) -> tuple[Value, tuple[Unit | None, Unit | None]]:
    """From one stage to the next: the value there, and the strided units."""
    width, path = stage.width, f"{after.name}/down"
    bias = after.norm == "none"
    if stage.down == "block":
        return _strided_block(before, after, stage, x)
    if stage.down == "conv2":
        x = before.settled(before.tokens(x) if not x.due else x, "down")
        return Value(MAIN, width), (Unit(path, x.entry, "conv", x.channels, width, kernel=2, stride=2, bias=True), None)
    x = before.settled(x, "down")
    if stage.down == "conv3":
        return after.ready(Value(MAIN, width)), (
            Unit(path, x.entry, "conv", x.channels, width, kernel=3, stride=2, bias=bias),
            None,
        )
    kind: Any = f"{stage.down}_pool"
    pool = Unit(path, x.entry, kind, x.channels, x.channels, kernel=3 if stage.down == "max" else 2, stride=2)
    y = Value(MAIN, x.channels)
    return (y if x.channels == width else after.conv("down/conv", y, width)), (pool, None)


def _strided_block(
    before: Section, after: Section, stage: Stage, x: Value
) -> tuple[Value, tuple[Unit | None, Unit | None]]:
    """The first block of a stage, which halves the resolution itself."""
    block, name = stage.blocks[0] if stage.blocks else Block("pos"), "block0"
    if block.kind not in STRIDED_KINDS:
        raise ValueError(
            f"a stage that begins with 'block>' begins with one of {', '.join(STRIDED_KINDS)}, not {block.kind!r}"
        )
    bias, path = after.norm == "none", f"{after.name}/{name}"
    x = before.settled(x, f"{after.name}_start")
    shortcut = Unit(f"{path}/shortcut", x.entry, "conv", x.channels, stage.width, stride=2, bias=bias)
    if block.kind == "basic":
        conv = Unit(f"{path}/conv1", x.entry, "conv", x.channels, stage.width, kernel=block["k"], stride=2, bias=bias)
        h = after.ready(Value(MAIN, stage.width))
        return _basic_end(after, name, block, h, _side(after, name, stage.width)), (conv, shortcut)
    if block.kind == "bottle":
        inner = _multiple(stage.width // 2)
        h = before.settled(before.conv(f"{after.name}_conv1", x, inner), f"{after.name}_norm1")
        conv = Unit(
            f"{path}/conv2", h.entry, "conv", inner, inner, kernel=block["k"], stride=2, groups=block["g"], bias=bias
        )
        h = after.ready(Value(MAIN, inner))
        return _bottle_end(after, name, h, _side(after, name, stage.width)), (conv, shortcut)
    h = before.conv(f"{after.name}_expand", x, x.channels * block["e"])
    h = before.settled(h, f"{after.name}_norm1")
    depthwise = Unit(
        f"{path}/depthwise", h.entry, "depthwise", h.channels, h.channels, kernel=block["k"], stride=2, bias=bias
    )
    y = _mb_end(after, name, block, after.ready(Value(MAIN, h.channels)), stage.width)
    return y, (depthwise, None)


def _side(section: Section, name: str, width: int) -> Value:
    """The shortcut's end, normalised."""
    return section.settled(Value(SIDE, width, section.norm), f"{name}/shortcut_end")
