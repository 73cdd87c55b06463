"""Cells of the DARTS space as values and as text.

A genotype is two cells, the normal and the reduction cell, parted by a semicolon; a cell is its nodes, parted by bars:

    sep3@0 sep3@1 | sep3@0 sep3@1 | skip@0 sep3@1 | skip@0 dil3@2 ; max3@0 max3@1 | max3@1 skip@2 | ...

Each node is the sum of two ops; `sep3@1` reads state 1. States 0 and 1 are the outputs of the cell before the last one
and of the last one, states 2, 3, ... the cell's own nodes. `parse` reads DARTS' own form too,
`Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=...)`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# Ops by their short name: DARTS' own (Liu et al. 2019, section 3.1, without "none", which no genotype of theirs has).
OPS = {
    "skip": "skip_connect",
    "max3": "max_pool_3x3",
    "avg3": "avg_pool_3x3",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
SHORT = {name: short for short, name in OPS.items()}
INPUTS = 2  # states of a cell that are there before its first node
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")  # of DARTS' own form, in their order
EXAMPLE = "'sep3@0 sep3@1 | skip@0 dil3@2 ; max3@0 max3@1 | skip@2 max3@0'"


class Edge(NamedTuple):
    """An op, by its short name, and the state that it reads."""

    op: str
    source: int

    def __str__(self) -> str:
        return f"{self.op}@{self.source}"


DartsCell = tuple[tuple[Edge, ...], ...]  # for every node, its two edges, the one with the lower source first


@dataclasses.dataclass(frozen=True)
class Genotype:
    """One architecture of the DARTS space.

    Attributes:
        normal: the cell that stages are made of: the edges of every node.
        reduce: the first cell of every stage but the first.

    Raises:
        ValueError: cells of different size, an edge that is no pair of a name and an int, or a node without two edges
            that read different earlier states.
    """

    normal: DartsCell
    reduce: DartsCell

    def __post_init__(self) -> None:
        for name in ("normal", "reduce"):
            nodes = []
            for index, given in enumerate(getattr(self, name)):
                fault = _no_pairs(given)
                node = () if fault else tuple(sorted((Edge(*edge) for edge in given), key=_source))
                fault = fault or _fault(node, INPUTS + index)
                if fault:
                    raise ValueError(f"{name} cell, node {INPUTS + index}: {fault}")
                nodes.append(node)
            object.__setattr__(self, name, tuple(nodes))
        if len(self.normal) != len(self.reduce):
            raise ValueError(f"cells of {len(self.normal)} and {len(self.reduce)} nodes; give both the same number")

    @classmethod
    def from_darts(
        cls,
        normal: Sequence[tuple[str, int]],
        normal_concat: Iterable[int],
        reduce: Sequence[tuple[str, int]],
        reduce_concat: Iterable[int],
    ) -> Genotype:
        """From the lists of DARTS' own `Genotype`, in their order: two ops a node.

        Raises:
            ValueError: what is no pair of a name and an int, an op that the space lacks, or an output
                that is not the concatenation of all nodes.
        """
        cells = (_from_list("normal", normal, normal_concat), _from_list("reduce", reduce, reduce_concat))
        return cls(*cells)

    @property
    def darts(self) -> str:
        """DARTS' own form, for their code and what was made after it."""
        lists = {
            name: [(OPS[op], source) for node in getattr(self, name) for op, source in node] for name in FIELDS[::2]
        }
        ends = f"range({INPUTS}, {INPUTS + len(self.normal)})"
        parts = (f"{name}={edges}, {name}_concat={ends}" for name, edges in lists.items())
        return f"Genotype({', '.join(parts)})"

    @property
    def cells(self) -> tuple[DartsCell, DartsCell]:
        """Normal and reduction cell."""
        return self.normal, self.reduce

    def __str__(self) -> str:
        return " ; ".join(" | ".join(" ".join(map(str, node)) for node in cell) for cell in self.cells)


def _source(edge: Edge) -> int:
    return edge.source


def _no_pairs(edges: Sequence[Any]) -> str | None:
    """Which edge is no pair of an op's name and a state's number, if any; True and 0.0 are no numbers of states."""
    for edge in edges:
        if not isinstance(edge, Sequence) or len(edge) != 2:
            return f"{edge!r} is no pair of an op and a state"
        op, source = edge
        if not isinstance(op, str) or type(source) is not int:
            return f"{tuple(edge)!r} is no pair of an op and a state; give the op's name and the state as an int"
    return None


def _fault(node: tuple[Edge, ...], states: int) -> str | None:
    """What is wrong with a node that may read so many states, if anything."""
    text = " ".join(map(str, node))
    if len(node) != 2:
        return f"{text!r} has {len(node)} ops; give two"
    for op, source in node:
        if op not in OPS:
            return f"unknown op {op!r}; use one of {', '.join(OPS)}"
        if not 0 <= source < states:
            return f"{op}@{source} reads a state that is not there yet; there are 0 to {states - 1}"
    if node[0].source == node[1].source:
        return f"{text!r} reads state {node[0].source} twice; give two different ones"
    return None


