"""What keeps earlier tasks: the hypernetwork's output on them is held where it was (von Oswald et al. 2020, eq. 2).

    beta / (T - 1) * sum over earlier tasks t of || h(e_t, snapshot) - h(e_t, now) ||^2,

where the snapshot is the hypernetwork before the current task. Here h also reads an architecture, so the sum is taken
at architectures of a pool: every one of them stays protected, not only the one that is in use.

Each step draws at most `subset` earlier tasks, and an architecture for each, so that a step costs the same however many
tasks there are. Gradients are taken task by task and added, so memory does not grow with them either.

Shape letters: T rows of tasks, P architectures of the pool, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from architectures.layout import WeightArrays, occupancy
from architectures.spaces import SearchSpace
from architectures.switch import cut_slices
from ghn.api import Hypernetwork, Parameters
from ghn.features import GraphInputs, stack_inputs
from ghn.hypernetwork import GHN
from train.continual.config import RegulariserConfig
from train.continual.heads import Heads


class Pool(NamedTuple):
    """P architectures, stacked.

    Attributes:
        inputs: as the hypernetwork reads them; their task is replaced.
        encodings: as the executor reads them.
        used: group name -> [P, S, *shape], 1 where a weight is the architecture's and is protected, else 0.
    """

    inputs: GraphInputs
    encodings: dict[str, Array]
    used: WeightArrays

    def inputs_of(self, architecture: Array | int, task: Array | int) -> GraphInputs:
        """What the hypernetwork reads for one architecture and one task."""
        chosen: GraphInputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[architecture], self.inputs)
        return chosen._replace(task=jnp.asarray(task, jnp.int32))

    def encoding_of(self, architecture: Array | int) -> dict[str, Array]:
        """What the executor reads for one architecture."""
        return {name: jnp.asarray(leaf)[architecture] for name, leaf in self.encodings.items()}


def make_pool(hypernetwork: Hypernetwork, architectures: Sequence[Any], leaves: Sequence[str] = ()) -> Pool:
    """The architectures as arrays.

    Args:
        hypernetwork: what will emit them.
        architectures: P of its space.
        leaves: prefixes of the names of leaf groups that are protected; none: all are.

    Raises:
        ValueError: a prefix that no group has.
    """
    space = hypernetwork.space
    for prefix in leaves:
        if not any(name.startswith(prefix) for name in space.layout):
            raise ValueError(f"leaves: {prefix!r} begins no name of a leaf group; there are {', '.join(space.layout)}")
    unconditioned = _unconditioned(hypernetwork)
    inputs = stack_inputs([unconditioned.inputs(space.graph(architecture)) for architecture in architectures])
    encodings = stack_inputs([space.encode(architecture) for architecture in architectures])
    used = stack_inputs([_used(space, architecture, leaves) for architecture in architectures])
    return jax.tree.map(jnp.asarray, Pool(inputs, encodings, used))


def _unconditioned(hypernetwork: Hypernetwork) -> Hypernetwork:
    """Reads graphs without a task, which is put in later."""
    return Hypernetwork(hypernetwork.space, hypernetwork.config, hypernetwork.parameters)


def _used(space: SearchSpace[Any], architecture: Any, leaves: Sequence[str]) -> dict[str, np.ndarray]:
    """Group name -> [S, *shape]: 1 within the leaves that the architecture has."""
    masks = {}
    for name, filled in occupancy(space.layout, space.graph(architecture)).items():
        group = space.layout[name]
        mask = np.zeros((group.slots, *group.shape), np.float32)
        if not leaves or name.startswith(tuple(leaves)):
            for slot in np.flatnonzero(filled.used):
                mask[slot][cut_slices(group.shape, group.variants[filled.variant[slot]].shape)] = 1
        masks[name] = mask
    return masks


class Regulariser(NamedTuple):
    """The penalty and its gradient: static parts.

    Attributes:
        definition: the hypernetwork's structure.
        space: of its targets.
        config: its strength and form.
        heads: whose outputs are another task's; these need no protection.
        tasks: T.
        architectures: P of the pool.
    """

    definition: nnx.GraphDef[GHN]
    space: SearchSpace[Any]
    config: RegulariserConfig
    heads: Heads
    tasks: int
    architectures: int

    def generate(self, parameters: Parameters, pool: Pool, architecture: Array, task: Array) -> WeightArrays:
        """Weights of one architecture for one task."""
        return nnx.merge(self.definition, parameters)(pool.inputs_of(architecture, task))

    def targets(self, parameters: Parameters, pool: Pool) -> WeightArrays | None:
        """What is stored before a task, if anything: [T, P, S, *shape] weights of all tasks and architectures."""
        if self.config.targets == "snapshot" or not self.config.beta:
            return None

        def of_task(task: Array) -> WeightArrays:
            each = jnp.arange(self.architectures)
            return jax.lax.map(lambda architecture: self.generate(parameters, pool, architecture, task), each)

        stored: WeightArrays = jax.lax.map(of_task, jnp.arange(self.tasks))
        return stored

    def gradient(
        self,
        parameters: Parameters,
        snapshot: Parameters,
        stored: WeightArrays | None,
        pool: Pool,
        task: Array,
        key: Array,
    ) -> tuple[Array, Parameters]:
        """The penalty and its gradient by the parameters, 0 for the first task.

        Args:
            parameters: now.
            snapshot: before this task.
            stored: what `targets` gave before this task.
            pool: the architectures.
            task: the current task; those before it are protected.
            key: decides which tasks and architectures are drawn.
        """
        task_key, architecture_key = jax.random.split(key)
        drawn_T = jax.random.uniform(task_key, (self.tasks,))
        order_T = jnp.argsort(jnp.where(jnp.arange(self.tasks) < task, drawn_T, 2.0))
        architecture_T = jax.random.randint(architecture_key, (self.tasks,), 0, self.architectures)
        count = jnp.minimum(task, self.config.subset or self.tasks)

        def add(index: Array, total: tuple[Array, Parameters]) -> tuple[Array, Parameters]:
            earlier, architecture = order_T[index], architecture_T[index]
            if stored is None:
                target = self.generate(snapshot, pool, architecture, earlier)
            else:
                target = jax.tree.map(lambda leaf: leaf[earlier, architecture], stored)
            one = jax.value_and_grad(self.distance)(parameters, target, pool, architecture, earlier)
            return jax.tree.map(jnp.add, total, one)

        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
        total = jax.lax.fori_loop(0, count, add, nothing)
        return jax.tree.map(lambda leaf: leaf * (self.config.beta / jnp.maximum(count, 1)), total)

    def distance(
        self, parameters: Parameters, target: WeightArrays, pool: Pool, architecture: Array, task: Array
    ) -> Array:
        """Squared distance of one architecture's weights for one task from where they are held."""
        weights = self.generate(parameters, pool, architecture, task)
        total = jnp.zeros(())
        for name, group in self.space.layout.items():
            mask = pool.used[name][architecture]
            if group.role in ("head_kernel", "head_bias"):
                mask = mask * self.heads.columns(task)
            total += jnp.sum(mask * jnp.square(weights[name] - target[name]))
        return total
