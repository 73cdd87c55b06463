"""Finds a traced network in a cell space: which architecture it is, and which slot each of its parameters fills.

The skeleton is walked from the output to the input; what lies between two of its parts is a cell, brought to a normal
form (nested sums of ops, skips dissolved) that is looked up among all cells of the space. Where a normal form belongs
to several cells, which then compute the same function, the one with the fewest edges is taken.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from architectures.graph import ArchGraph, Parameter
from architectures.spaces.base import SearchSpace
from architectures.spaces.cell import Cell, CellSpace


class NotRecognisedError(ValueError):
    """A graph that is no network of the space; the message says what differs."""


POOL = "avg_pool_3x3"
INPUT = "0"  # a cell's input, in normal forms
Match = dict[int, tuple[str, ...]]  # node -> its place in the space's own graph, as the start of parameter paths


def recognise(space: SearchSpace[Any], graph: ArchGraph) -> tuple[Cell, dict[int, Parameter]]:
    """The architecture, and for rows of `graph.parameters` (by number) the row of the space's own table.

    Rows without a counterpart (a bias in front of a normalisation) are left out.

    Raises:
        NotRecognisedError: the graph is not one of this space.
    """
    if not isinstance(space, CellSpace) or space.cells != 1 or space.size > 10**6:
        raise NotRecognisedError(f"networks of {space.describe()} cannot be recognised in a traced graph")
    reader = _Reader(graph)
    matches: Match = {}
    cell = _skeleton(space, reader, matches)
    own = {row.path: row for row in space.graph(cell).parameters}
    pairs: dict[int, Parameter] = {}
    for number, row in enumerate(graph.parameters):
        path = matches.get(row.node)
        name = row.leaf.role if graph.ops[row.node] != "conv" or row.leaf.role == "kernel" else ""
        target = own.get((*path, name)) if path is not None and name else None
        if target is not None:
            if row.shape is None or int(np.prod(row.shape)) != int(np.prod(target.leaf.shape)):
                raise NotRecognisedError(f"{'/'.join(row.path)} is {row.leaf.shape}, the space has {target.leaf.shape}")
            pairs[number] = target
    missing = set(own) - {row.path for row in pairs.values()}
    if missing:
        raise NotRecognisedError(f"nothing in the graph is {'/'.join(min(missing))}")
    return cell, pairs


class _Reader:
    """A graph with what each node reads."""

    def __init__(self, graph: ArchGraph) -> None:
        self.ops = graph.ops
        self.attributes = graph.attributes
        self.reads: list[list[int]] = [[] for _ in graph.ops]
        for source, target in graph.edges.tolist():
            self.reads[target].append(source)
        read = {source for sources in self.reads for source in sources}
        # Ops whose output nothing reads are ends too, but no dense layers.
        ends = [node for node, op in enumerate(graph.ops) if node not in read and op == "dense"]
        if len(ends) != 1:
            raise NotRecognisedError(f"the graph ends in {len(ends)} dense layers, a classifier in one")
        self.end = ends[0]

    def step(self, node: int, *ops: str, **sizes: float) -> int:
        """The only input of `node`, which is one of `ops` with these attributes."""
        found = {name: float(self.attributes[name][node]) for name in sizes}
        if self.ops[node] not in ops or len(self.reads[node]) != 1 or found != sizes:
            raise NotRecognisedError(
                f"node {node}, {self.ops[node]} {found or ''}, is no {'/'.join(ops)} {sizes or ''}"
            )
        return self.reads[node][0]

    def convolution(self, node: int, rectified: bool = True, **sizes: float) -> tuple[int, int, int]:
        """(normalisation, convolution, input) of a node that ends (ReLU,) convolution, batch normalisation."""
        inner = self.step(node, "batch_norm")
        x = self.step(inner, "conv", "dense", groups=1, dilation=1, **sizes)
        return node, inner, self.step(x, "relu") if rectified else x

    def matches(self, method: Callable[..., Any], *arguments: Any, **sizes: float) -> Any | None:
        """What a method returns, or None where it finds something else."""
        try:
            return method(*arguments, **sizes)
        except NotRecognisedError:
            return None


def _skeleton(space: CellSpace, reader: _Reader, matches: Match) -> Cell:
    """Walks from the classifier to the input."""
    node = reader.end
    matches[node] = ("classifier",)
    x = reader.step(node, "dense")
    x = reader.step(reader.step(x, "global_avg_pool"), "relu")
    matches[x] = ("norm",)
    x = reader.step(x, "batch_norm")
    found: Cell | None = None
    for stage in reversed(range(space.stages)):
        begins = (lambda n: _reduction(reader, n) is not None) if stage else (lambda n: _stem(reader, n) is not None)
        terms = _Terms(space, reader, begins)
        cell = cells_by_form(space).get(terms.key(x))
        if cell is None:
            raise NotRecognisedError(f"stage {stage} ends in {terms.key(x)}, which is no cell of {space.name}")
        if found is not None and cell != found:
            raise NotRecognisedError(f"stage {stage} has the cell {cell}, a later one {found}")
        found = cell
        start = terms.match(x, cell, (f"stage{stage}", "cell0"), matches)
        if stage:
            parts = _reduction(reader, start)
            assert parts is not None
            (norm_b, conv_b), (norm_a, conv_a), shortcut, x = parts
            for part, nodes in (("a", (norm_a, conv_a)), ("b", (norm_b, conv_b)), ("shortcut", (shortcut,))):
                matches.update(dict.fromkeys(nodes, (f"reduction{stage}", part)))
        else:
            norm, conv, image = reader.convolution(start, rectified=False, kernel=3, stride=1)
            matches[norm] = matches[conv] = ("stem",)
            reader_end = reader.ops[image]
            if reader_end != "input":
                raise NotRecognisedError(f"the stem reads {reader_end!r}, not the input")
    assert found is not None
    return found


def _stem(reader: _Reader, node: int) -> Any:
    found = reader.matches(reader.convolution, node, rectified=False)
    return found if found is not None and reader.ops[found[2]] == "input" else None


def _reduction(reader: _Reader, node: int) -> Any:
    """((norm, conv) of b, (norm, conv) of a, the shortcut's convolution, the input) of a residual block of stride 2."""
    if reader.ops[node] != "sum" or len(reader.reads[node]) != 2:
        return None
    for branch, other in (reader.reads[node], reader.reads[node][::-1]):
        b = reader.matches(reader.convolution, branch, kernel=3, stride=1)
        a = None if b is None else reader.matches(reader.convolution, b[2], kernel=3, stride=2)
        pooled = reader.matches(reader.step, other, "conv", "dense", kernel=1)
        x = None if pooled is None else reader.matches(reader.step, pooled, "avg_pool", "stencil")
        if a is not None and b is not None and x is not None and a[2] == x:
            return b[:2], a[:2], other, x
    return None


class _Terms:
    """Normal forms of what lies between a node and where its cell begins."""

    def __init__(self, space: CellSpace, reader: _Reader, begins: Callable[[int], bool]) -> None:
        self._space, self._reader, self._begins = space, reader, begins
        self._convolutions = {op.kernel: op.name for op in space.ops if op.rectifies}
        self._terms: dict[int, list[tuple[str, tuple[int, ...], int]]] = {}

    def form(self, node: int) -> str:
        """The normal form of a node."""
        return _form([(text, nodes) for text, nodes, _ in self.terms(node)])

    def key(self, node: int) -> str:
        """The normal form of a cell's output, and how many ops with parameters it has: forms alone do not tell whether
        two places read one op or two of a kind."""
        ops: set[tuple[int, ...]] = set()
        pending = [node]
        while pending:
            for _, nodes, source in self.terms(pending.pop()):
                if nodes and nodes not in ops:
                    ops.add(nodes)
                    pending.append(source)
        return f"{sum(len(nodes) > 1 for nodes in ops)}: {self.form(node)}"

    def terms(self, node: int) -> list[tuple[str, tuple[int, ...], int]]:
        """(text, nodes of the op, its input) of every term of the sum that a node is; the text of the cell's input is
        INPUT."""
        if node not in self._terms:
            self._terms[node] = self._find(node)
        return self._terms[node]

    def _find(self, node: int) -> list[tuple[str, tuple[int, ...], int]]:
        reader = self._reader
        if self._begins(node):
            return [(INPUT, (), node)]
        if self._zero(node):
            return []
        if reader.ops[node] == "sum":
            return [term for source in reader.reads[node] for term in self.terms(source)]
        if reader.ops[node] in ("avg_pool", "stencil"):
            source = reader.step(node, "avg_pool", "stencil")
            if not self.terms(source):
                return []
            return [(f"{POOL}({self.form(source)})", (node,), source)]
        norm, conv, source = reader.convolution(node, stride=1)
        if not self.terms(source):
            return []
        kernel = round(float(reader.attributes["kernel"][conv]))
        if kernel not in self._convolutions:
            raise NotRecognisedError(f"node {conv}: a convolution of kernel {kernel}, which the space has not")
        return [(f"{self._convolutions[kernel]}({self.form(source)})", (norm, conv), source)]

    def _zero(self, node: int) -> bool:
        """Whether a node is a function of a constant (the zeros of an absent edge) and of nothing else."""
        while len(self._reader.reads[node]) == 1:
            node = self._reader.reads[node][0]
        return self._reader.ops[node] == "constant"

    def match(self, node: int, cell: Cell, prefix: tuple[str, ...], matches: Match) -> int:
        """Matches the ops below `node` with the edges of `cell`; returns the cell's input node."""
        space, edges = self._space, dict(zip(self._space.wiring, cell.edges, strict=True))
        start: list[int] = []
        taken: dict[tuple[int, ...], tuple[int, int]] = {}

        def descend(node: int, target: int) -> None:
            found, wanted = self.terms(node), _cell_terms(space, edges, target)
            for text in {term[0] for term in found}:
                own = Counter(term[1:] for term in found if term[0] == text)
                places = Counter(edge for other, edge in wanted if other == text and edge is not None)
                if text == INPUT:
                    start.extend(source for _, source in own)
                    continue
                for (nodes, source), edge in _paired(own, places, taken):
                    taken[nodes] = edge
                    matches.update(dict.fromkeys(nodes, (*prefix, f"edge_{edge[0]}_{edge[1]}", edges[edge])))
                    descend(source, edge[0])

        descend(node, space.nodes - 1)
        if len(set(start)) != 1:
            raise NotRecognisedError("a cell does not begin in one place")
        return start[0]


Term = tuple[tuple[int, ...], int]
Edge = tuple[int, int]


def _paired(found: Counter[Term], wanted: Counter[Edge], taken: dict[tuple[int, ...], Edge]) -> list[tuple[Term, Edge]]:
    """Ops of equal text with edges: as they were paired before, else those that are read equally often."""
    pairs = [(term, taken[term[0]]) for term in found if term[0] in taken and taken[term[0]] in wanted]
    used_terms, used_edges = {term for term, _ in pairs}, {edge for _, edge in pairs} | set(taken.values())
    terms = sorted((t for t in found if t not in used_terms and t[0] not in taken), key=lambda t: found[t])
    edges = sorted((e for e in wanted if e not in used_edges), key=lambda e: wanted[e])
    return [*pairs, *zip(terms, edges, strict=False)]


def _form(terms: list[tuple[str, Any]]) -> str:
    """A sum of terms (text, which op), in order; what one op gives twice is another thing than two ops of one kind,
    unless they have no parameters."""
    groups: dict[str, Counter[Any]] = defaultdict(Counter)
    for text, op in terms:
        groups[text][None if text.startswith(POOL) else op] += 1
    return "+".join(f"{','.join(map(str, sorted(ops.values())))}*{text}" for text, ops in sorted(groups.items()))


def _cell_terms(
    space: CellSpace, edges: dict[tuple[int, int], str], target: int
) -> list[tuple[str, tuple[int, int] | None]]:
    """(text, edge) of every term of a cell's node; None for the cell's input itself."""
    if target == 0:
        return [(INPUT, None)]
    terms: list[tuple[str, tuple[int, int] | None]] = []
    for source in range(target):
        op = edges[source, target]
        if op == "none":
            continue
        below = _cell_terms(space, edges, source)
        if op == "skip_connect":
            terms += below
        elif below:
            terms.append((f"{op}({_form(below)})", (source, target)))
    return terms


def _live(space: CellSpace, edges: dict[Edge, str]) -> set[Edge]:
    """Edges with an op of their own that the output depends on."""
    live: set[Edge] = set()
    pending = [space.nodes - 1]
    while pending:
        for _, edge in _cell_terms(space, edges, pending.pop()):
            if edge is not None and edge not in live:
                live.add(edge)
                pending.append(edge[0])
    return live


@functools.cache
def cells_by_form(space: CellSpace) -> dict[str, Cell]:
    """Normal form of the output -> the cell of fewest edges that has it."""
    found: dict[str, Cell] = {}
    for cell in space.all():
        edges = dict(zip(space.wiring, cell.edges, strict=True))
        own = sum(edges[edge] != POOL for edge in _live(space, edges))
        form = f"{own}: {_form(_cell_terms(space, edges, space.nodes - 1))}"
        if form not in found or cell.edges.count("none") > found[form].edges.count("none"):
            found[form] = cell
    return found
