"""How many networks the DeepNets space holds, at least."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from architectures.spaces.deepnets_sampling import DRAWN_NORMS
from architectures.spaces.deepnets_text import DOWNS, OPTIONS, Block, DeepNet, Stage
from architectures.tape import STEP
from architectures.tape_layout import allocate

if TYPE_CHECKING:
    from architectures.spaces.deepnets import DeepNets


def lower_bound(space: DeepNets) -> int:
    """Networks of the split "id" with conv stems, a stage at every resolution, blocks that fit by themselves, and
    branches in one form of each kind, before units and slots of whole networks are counted."""
    ways = [1]  # so many networks have 0, 1, ... blocks, up to the last section that was counted
    for section, widest in enumerate(space.widths):
        kinds = [len(_blocks_alone(space, section, width)) for width in _drawn_widths(widest)]
        stage = [sum(count**depth for count in kinds) for depth in range(1, space.blocks + 1)]
        ways = [0, *np.convolve(np.array(ways, object), np.array(stage, object))][: space.blocks + 1]
    stems = sum(stem.startswith("conv") for stem in space.stems)
    downs = (len(DOWNS) - 1) ** (len(space.widths) - 1)
    return int(sum(ways)) * stems * downs * len(space.norm_kinds or DRAWN_NORMS) * 3


def _drawn_widths(widest: int) -> range:
    """Widths of a stage in training."""
    return range(max(widest // 2 // STEP, 1) * STEP, widest + 1, STEP)


def _blocks_alone(space: DeepNets, section: int, width: int) -> list[Block]:
    """Blocks that a stage may consist of, those with branches in one form of each kind."""
    found = []
    for kind in space.kinds or OPTIONS:
        values = (space.choices(kind, letter, width) for letter in OPTIONS[kind])
        options = [tuple(zip(OPTIONS[kind], own, strict=True)) for own in itertools.product(*values)]
        branches = ("conv3",) if kind in ("sum", "cat") else ()
        found += [Block(kind, own, branches=branches) for own in options if kind != "pos"]
    norm = (space.norm_kinds or tuple(DRAWN_NORMS))[0]
    before = [Stage(None if index == 0 else "conv3", space.widths[index], ()) for index in range(section)]
    down = None if section == 0 else "conv3"
    stem = next(stem for stem in space.stems if stem.startswith("conv"))

    def fits(block: Block) -> bool:
        network = DeepNet(stem, norm, "relu", (*before, Stage(down, width, (block,))))
        try:
            allocate(space.tape(network), space.shape)
        except ValueError:
            return False
        return True

    return [block for block in found if fits(block)]
