"""From a graph to the leaves of a model: what is predicted, what is taken from the initialiser, and the report."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter
from ghn.anymodel.emission import empty_aligned, write_matrix, write_vector
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.initialiser import Initialiser, Moments, rule, snapped
from ghn.anymodel.report import LeafReport, Report, Source
from ghn.noise import leaf_offsets

LARGE_BIAS = 0.3  # root mean square of an initial bias beyond which it means something (a gate's, a time step's)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of one row of the parameter table.

    Attributes:
        predicted: by the hypernetwork, or not.
        reason: why not; for a kernel, whose scale it has.
        scale: of a kernel or an embedding.
        mean: of a scale or a bias.
    """

    predicted: bool
    reason: str = ""
    scale: float = 1.0
    mean: float = 0.0


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
) -> Leaves:
    """All leaves of a traced model, one after the other: no more memory than the leaves themselves and a few MB.

    Args:
        hypernetwork: that predicts.
        graph: of the model.
        leaves: shapes and dtypes, in the order in which `graph` was traced.
        initialiser: of the model.
        strict: raise where a leaf is not predicted.
        read_from: take node states from this graph instead; its nodes stand in for `graph`'s, one for one.

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
    decisions = [[_decide(graph, row, unknown, initialiser.moments(i)) for row in own] for i, own in enumerate(rows)]
    if strict:
        refuse_fallbacks(rows, decisions)
    wanted = [i for i, own in enumerate(decisions) if not all(decision.predicted for decision in own)]
    values = initialiser.values(wanted)
    offsets = iter(leaf_offsets(read, itertools.chain.from_iterable(rows)))
    arrays = []
    for i, (leaf, own) in enumerate(zip(leaves, rows, strict=True)):
        out = empty_aligned(tuple(leaf.shape), np.dtype(leaf.dtype))
        for row, decision in zip(own, decisions[i], strict=True):
            part, offset = out[row.part] if row.part else out, next(offsets)
            if not decision.predicted:
                part[...] = values[i][row.part] if i in values else neutral(graph, row)
                continue
            _emit(hypernetwork, graph, row, decision, states[row.node], offset, part)
        arrays.append(out)
    end = time.process_time()
    about = f"open hypernetwork, {hypernetwork.parameter_count:,} parameters, " + (
        f"{hypernetwork.step:,} training steps" if hypernetwork.step else "NOT TRAINED: fresh weights of its own"
    )
    report = make_report(graph, leaves, rows, decisions, set(values), about)
    return Leaves(arrays, report, {"hypernetwork": after_states - start, "emission": end - after_states})


def rows_by_leaf(graph: ArchGraph, leaves: Sequence[Any]) -> list[list[Parameter]]:
    """The rows of the parameter table of each leaf; rows of one leaf are neighbours, in the order of leaves."""
    rows: list[list[Parameter]] = []
    last: tuple[str, ...] | None = None
    for row in graph.parameters:
        if row.path != last:
            rows.append([])
            last = row.path
        rows[-1].append(row)
    assert len(rows) == len(leaves)
    return rows


def _decide(graph: ArchGraph, row: Parameter, unknown: dict[int, str], moments: Moments | None) -> Decision:
    """Whether a row is predicted, and at which scale."""
    if row.node in unknown:
        return Decision(False, unknown[row.node])
    role = row.leaf.role
    unreadable = moments is not None and np.isnan(moments.mean)
    if role in ("kernel", "embedding"):
        looked_up = graph.ops[row.node] == "embedding"
        if moments is None or unreadable or (moments.deviation == 0 and moments.mean == 0):
            scale, name = rule(row.leaf, looked_up)
            why = "" if moments is None else "; its own cannot be read" if unreadable else "; initialised to 0"
            return Decision(True, f"scale: {name}{why}", scale)
        if abs(moments.mean) > moments.deviation:
            return Decision(False, f"initialised around {moments.mean:.2g}, which only the model knows")
        scale, name = snapped(moments, row.leaf)
        return Decision(True, f"scale: {name}", scale)
    if role in ("scale", "bias") and unreadable:
        return Decision(False, f"a {role} with an initialiser of its own")
    if role == "scale":
        neutral = 0.0 if row.offset else 1.0
        if moments is None or min(abs(moments.mean), abs(moments.mean - 1)) < 0.05:
            return Decision(True, mean=neutral)
        return Decision(False, f"a scale initialised around {moments.mean:.2g}, not 1")
    if role == "bias":
        if moments is None or np.hypot(moments.mean, moments.deviation) < LARGE_BIAS:
            return Decision(True)
        return Decision(False, f"a bias initialised around {moments.mean:.2g}, not 0")
    return Decision(False, f"a factor in {graph.ops[row.node]!r}, whose size only the model knows")


def neutral(graph: ArchGraph, row: Parameter) -> float:
    """What a leaf is filled with when there is no initialiser: 1 where it multiplies, 0 where it is added."""
    multiplies = row.leaf.role == "scale" or graph.ops[row.node] == "scale"
    return 1.0 if multiplies and not row.offset else 0.0


def refuse_fallbacks(rows: Sequence[Sequence[Parameter]], decisions: Sequence[Sequence[Decision]]) -> None:
    """Raises a ValueError that names the leaves that are not predicted."""
    refused = [
        f"{'/'.join(row.path)} ({decision.reason})"
        for own, of_leaf in zip(rows, decisions, strict=True)
        for row, decision in zip(own, of_leaf, strict=True)
        if not decision.predicted
    ]
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise ValueError(
            f"strict=True: not predicted: {'; '.join(refused[:3])}{more}; use strict=False to fill them in"
        )


def _emit(
    hypernetwork: OpenHypernetwork,
    graph: ArchGraph,
    row: Parameter,
    decision: Decision,
    state_D: NDArray[np.float32],
    offset: int,
    out: NDArray[Any],
) -> None:
    host, role = hypernetwork.host, row.leaf.role
    if role in ("scale", "bias"):
        write_vector(out, host.vector(role, state_D), decision.mean)
        return
    if role == "embedding":
        op, tile = "embedding", host.embedding_tile(state_D)[None, None]
    else:
        op = graph.ops[row.node]
        tile = host.kernel_tile(op, state_D, *row.leaf.shape[:2])
    gain = host.noise_gain(op)
    if hypernetwork.config.normalise:
        used = tile[..., : row.leaf.shape[-2], : row.leaf.shape[-1]]
        rms = float(np.sqrt(gain**2 + np.mean(np.square(used))))
        tile, gain = tile / np.float32(rms), gain / rms
    write_matrix(out, row, tile, gain, decision.scale * host.size(state_D), offset)


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
