"""How node states learn of the graph around them.

Shape letters: L steps, W places in a step, N = L * W places, D state width, M = D message width after its network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.graph import MAX_DISTANCE


class Propagation(nnx.Module):
    """Interface: `__call__(states_ND, distances_NN, schedule) -> states_ND`."""

    def __call__(self, states_ND: Array, distances_NN: Array | NDArray[np.uint8], schedule: tuple[int, int]) -> Array:
        """New node states; `schedule` is (L, W)."""
        raise NotImplementedError


class NoPropagation(Propagation):
    """Every node keeps what it knows of itself: a per-node hypernetwork, as SMASH's."""

    def __call__(self, states_ND: Array, distances_NN: Array | NDArray[np.uint8], schedule: tuple[int, int]) -> Array:
        """The states unchanged."""
        return states_ND


class GatedGNN(Propagation):
    """One forward and one backward sweep of a gated graph network with virtual edges (GHN-2, Knyazev et al. 2021).

    In topological order, then in reverse, a node's state becomes GRU(message, state) with the message

        m_v = sum over edges (u, v) of f(h_u) + sum over 1 <= d(u, v) <= 50 of g(h_u) / d(u, v).

    f(h_u) and g(h_u) are computed once, when u is updated, and not once an edge (exact, and several times faster).
    Nodes of one step of the schedule do not depend on each other and are updated together.
    """

    def __init__(self, width: int, message_width: int, *, rngs: nnx.Rngs) -> None:
        def message() -> nnx.List[nnx.Linear]:
            return nnx.List([nnx.Linear(width, message_width, rngs=rngs), nnx.Linear(message_width, width, rngs=rngs)])

        self.edge_message = message()
        self.virtual_message = message()
        self.gru = GRUCell(width, rngs=rngs)

    def __call__(self, states_ND: Array, distances_NN: Array | NDArray[np.uint8], schedule: tuple[int, int]) -> Array:
        """States after the forward and the backward sweep."""
        distances = distances_NN.astype(states_ND.dtype)
        near = (distances > 0) & (distances <= MAX_DISTANCE)
        weights_2NN = jnp.stack([distances == 1, jnp.where(near, 1.0 / jnp.maximum(distances, 1.0), 0.0)])
        forward = self._sweep(states_ND, weights_2NN.swapaxes(1, 2), schedule, reverse=False)
        return self._sweep(forward, weights_2NN, schedule, reverse=True)

    def _sweep(self, states_ND: Array, weights_2NN: Array, schedule: tuple[int, int], reverse: bool) -> Array:
        """Updates all nodes once; weights_2NN[:, v, u] weighs the two kinds of message from u to v."""
        steps, places = schedule
        width = states_ND.shape[-1]
        states_LWD = states_ND.reshape(steps, places, width)
        weights_L2WN = weights_2NN.reshape(2, steps, places, -1).swapaxes(0, 1)

        def step(messages_2ND: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            index, weights_2WN, old_WD = row
            incoming_WD = (weights_2WN @ messages_2ND).sum(0)
            new_WD = self.gru(incoming_WD, old_WD)
            sent_2WD = jnp.stack([_message(self.edge_message, new_WD), _message(self.virtual_message, new_WD)])
            return jax.lax.dynamic_update_slice(messages_2ND, sent_2WD, (0, index * places, 0)), new_WD

        start = jnp.zeros((2, steps * places, width), states_ND.dtype)
        rows = (jnp.arange(steps), weights_L2WN.astype(states_ND.dtype), states_LWD)
        _, new_LWD = jax.lax.scan(step, start, rows, reverse=reverse)
        return new_LWD.reshape(-1, width)


def _message(network: nnx.List[nnx.Linear], states: Array) -> Array:
    return network[1](jax.nn.relu(network[0](states)))


class GRUCell(nnx.Module):
    """Gated recurrent unit; gates in the order reset, update, candidate (Cho et al. 2014, in PyTorch's form)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.input = nnx.Linear(width, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, rngs=rngs)

    def __call__(self, inputs: Array, states: Array) -> Array:
        """New states [..., D] from inputs [..., D] and states [..., D]."""
        reset_in, update_in, candidate_in = jnp.split(self.input(inputs), 3, -1)
        reset_state, update_state, candidate_state = jnp.split(self.state(states), 3, -1)
        reset = jax.nn.sigmoid(reset_in + reset_state)
        update = jax.nn.sigmoid(update_in + update_state)
        candidate = jnp.tanh(candidate_in + reset * candidate_state)
        return (1 - update) * candidate + update * states


def make_propagation(kind: str, width: int, message_width: int, *, rngs: nnx.Rngs) -> Propagation:
    """The propagation named in a configuration."""
    return GatedGNN(width, message_width, rngs=rngs) if kind == "gatedgnn" else NoPropagation()
