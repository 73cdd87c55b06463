"""How node states learn of the graph around them.

Shape letters: L steps, W places in a step, N = L * W places, D state width, M hidden units of a message network, P what
is passed on (M or D), G = 3 D gates, 2 kinds of message: along edges and along virtual edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.graph import MAX_DISTANCE


class Propagation(nnx.Module):
    """Interface: `__call__(states_ND, distances_NN, schedule, present_N) -> states_ND`."""

    def __call__(
        self,
        states_ND: Array,
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
        present_N: Array | NDArray[np.bool_],
    ) -> Array:
        """New node states.

        Args:
            states_ND: states; empty places hold anything.
            distances_NN: shortest path from source (row) to target (column), 0 where there is none.
            schedule: (L, W).
            present_N: False for empty places, which must not influence others. Distances alone do not tell: a node
                without any edge looks like one.
        """
        raise NotImplementedError


class NoPropagation(Propagation):
    """Every node keeps what it knows of itself: a per-node hypernetwork, as SMASH's."""

    def __call__(
        self,
        states_ND: Array,
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
        present_N: Array | NDArray[np.bool_],
    ) -> Array:
        """The states unchanged."""
        return states_ND


class LayerRNN(Propagation):
    """A gated recurrent unit over the layers in the order in which they are computed, without regard to edges.

    The dependency of each layer on those before it in a network emitted layer by layer (Chandra et al. 2023); for a
    chain, what message passing is without its way back. Nodes of one step read the same state of the step before, and
    hand on the mean of theirs.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.gru = GRUCell(width, rngs=rngs)

    def __call__(
        self,
        states_ND: Array,
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
        present_N: Array | NDArray[np.bool_],
    ) -> Array:
        """The recurrent state at every node; a step without nodes hands on what it was given."""
        steps, places = schedule
        present_LW1 = jnp.asarray(present_N).reshape(steps, places, 1).astype(states_ND.dtype)
        gates_LWG = self.gru.input(states_ND).reshape(steps, places, -1)

        def step(memory_D: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            gates_WG, present_W1 = row
            new_WD = gated_update(gates_WG, self.gru.state(memory_D), memory_D)
            mean_D = (new_WD * present_W1).sum(0) / jnp.maximum(present_W1.sum(), 1)
            return jnp.where(present_W1.any(), mean_D, memory_D), new_WD

        start = jnp.zeros_like(states_ND, shape=states_ND.shape[1:])
        _, new_LWD = jax.lax.scan(step, start, (gates_LWG, present_LW1))
        return new_LWD.reshape(states_ND.shape)


class GatedGNN(Propagation):
    """One forward and one backward sweep of a gated graph network with virtual edges (GHN-2, Knyazev et al. 2021).

    In topological order, then in reverse, a node's state becomes GRU(message, state) with the message

        m_v = sum over edges (u, v) of f(h_u) + sum over 1 <= d(u, v) <= 50 of g(h_u) / d(u, v).

    f(h_u) and g(h_u) are computed once, when u is updated, and not once an edge (exact, and several times faster).
    Nodes of one step of the schedule do not depend on each other and are updated together.

    With `message_relu`, f and g end in a ReLU as in GHN-2's code; without, they are linear in their hidden units, so
    that those are what is passed on, and the second layer is folded into the gates' (exact too, and 1.5 times faster).
    """

    def __init__(self, width: int, message_width: int, message_relu: bool = False, *, rngs: nnx.Rngs) -> None:
        def message() -> nnx.List[nnx.Linear]:
            return nnx.List([nnx.Linear(width, message_width, rngs=rngs), nnx.Linear(message_width, width, rngs=rngs)])

        self.message_relu = message_relu
        self.edge_message = message()
        self.virtual_message = message()
        self.gru = GRUCell(width, rngs=rngs)

    def __call__(
        self,
        states_ND: Array,
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
        present_N: Array | NDArray[np.bool_],
    ) -> Array:
        """States after the forward and the backward sweep (places without edges send and receive nothing)."""
        distances = distances_NN.astype(states_ND.dtype)
        near = (distances > 0) & (distances <= MAX_DISTANCE)
        weights_2NN = jnp.stack(
            [(distances == 1).astype(states_ND.dtype), jnp.where(near, 1.0 / jnp.maximum(distances, 1.0), 0.0)]
        )
        forward = self._sweep(states_ND, weights_2NN.swapaxes(1, 2), schedule, reverse=False)
        return self._sweep(forward, weights_2NN, schedule, reverse=True)

    def _sweep(self, states_ND: Array, weights_2NN: Array, schedule: tuple[int, int], reverse: bool) -> Array:
        """Updates all nodes once; weights_2NN[:, v, u] weighs the two kinds of message from u to v."""
        steps, places = schedule
        nodes, width = states_ND.shape
        send, absorb_2PG, always_ND = self._messages(weights_2NN)
        # What does not depend on messages is computed for all nodes at once, before the sweep.
        rows = jax.tree.map(
            lambda x: x.reshape(steps, places, -1), (states_ND, self.gru.state(states_ND), self.gru.input(always_ND))
        )
        weights_L2WN = weights_2NN.reshape(2, steps, places, nodes).swapaxes(0, 1)

        def step(messages_2NP: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
            index, weights_2WN, old_WD, state_gates, input_gates = row
            incoming_2WP = weights_2WN @ messages_2NP
            new_WD = gated_update(input_gates + (incoming_2WP @ absorb_2PG).sum(0), state_gates, old_WD)
            return jax.lax.dynamic_update_slice(messages_2NP, send(new_WD), (0, index * places, 0)), new_WD

        start = jnp.zeros_like(states_ND, shape=(2, nodes, absorb_2PG.shape[1]))
        _, new_LWD = jax.lax.scan(step, start, (jnp.arange(steps), weights_L2WN, *rows), reverse=reverse)
        return new_LWD.reshape(nodes, width)

    def _messages(self, weights_2NN: Array) -> tuple[Callable[[Array], Array], Array, Array]:
        """How states [W, D] become what is passed on [2, W, P]; the map [2, P, 3 D] from sums of that to the GRU's
        gates; and the part [N, D] of the sum of messages that does not depend on states."""
        (first_2DM, first_bias_2M), (second_2MD, second_bias_2D) = (
            _stack(pair) for pair in zip(self.edge_message, self.virtual_message, strict=True)
        )
        gates_DG = self.gru.input.kernel.get_value()

        def hidden(states_WD: Array) -> Array:
            return jax.nn.relu(states_WD @ first_2DM + first_bias_2M[:, None])

        if not self.message_relu:
            always_ND = jnp.einsum("kvu,kd->vd", weights_2NN, second_bias_2D)
            return hidden, second_2MD @ gates_DG, always_ND

        def message(states_WD: Array) -> Array:
            return jax.nn.relu(hidden(states_WD) @ second_2MD + second_bias_2D[:, None])

        nothing_ND = jnp.zeros((weights_2NN.shape[1], gates_DG.shape[0]), weights_2NN.dtype)
        return message, jnp.stack([gates_DG, gates_DG]), nothing_ND


def _stack(layers: Sequence[nnx.Linear]) -> tuple[Array, Array]:
    """Kernels and biases of layers of one shape, each stacked."""
    kernels = jnp.stack([layer.kernel.get_value() for layer in layers])
    return kernels, jnp.stack([cast(nnx.Param[Array], layer.bias).get_value() for layer in layers])


class GRUCell(nnx.Module):
    """Parameters of a gated recurrent unit; gates in the order reset, update, candidate, as PyTorch's."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.input = nnx.Linear(width, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, rngs=rngs)


def gated_update(input_gates: Array, state_gates: Array, states: Array) -> Array:
    """New states [..., D] of a gated recurrent unit (Cho et al. 2014, in PyTorch's form) from both parts [..., 3 D] of
    its gates."""
    reset_in, update_in, candidate_in = jnp.split(input_gates, 3, -1)
    reset_state, update_state, candidate_state = jnp.split(state_gates, 3, -1)
    reset = jax.nn.sigmoid(reset_in + reset_state)
    update = jax.nn.sigmoid(update_in + update_state)
    candidate = jnp.tanh(candidate_in + reset * candidate_state)
    return (1 - update) * candidate + update * states
