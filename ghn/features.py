"""From an ArchGraph to the arrays that a hypernetwork reads, and from those to the first node states.

Nodes are laid out on a grid of L steps and W places in a step (the graph's schedule), so that all nodes of a step are
updated together. Position l * W + w of the flattened grid is a node; empty places have no edges and no influence.

Shape letters: N = L * W places, F continuous features, S slots of a leaf group, D state width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.graph import ATTRIBUTES, ArchGraph
from architectures.layout import Layout, occupancy


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Declared range of a continuous feature; the encoding has period 4, so a value outside is an error."""

    low: float
    high: float
    log: bool = False

    def scale(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps [low, high] to [0, 1]."""
        outside = ~((values >= self.low) & (values <= self.high))  # NaN is outside too
        if outside.any():
            raise ValueError(
                f"{name}={values[outside][0]:g} of node {int(np.flatnonzero(outside)[0])} is outside the declared "
                f"bounds [{self.low:g}, {self.high:g}]"
            )
        low, high = (np.log(self.low), np.log(self.high)) if self.log else (self.low, self.high)
        return ((np.log(values) if self.log else values) - low) / (high - low)

    def restore(self, scaled: Array | NDArray[np.float32]) -> Array:
        """Maps [0, 1] back to [low, high]; to 1e-5 of the value in float32."""
        if self.log:
            return jnp.exp(np.log(self.low) + scaled * np.log(self.high / self.low))
        return jnp.asarray(self.low + scaled * (self.high - self.low))


BOUNDS = {
    "channels_in": Bounds(1, 8192, log=True),
    "channels_out": Bounds(1, 65536, log=True),
    "kernel": Bounds(1, 1024, log=True),
    "stride": Bounds(1, 64, log=True),
    "groups": Bounds(1, 8192, log=True),
    "dilation": Bounds(1, 64, log=True),
    "size": Bounds(1, 2048, log=True),
    "position": Bounds(0, 1),
    "depth": Bounds(0, 1),  # level over the graph's deepest level
}
# Models of any kind have sizes beyond those of a space of image classifiers (`ghn.features.BOUNDS`).
OPEN_BOUNDS = {
    "channels_in": Bounds(1, 2**20, log=True),
    "channels_out": Bounds(1, 2**20, log=True),
    "kernel": Bounds(1, 1024, log=True),
    "stride": Bounds(1, 64, log=True),
    "groups": Bounds(1, 2**16, log=True),
    "dilation": Bounds(1, 1024, log=True),
    "size": Bounds(1, 2**16, log=True),
    "position": Bounds(0, 1),
    "depth": Bounds(0, 1),
}
FEATURES = (*ATTRIBUTES, "depth")
PADDING_OP = 0  # id of an empty place; ops of the vocabulary start at 1


class GraphInputs(NamedTuple):
    """One graph as arrays of fixed shape (leading axes may be added by stacking).

    Attributes:
        op_N: int32, 1 + index in the vocabulary, 0 for an empty place.
        features_NF: float32 in [0, 1].
        distances_NN: uint8, shortest path from source (row) to target (column), 0 where there is none.
        owner: group name -> [S] int32, the place that owns each slot.
        variant: group name -> [S] int32, which of the group's leaves fills the slot.
        encoding: the architecture as its space encodes it, for hypernetworks that read that instead of the graph.
        noise: [Z] float32 of a standard normal distribution, for noise conditioning.
        task: int32, the row of the task's embedding.
        conditions: [C] float32 in [0, 1], the continuous conditions.
        offsets: group name -> [S] int32, where each slot's leaf starts in the fixed noise; only open networks read it.
    """

    op_N: Array | NDArray[np.int32]
    features_NF: Array | NDArray[np.float32]
    distances_NN: Array | NDArray[np.uint8]
    owner: Mapping[str, Array | NDArray[np.int32]]
    variant: Mapping[str, Array | NDArray[np.int32]]
    encoding: Mapping[str, Array | NDArray[np.int32]]
    noise: Array | NDArray[np.float32]
    task: Array | NDArray[np.int32] = np.zeros((), np.int32)
    conditions: Array | NDArray[np.float32] = np.zeros(0, np.float32)
    offsets: Mapping[str, Array | NDArray[np.int32]] = {}


def graph_inputs(
    graph: ArchGraph,
    layout: Layout,
    vocabulary: Mapping[str, int],
    schedule: tuple[int, int],
    noise: int = 0,
    bounds: Mapping[str, Bounds] = BOUNDS,
) -> GraphInputs:
    """Lays a graph out on its schedule's grid.

    Args:
        graph: the architecture.
        layout: the slots that its weights will fill.
        vocabulary: op name -> index.
        schedule: (L, W).
        noise: Z, the width of the noise that the hypernetwork takes; it is 0 until it is drawn.
        bounds: of the attributes.

    Raises:
        ValueError: an op that the vocabulary lacks, an attribute outside its bounds, a graph larger than the schedule.
    """
    places = _places(graph, schedule)
    total = schedule[0] * schedule[1]
    unknown = sorted(set(graph.ops) - set(vocabulary))
    if unknown:
        raise ValueError(
            f"op {unknown[0]!r}: unknown to this hypernetwork, whose vocabulary is {', '.join(vocabulary)}; "
            "train one on a space that has it"
        )
    op_N = np.full(total, PADDING_OP, np.int32)
    op_N[places] = [1 + vocabulary[op] for op in graph.ops]
    depth = graph.levels / max(int(graph.levels.max()), 1)
    features_NF = np.zeros((total, len(FEATURES)), np.float32)
    for column, name in enumerate(FEATURES):
        features_NF[places, column] = bounds[name].scale(name, depth if name == "depth" else graph.attributes[name])
    distances_NN = np.zeros((total, total), np.uint8)
    distances_NN[np.ix_(places, places)] = graph.distances
    filled = occupancy(layout, graph)
    return GraphInputs(
        op_N,
        features_NF,
        distances_NN,
        {name: places[group.owner].astype(np.int32) for name, group in filled.items()},
        {name: group.variant for name, group in filled.items()},
        graph.encoding,
        np.zeros(noise, np.float32),
    )


def _places(graph: ArchGraph, schedule: tuple[int, int]) -> NDArray[np.int64]:
    """[nodes] place of every node on the grid."""
    assert graph.steps is not None
    order = np.argsort(graph.steps, kind="stable")
    sorted_steps = graph.steps[order]
    column = np.arange(graph.nodes) - np.searchsorted(sorted_steps, sorted_steps)
    if sorted_steps[-1] >= schedule[0] or column.max() >= schedule[1]:
        raise ValueError(
            f"graph: {int(sorted_steps[-1]) + 1} steps of up to {int(column.max()) + 1} nodes do not fit the schedule "
            f"{schedule}; the graph belongs to another space"
        )
    places = np.empty(graph.nodes, np.int64)
    places[order] = sorted_steps * schedule[1] + column
    return places


def stack_inputs(inputs: Sequence[Any]) -> Any:
    """Stacks pytrees of equal shapes (GraphInputs, encodings) along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)


