"""Keeps signals alive: sizes of kernels under which a model answers about as strongly as it does when initialised.

A hypernetwork learns the size of every kernel on networks of its space, where batch statistics forgive much. In a chain
without normalisation sizes multiply, and so do the scales of batch normalisations whose running statistics are still
the initial ones: 20 layers that are twice too large make logits a million times too large. So signals are followed
through the graph under initial and under predicted weights, and where the two come apart by more than a factor of
BAND, the size of the next kernel brings them together again. Kernels in front of a batch normalisation are held at an
answer of at most CALM instead, where evaluation with initial statistics is close to that with a batch's; as soon as
there are such statistics, their size makes no difference.

So models with batch normalisations are followed twice: as in training or after `calibrate`, with a batch's statistics,
which decides on sizes; and as they are, with initial ones, where signals may die out on their way. What would be too
strong or weak there is moved as well, but by no more than REACH.

What is known of ops is rough; errors that both kinds of weights share cancel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph
from architectures.ops import Leaf
from architectures.trace.ops import ACTIVATIONS, NORMS
from ghn.anymodel.signals import (
    NOTHING,
    Signal,
    answered,
    drawn,
    elsewhere,
    entering,
    fitted,
    signs,
    standardised,
    strength,
    summed,
)
from ghn.noise import node_colours

BAND = 1.5  # by how much signals under predicted weights may differ from those under initial ones
REACH = 6.0  # by how much a size may be moved for that where a batch's statistics were followed first
CALM = 0.5  # strongest answer in front of a batch normalisation (its root mean square)
QUIET = 0.25  # initial signals below this have biases of normalisations shrink with them
FAINT = 1e-4  # initial signals below this have died out already; predicted ones do not follow them
TINY = 1e-12  # keeps divisions finite where a signal is exactly 0
ROUNDS = 3  # that signals are followed for, where there are loops or tables that are heads, too
SMALLEST, LARGEST = 1e-3, 20.0  # sizes that kernels get

ADDED = frozenset(("position", "concat", "carry", "mix", "sum"))  # what a table is added to or stands beside


@dataclasses.dataclass
class NodeWeights:
    """The weights of a node; initial ones as mean squares, predicted ones as what they are made of.

    Attributes:
        leaf: its kernel or table; None without.
        answer: mean square of the kernel's initial answer to unit inputs; of a table, of its values.
        tile, noise, direct: of the predicted kernel, of which unit size and scale are left out; no tile where it is not
            predicted.
        size: that the hypernetwork has learned for it.
        scale, bias: of normalisations and biases: initial mean square, and what is predicted, channel by channel.
        kept: initial mean square of the biases that are not predicted.
    """

    leaf: Leaf | None = None
    answer: float = 1.0
    tile: NDArray[np.float32] | None = None
    noise: float = 0.0
    size: float = 1.0
    scale: tuple[float, NDArray[np.float32] | float] = (1.0, 1.0)
    bias: tuple[float, NDArray[np.float32] | float] = (0.0, 0.0)
    kept: float = 0.0
    direct: float = 0.0


class Gain(NamedTuple):
    """What a node's predicted kernel and its predicted bias are multiplied by."""

    size: float = 1.0
    bias: float = 1.0


class State(NamedTuple):
    """A signal under initial weights, of which channels are not told apart, and under predicted ones."""

    initial: Signal
    predicted: Signal


def gains(graph: ArchGraph, weights: Sequence[NodeWeights]) -> list[Gain]:
    """For every node, the size of its kernel (the learned one, or the nearest that keeps signals alive), and of its
    bias: in units of what the kernel answers initially, where that is less than 1; a constant would drown it."""
    offsets = [int.from_bytes(colour, "big") for colour in node_colours(graph)]
    if "batch_norm" not in graph.ops:
        return _in_rounds(graph, weights, offsets)
    with_batch = _in_rounds(graph, weights, offsets, batch=True)
    return _in_rounds(graph, weights, offsets, settled=[gain.size for gain in with_batch])


def _in_rounds(
    graph: ArchGraph,
    weights: Sequence[NodeWeights],
    offsets: Sequence[int],
    batch: bool = False,
    settled: Sequence[float] | None = None,
) -> list[Gain]:
    """Gains by following signals until what comes late is known early: what a loop hands on, which is nothing before
    its first iteration, and how loudly a table answers as a head."""
    carried = {carry: State(NOTHING, NOTHING) for _, carry in graph.feedback}
    louder = dict.fromkeys(_tied_heads(graph, weights).values(), 1.0)
    for _ in range(ROUNDS if carried or louder else 1):
        result, states, heads = _followed(graph, weights, offsets, batch, settled, carried, louder)
        carried = {carry: State(*map(elsewhere, states[source])) for source, carry in graph.feedback}
        louder = {table: min(louder[table] * heads.get(table, 1.0), REACH) for table in louder}
    return result


