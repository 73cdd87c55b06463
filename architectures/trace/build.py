"""From drafted nodes to an ArchGraph: simplification, names that depend on readers, the parameter table."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from architectures.graph import ArchGraph, GraphBuilder, Parameter
from architectures.ops import Leaf
from architectures.trace.drafts import Draft, Drafts, Owned
from architectures.trace.values import AxisRole, LeafRef

ELEMENTWISE = frozenset(["sum", "product", "mix", "shift", "position", "scale", "gate", "normalise"])


class LeafSpec(NamedTuple):
    """A parameter leaf as the user has it."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str


def build(drafts: Drafts, leaves: Sequence[LeafSpec], outputs: Sequence[int], batch: int) -> ArchGraph:
    """The graph of what the outputs depend on and of all owners."""
    _complete_ownership(drafts, leaves)
    nodes = drafts.nodes
    kept = _kept(nodes, outputs)
    merged = _merge_sums(nodes, kept, set(outputs))
    readers = _readers(nodes, kept)
    builder = GraphBuilder()
    ids: dict[int, int] = {}
    parameters: list[tuple[LeafRef, Parameter]] = []
    for index in sorted(kept - merged):
        node = nodes[index]
        attributes = _attributes(drafts, readers, index, batch)
        op = _name(nodes, readers, index)
        if op.startswith("global_") and attributes["size"] > 1:  # a block is averaged, not the whole extent
            op = op.removeprefix("global_")
            attributes["kernel"] = _extent_ratio(drafts, index)
        ids[index] = builder.node(op, _inputs(drafts, index, ids), None, **attributes)
        parameters += [(owned.ref, _parameter(owned, ids[index], leaves[owned.ref.index])) for owned in node.owned]
    for _, row in sorted(parameters, key=lambda pair: pair[0]):
        builder.add_parameter(row)
    loops = [(nodes[index].again, carry) for index, carry in ids.items()]
    feedback = tuple((ids[again], carry) for again, carry in loops if again is not None and again in ids)
    return dataclasses.replace(builder.build(), feedback=feedback)


def _complete_ownership(drafts: Drafts, leaves: Sequence[LeafSpec]) -> None:
    """Sees to it that every leaf is owned once: as a whole, or part by part."""
    parts = defaultdict(list)
    for ref in drafts.owner:
        parts[ref.index].append(ref)
    unused = []
    for index, leaf in enumerate(leaves):
        refs = parts[index]
        depths = {len(ref.part) for ref in refs}
        if len(depths) == 1 and len(refs) == math.prod(leaf.shape[: max(depths)]):
            continue
        keep = min(refs, key=lambda ref: drafts.owner[ref]) if refs else None
        for ref in refs:
            node = drafts.nodes[drafts.owner[ref]]
            owned = next(o for o in node.owned if o.ref == ref)
            node.owned.remove(owned)
            if ref == keep:  # its node takes the whole leaf; indexed axes hold copies
                missing = len(leaf.shape) - len(owned.axes)
                stack: tuple[AxisRole, ...] = tuple("stack" for _ in range(missing))
                axes = stack + owned.axes if owned.axes else ()
                node.owned.append(dataclasses.replace(owned, ref=LeafRef(index), axes=axes))
            else:
                node.uses.append(LeafRef(index))
        if keep is not None:
            drafts.owner[LeafRef(index)] = drafts.owner[keep]
        else:
            unused.append(index)
    if unused:
        holder = drafts.add("constant", [], (1,))
        for index in unused:
            drafts.own(holder, LeafRef(index), "factor")


def _kept(nodes: Sequence[Draft], outputs: Sequence[int]) -> set[int]:
    """Nodes that own a leaf, or that outputs or such nodes depend on."""
    wanted = [*outputs, *(index for index, node in enumerate(nodes) if node.owned)]
    kept: set[int] = set()
    while wanted:
        index = wanted.pop()
        if index not in kept:
            kept.add(index)
            wanted += nodes[index].inputs
    return kept


def _readers(nodes: Sequence[Draft], kept: set[int]) -> dict[int, list[int]]:
    readers: dict[int, list[int]] = defaultdict(list)
    for index in sorted(kept):
        for source in nodes[index].inputs:
            readers[source].append(index)
    return readers


