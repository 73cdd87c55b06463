"""What keeps earlier tasks: the hypernetwork's output on them is held where it was (von Oswald et al. 2020, eq. 2).

    beta / (T - 1) * sum over earlier tasks t of || h(e_t, snapshot) - h(e_t, now) ||^2,

where the snapshot is the hypernetwork before the current task. Here h also reads an architecture, so the sum is taken
at architectures of a pool: every one of them stays protected, not only the one that is in use.

Each step draws at most `subset` earlier tasks, and an architecture for each, so that a step costs the same however many
tasks there are.

Shape letters: T rows of tasks, P architectures of the pool, K draws of a step, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.layout import WeightArrays, occupancy
from architectures.spaces import SearchSpace
from architectures.switch import cut_slices
from ghn.api import Hypernetwork, Parameters
from ghn.features import GraphInputs, stack_inputs
from train.continual.config import RegulariserConfig
from train.continual.heads import Heads
from train.step import Definition


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

    def inputs_of(self, architectures_K: Array, tasks_K: Array) -> GraphInputs:
        """What the hypernetwork reads for architectures and a task for each, stacked."""
        chosen: GraphInputs = jax.tree.map(lambda leaf: leaf[architectures_K], self.inputs)
        return chosen._replace(task=tasks_K)

    def encoding_of(self, architecture: Array) -> dict[str, Array]:
        """What the executor reads for one architecture."""
        return {name: leaf[architecture] for name, leaf in self.encodings.items()}


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


class Drawn(NamedTuple):
    """K draws of an earlier task and an architecture.

    Attributes:
        tasks: [K] int32.
        architectures: [K] int32, of the pool.
        shares: [K] by which each is averaged; 0 for draws beyond the number of earlier tasks.
    """

    tasks: Array | NDArray[np.int32]
    architectures: Array | NDArray[np.int32]
    shares: Array | NDArray[np.float32]


class Regulariser(NamedTuple):
    """The penalty: static parts.

    Attributes:
        definition: the hypernetwork's structure.
        space: of its targets.
        config: its strength and form.
        heads: whose outputs are another task's; these need no protection.
        tasks: T.
        architectures: P of the pool.
    """

    definition: Definition
    space: SearchSpace[Any]
    config: RegulariserConfig
    heads: Heads
    tasks: int
    architectures: int

    @property
    def draws(self) -> int:
        """K."""
        return min(self.config.subset or self.tasks, self.tasks - 1) if self.config.beta else 0

    def generate(self, parameters: Parameters, inputs: GraphInputs) -> WeightArrays:
        """[K, ...] weights of K architectures and tasks."""
        return jax.vmap(nnx.merge(self.definition, parameters))(inputs)

    def draw(self, task: int, rng: np.random.Generator) -> Drawn:
        """Tasks before `task`, each at most once, with an architecture for each.

        Drawn on the host: random numbers inside the compiled step would take a third of its time to compile.
        """
        count = min(task, self.draws)
        tasks, shares = np.zeros(self.draws, np.int32), np.zeros(self.draws, np.float32)
        tasks[:count] = rng.permutation(task)[:count]
        shares[:count] = 1 / max(count, 1)
        return Drawn(tasks, rng.integers(0, self.architectures, self.draws).astype(np.int32), shares)

    def targets(
        self, snapshot: Parameters, stored: WeightArrays | None, inputs: GraphInputs, drawn: Drawn
    ) -> WeightArrays:
        """[K, ...] weights before the current task: looked up, or made from the parameters of then."""
        if stored is None:
            return self.generate(snapshot, inputs)
        return jax.tree.map(lambda leaf: leaf[drawn.tasks, drawn.architectures], stored)

    def penalty(self, weights_K: WeightArrays, targets_K: WeightArrays, pool: Pool, drawn: Drawn) -> Array:
        """beta times the mean squared distance of the weights from where they are held."""
        total_K = jnp.zeros(self.draws)
        for name, group in self.space.layout.items():
            mask_K = pool.used[name][drawn.architectures]
            if group.role in ("head_kernel", "head_bias"):
                columns_KO = jax.vmap(self.heads.columns)(jnp.asarray(drawn.tasks))
                mask_K = mask_K * columns_KO.reshape(self.draws, *[1] * (mask_K.ndim - 2), -1)
            square_K = mask_K * jnp.square(weights_K[name] - targets_K[name])
            total_K += square_K.sum(tuple(range(1, square_K.ndim)))
        return self.config.beta * (drawn.shares * total_K).sum()
