"""From a graph to the leaves of a model: what is predicted, what is taken from the initialiser, and the report."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter
from ghn.anymodel.blocks import empty_arrays
from ghn.anymodel.decisions import Decision, decide, keep_additions, neutral, refuse_fallbacks, rows_by_leaf
from ghn.anymodel.emitter import Emitter
from ghn.anymodel.gains import Gain, gains
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.initialiser import Initialiser
from ghn.anymodel.report import LeafReport, Report, Source
from ghn.noise import leaf_offsets


@dataclasses.dataclass(frozen=True)
class Leaves:
    """Predicted leaves, in the order of the flattened parameters, with their report and the seconds of each part."""

    arrays: list[NDArray[Any]]
    report: Report
    seconds: dict[str, float]


def predict_leaves(
    hypernetwork: OpenHypernetwork,
    graph: ArchGraph,
    leaves: Sequence[Any],
    initialiser: Initialiser,
    strict: bool,
    read_from: ArchGraph | None = None,
    alive: bool = True,
) -> Leaves:
    """All leaves of a traced model, one after the other: no more memory than the leaves themselves and the tile of each
    kernel (16 kB for a 1x1, up to 0.8 MB for a 7x7).

    Args:
        hypernetwork: that predicts.
        graph: of the model.
        leaves: shapes and dtypes, in the order in which `graph` was traced.
        initialiser: of the model.
        strict: raise where a leaf is not predicted.
        read_from: take node states from this graph instead; its nodes stand in for `graph`'s, one for one.
        alive: keep signals about as strong as they are initially; False writes sizes and vectors as they were learned.

    Raises:
        ValueError: `strict`, and a leaf is not predicted; or a `read_from` of another size.
    """
    start = time.process_time()
    if read_from is not None and read_from.nodes != graph.nodes:
        raise ValueError(f"graph: {read_from.nodes} nodes, the model's own has {graph.nodes}; shuffle that one instead")
    read = graph if read_from is None else read_from
    states, unknown = hypernetwork.states(read)
    after_states = time.process_time()
    rows = rows_by_leaf(graph, leaves)
    moments = [initialiser.moments(i) for i in range(len(rows))]
    decisions = [[decide(graph, row, unknown, moments[i]) for row in own] for i, own in enumerate(rows)]
    keep_additions(graph, rows, decisions, moments)
    if strict:
        refuse_fallbacks(rows, decisions)
    wanted = [i for i, own in enumerate(decisions) if not all(decision.predicted for decision in own)]
    values = initialiser.values(wanted)
    offsets = iter(leaf_offsets(read, itertools.chain.from_iterable(rows)))
    table = [
        (row, decision, moments[i])
        for i, own in enumerate(rows)
        for row, decision in zip(own, decisions[i], strict=True)
    ]
    emitter = Emitter(hypernetwork, graph, states, alive)
    weights = emitter.node_weights(table)
    gain = gains(graph, weights) if alive else [Gain(own.size) for own in weights]
    arrays = empty_arrays(leaves)
    for i, (out, own) in enumerate(zip(arrays, rows, strict=True)):
        for row, decision in zip(own, decisions[i], strict=True):
            part, offset = out[row.part] if row.part else out, next(offsets)
            if not part.size:
                continue
            if not decision.predicted:
                part[...] = values[i][row.part] if i in values else neutral(graph, row)
                continue
            emitter.write(row, decision, gain[row.node], offset, part)
    end = time.process_time()
    about = f"open hypernetwork, {hypernetwork.parameter_count:,} parameters, " + (
        f"{hypernetwork.step:,} training steps" if hypernetwork.step else "NOT TRAINED: fresh weights of its own"
    )
    report = make_report(graph, leaves, rows, decisions, set(values), about)
    return Leaves(arrays, report, {"hypernetwork": after_states - start, "emission": end - after_states})


def make_report(
    graph: ArchGraph,
    leaves: Sequence[Any],
    rows: Sequence[Sequence[Parameter]],
    decisions: Sequence[Sequence[Decision]],
    initialised: set[int],
    hypernetwork: str,
) -> Report:
    """A row for every leaf."""
    reports = []
    for i, (leaf, own, of_leaf) in enumerate(zip(leaves, rows, decisions, strict=True)):
        failed = [decision for decision in of_leaf if not decision.predicted]
        source: Source = "predicted" if not failed else "initialiser" if i in initialised else "neutral"
        reason = (failed or of_leaf)[0].reason
        op = graph.ops[own[0].node]
        nodes = len({row.node for row in own})
        reports.append(LeafReport("/".join(own[0].path), tuple(leaf.shape), str(leaf.dtype), op, nodes, source, reason))
    about = f"graph: {graph.nodes} nodes, {len(graph.edges)} edges"
    return Report(tuple(reports), about, hypernetwork)


def as_jax(arrays: Sequence[NDArray[Any]], like: Sequence[Any]) -> list[jax.Array]:
    """Leaves as JAX arrays, where the user's leaves say so with their sharding (on a CPU without a copy)."""
    shardings = [getattr(leaf, "sharding", None) for leaf in like]
    placed = [sharding if sharding is not None and _spread(sharding) else None for sharding in shardings]
    if not any(placed):
        return jax.device_put(list(arrays))
    return [jax.device_put(array, sharding) for array, sharding in zip(arrays, placed, strict=True)]


def _spread(sharding: Any) -> bool:
    """Whether a sharding asks for anything but JAX's default device."""
    single = isinstance(sharding, jax.sharding.SingleDeviceSharding)
    return not single or set(sharding.device_set) != {jax.local_devices()[0]}
