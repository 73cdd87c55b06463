"""From a genotype of the DARTS space to its tape."""

from __future__ import annotations

from collections.abc import Sequence

from architectures.spaces.darts_text import INPUTS, DartsCell, Edge, Genotype
from architectures.spaces.sections import Section, Value
from architectures.tape import MAIN, SIDE, Tape, Unit

STEM = 3  # times the channels of the first stage: what the stem writes


def stage_channels(channels: int, stages: int) -> tuple[int, ...]:
    """Channels of a node in every stage."""
    return tuple(channels * 2**stage for stage in range(stages))


def lower(genotype: Genotype, channels: int, cells: int, sizes: Sequence[int], image: int) -> Tape:
    """The tape of a network.

    Args:
        genotype: its cells.
        channels: of a node in the first stage.
        cells: normal cells in every stage.
        sizes: pixels along an axis in every stage.
        image: channels of an image.
    """
    sections = [Section(index, size, "batch", "relu") for index, size in enumerate(sizes)]
    downs: list[tuple[Unit | None, Unit | None]] = []
    before = last = sections[0].added("stem", Value(MAIN, STEM * channels, norm="batch"), None)
    for index, (section, width) in enumerate(zip(sections, stage_channels(channels, len(sizes)), strict=True)):
        kinds = [genotype.normal] * cells
        if index > 0:
            downs.append((_halved(section, last, 1), _halved(section, before, 0)))
            before, last = Value(SIDE, before.channels), Value(MAIN, last.channels)
            kinds = [genotype.reduce, *kinds]
        for number, cell in enumerate(kinds):
            before, last = last, _cell(section, f"cell{number}", cell, (before, last), width)
    stem = Unit("stem", 0, "conv", image, STEM * channels, kernel=3)
    units = tuple(tuple(section.units) for section in sections)
    return Tape(stem, 0, units, tuple(downs), len(sizes) - 1, last.entry, last.channels, "average")


def _halved(section: Section, x: Value, state: int) -> Unit:
    """What leads from an output of the stage before to one of the first two states of a stage."""
    return Unit(f"{section.name}/halve{state}", x.entry, "avg_pool", x.channels, x.channels, kernel=2, stride=2)


def _cell(section: Section, path: str, cell: DartsCell, inputs: Sequence[Value], width: int) -> Value:
    """One cell: both inputs brought to `width` channels, the nodes, all nodes side by side."""
    states = []
    for index, x in enumerate(inputs):
        h = section.conv(f"{path}/input{index}/conv", section.activated(x), width)
        states.append(section.added(f"{path}/input{index}", h, None))
    for index, node in enumerate(cell, start=INPUTS):
        total: Value | None = None
        # What a skip reads is the sum's first term as it is; any other op adds its last unit to what there is.
        for edge in sorted(node, key=lambda edge: edge.op != "skip"):
            total = _added(section, f"{path}/node{index}/{edge.op}_{edge.source}", edge, states[edge.source], total)
        assert total is not None
        states.append(total)
    return section.concatenated(f"{path}/concat", states[INPUTS:])


def _added(section: Section, path: str, edge: Edge, x: Value, total: Value | None) -> Value:
    """The sum so far and an op of a state (Liu et al. 2019, appendix A.1)."""
    kind, add = edge.op[:3], None if total is None else total.entry
    if edge.op == "skip":
        return x if total is None else section.added(path, x, total)
    if kind in ("max", "avg"):
        return section.unit(path, x, f"{kind}_pool", kernel=3, add=add)
    kernel, h = int(edge.op[-1]), section.activated(x)
    if kind == "dil":
        h = section.separable(path, h, x.channels, kernel, dilation=2)
    else:
        for name in ("first", "second"):
            h = section.separable(f"{path}/{name}", h, x.channels, kernel)
    return section.added(path, h, total)


def fullest(nodes: int) -> Genotype:
    """A genotype that needs as much room as any: most units and leaves an op, most states that a ReLU reads."""
    cell = tuple((Edge("sep5", node), Edge("sep5", node + 1)) for node in range(nodes))
    return Genotype(cell, cell)


def widest(channels: int, nodes: int, stages: int) -> tuple[int, ...]:
    """Most channels of an entry in every stage: all nodes side by side, or what the stem wrote."""
    return tuple(max(nodes * width, STEM * channels) for width in stage_channels(channels, stages))