def _merge_sums(nodes: Sequence[Draft], kept: set[int], outputs: set[int]) -> set[int]:
    """Sums that only another sum reads become part of it; returns those that are gone."""
    readers = _readers(nodes, kept)
    gone: set[int] = set()
    for index in sorted(kept):
        if nodes[index].op != "sum":
            continue
        inputs: list[int] = []
        for source in nodes[index].inputs:
            inner = nodes[source]
            if inner.op == "sum" and readers[source] == [index] and not inner.owned and source not in outputs:
                inputs += inner.inputs  # as often as it is summed
                gone.add(source)
            else:
                inputs.append(source)
        nodes[index].inputs = inputs
    return gone


def _inputs(drafts: Drafts, index: int, ids: dict[int, int]) -> list[int]:
    """Nodes that a node reads, and the owners of leaves that it shares."""
    node = drafts.nodes[index]
    owners = [drafts.owner[ref] for ref in node.uses if ref in drafts.owner]
    sources = [source for source in (*node.inputs, *owners) if source < index and source in ids]
    return [ids[source] for source in (sources if node.op == "sum" else dict.fromkeys(sources))]


def _extent_ratio(drafts: Drafts, index: int) -> float:
    """Along one axis, how many elements of its input a pooled element stands for."""
    node = drafts.nodes[index]
    return max(1.0, math.sqrt(math.prod(drafts.nodes[node.inputs[0]].shape) / math.prod(node.shape)))


def _name(nodes: Sequence[Draft], readers: dict[int, list[int]], index: int) -> str:
    """A node's op; a product of data whose output goes through a softmax is one of queries and keys."""
    if nodes[index].op != "matmul":
        return nodes[index].op
    front, seen = [index], set()
    for _ in range(4):
        front = [r for i in front for r in readers[i] if r not in seen]
        seen.update(front)
        if any(nodes[r].op == "softmax" for r in front):
            return "query_key"
        front = [r for r in front if nodes[r].op in ELEMENTWISE]
    return "matmul"


def _attributes(drafts: Drafts, readers: dict[int, list[int]], index: int, batch: int) -> dict[str, float]:
    node = drafts.nodes[index]
    attributes = dict(node.attributes)
    if node.op == "input":
        read = [
            drafts.nodes[r].attributes["channels_in"] for r in readers[index] if drafts.nodes[r].op in ("conv", "dense")
        ]
        if read and read[0] in node.shape:
            attributes["channels_in"] = attributes["channels_out"] = read[0]
    extent = math.prod(node.shape) / max(batch, 1) / max(attributes["channels_out"], 1)
    attributes["size"] = max(1.0, round(math.sqrt(extent), 3))
    return attributes


def _parameter(owned: Owned, node: int, leaf: LeafSpec) -> Parameter:
    """A row of the parameter table: canonical shape, and the way back to the user's layout."""
    part = owned.ref.part
    shape = leaf.shape[len(part) :]
    role = "factor" if 0 in shape else owned.role
    if role not in ("kernel", "embedding"):
        return Parameter(
            leaf.path,
            node,
            Leaf(role, (max(math.prod(shape), 1),)),
            None,
            None,
            shape,
            leaf.dtype,
            part,
            1,
            owned.offset,
            owned.curved,
            owned.multiplies,
        )
    groups = {role: [a for a, r in enumerate(owned.axes) if r == role] for role in ("stack", "space", "in", "out")}
    order = [axis for axes in groups.values() for axis in axes]
    back = tuple(order.index(axis) for axis in range(len(order)))
    axes = None if back == tuple(range(len(back))) else back
    sizes = {role: math.prod(shape[a] for a in axes) for role, axes in groups.items()}
    copies = sizes["stack"]
    if owned.role == "embedding":
        canonical = Leaf("embedding", (sizes["in"] * sizes["space"], sizes["out"]))
    else:
        spatial = [shape[axis] for axis in groups["space"]]
        rows = math.prod(spatial[:-1])
        canonical = Leaf("kernel", (rows, spatial[-1] if spatial else 1, sizes["in"], sizes["out"]))
    return Parameter(leaf.path, node, canonical, None, axes, shape, leaf.dtype, part, copies, owned.offset)
