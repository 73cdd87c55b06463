"""The propagations of an open hypernetwork in NumPy (`ghn.propagation`, `ghn.transformer`), one graph at a time.

Shape letters: N nodes, D state width, M hidden units of a message network, H heads, C = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from numpy.typing import NDArray
from scipy.special import erf

from architectures.graph import MAX_DISTANCE
from ghn.propagation import GatedGNN, NoPropagation, Propagation
from ghn.transformer import MAX_DEGREE, GraphTransformer

Floats = NDArray[np.float32]
FAR = np.uint8(255)  # no path within MAX_DISTANCE
Distances = Sequence[NDArray[np.uint8]]  # of every node, the lengths of the shortest paths from all earlier ones
HostPropagation = Callable[[Floats, Distances], Floats]  # (states [N, D], distances) -> states
Affine = tuple[Floats, Floats]  # kernel and bias


def host_propagation(module: Propagation) -> HostPropagation:
    """The same as a module in JAX.

    Raises:
        ValueError: one that is not here.
    """
    if isinstance(module, NoPropagation):
        return lambda states_ND, near: states_ND
    if isinstance(module, GatedGNN) and not module.message_relu:
        return HostGatedGNN(module)
    if isinstance(module, GraphTransformer):
        return HostTransformer(module)
    raise ValueError(f"GHNConfig.propagation: {type(module).__name__} has no form for prediction on the host")


# --------------------------------------------------------------------------------------------------- gated network


class Reach(NamedTuple):
    """What a node receives messages from.

    Attributes:
        nodes: all within MAX_DISTANCE.
        weights: [2, nodes] of their messages: along edges, and along virtual ones (1 / distance).
    """

    nodes: NDArray[np.intp]
    weights: Floats


class HostGatedGNN:
    """Both sweeps of `GatedGNN`. The cost is linear in nodes plus edges, virtual ones included: a node gathers what the
    nodes within MAX_DISTANCE have sent."""

    def __init__(self, module: GatedGNN) -> None:
        self._first = [affine(module.edge_message[0]), affine(module.virtual_message[0])]
        self._second = [affine(module.edge_message[1]), affine(module.virtual_message[1])]
        self._gru = (affine(module.gru.input), affine(module.gru.state))

    def __call__(self, states_ND: Floats, near: Distances) -> Floats:
        """States after the forward and the backward sweep."""
        total, before = len(states_ND), [_reached(row) for row in near]
        states_ND = self._sweep(states_ND, before, range(total))
        return self._sweep(states_ND, _reversed(before), range(total)[::-1])

    def _sweep(self, states: Floats, rows: Sequence[Reach], order: Sequence[int]) -> Floats:
        """Updates every node once from what those before it in `order` have sent.

        The arithmetic is that of `ghn.propagation.gated_update`. What does not wait for messages is computed for all
        nodes at once; gates hold half of what goes into them, sigmoid(2 x) being (tanh(x) + 1) / 2.
        """
        (edge_1, edge_b1), (far_1, far_b1) = self._first
        (edge_2, edge_b2), (far_2, far_b2) = self._second
        (input_w, input_b), (state_w, state_b) = self._gru
        first, first_b = np.concatenate([edge_1, far_1], 1), np.concatenate([edge_b1, far_b1])
        width, hidden, half = states.shape[1], edge_1.shape[1], np.float32(0.5)
        absorb = np.concatenate([edge_2 @ input_w, far_2 @ input_w])
        received = np.stack([reach.weights.sum(1) for reach in rows])
        waiting = received @ (np.stack([edge_b2, far_b2]) @ input_w) + input_b
        own = states @ state_w + state_b
        absorb[:, : 2 * width] *= half
        gates = half * (waiting[:, : 2 * width] + own[:, : 2 * width])
        waiting, own = waiting[:, 2 * width :], own[:, 2 * width :]
        result, sent = np.empty_like(states), np.zeros((len(states), 2 * hidden), np.float32)
        incoming = np.empty(2 * hidden, np.float32)
        for index in order:
            sources, weights = rows[index]
            gate, candidate = gates[index], waiting[index]
            if len(sources):
                both = weights @ sent.take(sources, 0)
                incoming[:hidden], incoming[hidden:] = both[0, :hidden], both[1, hidden:]
                absorbed = incoming @ absorb
                gate, candidate = gate + absorbed[: 2 * width], candidate + absorbed[2 * width :]
            gate = half * np.tanh(gate) + half
            candidate = np.tanh(candidate + gate[:width] * own[index])
            result[index] = candidate + gate[width:] * (states[index] - candidate)
            sent[index] = np.maximum(result[index] @ first + first_b, 0)
        return result


def _reached(row: NDArray[np.uint8]) -> Reach:
    nodes = np.flatnonzero(row != FAR)
    distances = row[nodes]
    return Reach(nodes, np.stack([distances == 1, np.reciprocal(distances, dtype=np.float32)]))


def _reversed(before: Sequence[Reach]) -> list[Reach]:
    """The same for paths that lead from every node instead of to it."""
    targets = np.repeat(np.arange(len(before)), [len(reach.nodes) for reach in before])
    sources = np.concatenate([reach.nodes for reach in before])
    weights = np.concatenate([reach.weights for reach in before], axis=1)
    order = np.argsort(sources, kind="stable")
    ends = np.searchsorted(sources[order], np.arange(1, len(before)))
    return [Reach(targets[own], weights[:, own]) for own in np.split(order, ends)]


# ------------------------------------------------------------------------------------------------ graph transformer


class HostTransformer:
    """The layers of `GraphTransformer`. The cost is quadratic in nodes; attention is computed head by head."""

    def __init__(self, module: GraphTransformer) -> None:
        self._degrees = array(module.in_degree), array(module.out_degree)
        bias = module.distance_bias
        self._bias = array(bias.embedding), affine(bias.hidden), affine(bias.output)
        self._layers = [_LayerParameters.of(layer) for layer in module.layers]

    def __call__(self, states_ND: Floats, near: Distances) -> Floats:
        """States after all layers."""
        signed_NN = _signed_distances(near)
        in_degree, out_degree = self._degrees
        incoming_N, outgoing_N = ((signed_NN == sign).sum(1) for sign in (-1, 1))
        states_ND = states_ND + in_degree[np.minimum(incoming_N, MAX_DEGREE)]
        states_ND = states_ND + out_degree[np.minimum(outgoing_N, MAX_DEGREE)]
        bias_101H = self._distance_bias()
        for layer in self._layers:
            states_ND = layer(states_ND, bias_101H, signed_NN)
        return states_ND

    def _distance_bias(self) -> Floats:
        """[101, H] for every signed distance from -MAX_DISTANCE on."""
        embedding, hidden, output = self._bias
        signed = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
        pairs = np.concatenate([embedding[np.maximum(signed, 0)], embedding[np.maximum(-signed, 0)]], -1)
        return apply(output, np.maximum(apply(hidden, pairs), 0))


class _LayerParameters(NamedTuple):
    """Of one `TransformerLayer`."""

    attention_norm: Affine
    query_key_value: Floats
    output: Affine
    mlp_norm: Affine
    expand: Affine
    contract: Affine

    @classmethod
    def of(cls, layer: Any) -> _LayerParameters:
        """From the module."""
        norms = [(array(norm.scale), array(norm.bias)) for norm in (layer.attention_norm, layer.mlp_norm)]
        rest = affine(layer.output), norms[1], affine(layer.expand), affine(layer.contract)
        return cls(norms[0], array(layer.query_key_value.kernel), *rest)

    def __call__(self, states_ND: Floats, bias_101H: Floats, signed_NN: NDArray[np.int16]) -> Floats:
        """x + attention(norm(x)), then x + MLP(norm(x))."""
        heads = bias_101H.shape[1]
        parts = _layer_norm(states_ND, self.attention_norm) @ self.query_key_value
        parts = parts.reshape(len(states_ND), 3, heads, -1)
        mixed_NHC = np.empty_like(parts[:, 0])
        for head in range(heads):
            query_NC, key_NC, value_NC = parts[:, 0, head], parts[:, 1, head], parts[:, 2, head]
            scores_NN = query_NC @ key_NC.T / np.float32(query_NC.shape[1] ** 0.5)
            scores_NN += bias_101H[:, head][signed_NN + MAX_DISTANCE]
            np.exp(scores_NN - scores_NN.max(1, keepdims=True), out=scores_NN)
            mixed_NHC[:, head] = (scores_NN / scores_NN.sum(1, keepdims=True)) @ value_NC
        states_ND = states_ND + apply(self.output, mixed_NHC.reshape(states_ND.shape))
        hidden = apply(self.expand, _layer_norm(states_ND, self.mlp_norm))
        gelu = hidden * (np.float32(0.5) * (1 + erf(hidden * np.float32(0.5**0.5))))
        return states_ND + apply(self.contract, gelu)


def _signed_distances(near: Distances) -> NDArray[np.int16]:
    """[N, N] distance from the row's node to the column's; < 0 where the path leads back, 0 without one."""
    signed_NN = np.zeros((len(near), len(near)), np.int16)
    for target, row in enumerate(near):
        lengths = np.where(row == FAR, 0, row).astype(np.int16)
        signed_NN[:target, target], signed_NN[target, :target] = lengths, -lengths
    return signed_NN


def _layer_norm(x: Floats, parameters: Affine) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    scale, bias = parameters
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5)) * scale + bias


# ---------------------------------------------------------------------------------------------------------- layers


def array(variable: Any) -> Floats:
    """A parameter's value."""
    return np.asarray(variable.get_value(), np.float32)


def affine(layer: nnx.Linear) -> Affine:
    """A linear layer's parameters."""
    return array(layer.kernel), array(layer.bias)


def apply(layer: Affine, x: Floats) -> Floats:
    """The layer's output."""
    return x @ layer[0] + layer[1]
