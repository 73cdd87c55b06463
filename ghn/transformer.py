"""Propagation by attention: the graph transformer of GHN-3 (Knyazev et al. 2023, section 3.2; Ying et al. 2021).

Shape letters: N places, D state width, H heads, C = D / H.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.graph import MAX_DISTANCE
from ghn.propagation import Propagation

MAX_DEGREE = 100  # nodes of more edges share an embedding
MLP_RATIO = 4  # hidden units of a layer's MLP per D


class GraphTransformer(Propagation):
    """Layers of attention in which every node sees every other, biased by how far apart the two are.

    To the states are added embeddings of a node's numbers of incoming and outgoing edges. Empty places are masked out
    of every attention, so that they have no influence. Left out of GHN-3: the embedding of the distance from the input
    (the features hold the depth).
    """

    def __init__(self, width: int, layers: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.in_degree = _table(MAX_DEGREE + 1, width, rngs)
        self.out_degree = _table(MAX_DEGREE + 1, width, rngs)
        self.distance_bias = DistanceBias(width, heads, rngs=rngs)
        self.layers = nnx.List([TransformerLayer(width, heads, rngs=rngs) for _ in range(layers)])

    def __call__(
        self,
        states_ND: Array,
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
        present_N: Array | NDArray[np.bool_],
    ) -> Array:
        """States after all layers; those of empty places mean nothing."""
        edges_NN = jnp.asarray(distances_NN) == 1
        in_N, out_N = (jnp.minimum(edges_NN.sum(axis), MAX_DEGREE) for axis in (0, 1))
        states_ND = states_ND + self.in_degree.get_value()[in_N] + self.out_degree.get_value()[out_N]
        bias_HNN = jnp.where(present_N, self.distance_bias(distances_NN), -jnp.inf)
        for layer in self.layers:
            states_ND = layer(states_ND, bias_HNN)
        return states_ND


class DistanceBias(nnx.Module):
    """A learned bias of each head for the shortest paths from one node to the other and back.

    Both lengths are embedded, then D + D to D, ReLU, to H. In a directed acyclic graph at most one of the two paths
    exists, so there are only 101 pairs of lengths up to 50: the bias is computed for each, not for each pair of nodes.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.embedding = _table(MAX_DISTANCE + 1, width, rngs)  # row 0: no path
        self.hidden = nnx.Linear(2 * width, width, rngs=rngs)
        self.output = nnx.Linear(width, heads, rngs=rngs)

    def __call__(self, distances_NN: Array | NDArray[np.uint8]) -> Array:
        """[H, N, N] for attention from a node (second axis) to another (third)."""
        distances = jnp.asarray(distances_NN).astype(jnp.int32)
        near_NN = jnp.where(distances <= MAX_DISTANCE, distances, 0)
        embedded = self.embedding.get_value()
        signed = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)  # forwards if positive, backwards if negative
        pairs = jnp.concatenate([embedded[np.maximum(signed, 0)], embedded[np.maximum(-signed, 0)]], -1)
        bias_H101 = self.output(jax.nn.relu(self.hidden(pairs))).T
        return bias_H101[:, near_NN - near_NN.T + MAX_DISTANCE]


class TransformerLayer(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) (pre-LN)."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.attention_norm = layer_norm(width, rngs=rngs)
        self.query_key_value = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, rngs=rngs)
        self.mlp_norm = layer_norm(width, rngs=rngs)
        self.expand = nnx.Linear(width, MLP_RATIO * width, rngs=rngs)
        self.contract = nnx.Linear(MLP_RATIO * width, width, rngs=rngs)

    def __call__(self, states_ND: Array, bias_HNN: Array) -> Array:
        """[N, D]; a bias of minus infinity hides a node."""
        states_ND = states_ND + self._attend(self.attention_norm(states_ND), bias_HNN)
        hidden = jax.nn.gelu(self.expand(self.mlp_norm(states_ND)), approximate=False)
        return states_ND + self.contract(hidden)

    def _attend(self, x_ND: Array, bias_HNN: Array) -> Array:
        parts = self.query_key_value(x_ND).reshape(len(x_ND), 3, self.heads, -1)
        query_NHC, key_NHC, value_NHC = parts[:, 0], parts[:, 1], parts[:, 2]
        scores_HNN = jnp.einsum("nhc,mhc->hnm", query_NHC, key_NHC) / query_NHC.shape[-1] ** 0.5 + bias_HNN
        mixed_NHC = jnp.einsum("hnm,mhc->nhc", jax.nn.softmax(scores_HNN, -1), value_NHC)
        return self.output(mixed_NHC.reshape(x_ND.shape))


def layer_norm(width: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """With gain and bias and PyTorch's epsilon. The variance in two passes: E[x^2] - E[x]^2 loses digits."""
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def _table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param[Array]:
    """[rows, D] embeddings of norm 1, as GHN-3 starts them."""
    return nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (rows, width)))
