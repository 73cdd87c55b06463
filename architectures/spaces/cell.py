"""Cell spaces: every edge of a small DAG carries one op of a list; the cell is stacked into a residual skeleton."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from architectures.checks import at_least
from architectures.executor import Around, Observe, Plan, run_stage, run_stage_static
from architectures.graph import ArchGraph, GraphBuilder
from architectures.layers import Layers
from architectures.layout import Layout, WeightArrays
from architectures.ops import CONV_3X3, NONE, SKIP, Op
from architectures.spaces import skeleton
from architectures.spaces.base import Encoding, SearchSpace, check_no_text, later

# Names with a meaning of their own, and the only op that may carry each as a candidate (None: no op may).
RESERVED: dict[str, Op | None] = {
    **dict.fromkeys(skeleton.FIXED_OPS),
    CONV_3X3.name: CONV_3X3,
    NONE.name: NONE,
    SKIP.name: SKIP,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One architecture: the op of every edge, ordered (0,1), (0,2), (1,2), (0,3), (1,3), (2,3), ...

    Prints as NAS-Bench-201 writes it: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|.
    """

    edges: tuple[str, ...]

    def __str__(self) -> str:
        edges, nodes = iter(self.edges), []
        for target in range(1, node_count(len(self.edges))):
            nodes.append("|" + "".join(f"{next(edges)}~{source}|" for source in range(target)))
        return "+".join(nodes)


def node_count(edges: int) -> int:
    """Nodes of a complete DAG with so many edges."""
    return int((1 + (1 + 8 * edges) ** 0.5) / 2)