def _tied_heads(graph: ArchGraph, weights: Sequence[NodeWeights]) -> dict[int, int]:
    """Dense layers that read the table of an embedding for their kernel -> the table's node."""
    return {
        target: source
        for source, target in graph.edges.tolist()
        if graph.ops[target] == "dense"
        and weights[target].leaf is None
        and (leaf := weights[source].leaf) is not None
        and leaf.role == "embedding"
    }


def _followed(
    graph: ArchGraph,
    weights: Sequence[NodeWeights],
    offsets: Sequence[int],
    batch: bool,
    settled: Sequence[float] | None,
    carried: Mapping[int, State],
    louder: Mapping[int, float],
) -> tuple[list[Gain], dict[int, State], dict[int, float]]:
    """Gains by following signals once, the states that loops hand on, and for tables by how much too loud their heads
    are.

    Args:
        graph: of the model.
        weights: of its nodes.
        offsets: where the draws of each node start.
        batch: statistics of batch normalisations are a batch's, not the initial ones.
        settled: sizes that were decided on before, which are moved by REACH at most.
        carried: what the nodes of carries hold, where nothing leads there.
        louder: what the sizes of tables are divided by, for the sake of their heads.
    """
    reads: list[list[int]] = [[] for _ in graph.ops]
    readers: list[set[str]] = [set() for _ in graph.ops]
    for source, target in graph.edges.tolist():
        reads[target].append(source)
        readers[source].add(graph.ops[target])
    renormalised = _renormalised(graph) if settled is not None else set()
    groups, extents = graph.attributes["groups"].tolist(), (graph.attributes["size"] ** 2).tolist()
    wide = np.maximum(graph.attributes["channels_out"], 1).astype(int).tolist()
    tied, heads = _tied_heads(graph, weights), {}
    last = {source: target for target, own in enumerate(reads) for source in own}  # that reads it
    last |= {source: graph.nodes for source, _ in graph.feedback}
    states: dict[int, State] = {}
    result: list[Gain] = []
    for node, op in enumerate(graph.ops):
        own = weights[node]
        ops = [graph.ops[source] for source in reads[node]]
        sources = [states[source] for source in reads[node]]
        fewer = extents[reads[node][0]] / extents[node] if sources else 1.0
        alone = drawn(wide[node], offsets[node])
        before = State(*(entering(op, ops, [source[i] for source in sources], fewer, alone) for i in (0, 1)))
        if node in carried and not sources:
            before = carried[node]
        gain = Gain()
        if own.leaf is not None:
            after = _answer(own, before, int(groups[node]), offsets[node])
            reach = math.inf if node in renormalised else REACH
            if batch and readers[node] == {"batch_norm"}:  # whatever comes, a batch's statistics make it 1
                gain = Gain(own.size)
            else:
                gain = _gain(own, after, readers[node], None if settled is None else settled[node], reach)
            gain = gain._replace(size=gain.size / louder.get(node, 1.0))
            before = _with_kernel(op, before, after, gain.size)
        elif node in tied:
            before = _as_head(weights[tied[node]], before, result[tied[node]].size, offsets[node])
            excess = math.sqrt(strength(before.predicted) / max(strength(before.initial), FAINT**2))
            heads[tied[node]] = max(excess, 1.0)  # no band: what came from the table is alike to it
        elif op == "shift":
            gain = Gain(bias=_quiet(strength(before.initial)))
        elif op == "batch_norm" and batch:
            before = State(*map(standardised, before))
        elif op in NORMS:
            gain = Gain(bias=min(1.0, math.sqrt(strength(before.initial)) / QUIET))
        elif op == "embedding":  # the index comes first, then who owns the table
            before = _shared_table([(weights[source], result[source].size) for source in reads[node][1:]], alone)
        result.append(gain)
        states[node] = _with_vectors(own, before, gain, offsets[node])
        states = {other: state for other, state in states.items() if last.get(other, node) > node}
    return result, states, heads


