"""ArchGraph: a neural architecture as a directed acyclic graph with a table of its parameters.

Shape letters: N nodes, E edges.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jraph
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csgraph, csr_array

from architectures.ops import Leaf

MAX_DISTANCE = 50  # virtual edges reach this far (GHN-2, Knyazev et al. 2021, section 3.2)

# What a node says of itself besides its op; a value that does not apply is 1 (position: 0).
ATTRIBUTES = (
    "channels_in",  # channels of the input
    "channels_out",  # channels of the output
    "kernel",  # spatial extent of the receptive field in pixels
    "stride",  # output pixels per input pixel, inverse
    "groups",  # channel groups
    "dilation",  # pixels between kernel positions
    "size",  # height and width of the output in pixels
    "position",  # the place within its cell, in [0, 1], named by the space
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a leaf lies in the slot layout of its space: `layout[group]`, row `slot`, as the group's `variant`."""

    group: str
    slot: int
    variant: int


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One row of the parameter table.

    Attributes:
        path: keys of the leaf in the user's pytree.
        node: the node that owns it; a node may own several leaves.
        leaf: role and canonical shape.
        place: its slot in the space's layout, None for graphs that belong to no space.
        axes: transposition from the canonical layout (axes of copies, kernel positions, inputs, outputs, in this order,
            each kind as many as the user has) to the user's own; None when they are the same.
        shape: in the user's layout; None where it is the canonical one.
        dtype: of the user's leaf.
        part: indices into the leading axes of the user's leaf, where this row is one slice of it (scans over layers).
        copies: tensors of the canonical shape that lie side by side in this row (experts, ensembles).
        offset: the model adds 1 to it, so that 0 is its neutral value and not 1.
        curved: what the model multiplies or adds is a function of it: an exponential, an inverse.
        multiplies: a factor whose neutral value is 1.
    """

    path: tuple[str, ...]
    node: int
    leaf: Leaf
    place: Place | None = None
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"
    part: tuple[int, ...] = ()
    copies: int = 1
    offset: bool = False
    curved: bool = False
    multiplies: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ArchGraph:
    """A computational graph.

    Attributes:
        ops: op name of each node, length N.
        attributes: [N] float array for every name in ATTRIBUTES.
        edges: [E, 2] int array of (source, target) in topological order: source < target always.
        parameters: every parameter leaf of the architecture.
        steps: [N] int, when each node is computed: an edge always leads to a later step, so that nodes of one step do
            not depend on each other. A space numbers them alike in all its graphs; by default they are the levels.
        encoding: the architecture as its space encodes it, if the space wants hypernetworks to see that.
        feedback: (source, carry) of loops: in the next iteration the node `carry` is what `source` was in this one.
    """

    ops: tuple[str, ...]
    attributes: dict[str, NDArray[np.float64]]
    edges: NDArray[np.int64]
    parameters: tuple[Parameter, ...]
    steps: NDArray[np.int64] | None = None
    encoding: Mapping[str, NDArray[np.int32]] = dataclasses.field(default_factory=dict)
    feedback: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        missing = set(ATTRIBUTES) ^ set(self.attributes)
        if missing:
            raise ValueError(f"ArchGraph.attributes: missing or unknown {sorted(missing)}; give exactly {ATTRIBUTES}")
        for name, values in self.attributes.items():
            if values.shape != (self.nodes,):
                raise ValueError(f"ArchGraph.attributes[{name!r}]: shape {values.shape}, expected ({self.nodes},)")
        if self.edges.ndim != 2 or self.edges.shape[1] != 2:
            raise ValueError(f"ArchGraph.edges: shape {self.edges.shape}, expected [E, 2]")
        if len(self.edges) and (
            self.edges.min() < 0 or self.edges.max() >= self.nodes or (self.edges[:, 0] >= self.edges[:, 1]).any()
        ):
            raise ValueError(
                "ArchGraph.edges: every edge must go from an earlier to a later existing node; "
                "number the nodes in topological order"
            )
        if self.steps is None:
            object.__setattr__(self, "steps", self.levels)
        elif self.steps.shape != (self.nodes,):
            raise ValueError(f"ArchGraph.steps: shape {self.steps.shape}, expected ({self.nodes},)")
        elif (self.steps[self.edges[:, 0]] >= self.steps[self.edges[:, 1]]).any():
            raise ValueError("ArchGraph.steps: every edge must lead to a later step")
        for row in self.parameters:
            if not 0 <= row.node < self.nodes:
                raise ValueError(f"ArchGraph.parameters: {'/'.join(row.path)} is owned by no node ({row.node})")

    @property
    def nodes(self) -> int:
        """Number of nodes N."""
        return len(self.ops)

    @functools.cached_property
    def distances(self) -> NDArray[np.uint8]:
        """[N, N] length of the shortest directed path from source (row) to target, 0 where none within MAX_DISTANCE.

        1 is an edge of the graph, 2 and above are the virtual edges of GHN-2.
        """
        adjacency = csr_array(
            (np.ones(len(self.edges)), (self.edges[:, 0], self.edges[:, 1])), shape=(self.nodes, self.nodes)
        )
        lengths = csgraph.shortest_path(adjacency, unweighted=True)
        return np.where(lengths <= MAX_DISTANCE, lengths, 0).astype(np.uint8)

    @functools.cached_property
    def levels(self) -> NDArray[np.int64]:
        """[N] length of the longest path that ends in each node: nodes of one level do not depend on each other."""
        levels = np.zeros(self.nodes, np.int64)
        for source, target in self.edges[np.argsort(self.edges[:, 0], kind="stable")]:
            levels[target] = max(levels[target], levels[source] + 1)
        return levels

    @property
    def parameter_count(self) -> int:
        """Number of scalar parameters."""
        return sum(row.copies * int(np.prod(row.leaf.shape)) for row in self.parameters)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutions and linear layers for one input, of all copies."""
        # Positions are whole; sizes are square roots to three decimals, which is enough for 250,000 of them.
        positions = np.rint(self.attributes["size"] ** 2).astype(np.int64)
        return sum(
            row.copies * int(np.prod(row.leaf.shape)) * int(positions[row.node])
            for row in self.parameters
            if row.leaf.role in ("kernel", "head_kernel")
        )

    def draw(self, path: str | Path) -> None:
        """Writes a picture; see `architectures.draw`."""
        from architectures.draw import draw

        draw(self, path)

    def to_jraph(self, virtual_edges: bool = False) -> jraph.GraphsTuple:
        """The graph as a `jraph.GraphsTuple` of NumPy arrays.

        nodes: {"op": [N] str, attribute: [N] ...}; edges: {"distance": [E] int}, with virtual edges on request.
        """
        sources, targets = np.nonzero(self.distances if virtual_edges else self.distances == 1)
        return jraph.GraphsTuple(
            nodes={"op": np.array(self.ops), **self.attributes},
            edges={"distance": self.distances[sources, targets].astype(np.int64)},
            senders=sources,
            receivers=targets,
            n_node=np.array([self.nodes]),
            n_edge=np.array([len(sources)]),
            globals=None,
        )