@dataclasses.dataclass(frozen=True)
class CellSpace(SearchSpace[Cell]):
    """Cells of `nodes` nodes in NAS-Bench-201's skeleton (Dong & Yang 2020, section 2).

    Stem, then `stages` stages of `cells` cells with a residual block of stride 2 between them that doubles the
    channels, then batch normalisation, ReLU, global average pooling and a linear classifier.

    Attributes:
        channels: channels of the first stage.
        cells: cells in each stage.
        input_shape: height, width and channels of an image.
        classes: outputs of the classifier.
        stages: number of stages.
        nodes: nodes of a cell, its input and output included.
        ops: the candidates of an edge.
        exits: whether every stage but the last, too, ends in normalisation, ReLU, pooling and a classifier of its own
            (anytime prediction: Zhang et al. 2019). `apply` returns the final logits in either case,
            `apply_exits` those of all exits.

    Raises:
        ValueError: a field out of range, or an op whose name is taken or cannot be written in a cell's text.
    """

    name: ClassVar[str] = "cell"

    channels: int = 8
    cells: int = 1
    input_shape: tuple[int, int, int] = (14, 14, 1)
    classes: int = 10
    stages: int = 3
    nodes: int = 4
    ops: tuple[Op, ...] = ()
    exits: bool = later(False)

    def __post_init__(self) -> None:
        at_least(self, channels=1, cells=1, classes=1, stages=1)
        if self.nodes < 2:
            raise ValueError(f"{type(self).__name__}.nodes={self.nodes}: must be at least 2, the input and the output")
        if self.exits and self.stages < 2:
            raise ValueError(f"{type(self).__name__}.exits={self.exits}: one stage has no early exit; use 2 or more")
        shape = self.input_shape
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            raise ValueError(f"{type(self).__name__}.input_shape={shape!r}: must be a tuple of ints")
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"{type(self).__name__}.input_shape={shape}: give (height, width, channels)")
        if shape[0] != shape[1]:
            raise ValueError(f"{type(self).__name__}.input_shape={shape}: images must be square")
        names = [op.name for op in self.ops]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{type(self).__name__}.ops={names}: give at least one op, each name once")
        for op in self.ops:
            if not re.fullmatch(r"[^|~+]+", op.name):
                raise ValueError(f"{type(self).__name__}.ops: {op.name!r} must be a name without |, ~ and +")
            if op.name in RESERVED and op != RESERVED[op.name]:
                raise ValueError(f"{type(self).__name__}.ops: {op.name!r} is the name of another op; rename yours")

    @functools.cached_property
    def wiring(self) -> tuple[tuple[int, int], ...]:
        """(source, target) node of every edge, in the order of `Cell.edges`."""
        return tuple((source, target) for target in range(1, self.nodes) for source in range(target))

    @functools.cached_property
    def choices(self) -> tuple[str, ...]:
        """Names of the candidate ops of an edge."""
        return tuple(op.name for op in self.ops)

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.ops) ** len(self.wiring)

    @functools.cached_property
    def layout(self) -> Layout:
        """Stem, reductions, heads, a group for every leaf name of every stage."""
        return skeleton.layout(self)

    @property
    def block_count(self) -> int:
        """Stem, cells, and the residual blocks between stages."""
        return self.stages * (self.cells + 1)

    @property
    def op_names(self) -> tuple[str, ...]:
        """The candidates (but "none", which is no node) and the fixed parts of the skeleton."""
        candidates = tuple(name for name in self.choices if name != "none")
        return candidates + tuple(name for name in skeleton.FIXED_OPS if name not in candidates)

    @functools.cached_property
    def schedule(self) -> tuple[int, int]:
        """Steps and widest step of the graph whose edges are all present; every other graph is a part of it."""
        present = next((name for name in self.choices if name != "none"), "none")
        steps = self.graph(Cell((present,) * len(self.wiring))).steps
        assert steps is not None
        return int(steps.max()) + 1, int(np.bincount(steps).max())

    def all(self) -> Iterator[Cell]:
        """Every cell, in a fixed order."""
        return (Cell(edges) for edges in itertools.product(self.choices, repeat=len(self.wiring)))

    def sample(self, seed: int | np.random.Generator) -> Cell:
        """A uniformly random cell."""
        picks = np.random.default_rng(seed).integers(len(self.ops), size=len(self.wiring))
        return Cell(tuple(self.choices[pick] for pick in picks))

    def mutate(self, architecture: Cell, seed: int | np.random.Generator) -> Cell:
        """Another op on one random edge."""
        rng = np.random.default_rng(seed)
        edge = int(rng.integers(len(self.wiring)))
        others = [name for name in self.choices if name != architecture.edges[edge]]
        if not others:
            raise ValueError("ops: a space with a single op has nothing to mutate")
        return self._with(architecture, edge, others[int(rng.integers(len(others)))])

    def neighbours(self, architecture: Cell) -> Iterator[Cell]:
        """Every cell that differs in the op of one edge."""
        for edge, own in enumerate(architecture.edges):
            yield from (self._with(architecture, edge, name) for name in self.choices if name != own)

    @staticmethod
    def _with(cell: Cell, edge: int, op: str) -> Cell:
        return Cell((*cell.edges[:edge], op, *cell.edges[edge + 1 :]))

    def to_string(self, architecture: Cell) -> str:
        """|op~0|+|op~0|op~1|+..., as in NAS-Bench-201."""
        return str(architecture)

    def from_string(self, text: str) -> Cell:
        """Reads `to_string`'s text; ValueError naming the node and the op."""
        example = str(Cell((self.choices[-1],) * len(self.wiring)))
        nodes = text.strip().split("+")
        if len(nodes) != self.nodes - 1:
            raise ValueError(f"architecture {text!r}: {len(nodes)} nodes, expected {self.nodes - 1}, as in {example}")
        edges = []
        for target, node in enumerate(nodes, start=1):
            if not re.fullmatch(r"\|([^|~+]+~\d+\|)+", node):
                raise ValueError(f"architecture {text!r}: cannot read node {target}, {node!r}; example: {example}")
            parts = [part.split("~") for part in node.strip("|").split("|")]
            if [int(source) for _, source in parts] != list(range(target)):
                raise ValueError(f"architecture {text!r}: node {target} must read nodes 0 to {target - 1} in order")
            for op, source in parts:
                if op not in self.choices:
                    raise ValueError(
                        f"architecture {text!r}: unknown op {op!r} on the edge {source} -> {target}; "
                        f"{type(self).__name__} has {', '.join(self.choices)}"
                    )
                edges.append(op)
        return Cell(tuple(edges))

    def canonical(self, architecture: Cell) -> str:
        """Each node as the sorted sum of what it reads; skips are dropped and zeros marked.

        This is the equivalence under which NAS-Bench-201 counts 6,466 classes (Dong & Yang 2020, section 2).
        """
        self._check(architecture)
        expressions = ["0"]
        edges = iter(architecture.edges)
        for target in range(1, self.nodes):
            terms = []
            for source in range(target):
                op, read = next(edges), expressions[source]
                if op == "none" or read == "#":
                    terms.append("#")
                else:
                    terms.append(read if op == "skip_connect" else f"({read})@{op}")
            expressions.append("+".join(sorted(terms)))
        return expressions[-1]

    def connected(self, architecture: Cell) -> bool:
        """Whether a path without "none" leads from the cell's input to its output."""
        self._check(architecture)
        reached = {0}
        for (source, target), op in zip(self.wiring, architecture.edges, strict=True):
            if source in reached and op != "none":
                reached.add(target)
        return self.nodes - 1 in reached

    def graph(self, architecture: Cell) -> ArchGraph:
        """One node an op, a sum for every node of the cell; "none" edges are absent."""
        self._check(architecture)
        builder = GraphBuilder()
        skeleton.build_graph(self, architecture.edges, builder)
        return builder.build()

    def encode(self, architecture: Cell) -> Encoding:
        """{"op": [edges] int32}; edges that do not lead to the cell's output are not computed."""
        self._check(architecture)
        live = {self.nodes - 1}
        ops = list(architecture.edges)
        for edge, (source, target) in reversed(list(enumerate(self.wiring))):
            if target not in live and "none" in self.choices:
                ops[edge] = "none"
            elif ops[edge] != "none":
                live.add(source)
        return {"op": np.array([self.choices.index(op) for op in ops], np.int32)}

    def _check(self, cell: Cell) -> None:
        check_no_text(cell)
        if len(cell.edges) != len(self.wiring):
            raise ValueError(f"architecture: {len(cell.edges)} edges, this space has {len(self.wiring)}: {cell.edges}")
        for op in cell.edges:
            if op not in self.choices:
                raise ValueError(f"architecture {cell}: unknown op {op!r}; the space has {', '.join(self.choices)}")

    def forward(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Final logits and summed observations on the way to them, by the executor."""
        answers, observed = self._run(arrays, encoding, images, layers, observe, around)
        return answers[-1], observed

    def forward_exits(
        self, arrays: WeightArrays, encoding: Encoding | dict[str, Array], images: Array, layers: Layers
    ) -> tuple[Array, ...]:
        """Logits of the end of every stage, by the executor; of the last alone without `exits`."""
        return self._run(arrays, encoding, images, layers)[0]

    def _run(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[tuple[Array, ...], Array | float]:
        """What `skeleton.forward` returns, by the executor."""
        op_E = jnp.asarray(encoding["op"])
        plan = Plan(self.ops, self.wiring, self.cells, layers)

        def stage(index: int, x: Array) -> tuple[Array, Array | float]:
            slots = skeleton.stage_slots(arrays, index)
            first = skeleton.block_number(self.cells, index)
            return run_stage(plan, op_E, slots, x, observe, around, first)

        return skeleton.forward(self, arrays, images, layers, stage, observe, around)

    def forward_static(self, arrays: WeightArrays, architecture: Cell, images: Array, layers: Layers) -> Array:
        """Final logits by a plain program for this architecture alone."""
        return self.forward_exits_static(arrays, architecture, images, layers)[-1]

    def forward_exits_static(
        self, arrays: WeightArrays, architecture: Cell, images: Array, layers: Layers
    ) -> tuple[Array, ...]:
        """Logits of the end of every stage, likewise; of the last alone without `exits`."""
        op_E = self.encode(architecture)["op"]
        plan = Plan(self.ops, self.wiring, self.cells, layers)

        def stage(index: int, x: Array) -> tuple[Array, float]:
            slots = skeleton.stage_slots(arrays, index)
            return run_stage_static(plan, list(op_E), slots, x), 0.0

        return skeleton.forward(self, arrays, images, layers, stage)[0]