def _from_list(name: str, edges: Sequence[tuple[str, int]], concat: Iterable[int]) -> DartsCell:
    fault = _no_pairs(edges)
    if fault:
        raise ValueError(f"{name} cell: {fault}")
    unknown = [op for op, _ in edges if op not in SHORT]
    if unknown:
        raise ValueError(f"{name} cell: op {unknown[0]!r} is not in this space; it has {', '.join(SHORT)}")
    if len(edges) % 2:
        raise ValueError(f"{name} cell: {len(edges)} ops; give two a node")
    nodes = [(Edge(SHORT[a], i), Edge(SHORT[b], j)) for (a, i), (b, j) in zip(edges[::2], edges[1::2], strict=True)]
    ends, all_nodes = list(concat), list(range(INPUTS, INPUTS + len(nodes)))
    if any(type(end) is not int for end in ends) or sorted(ends) != all_nodes:
        raise ValueError(f"{name}_concat={ends}: this space's cells end in all of their nodes, {all_nodes}")
    return tuple(nodes)


# -------------------------------------------------------------------------------------------------------------- text


def parse(text: str) -> Genotype:
    """Reads the text of a genotype, or DARTS' own form; ValueError naming the part that is wrong."""
    try:
        if text.lstrip().startswith("Genotype"):
            return Genotype.from_darts(*_darts_lists(text.strip()))
        cells = text.split(";")
        if len(cells) != 2:
            raise ValueError(f"{len(cells)} cells; give a normal and a reduction cell, as in {EXAMPLE}")
        return Genotype(*(tuple(tuple(map(_edge, node.split())) for node in cell.split("|")) for cell in cells))
    except ValueError as error:
        raise ValueError(f"architecture {text!r}: {error}") from error


def _edge(word: str) -> Edge:
    match = re.fullmatch(r"(\w+)@(\d+)", word)
    if match is None:
        raise ValueError(f"cannot read {word!r}; write op@state, as in {EXAMPLE}")
    return Edge(match[1], int(match[2]))


def _darts_lists(text: str) -> list[list[Any]]:
    """The four lists of DARTS' own form."""
    try:
        call = ast.parse(text, mode="eval").body
        found = {word.arg: _literal(word.value) for word in call.keywords}  # type: ignore[attr-defined]
    except (SyntaxError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read it as Genotype({'=[...], '.join(FIELDS)}=[...])") from error
    if set(found) != set(FIELDS):
        raise ValueError(f"Genotype has {', '.join(FIELDS)}; this one has {', '.join(map(str, found))}")
    return [found[name] for name in FIELDS]


def _literal(value: ast.expr) -> list[Any]:
    """A list, or a range as one."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        return list(range(*map(ast.literal_eval, value.args)))
    return list(ast.literal_eval(value))


# ---------------------------------------------------------------------------------------------------------- identity


@functools.lru_cache(maxsize=10_000)
def canonical_cell(cell: DartsCell) -> DartsCell:
    """The least of all cells that differ in the order of the nodes alone: what follows knows none."""
    return min(_renumbered(cell))


def _renumbered(cell: DartsCell) -> Iterable[DartsCell]:
    """The cell under every order of its nodes in which each reads earlier ones."""
    for order in itertools.permutations(range(len(cell))):
        place = {old: new for new, old in enumerate((*range(INPUTS), *(INPUTS + node for node in order)))}
        nodes = [[Edge(op, place[source]) for op, source in cell[node]] for node in order]
        if all(source < INPUTS + index for index, node in enumerate(nodes) for _, source in node):
            yield tuple(tuple(sorted(node, key=_source)) for node in nodes)


# Published cells. DARTS: Liu et al. 2019, first and second order (figures 4 and 5 show the second's). PC-DARTS: Xu et
# al. 2020; P-DARTS: Chen et al. 2019.
PUBLISHED = {
    "darts-v1": "sep3@0 sep3@1 | skip@0 sep3@1 | skip@0 sep3@1 | sep3@0 skip@2 ; "
    "max3@0 max3@1 | max3@0 skip@2 | max3@0 skip@2 | avg3@0 skip@2",
    "darts-v2": "sep3@0 sep3@1 | sep3@0 sep3@1 | skip@0 sep3@1 | skip@0 dil3@2 ; "
    "max3@0 max3@1 | max3@1 skip@2 | max3@0 skip@2 | max3@1 skip@2",
    "pc-darts": "skip@0 sep3@1 | sep3@0 dil3@1 | sep5@0 sep3@1 | avg3@0 dil3@1 ; "
    "max3@0 sep5@1 | sep5@1 sep5@2 | sep3@0 sep3@3 | sep3@1 sep3@2",
    "p-darts": "skip@0 dil3@1 | skip@0 sep3@1 | sep3@1 sep3@3 | sep3@0 dil5@4 ; "
    "avg3@0 sep5@1 | sep3@0 dil5@2 | max3@0 dil3@1 | dil3@1 dil5@3",
}