def bucket(size: int, smallest: int = 16) -> int:
    """The bucket that `size` is padded to: powers of two and the points half-way between them (16, 24, 32, 48, ...).

    Graphs of one bucket share one compiled program; at most a third of it is padding.
    """
    bound = smallest
    while bound < size:
        step = 1 << (bound.bit_length() - 1)
        bound = step * 3 // 2 if bound == step else step * 2
    return bound


def pad_jraph(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """Pads a GraphsTuple with one extra graph so that nodes and edges fill their buckets.

    String leaves are not arrays that JAX can hold: replace ops by ids first. Masks: `jraph.get_node_padding_mask`.
    """
    nodes, edges = int(np.sum(graph.n_node)), int(np.sum(graph.n_edge))
    return jraph.pad_with_graphs(graph, bucket(nodes + 1), bucket(max(edges, 1)), len(graph.n_node) + 1)


class GraphBuilder:
    """Collects nodes, edges and parameters of an ArchGraph in topological order."""

    def __init__(self) -> None:
        self._ops: list[str] = []
        self._steps: list[int] = []
        self._attributes: list[dict[str, float]] = []
        self._edges: list[tuple[int, int]] = []
        self._parameters: list[Parameter] = []

    def node(self, op: str, inputs: Sequence[int], step: int | None = None, **attributes: float) -> int:
        """Adds a node that reads `inputs` (ids of earlier nodes), one step after the last of them unless `step` says
        otherwise; returns its id.

        Raises:
            ValueError: an attribute that is not in ATTRIBUTES, or an input that is no earlier node.
        """
        unknown = set(attributes) - set(ATTRIBUTES)
        if unknown:
            raise ValueError(f"node {op!r}: unknown attributes {sorted(unknown)}; known: {', '.join(ATTRIBUTES)}")
        for source in inputs:
            if not 0 <= source < len(self._ops):
                raise ValueError(f"node {op!r}: input {source} is no earlier node; there are {len(self._ops)}")
        self._ops.append(op)
        self._steps.append(max((self._steps[i] + 1 for i in inputs), default=0) if step is None else step)
        self._attributes.append({"position": 0.0, **attributes})
        self._edges += [(source, len(self._ops) - 1) for source in inputs]
        return len(self._ops) - 1

    def parameter(self, path: Sequence[str], node: int, leaf: Leaf, place: Place | None = None) -> None:
        """Adds a parameter leaf that `node` owns."""
        self.add_parameter(Parameter(tuple(path), node, leaf, place))

    def add_parameter(self, row: Parameter) -> None:
        """Adds a row of the parameter table."""
        self._parameters.append(row)

    def step(self, node: int) -> int:
        """The step of a node."""
        return self._steps[node]

    def build(self) -> ArchGraph:
        """The finished graph."""
        attributes = {
            name: np.array([values.get(name, 1.0) for values in self._attributes], np.float64) for name in ATTRIBUTES
        }
        edges = np.array(sorted(self._edges, key=lambda edge: edge[1]), np.int64).reshape(-1, 2)
        return ArchGraph(tuple(self._ops), attributes, edges, tuple(self._parameters), np.array(self._steps))