def _answer(own: NodeWeights, before: State, groups: int, offset: int) -> State:
    """What the kernel or table gives, at size 1."""
    assert own.leaf is not None
    unit = drawn(own.leaf.shape[-1], offset)
    if own.leaf.role == "embedding":
        table = unit * np.float32(math.sqrt(own.answer))
        return State(table, table)
    initial, predicted = (unit * np.float32(math.sqrt(strength(signal) * own.answer)) for signal in before)
    if own.tile is not None:
        size = np.float32(math.sqrt(own.answer / own.leaf.fan_in))
        predicted = size * answered(before.predicted, own.leaf, own.tile, own.noise, own.direct, groups, offset)
    return State(initial, predicted)


def _as_head(table: NodeWeights, before: State, size: float, offset: int) -> State:
    """What a table of a size answers as the kernel of a dense layer: its rows are the outputs."""
    assert table.leaf is not None
    rows, features = table.leaf.shape
    unit = np.float32(math.sqrt(table.answer))
    initial, predicted = (
        drawn(rows, offset) * unit * np.float32(math.sqrt(features * strength(signal))) for signal in before
    )
    if table.tile is not None:
        leaf = Leaf("kernel", (1, 1, features, rows))
        tile = table.tile.transpose(0, 1, 3, 2)
        predicted = unit * answered(before.predicted, leaf, tile, table.noise, 0.0, 1, offset)
    return State(initial, predicted * np.float32(size))


def _shared_table(owners: Sequence[tuple[NodeWeights, float]], looked_up: Signal) -> State:
    """What is looked up in a table that another node owns, from those that may (with their sizes)."""
    for own, size in owners:
        if own.leaf is not None:
            square = own.answer / (own.leaf.fan_in if own.leaf.role == "kernel" else 1)
            initial = looked_up * np.float32(math.sqrt(square))
            return State(initial, initial * np.float32(size))
    return State(looked_up, looked_up)


def _renormalised(graph: ArchGraph) -> set[int]:
    """Nodes whose output meets a batch normalisation on every way, with nothing but activations before it: with a
    batch's statistics their size hardly matters."""
    readers: list[list[int]] = [[] for _ in graph.ops]
    for source, target in graph.edges.tolist():
        readers[source].append(target)
    found: set[int] = set()
    for node in reversed(range(len(graph.ops))):
        if readers[node] and all(
            graph.ops[reader] == "batch_norm" or (graph.ops[reader] in ACTIVATIONS and reader in found)
            for reader in readers[node]
        ):
            found.add(node)
    return found


def _gain(own: NodeWeights, after: State, readers: set[str], settled: float | None, reach: float) -> Gain:
    # Where signals have died out, initial biases are the answer; but not those that stay, as a closed gate's -10 does.
    square = strength(after.initial) + own.bias[0] - own.kept
    initial = math.sqrt(max(square, FAINT**2))
    bias = _quiet(square + own.kept)
    if own.tile is None:
        return Gain(bias=bias)
    wanted = own.size if settled is None else settled
    if square < FAINT**2:  # nothing comes here initially: behind a factor of 0
        return Gain(min(max(wanted, SMALLEST), LARGEST), bias)
    predicted = math.sqrt(max(strength(after.predicted), TINY**2))
    if readers == {"batch_norm"}:
        low, high = min(CALM, initial) / BAND, min(CALM, initial * BAND)
    else:
        low, high = initial / BAND, initial * BAND
    size = min(max(wanted, low / predicted), high / predicted)
    if settled is not None:
        size = min(max(size, settled / reach), settled * reach)
    return Gain(min(max(size, SMALLEST), LARGEST), bias)


def _quiet(square: float) -> float:
    """What a bias is multiplied by that is added to a signal of this mean square."""
    return min(1.0, math.sqrt(max(square, FAINT**2)))


def _with_kernel(op: str, before: State, answer: State, size: float) -> State:
    after = State(answer.initial, answer.predicted * np.float32(size))
    return State(*map(summed, zip(before, after, strict=True))) if op in ADDED else after


def _with_vectors(own: NodeWeights, before: State, gain: Gain, offset: int) -> State:
    """After a node's scales and biases."""
    initial, predicted = before
    (scale_square, scale), (bias_square, bias) = own.scale, own.bias
    if scale_square != 1:
        initial = initial * np.float32(math.sqrt(scale_square))
    if bias_square:
        initial = initial + np.float32(math.sqrt(bias_square)) * signs(initial.shape[1], offset)
    if np.size(scale) > 1 or np.size(bias) > 1:
        predicted = fitted(predicted, max(np.size(scale), np.size(bias)))
    if np.size(scale) > 1 or scale != 1:
        predicted = predicted * scale
    if np.size(bias) > 1 or bias != 0:
        predicted = predicted + bias * np.float32(gain.bias)
    return State(initial, predicted)
