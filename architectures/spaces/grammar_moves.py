"""Moves between derivations: the places at which one can be changed, and what differs in one choice there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from architectures.spaces.grammar_rules import Rules
from architectures.spaces.grammar_text import Branch, Chain, Leaf


@dataclasses.dataclass(frozen=True)
class Spot:
    """A part of a stage that can be exchanged for another from as many to as many channels.

    Attributes:
        chain: what is there: a stage or branch as a whole, or one item.
        inputs, outputs: channels that it reads and writes, in halves of the stage's width.
        depth: how deep branches may lie there.
        whole: whether it is a stage or branch as a whole.
        exchange: the stage with something else there.
    """

    chain: Chain
    inputs: int
    outputs: int
    depth: int
    whole: bool
    exchange: Callable[[Chain], Chain]


def spots(rules: Rules, chain: Chain, inputs: int, depth: int, exchange: Callable[[Chain], Chain]) -> Iterator[Spot]:
    """All places of a stage: itself, its items, the branches of these, ..."""
    yield Spot(chain, inputs, rules.outputs(chain, inputs), depth, True, exchange)
    for index, item in enumerate(chain):
        outputs = rules.output(item, inputs)

        def item_exchange(new: Chain, index: int = index) -> Chain:
            return exchange((*chain[:index], *new, *chain[index + 1 :]))

        yield Spot((item,), inputs, outputs, depth, False, item_exchange)
        if isinstance(item, Branch):
            for row, part in enumerate(item.parts):

                def part_exchange(
                    new: Chain,
                    row: int = row,
                    branch: Branch = item,
                    outer: Callable[[Chain], Chain] = item_exchange,
                ) -> Chain:
                    parts = (*branch.parts[:row], new, *branch.parts[row + 1 :])
                    return outer((Branch(branch.merge, parts),))

                yield from spots(rules, part, inputs, depth - 1, part_exchange)
        inputs = outputs


def variations(rules: Rules, spot: Spot) -> Iterator[Chain]:
    """What may stand in a place instead and differs in one choice; some of it the grammar may not derive."""
    if spot.whole:
        yield from ((leaf, *spot.chain) for leaf in rules.operations[spot.inputs, spot.inputs])
        if len(spot.chain) > 1:
            yield from _bridged(spot)
        return
    item = spot.chain[0]
    yield from ((item, leaf) for leaf in rules.operations[spot.outputs, spot.outputs])
    yield from _bridged(spot)
    if spot.inputs == spot.outputs:
        yield ()
    if isinstance(item, Leaf):
        yield from ((leaf,) for leaf in rules.operations[spot.inputs, spot.outputs] if leaf != item)
        return
    yield from item.parts
    yield (Branch("cat" if item.merge == "add" else "add", item.parts),)
    if len(item.parts) > 2:
        yield from ((Branch(item.merge, item.parts[:row] + item.parts[row + 1 :]),) for row in range(len(item.parts)))


def _bridged(spot: Spot) -> Iterator[Chain]:
    """What is there with a bridge past it, if that is none yet."""
    if spot.inputs == spot.outputs and spot.depth > 0:
        yield (Branch("add", (spot.chain, ())),)
