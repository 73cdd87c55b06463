"""The open hypernetwork's forward pass in NumPy, for prediction.

What is predicted is different for every model, so that compiled code would be compiled anew for every size of graph
and shape of leaf. On the host nothing is compiled. The cost of propagation is linear in nodes plus edges, virtual ones
included: a node gathers what the nodes within MAX_DISTANCE have sent. `tests/ghn/anymodel/test_host.py` holds this to
the module in JAX.

Shape letters: N nodes, F features, D state width, M hidden units of a message network, K kernel positions along an
axis, H hidden units of a decoder, T channels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from architectures.graph import MAX_DISTANCE
from ghn.open_network import LARGEST

Floats = NDArray[np.float32]


class Reach(NamedTuple):
    """What a node receives messages from.

    Attributes:
        nodes: all within MAX_DISTANCE.
        weights: 1 / distance of each.
        adjacent: those at distance 1.
    """

    nodes: NDArray[np.intp]
    weights: Floats
    adjacent: NDArray[np.intp]


class HostGHN:
    """An `OpenGHN`'s parameters as NumPy arrays, and its arithmetic on them."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._embedding = _array(module.encoder.embedding)
        self._project = _linear(module.encoder.project)
        gnn = module.propagation
        self._first = [_linear(gnn.edge_message[0]), _linear(gnn.virtual_message[0])]
        self._second = [_linear(gnn.edge_message[1]), _linear(gnn.virtual_message[1])]
        self._gru = (_linear(gnn.gru.input), _linear(gnn.gru.state))
        kernel = module.kernel
        self._positions, self._mix = _linear(kernel.positions), _linear(kernel.mix)
        self._channels = _array(kernel.channels)
        self._rows = (_linear(module.embedding.hidden), _array(module.embedding.channels))
        self._vectors = {
            role: (_linear(getattr(module, role).hidden), _linear(getattr(module, role).output))
            for role in ("scale", "bias")
        }
        self._size = _linear(module.size)
        self._base = {name: _array(base) for name, base in module.base.items()}
        self._noise = _array(module.noise)

    def states(self, op_N: NDArray[np.int32], features_NF: Floats, near: Sequence[NDArray[np.uint8]]) -> Floats:
        """[N, D] what the decoders read: of constant norm, relative to the graph's mean, after both sweeps.

        Args:
            op_N: 1 + index in the vocabulary, 0 for an unknown op.
            features_NF: in [0, 1].
            near: for every node, its distances from all earlier ones (`ancestor_distances`).
        """
        embedded = _constant_norm(self._embedding[op_N])
        angles = np.float32(np.pi / 2) * features_NF
        states = _apply(self._project, np.concatenate([embedded, np.cos(angles), np.sin(angles)], 1))
        total = len(states)
        before = [_reached(row) for row in near]
        states = self._sweep(states, before, range(total))
        states = self._sweep(states, _reversed(before), range(total)[::-1])
        return _constant_norm(states - states.mean(0) if self.module.config.centred else states)

    def _sweep(
        self,
        states: Floats,
        rows: Sequence[Reach],
        order: Sequence[int],
    ) -> Floats:
        """Updates every node once from what those before it in `order` have sent."""
        (edge_1, edge_b1), (far_1, far_b1) = self._first
        (edge_2, edge_b2), (far_2, far_b2) = self._second
        (input_w, input_b), (state_w, state_b) = self._gru
        first, first_b = np.concatenate([edge_1, far_1], 1), np.concatenate([edge_b1, far_b1])
        width, hidden = states.shape[1], edge_1.shape[1]
        absorb = np.concatenate([edge_2 @ input_w, far_2 @ input_w])
        edge_bias, far_bias = edge_b2 @ input_w, far_b2 @ input_w
        state_gates = states @ state_w + state_b
        result, sent = np.empty_like(states), np.zeros((len(states), 2 * hidden), np.float32)
        incoming = np.empty(2 * hidden, np.float32)
        for index in order:
            sources, weights, adjacent = rows[index]
            gates = input_b
            if len(sources):
                incoming[:hidden] = sent[adjacent, :hidden].sum(0)
                incoming[hidden:] = weights @ sent[sources, hidden:]
                gates = incoming @ absorb + (len(adjacent) * edge_bias + weights.sum() * far_bias + input_b)
            result[index] = _gru(gates, state_gates[index], states[index], width)
            sent[index] = np.maximum(result[index] @ first + first_b, 0)
        return result

    def kernel_tile(self, op: str, state_D: Floats, kh: int, kw: int) -> Floats:
        """[min(kh, K), min(kw, K), T, T]: base and delta in units of the weight, for one node."""
        size = self.module.kernel.kernel_tile
        rows, columns = _centre(size, kh), _centre(size, kw)
        kernel, bias = self._positions
        hidden = kernel.shape[1] // size**2
        used_DKKH = kernel.reshape(-1, size, size, hidden)[:, rows, columns]
        at = np.tensordot(state_D, used_DKKH, 1) + bias.reshape(size, size, hidden)[rows, columns]
        at = _leaky(_apply(self._mix, _leaky(at).reshape(-1, hidden)))
        tile = self._channels.shape[1]
        delta = (at @ self._channels.reshape(hidden, -1)).reshape(*used_DKKH.shape[1:3], tile, tile)
        base = self._base[op]  # of a dense layer: one position, for all
        return delta + base[_centre(len(base), kh), _centre(len(base), kw)]

    def embedding_tile(self, state_D: Floats) -> Floats:
        """[T, T] for an embedding."""
        layer, channels = self._rows
        hidden = _leaky(_apply(layer, state_D[None]))[0]
        return np.tensordot(hidden, channels, 1) + self._base["embedding"][0, 0]

    def vector(self, role: str, state_D: Floats) -> Floats:
        """[T] for a scale or a bias."""
        first, second = self._vectors[role]
        return _apply(second, _leaky(_apply(first, state_D[None])))[0]

    def size(self, state_D: Floats) -> float:
        """What the weights of a node are multiplied by."""
        return float(np.exp(LARGEST * np.tanh(_apply(self._size, state_D)[0] / LARGEST)))

    def noise_gain(self, op: str) -> float:
        """How much of a kernel of this op is the fixed noise that tells its channels apart."""
        return float(self._noise[self.module.kernel_ops.index(op)])


