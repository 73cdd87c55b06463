"""What becomes of every leaf: predicted, and at which scale, or taken from the initialiser, and why."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter
from architectures.trace.drafts import KERNEL_OWNERS
from ghn.anymodel.initialiser import from_zero, rule, snapped
from ghn.anymodel.moments import Moments

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


def decide(graph: ArchGraph, row: Parameter, unknown: dict[int, str], moments: Moments | None) -> Decision:
    """Whether a row is predicted, and at which scale."""
    role = row.leaf.role
    if 0 in (row.shape or ()):
        return Decision(True, "empty")
    if not jnp.issubdtype(jnp.dtype(row.dtype), jnp.inexact):
        return Decision(False, f"of type {row.dtype}: no weight, but an index, a mask or a counter")
    if row.node in unknown:
        return Decision(False, unknown[row.node])
    if moments is not None and moments.draw == "mask" and role in ("kernel", "embedding"):
        return Decision(False, "initialised to 0 and one other number: a mask, or a choice")
    if moments is not None and moments.draw == "structure" and role in ("kernel", "embedding"):
        what = "equal rows, a grid, a formula or mostly one number"
        return Decision(False, f"initialised to {what}: no draw, but a structure")
    unreadable = moments is not None and np.isnan(moments.mean)
    if role in ("kernel", "embedding"):
        looked_up = graph.ops[row.node] == "embedding"
        if moments is None or unreadable or (moments.deviation == 0 and moments.mean == 0):
            scale, name = rule(row.leaf, looked_up)
            why = "" if moments is None else "; its own cannot be read" if unreadable else "; initialised to 0"
            return Decision(True, f"scale: {name}{why}", scale)
        if from_zero(moments):
            size = float(f"{np.hypot(moments.mean, moments.deviation):.1e}")
            return Decision(True, f"scale: {size:g}, that of a uniform draw from 0", size)
        if abs(moments.mean) > moments.deviation:
            return Decision(False, f"initialised around {moments.mean:.2g}, which only the model knows")
        scale, name = snapped(moments, row.leaf)
        return Decision(True, f"scale: {name}", scale)
    if role in ("scale", "bias") and unreadable:
        return Decision(False, f"a {role} with an initialiser of its own")
    if role == "scale":
        neutral = 0.0 if row.offset else 1.0
        if moments is None or min(abs(moments.mean), abs(moments.mean - 1)) < 0.05:
            off = moments is not None and not row.offset and abs(moments.mean) < 0.05
            return Decision(True, "initialised to 0, predicted around 1" if off else "", mean=neutral)
        return Decision(False, f"a scale initialised around {moments.mean:.2g}, not 1")
    if role == "bias":
        if moments is None or np.hypot(moments.mean, moments.deviation) < LARGE_BIAS:
            return Decision(True)
        size = np.hypot(moments.mean, moments.deviation)
        return Decision(False, f"a bias initialised with a root mean square of {size:.2g}, not to 0")
    return Decision(False, f"a factor in {graph.ops[row.node]!r}, whose size only the model knows")


def keep_additions(
    graph: ArchGraph,
    rows: Sequence[Sequence[Parameter]],
    decisions: list[list[Decision]],
    moments: Sequence[Moments | None],
) -> None:
    """Kernels that are added to another one stay at 0 where they begin there: before they meet data (w + d), as two
    kernels of one node are decoded alike and would add up; or after it (x w + x a d, where d is no residual branch but
    a correction that begins with fine-tuning), as it would drown what it is added to."""
    alive = {
        row.node: leaf
        for leaf, (own, of_leaf) in enumerate(zip(rows, moments, strict=True))
        for row in own
        if row.leaf.role == "kernel" and of_leaf is not None and of_leaf.deviation > 0
    }
    reads: dict[int, list[int]] = {node: [] for node in range(graph.nodes)}
    for source, target in graph.edges.tolist():
        reads[target].append(source)
    for leaf, own in enumerate(rows):
        for index, row in enumerate(own):
            of_leaf = moments[leaf]
            zero = of_leaf is not None and of_leaf.mean == 0 == of_leaf.deviation
            if row.leaf.role != "kernel" or not zero:
                continue
            if row.node in alive:
                decisions[leaf][index] = Decision(False, "an addition to another kernel, initialised to 0")
            elif _corrects(graph, reads, row.node, set(alive)):
                reason = "added to what another kernel makes of the same input, initialised to 0"
                decisions[leaf][index] = Decision(False, reason)


def _corrects(graph: ArchGraph, reads: Mapping[int, Sequence[int]], node: int, alive: set[int]) -> bool:
    """Whether the output of a node's kernel is summed with that of another one, which reads what the node reads, by
    itself or through one more kernel."""
    before = set(reads[node])
    if len(before) == 1 and graph.ops[reads[node][0]] in KERNEL_OWNERS:
        before |= set(reads[reads[node][0]])
    sums = [target for target in range(graph.nodes) if graph.ops[target] == "sum" and node in reads[target]]
    others = {source for target in sums for source in reads[target]} & alive - {node, *reads[node]}
    return any(before & set(reads[other]) for other in others)


def neutral(graph: ArchGraph, row: Parameter) -> NDArray[Any] | float:
    """What a leaf is filled with when there is no initialiser: 1 where it multiplies, 0 where it is added; kernels and
    tables with noise of an ordinary size, without which no signal passes."""
    if row.leaf.role in ("kernel", "embedding") and jnp.issubdtype(jnp.dtype(row.dtype), jnp.inexact):
        rng = np.random.default_rng([zlib.crc32("/".join(row.path).encode()), *row.part])
        scale, _ = rule(row.leaf, graph.ops[row.node] == "embedding")
        return rng.standard_normal(row.shape or row.leaf.shape, np.float32) * np.float32(scale)
    multiplies = row.leaf.role == "scale" or graph.ops[row.node] == "scale" or row.multiplies
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