def encode(z: Array | NDArray[np.float32], encoding: str) -> Array | NDArray[np.float32]:
    """Encodes features in [0, 1] along the last axis.

    "mip": [cos(pi z / 2), sin(pi z / 2)], of constant norm (Ortiz et al. 2023, equation 4); "raw": z itself.
    """
    if encoding == "raw":
        return z
    return jnp.concatenate([jnp.cos(jnp.pi / 2 * z), jnp.sin(jnp.pi / 2 * z)], -1)


def constant_norm(x: Array) -> Array:
    """x scaled along its last axis to norm sqrt(D), without gain or bias.

    The guard against division by zero lies far below any norm that occurs: LayerNorm's usual epsilon would already
    break the invariance at one per cent.
    """
    return x * jax.lax.rsqrt(jnp.maximum(jnp.mean(jnp.square(x), -1, keepdims=True), 1e-20))


def centred(states_ND: Array, present_N: Array | NDArray[np.bool_]) -> Array:
    """States minus their mean over the nodes of the graph (PairNorm, Zhao & Akoglu 2020, equation 10).

    Message passing makes the states of a graph alike, the more so the more nodes are within reach. What they share
    would drown what tells them apart: trained without this, a hypernetwork emits nearly the same weights for any graph.
    """
    present_N1 = jnp.asarray(present_N)[:, None].astype(states_ND.dtype)
    return states_ND - (states_ND * present_N1).sum(0) / jnp.maximum(present_N1.sum(), 1)


class NodeEncoder(nnx.Module):
    """First node states [N, D] from op embeddings, encoded attributes and what the weights are conditioned on."""

    def __init__(self, ops: int, width: int, encoding: str, condition: int = 0, *, rngs: nnx.Rngs) -> None:
        self.encoding = encoding
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (ops + 1, width)))
        features = len(FEATURES) * (2 if encoding == "mip" else 1)
        self.project = nnx.Linear(width + features + condition, width, rngs=rngs)

    def __call__(
        self,
        op_N: Array | NDArray[np.int32],
        features_NF: Array | NDArray[np.float32],
        condition_Z: Array | NDArray[np.float32],
    ) -> Array:
        """[N, D] states; the condition is the same for all nodes."""
        embedded_ND = self.embedding.get_value()[op_N]
        if self.encoding == "mip":
            embedded_ND = constant_norm(embedded_ND)
        condition_NZ = jnp.broadcast_to(condition_Z, (len(embedded_ND), condition_Z.shape[-1]))
        return self.project(jnp.concatenate([embedded_ND, encode(features_NF, self.encoding), condition_NZ], -1))