def ancestor_distances(nodes: int, edges: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """For every node, [earlier nodes] length of the shortest path from each, 255 where none within MAX_DISTANCE."""
    far = np.uint8(255)
    sources: list[list[int]] = [[] for _ in range(nodes)]
    for source, target in edges.tolist():
        sources[target].append(source)
    rows: list[NDArray[np.uint8]] = []
    for index in range(nodes):
        row = np.full(index, far, np.uint8)
        for source in sources[index]:
            before = rows[source]
            np.minimum(row[:source], np.where(before < MAX_DISTANCE, before + np.uint8(1), far), out=row[:source])
            row[source] = 1
        rows.append(row)
    return rows


def _reached(row: NDArray[np.uint8]) -> Reach:
    nodes = np.flatnonzero(row != 255)
    distances = row[nodes]
    return Reach(nodes, np.reciprocal(distances, dtype=np.float32), nodes[distances == 1])


def _reversed(before: Sequence[Reach]) -> list[Reach]:
    """The same for paths that lead from every node instead of to it."""
    targets = np.repeat(np.arange(len(before)), [len(reach.nodes) for reach in before])
    sources = np.concatenate([reach.nodes for reach in before])
    weights = np.concatenate([reach.weights for reach in before])
    order = np.argsort(sources, kind="stable")
    ends = np.searchsorted(sources[order], np.arange(1, len(before)))
    return [Reach(targets[own], weights[own], targets[own][weights[own] == 1]) for own in np.split(order, ends)]


def _gru(gates: Floats, state_gates: Floats, state: Floats, width: int) -> Floats:
    """`ghn.propagation.gated_update` for one node."""
    half = np.float32(0.5)
    both = half * np.tanh(half * (gates[: 2 * width] + state_gates[: 2 * width])) + half  # a sigmoid without overflow
    reset, update = both[:width], both[width:]
    candidate = np.tanh(gates[2 * width :] + reset * state_gates[2 * width :])
    return (1 - update) * candidate + update * state


def _centre(have: int, size: int) -> slice:
    size = min(size, have)
    start = (have - size) // 2
    return slice(start, start + size)


def _array(variable: Any) -> Floats:
    return np.asarray(variable.get_value(), np.float32)


def _linear(layer: nnx.Linear) -> tuple[Floats, Floats]:
    return _array(layer.kernel), _array(layer.bias)


def _apply(layer: tuple[Floats, Floats], x: Floats) -> Floats:
    return x @ layer[0] + layer[1]


def _leaky(x: Floats) -> Floats:
    return np.where(x > 0, x, np.float32(0.01) * x)


def _constant_norm(x: Floats) -> Floats:
    return x / np.sqrt(np.maximum(np.mean(np.square(x), -1, keepdims=True), 1e-20))
