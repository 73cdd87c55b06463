"""The open hypernetwork's forward pass in NumPy, for prediction.

What is predicted is different for every model, so that compiled code would be compiled anew for every size of graph
and shape of leaf. On the host nothing is compiled. `tests/ghn/anymodel/test_host.py` holds this to the module in JAX.

Shape letters: N nodes, F features, D state width, K kernel positions along an axis, H hidden units of a decoder, T
channels of a tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.graph import MAX_DISTANCE
from ghn.anymodel.host_propagation import FAR, Distances, Floats, affine, apply, array, host_propagation
from ghn.open_network import LARGEST


class HostGHN:
    """An `OpenGHN`'s parameters as NumPy arrays, and its arithmetic on them."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._embedding = array(module.encoder.embedding)
        self._project = affine(module.encoder.project)
        self._propagation = host_propagation(module.propagation)
        kernel = module.kernel
        self._positions, self._mix = affine(kernel.positions), affine(kernel.mix)
        self._channels = array(kernel.channels)
        self._rows = (affine(module.embedding.hidden), array(module.embedding.channels))
        self._vectors = {
            role: (affine(getattr(module, role).hidden), affine(getattr(module, role).output))
            for role in ("scale", "bias")
        }
        self._size = affine(module.size)
        self._base = {name: array(base) for name, base in module.base.items()}
        self._noise = array(module.noise)
        self._direct = affine(module.direct) if module.config.direct else None

    def states(self, op_N: NDArray[np.int32], features_NF: Floats, near: Distances) -> Floats:
        """[N, D] what the decoders read: of constant norm, relative to the graph's mean, after propagation.

        Args:
            op_N: 1 + index in the vocabulary, 0 for an unknown op.
            features_NF: in [0, 1].
            near: for every node, its distances from all earlier ones (`ancestor_distances`).
        """
        embedded = _constant_norm(self._embedding[op_N])
        angles = np.float32(np.pi / 2) * features_NF
        states = apply(self._project, np.concatenate([embedded, np.cos(angles), np.sin(angles)], 1))
        states = self._propagation(states, near)
        return _constant_norm(states - states.mean(0) if self.module.config.centred else states)

    def kernel_tile(self, op: str, state_D: Floats, kh: int, kw: int) -> Floats:
        """[min(kh, K), min(kw, K), T, T]: base and delta in units of the weight, for one node."""
        size = self.module.kernel.kernel_tile
        rows, columns = _centre(size, kh), _centre(size, kw)
        kernel, bias = self._positions
        hidden = kernel.shape[1] // size**2
        used_DKKH = kernel.reshape(-1, size, size, hidden)[:, rows, columns]
        at = np.tensordot(state_D, used_DKKH, 1) + bias.reshape(size, size, hidden)[rows, columns]
        at = _leaky(apply(self._mix, _leaky(at).reshape(-1, hidden)))
        tile = self._channels.shape[1]
        delta = (at @ self._channels.reshape(hidden, -1)).reshape(*used_DKKH.shape[1:3], tile, tile)
        base = self._base[op]  # of a dense layer: one position, for all
        return delta + base[_centre(len(base), kh), _centre(len(base), kw)]

    def embedding_tile(self, state_D: Floats) -> Floats:
        """[T, T] for an embedding."""
        layer, channels = self._rows
        hidden = _leaky(apply(layer, state_D[None]))[0]
        return np.tensordot(hidden, channels, 1) + self._base["embedding"][0, 0]

    def vector(self, role: str, state_D: Floats) -> Floats:
        """[T] for a scale or a bias."""
        first, second = self._vectors[role]
        return apply(second, _leaky(apply(first, state_D[None])))[0]

    def size(self, state_D: Floats) -> float:
        """What the weights of a node are multiplied by."""
        return float(np.exp(LARGEST * np.tanh(apply(self._size, state_D)[0] / LARGEST)))

    def direct(self, state_D: Floats) -> float:
        """What a kernel passes on as it is, beside 1."""
        return 0.0 if self._direct is None else float(apply(self._direct, state_D)[0])

    def noise_gain(self, op: str) -> float:
        """How much of a kernel of this op is the fixed noise that tells its channels apart."""
        return float(self._noise[self.module.kernel_ops.index(op)])


def ancestor_distances(nodes: int, edges: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """For every node, [earlier nodes] length of the shortest path from each, 255 where none within MAX_DISTANCE."""
    sources: list[list[int]] = [[] for _ in range(nodes)]
    for source, target in edges.tolist():
        sources[target].append(source)
    rows: list[NDArray[np.uint8]] = []
    for index in range(nodes):
        row = np.full(index, FAR, np.uint8)
        for source in sources[index]:
            before = rows[source]
            np.minimum(row[:source], np.where(before < MAX_DISTANCE, before + np.uint8(1), FAR), out=row[:source])
            row[source] = 1
        rows.append(row)
    return rows


def _centre(have: int, size: int) -> slice:
    size = min(size, have)
    start = (have - size) // 2
    return slice(start, start + size)


def _leaky(x: Floats) -> Floats:
    return np.where(x > 0, x, np.float32(0.01) * x)


def _constant_norm(x: Floats) -> Floats:
    return x / np.sqrt(np.maximum(np.mean(np.square(x), -1, keepdims=True), 1e-20))
