"""What is fixed in the weights of open hypernetworks: noise, and how a tile is repeated over a wider layer.

The bank has a prime number of values. A leaf reads it from a place that its node's surroundings in the graph decide,
row after row in canonical layout, so that rows and columns of one leaf differ (a period of the bank never falls on the
same column), and nothing depends on names or on the order of writing.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter

Floats = NDArray[np.float32]

BANK = 1_048_573  # values, a prime
LONGEST = 1 << 18  # values that are read without wrapping around


@functools.cache
def noise_bank() -> Floats:
    """[BANK + LONGEST] normal noise; the end repeats the start, so that no read has to wrap around."""
    values = np.random.default_rng(0).standard_normal(BANK, np.float32)
    return np.concatenate([values, values[:LONGEST]])


@functools.cache
def block_signs() -> Floats:
    """[1021, 1021] of -1 and 1 for repeated copies of a tile; the first copy is the tile itself."""
    signs = np.random.default_rng(1).integers(0, 2, (1021, 1021)).astype(np.float32) * 2 - 1
    signs[0, 0] = 1
    return signs


@functools.cache
def copied_columns(size: int, outputs: int) -> NDArray[np.int64]:
    """[O] which column of a tile of `size` columns each output channel takes; the first copy is the tile itself.

    Every further copy is turned on by some columns. With signs alone, copies are equal or opposite channel by channel,
    and the next kernel, whose copies are too, adds them up or cancels them where nothing nonlinear lies between.
    """
    turn = next(step for step in range(max(1, round(0.38 * size)), 2 * size) if math.gcd(step, size) == 1)
    channel = np.arange(outputs)
    return np.asarray((channel + channel // size * turn) % size)


def node_colours(graph: ArchGraph) -> list[bytes]:
    """A digest of each node's surroundings: all that leads to it and all that it leads to. Isomorphic graphs have the
    same colours; nodes that nothing tells apart are numbered in their order."""
    names = ("channels_in", "channels_out", "kernel", "stride", "groups", "dilation")
    columns = [graph.attributes[name].tolist() for name in names]
    own = [repr((op, *(column[i] for column in columns))) for i, op in enumerate(graph.ops)]
    reads: list[list[int]] = [[] for _ in own]
    readers: list[list[int]] = [[] for _ in own]
    for source, target in graph.edges.tolist():
        reads[target].append(source)
        readers[source].append(target)
    unordered = frozenset(("sum", "product"))
    before: list[bytes] = []
    for i, text in enumerate(own):
        parts = [before[source] for source in reads[i]]
        before.append(_digest(text.encode(), *(sorted(parts) if graph.ops[i] in unordered else parts)))
    after: list[bytes] = [b""] * len(own)
    for i in reversed(range(len(own))):
        parts = []
        for target in readers[i]:
            place = 0 if graph.ops[target] in unordered else reads[target].index(i)
            parts.append(after[target] + before[target] + bytes([place % 256]))
        after[i] = _digest(own[i].encode(), *sorted(parts))
    seen: dict[bytes, int] = {}
    colours = []
    for one, other in zip(before, after, strict=True):
        both = _digest(one, other)
        seen[both] = seen.get(both, -1) + 1
        colours.append(_digest(both, str(seen[both]).encode()))
    return colours


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=8).digest()


def bank_offset(colour: bytes, role: str, ordinal: int) -> int:
    """Where in the bank a leaf starts: by its node's colour, its role, and its number among the node's leaves of it."""
    return int.from_bytes(_digest(colour, role.encode(), str(ordinal).encode()), "big") % BANK


def leaf_offsets(graph: ArchGraph, rows: Iterable[Parameter]) -> list[int]:
    """Where in the bank each leaf starts, for the rows of a parameter table in its order."""
    colours = node_colours(graph)
    seen: dict[tuple[int, str], int] = defaultdict(int)
    offsets = []
    for row in rows:
        own = (row.node, row.leaf.role)
        offsets.append(bank_offset(colours[row.node], row.leaf.role, seen[own]))
        seen[own] += 1
    return offsets
