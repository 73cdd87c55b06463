"""The graph transformer equals a plain NumPy one, and empty places leave no trace in it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from architectures.graph import GraphBuilder
from ghn.transformer import MAX_DEGREE, GraphTransformer

WIDTH, LAYERS, HEADS, PLACES = 8, 2, 2, 16
FloatArray = NDArray[np.float64]


@pytest.fixture(scope="module")
def network() -> GraphTransformer:
    """Weights of order one and biases away from 0, so that nothing is small enough to be missed."""
    network = nnx.eval_shape(lambda: GraphTransformer(WIDTH, LAYERS, HEADS, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), nnx.state(network))
    nnx.update(network, state)
    return network


def lengths_of(seed: int, nodes: int, share: float = 0.3) -> NDArray[np.uint8]:
    """[N, N] shortest paths of a random graph."""
    rng, builder = np.random.default_rng(seed), GraphBuilder()
    for node in range(nodes):
        builder.node("op", [source for source in range(node) if rng.uniform() < share])
    return builder.build().distances


def padded(
    states: FloatArray, lengths: NDArray[np.uint8], places: NDArray[np.int64], noise: int = 0
) -> tuple[Any, ...]:
    """States, distances and presence on PLACES places; empty ones hold noise."""
    grid = np.random.default_rng(noise).normal(size=(PLACES, WIDTH)).astype(np.float32)
    grid[places] = states
    distances = np.zeros((PLACES, PLACES), np.uint8)
    distances[np.ix_(places, places)] = lengths
    return grid, distances, np.isin(np.arange(PLACES), places)


def run(network: GraphTransformer, states: Any, lengths: Any, present: Any) -> Any:
    return np.asarray(compiled(*nnx.split(network), states, lengths, present))


@functools.partial(jax.jit, static_argnums=0)
def compiled(definition: Any, parameters: Any, states: Any, lengths: Any, present: Any) -> Any:
    return nnx.merge(definition, parameters)(states, lengths, (len(states), 1), present)


def value(parameter: Any) -> FloatArray:
    return np.asarray(parameter.get_value(), np.float64)


def linear(layer: nnx.Linear, x: FloatArray) -> FloatArray:
    return x @ value(layer.kernel) + (0 if layer.bias is None else value(layer.bias))


def norm(layer: nnx.LayerNorm, x: FloatArray) -> FloatArray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * value(layer.scale) + value(layer.bias)


def bias(network: GraphTransformer, forward: int, backward: int) -> FloatArray:
    """[H] of one pair of nodes, from both distances; 0 is no path, as is any beyond 50."""
    parts, table = network.distance_bias, value(network.distance_bias.embedding)
    pair = [table[length if length <= 50 else 0] for length in (forward, backward)]
    return linear(parts.output, np.maximum(linear(parts.hidden, np.concatenate(pair)), 0))


def reference(network: GraphTransformer, states: FloatArray, lengths: NDArray[np.uint8]) -> FloatArray:
    """All layers, a node, a head and a pair at a time, without padding."""
    nodes, size = len(states), WIDTH // HEADS
    edges = lengths == 1
    x = np.array(states, np.float64)
    for node in range(nodes):
        x[node] += value(network.in_degree)[min(edges[:, node].sum(), 100)]
        x[node] += value(network.out_degree)[min(edges[node].sum(), 100)]
    for layer in network.layers:
        parts = [np.split(linear(layer.query_key_value, norm(layer.attention_norm, row)), 3) for row in x]
        mixed = np.zeros_like(x)
        for i in range(nodes):
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                scores = [
                    parts[i][0][own] @ parts[j][1][own] / math.sqrt(size)
                    + bias(network, int(lengths[i, j]), int(lengths[j, i]))[head]
                    for j in range(nodes)
                ]
                shares = np.exp(scores) / np.exp(scores).sum()
                mixed[i, own] = sum(share * parts[j][2][own] for j, share in enumerate(shares))
        x = x + linear(layer.output, mixed)
        for i in range(nodes):
            hidden = linear(layer.expand, norm(layer.mlp_norm, x[i]))
            gelu = np.array([0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
            x[i] = x[i] + linear(layer.contract, gelu)
    return x


@pytest.mark.parametrize("seed", [0, 1])
def test_layers_equal_the_reference(network: GraphTransformer, seed: int) -> None:
    lengths = lengths_of(seed, 11)
    assert lengths.max() > 1
    states = np.random.default_rng(seed).normal(size=(11, WIDTH))
    places = np.sort(np.random.default_rng(seed).permutation(PLACES)[:11])
    expected = reference(network, states, lengths)
    np.testing.assert_allclose(run(network, *padded(states, lengths, places))[places], expected, rtol=0, atol=2e-5)
    # Distances, their direction and degrees all matter.
    assert np.abs(expected - reference(network, states, lengths.T)).max() > 0.1
    assert np.abs(expected - reference(network, states, np.minimum(lengths, 1))).max() > 0.01


def test_distances_beyond_fifty_are_none(network: GraphTransformer) -> None:
    lengths = np.zeros((2, 2), np.uint8)
    states = np.random.default_rng(0).normal(size=(2, WIDTH))
    results = []
    for length in (0, 49, 50, 51, 255):
        lengths[0, 1] = length
        results.append(run(network, *padded(states, lengths, np.arange(2)))[:2])
    np.testing.assert_array_equal(results[3], results[0])
    np.testing.assert_array_equal(results[4], results[0])
    assert np.abs(results[2] - results[0]).max() > 1e-3 < np.abs(results[2] - results[1]).max()


def test_any_number_of_edges_has_an_embedding(network: GraphTransformer) -> None:
    nodes = MAX_DEGREE + 5
    lengths = np.zeros((nodes, nodes), np.uint8)
    lengths[0, 1:] = 1
    states = np.random.default_rng(0).normal(size=(nodes, WIDTH)).astype(np.float32)
    found = run(network, states, lengths, np.ones(nodes, bool))
    fewer = run(network, states[:-3], lengths[:-3, :-3], np.ones(nodes - 3, bool))
    assert np.isfinite(found).all() and np.isfinite(fewer).all()


def test_what_empty_places_hold_changes_nothing(network: GraphTransformer) -> None:
    """To the last bit; in a larger grid, sums are taken in another order."""
    lengths, places = lengths_of(2, 9), np.arange(9)
    states = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    first, second = (run(network, *padded(states, lengths, places, noise))[places] for noise in (0, 1))
    np.testing.assert_array_equal(first, second)
    alone = run(network, states, lengths, np.ones(9, bool))
    np.testing.assert_allclose(first, alone, rtol=0, atol=2e-6)


def test_places_do_not_matter(network: GraphTransformer) -> None:
    lengths = lengths_of(3, 12)
    states = np.random.default_rng(0).normal(size=(12, WIDTH))
    orders = (np.arange(12), np.random.default_rng(1).permutation(PLACES)[:12])
    results = [run(network, *padded(states, lengths, places))[places] for places in orders]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=5e-6)


def test_gradients_are_finite_and_none_comes_from_empty_places(network: GraphTransformer) -> None:
    lengths, places = lengths_of(4, 9), np.arange(9)
    grid, distances, present = padded(np.random.default_rng(0).normal(size=(9, WIDTH)), lengths, places)
    definition, parameters = nnx.split(network)

    def loss(parameters: Any, grid: Any) -> Any:
        return jnp.square(nnx.merge(definition, parameters)(grid, distances, (PLACES, 1), present)[places]).mean()

    of_parameters, of_grid = jax.jit(jax.grad(loss, (0, 1)))(parameters, jnp.asarray(grid))
    for leaf in jax.tree.leaves(of_parameters):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    assert (np.abs(of_grid[places]).max(-1) > 0).all()
    np.testing.assert_array_equal(of_grid[len(places) :], 0)
