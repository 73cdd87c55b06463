"""The Python interface: a trained hypernetwork that turns graphs into weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from architectures.graph import ArchGraph
from architectures.layout import WeightArrays, Weights
from architectures.spaces import SearchSpace
from architectures.trace import OPS
from ghn.conditioning import FREE, grown, scaled_conditions, task_row, with_task, without_task
from ghn.config import GHNConfig
from ghn.features import BOUNDS, OPEN_BOUNDS, GraphInputs, graph_inputs, stack_inputs
from ghn.hypernetwork import GHN, vocabulary_ids
from ghn.open_network import OpenNetwork, offsets_by_slot
from ghn.smash import SMASHNet

Parameters = nnx.State[Any, Any]
Network = GHN | OpenNetwork
NETWORKS: Mapping[str, type[Network]] = {"graph": GHN, "smash": SMASHNet, "open": OpenNetwork}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images were prepared that a hypernetwork was trained on.

    Attributes:
        mean: per channel, of pixels in [0, 1].
        std: per channel, same units.
        class_names: one for each output.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [B, H, W, C] as the normalised float32 that the weights expect."""
        if images.dtype != np.uint8:
            raise ValueError(f"images: {images.dtype}, expected uint8 pixels")
        return (images.astype(np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Hypernetwork:
    """A graph hypernetwork with its parameters.

    Attributes:
        space: the space whose architectures it knows.
        config: what it is made of.
        parameters: its learned state.
        preprocessing: of the images that it was trained on.
        step: training steps behind it.
        held_out: (share, seed) of the isomorphism classes that it was not trained on, as `space.held_out` takes them.
        tasks: name of the task in every row of the table of embeddings, "" where there is none. A task's number is
            its row, and stays so while the task is there; a new task may get the number of a deleted one.
    """

    space: SearchSpace[Any]
    config: GHNConfig
    parameters: Parameters
    preprocessing: Preprocessing = Preprocessing()
    step: int = 0
    held_out: tuple[float, int] = (0.0, 0)
    tasks: tuple[str, ...] = ()

    @classmethod
    def create(cls, space: SearchSpace[Any], config: GHNConfig = GHNConfig(), seed: int = 0) -> Hypernetwork:
        """A fresh, untrained hypernetwork."""
        key = jax.random.key(seed)
        traced = isinstance(key, jax.core.Tracer)  # inside another program, which has options of its own
        parameters = (_initial_parameters if traced else _compiled_initial_parameters)(config, space, key)
        return cls(space, config, parameters, tasks=(FREE,) * config.tasks)

    @functools.cached_property
    def definition(self) -> nnx.GraphDef[Network]:
        """The module's structure, to be merged with parameters inside traced code."""
        return definition(self.space, self.config)

    def __call__(
        self,
        graph: ArchGraph,
        seed: int | None = None,
        task: str | int | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> Weights:
        """Weights for one architecture of the space, given its graph (compiled once).

        Args:
            graph: of the architecture.
            seed: with it, a hypernetwork that is conditioned on noise draws it; without, the noise is 0.
            task: name of a task or its row in `tasks`, for a hypernetwork that is conditioned on them (`add_task`).
            conditions: a value for each of `config.conditions`.

        Raises:
            ValueError: a task or condition that is missing or unknown, a value outside its bounds.
        """
        inputs = self.inputs(graph, task, conditions)
        if seed is not None:
            noise = np.random.default_rng(seed).standard_normal(self.config.noise, np.float32)
            inputs = inputs._replace(noise=noise)
        return self.generate(inputs)

    def generate(self, inputs: GraphInputs) -> Weights:
        """Weights from what `inputs` gives."""
        return Weights(_generate(self.definition, self.parameters, inputs), self.space)

    def generate_many(
        self,
        graphs: Sequence[ArchGraph],
        task: str | int | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> WeightArrays:
        """Weight arrays with a leading axis over the graphs, all for one task and condition. Raises as calls do."""
        return _generate_many(self.definition, self.parameters, self._stacked(graphs, task, conditions))

    def embed(
        self,
        graphs: Sequence[ArchGraph],
        task: str | int | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> Array:
        """[A, D] mean node states of A graphs for one task and condition: features of architectures, for regressors.

        Raises:
            ValueError: a supernet, or SMASH's hypernetwork: neither has node states; otherwise as calls do.
        """
        if not self.config.delta or self.config.network != "graph":
            raise ValueError("embed: only a graph hypernetwork has node states (GHNConfig.network='graph', delta=True)")
        return _embed(self.definition, self.parameters, self._stacked(graphs, task, conditions))

    def _stacked(
        self, graphs: Sequence[ArchGraph], task: str | int | None, conditions: Mapping[str, float] | None
    ) -> GraphInputs:
        return stack_inputs([self.inputs(graph, task, conditions) for graph in graphs])

    def inputs(
        self, graph: ArchGraph, task: str | int | None = None, conditions: Mapping[str, float] | None = None
    ) -> GraphInputs:
        """The graph, and what its weights are conditioned on, as arrays of fixed shape. Raises as calls do."""
        opened = self.config.network == "open"
        bounds, layout = OPEN_BOUNDS if opened else BOUNDS, self.space.layout
        inputs = graph_inputs(graph, layout, self.vocabulary, self.space.schedule, self.config.noise, bounds)
        if opened:
            inputs = inputs._replace(offsets=offsets_by_slot(layout, graph))
        row = np.array(task_row(self.tasks, task), np.int32)
        return inputs._replace(task=row, conditions=scaled_conditions(self.config, conditions or {}))

    def add_task(self, name: str, seed: int = 0) -> Hypernetwork:
        """With one more task, whose embedding is random; weights of other tasks do not change (ValueError: taken)."""
        return with_task(self, name, seed)

    def delete_task(self, task: str | int) -> Hypernetwork:
        """Without a task; weights of other tasks do not change (ValueError: unknown)."""
        return without_task(self, task)

    def grow(self, hidden: int, seed: int = 0) -> Hypernetwork:
        """With a branch of `hidden` units more, whose output starts at zero: no weights change (decoder="chunks")."""
        return grown(self, hidden, seed)

    @functools.cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Op name -> id of its embedding."""
        return vocabulary_ids(OPS if self.config.network == "open" else self.space.op_names)

    def unseen(self, architecture: Any) -> bool:
        """Whether the architecture's isomorphism class was kept out of training."""
        return self.space.held_out(architecture, *self.held_out)

    @property
    def parameter_count(self) -> int:
        """Number of scalar parameters of the hypernetwork itself."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.parameters))


@functools.cache
def definition(space: SearchSpace[Any], config: GHNConfig) -> nnx.GraphDef[Network]:
    """The structure of a hypernetwork without allocating parameters; equal arguments give the same object."""
    return nnx.split(abstract_network(space, config), nnx.Param)[0]


def abstract_network(space: SearchSpace[Any], config: GHNConfig) -> Network:
    """A hypernetwork whose parameters are shapes only."""
    return nnx.eval_shape(lambda: _network(config, space, nnx.Rngs(0)))


def _network(config: GHNConfig, space: SearchSpace[Any], rngs: nnx.Rngs) -> Network:
    return NETWORKS[config.network](config, space, rngs=rngs)


def _initial_parameters(config: GHNConfig, space: SearchSpace[Any], key: Array) -> Parameters:
    return nnx.state(_network(config, space, nnx.Rngs(key)), nnx.Param)


# One program without optimisation: it runs once, and a program for each array would take 4 times longer to compile.
_compiled_initial_parameters = jax.jit(
    _initial_parameters, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0}
)


@functools.partial(jax.jit, static_argnums=0)
def _generate(definition: nnx.GraphDef[Network], parameters: Parameters, inputs: GraphInputs) -> WeightArrays:
    return nnx.merge(definition, parameters)(inputs)


@functools.partial(jax.jit, static_argnums=0)
def _generate_many(definition: nnx.GraphDef[Network], parameters: Parameters, inputs: GraphInputs) -> dict[str, Array]:
    module = nnx.merge(definition, parameters)
    return jax.vmap(module)(inputs)


@functools.partial(jax.jit, static_argnums=0)
def _embed(definition: nnx.GraphDef[Network], parameters: Parameters, inputs: GraphInputs) -> Array:
    return jax.lax.map(nnx.merge(definition, parameters).embedding, inputs, batch_size=64)
