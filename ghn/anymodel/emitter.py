"""What a hypernetwork says of the leaves of one model: decoded once, for signals to be followed and for emission."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter
from ghn.anymodel.decisions import Decision
from ghn.anymodel.emission import write_matrix, write_vector
from ghn.anymodel.gains import Gain, NodeWeights
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.moments import Moments

Floats = NDArray[np.float32]

MILD = 0.9  # most that a vector may differ from its initial value where no batch's statistics follow it
LOUD = 16.0  # a kernel whose initial values answer more strongly (mean square) is scaled by the model, to 1 or so


class Emitter:
    """Decodes node states to tiles and vectors, each once, and writes leaves."""

    def __init__(self, hypernetwork: OpenHypernetwork, graph: ArchGraph, states_ND: Floats, alive: bool = True) -> None:
        """Decodes nothing yet; `alive` holds vectors near their initial values, but for those of batch normalisations
        that a kernel follows."""
        self._alive, self._last = alive, _after_all_kernels(graph)
        self._host, self._normalise = hypernetwork.host, hypernetwork.config.normalise
        self._graph, self._states = graph, states_ND
        self._matrices: dict[tuple[Any, ...], tuple[Floats, float, float]] = {}
        self._vectors: dict[tuple[str, int], Floats] = {}

    def matrix(self, row: Parameter) -> tuple[Floats, float, float]:
        """[kh', kw', T, T] tile, factor of the noise, and what is passed on, of a kernel or an embedding of unit root
        mean square."""
        *positions, inputs, outputs = row.leaf.shape
        looked_up = row.leaf.role == "embedding"
        key = (row.node, looked_up, *positions, inputs, outputs)
        if key not in self._matrices:
            host, state_D = self._host, self._states[row.node]
            op = "embedding" if looked_up else self._graph.ops[row.node]
            tile = host.embedding_tile(state_D)[None, None] if looked_up else host.kernel_tile(op, state_D, *positions)
            noise = host.noise_gain(op)
            direct = 0.0 if looked_up else host.direct(state_D)
            if self._normalise:
                whole = math.sqrt(1 + direct**2)
                rms = whole * float(np.sqrt(noise**2 + np.mean(np.square(tile[..., :inputs, :outputs]))))
                tile, noise, direct = tile / np.float32(rms), noise / rms, direct / whole
            self._matrices[key] = tile, noise, direct
        return self._matrices[key]

    def vector(self, row: Parameter) -> Floats:
        """[T] of a scale or a bias: deviations from 1 or 0."""
        key = (row.leaf.role, row.node)
        if key not in self._vectors:
            vector_T = self._host.vector(row.leaf.role, self._states[row.node])
            # Scales are learned together with the kernels that read them: their answer grows by more than is estimated.
            mild = self._alive and (self._graph.ops[row.node] != "batch_norm" or row.node in self._last)
            self._vectors[key] = np.clip(vector_T, -MILD, MILD) if mild else vector_T
        return self._vectors[key]

    def write(self, row: Parameter, decision: Decision, gain: Gain, offset: int, out: NDArray[Any]) -> None:
        """Fills the part of a leaf that a row stands for; `offset` is where in the bank its noise starts.

        Of complex kernels both parts are kernels of half the mean square; complex vectors are real.
        """
        if np.iscomplexobj(out):
            half = dataclasses.replace(decision, scale=decision.scale * 0.5**0.5)
            self.write(row, half, gain, offset, out.real)
            if row.leaf.role in ("scale", "bias"):
                out.imag = 0
            else:
                self.write(row, half, gain, offset + out.size, out.imag[..., ::-1])  # another kernel
            return
        if row.leaf.role in ("scale", "bias"):
            factor = gain.bias if row.leaf.role == "bias" else 1.0
            write_vector(out, self.vector(row) * np.float32(factor), decision.mean)
        else:
            write_matrix(out, row, *self.matrix(row), decision.scale * gain.size, offset)

    def node_weights(self, table: Iterable[tuple[Parameter, Decision, Moments | None]]) -> list[NodeWeights]:
        """The weights of all nodes, from the rows of the parameter table, what becomes of each, and the moments of its
        initialiser."""
        result = [NodeWeights() for _ in self._graph.ops]
        for row, decision, moments in table:
            own, role, op = result[row.node], row.leaf.role, self._graph.ops[row.node]
            shift = 1.0 if row.offset else 0.0
            square = None
            if moments is not None and not math.isnan(moments.mean) and not row.curved:
                square = (moments.mean + shift) ** 2 + moments.deviation**2
            if role in ("kernel", "embedding"):
                self._add_matrix(own, row, decision, square)
            elif role == "bias" or (role == "factor" and op in ("shift", "gate") and not row.multiplies):
                before = square or 0.0
                after = self._channels(row) if decision.predicted else math.sqrt(before)
                own.bias = (own.bias[0] + before, _paired(np.add, own.bias[1], after))
                own.kept += 0.0 if decision.predicted else before
            elif role == "scale" or (role == "factor" and op in ("scale", "gate")):
                before = 1.0 if square is None else square
                after = 1 + self._channels(row) if decision.predicted else math.sqrt(before)
                own.scale = (own.scale[0] * before, _paired(np.multiply, own.scale[1], after))
        return result

    def _channels(self, row: Parameter) -> Floats:
        return np.resize(self.vector(row), row.leaf.shape)

    def _add_matrix(self, own: NodeWeights, row: Parameter, decision: Decision, square: float | None) -> None:
        """Of several kernels of a node (gates of a cell), which are alike, one."""
        if own.leaf is not None:
            return
        own.leaf = row.leaf
        if decision.predicted or square is None:
            square = decision.scale**2
        own.answer = square * (row.leaf.fan_in if row.leaf.role == "kernel" else 1)
        if own.answer > LOUD:
            own.answer = 1.0
        if decision.predicted:
            own.tile, own.noise, own.direct = self.matrix(row)
            own.size = self._host.size(self._states[row.node])


def _after_all_kernels(graph: ArchGraph) -> set[int]:
    """Nodes from which no kernel is reached any more: what they say is the model's answer."""
    owners = {row.node for row in graph.parameters if row.leaf.role == "kernel"}
    before = set(owners)  # owners of kernels and all that leads to them
    for source, target in sorted(graph.edges.tolist(), key=lambda edge: -edge[1]):
        if target in before:
            before.add(source)
    return set(range(graph.nodes)) - before


def _paired(function: Callable[[Any, Any], Any], one: Floats | float, other: Floats | float) -> Any:
    """A function of two vectors of one node, repeated to the length of the longer: they may vary along other axes."""
    longest = max(np.size(one), np.size(other))
    return function(*(np.resize(part, longest) if 1 < np.size(part) < longest else part for part in (one, other)))
