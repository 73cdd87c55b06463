"""The open hypernetwork: it knows ops by name and decodes leaves of any shape, so that it predicts for any model.

A hypernetwork of a space has a learned base for every slot. A model that nobody has seen has no slots; here

    weights = scale * size(node state) * unit_rms(noise_gain[op] * noise + base[op] + delta(node state)),

where base and delta are tiles, cut to smaller shapes and repeated with signs to larger ones, and the noise is a fixed
bank that is read from a place that the node's surroundings in the graph decide. It makes all channels of a layer
different, as an ordinary initialiser does, and leaves nothing to names or to the order of writing.

Shape letters: N nodes, F features, D state width, K kernel positions along an axis, T channels of a tile.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NoReturn

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from architectures.graph import ArchGraph
from architectures.spaces import SearchSpace
from architectures.trace import OPS
from ghn.anymodel.host import HostGHN, ancestor_distances
from ghn.api import Hypernetwork, Parameters
from ghn.config import GHNConfig
from ghn.features import FEATURES, OPEN_BOUNDS, PADDING_OP, Bounds
from ghn.open_network import OpenGHN

OPEN_CONFIG = GHNConfig(
    network="open", width=32, message_width=16, hidden=32, tile=64, kernel_tile=7, centre=True, direct=True
)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenHypernetwork:
    """An open hypernetwork with its parameters.

    Attributes:
        config: what it is made of.
        parameters: its learned state.
        vocabulary: ops that it knows, by name.
        bounds: of the attributes that it knows.
        step: training steps behind it; 0 for a fresh one.
    """

    config: GHNConfig
    parameters: Parameters
    vocabulary: tuple[str, ...] = OPS
    bounds: dict[str, Bounds] = dataclasses.field(default_factory=lambda: OPEN_BOUNDS)
    step: int = 0

    @classmethod
    def create(
        cls, config: GHNConfig = OPEN_CONFIG, seed: int = 0, vocabulary: tuple[str, ...] = OPS
    ) -> OpenHypernetwork:
        """A fresh, untrained hypernetwork.

        Raises:
            ValueError: a configuration with parts that open hypernetworks do not have.
        """
        _check(config)
        # In one program: a dozen draws of their own would be compiled one by one.
        state = jax.jit(lambda: nnx.state(OpenGHN(config, vocabulary, rngs=nnx.Rngs(seed)), nnx.Param))()
        return cls(config, state, vocabulary)

    @classmethod
    def of(cls, trained: Hypernetwork) -> OpenHypernetwork:
        """What was trained on a space, for any model.

        Raises:
            ValueError: not an open network, or one without the parts that prediction needs.
        """
        if trained.config.network != "open":
            raise ValueError(
                f"trained: GHNConfig.network={trained.config.network!r} knows its space alone; train network='open'"
            )
        _check(trained.config)
        return cls(trained.config, trained.parameters, step=trained.step)

    def on(self, space: SearchSpace[Any]) -> Hypernetwork:
        """The same for the networks of a space, compiled once for all of them.

        Raises:
            ValueError: a space with ops that are not in the vocabulary of traced models.
        """
        return dataclasses.replace(Hypernetwork.create(space, self.config), parameters=self.parameters, step=self.step)

    @property
    def space(self) -> NoReturn:
        """What asks for a space meets the error here.

        Raises:
            ValueError: an open hypernetwork has none.
        """
        raise ValueError(
            "checkpoint: an open hypernetwork, which has no space of its own; use ghn.predict, hypernetwork.on(space), "
            "or a checkpoint that was trained on a space, such as 'demo'"
        )

    @functools.cached_property
    def host(self) -> HostGHN:
        """Its arithmetic in NumPy."""
        abstract = nnx.eval_shape(lambda: OpenGHN(self.config, self.vocabulary, rngs=nnx.Rngs(0)))
        return HostGHN(nnx.merge(nnx.split(abstract, nnx.Param)[0], self.parameters))

    def states(self, graph: ArchGraph) -> tuple[NDArray[np.float32], dict[int, str]]:
        """[N, D] node states, and for nodes that are beyond what it knows, why."""
        op_N, features_NF, unknown = node_inputs(graph, self.vocabulary, self.bounds)
        near = ancestor_distances(graph.nodes, graph.edges)
        return self.host.states(op_N, features_NF, near), unknown

    @property
    def parameter_count(self) -> int:
        """Number of scalar parameters of the hypernetwork itself."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.parameters))


def _check(config: GHNConfig) -> None:
    """Raises ValueError for parts that prediction on the host has not."""
    for field, allowed in (
        ("propagation", ("gatedgnn", "transformer", "none")),
        ("message_relu", (False,)),
        ("encoding", ("mip",)),
        ("decoder", ("tile",)),
        ("network", ("open",)),
        ("delta", (True,)),
    ):
        if getattr(config, field) not in allowed:
            raise ValueError(
                f"GHNConfig.{field}={getattr(config, field)!r}: an open hypernetwork has "
                f"{' or '.join(map(repr, allowed))} only"
            )


def node_inputs(
    graph: ArchGraph, vocabulary: tuple[str, ...], bounds: dict[str, Bounds]
) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[int, str]]:
    """Op ids [N], features [N, F] in [0, 1], and for nodes that are outside vocabulary or bounds, why.

    Others still see such a node: as one of an unknown op, with its attributes cut to their bounds.
    """
    ids = {name: 1 + index for index, name in enumerate(vocabulary)}
    op_N = np.array([ids.get(op, PADDING_OP) for op in graph.ops], np.int32)
    unknown = {n: f"op {graph.ops[n]!r} is not in the vocabulary" for n in np.flatnonzero(op_N == PADDING_OP).tolist()}
    depth = graph.levels / max(int(graph.levels.max()), 1)
    features = np.empty((graph.nodes, len(FEATURES)), np.float32)
    for column, name in enumerate(FEATURES):
        values, bound = depth if name == "depth" else graph.attributes[name], bounds[name]
        inside = np.clip(values, bound.low, bound.high)
        for node in np.flatnonzero(inside != values):
            unknown[int(node)] = f"{name} {values[node]:g} is outside [{bound.low:g}, {bound.high:g}]"
        features[:, column] = bound.scale(name, inside)
    return op_N, features, unknown
