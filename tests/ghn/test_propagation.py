"""The gated sweeps equal one-node-at-a-time message passing, and the grid they run on leaves no trace."""

import functools
from collections import deque
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from ghn.config import GHNConfig
from ghn.parts import make_propagation
from ghn.propagation import GatedGNN, NoPropagation

WIDTH = 8
ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracles" / "ghn2_resnet18.npz"
ROOM = (9, 6)  # a schedule with room for all the random graphs below
FloatArray = NDArray[np.float64]


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "relu"])
def network(request: pytest.FixtureRequest) -> GatedGNN:
    """Weights of order one and biases away from 0, so that nothing is small enough to be missed."""
    network = GatedGNN(WIDTH, 4, message_relu=request.param, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), nnx.state(network))
    nnx.update(network, state)
    return network


def random_edges(rng: np.random.Generator, nodes: int, share: float) -> list[tuple[int, int]]:
    return [(u, v) for v in range(nodes) for u in range(v) if rng.uniform() < share]


def distances(edges: list[tuple[int, int]], nodes: int) -> NDArray[np.int64]:
    """[N, N] directed shortest paths by breadth-first search, 0 where there is none."""
    result = np.zeros((nodes, nodes), np.int64)
    for start in range(nodes):
        queue, seen = deque([(start, 0)]), {start}
        while queue:
            node, length = queue.popleft()
            result[start, node] = length
            for u, v in edges:
                if u == node and v not in seen:
                    seen.add(v)
                    queue.append((v, length + 1))
    return result


def linear(layer: nnx.Linear, x: FloatArray) -> FloatArray:
    return x @ np.asarray(layer.kernel.get_value(), np.float64) + np.asarray(layer.bias.get_value(), np.float64)


def message(layers: Any, x: FloatArray, last_relu: bool) -> FloatArray:
    sent = linear(layers[1], np.maximum(linear(layers[0], x), 0))
    return np.maximum(sent, 0) if last_relu else sent


def gru(network: GatedGNN, incoming: FloatArray, state: FloatArray) -> FloatArray:
    r_in, z_in, n_in = np.split(linear(network.gru.input, incoming), 3)
    r_state, z_state, n_state = np.split(linear(network.gru.state, state), 3)
    reset, update = 1 / (1 + np.exp(-(r_in + r_state))), 1 / (1 + np.exp(-(z_in + z_state)))
    candidate = np.tanh(n_in + reset * n_state)
    return (1 - update) * candidate + update * state


def reference(network: GatedGNN, states: FloatArray, distances: NDArray[np.int64]) -> FloatArray:
    """Both sweeps, a node at a time and an edge at a time; nodes are numbered in topological order."""
    h = np.array(states, np.float64)
    nodes = len(h)
    for order, lengths in ((range(nodes), distances), (reversed(range(nodes)), distances.T)):
        for v in order:
            incoming = np.zeros(h.shape[1])
            for u in range(nodes):
                if lengths[u, v] == 1:
                    incoming += message(network.edge_message, h[u], network.message_relu)
                if 1 <= lengths[u, v] <= 50:
                    incoming += message(network.virtual_message, h[u], network.message_relu) / lengths[u, v]
            h[v] = gru(network, incoming, h[v])
    return h


def levels(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    result = np.zeros(len(lengths), np.int64)
    for v in range(len(lengths)):
        for u in range(v):
            if lengths[u, v] == 1:
                result[v] = max(result[v], result[u] + 1)
    return result


def on_grid(
    states: FloatArray, lengths: NDArray[np.int64], schedule: tuple[int, int], rng: np.random.Generator | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]:
    """States and distances on a grid, and the place of every node; empty places hold noise. With `rng`, the nodes of a
    step take random places in it."""
    steps, width = schedule
    places, taken = np.zeros(len(states), np.int64), [0] * steps
    columns = [np.arange(width) if rng is None else rng.permutation(width) for _ in range(steps)]
    for node, level in enumerate(levels(lengths)):
        places[node] = level * width + columns[level][taken[level]]
        taken[level] += 1
    grid = np.random.default_rng(7).normal(size=(steps * width, states.shape[1])).astype(np.float32)
    grid[places] = states
    grid_distances = np.zeros((steps * width, steps * width), np.uint8)
    grid_distances[np.ix_(places, places)] = np.minimum(lengths, 255)
    return grid, grid_distances, places


def case(seed: int, nodes: int = 9, share: float = 0.35) -> tuple[FloatArray, NDArray[np.int64], tuple[int, int]]:
    rng = np.random.default_rng(seed)
    lengths = distances(random_edges(rng, nodes, share), nodes)
    schedule = int(levels(lengths).max()) + 1, int(np.bincount(levels(lengths)).max())
    return rng.normal(size=(nodes, WIDTH)), lengths, schedule


def run(network: GatedGNN, grid: NDArray[np.float32], lengths: NDArray[np.uint8], schedule: tuple[int, int]) -> Any:
    return np.asarray(compiled(*nnx.split(network), grid, lengths, schedule))


@functools.partial(jax.jit, static_argnums=(0, 4))
def compiled(definition: Any, parameters: Any, grid: Any, lengths: Any, schedule: tuple[int, int]) -> Any:
    """The same graphs of the same shape share one program."""
    return nnx.merge(definition, parameters)(grid, lengths, schedule, np.ones(len(grid), bool))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sweeps_equal_the_reference(network: GatedGNN, seed: int) -> None:
    states, lengths, schedule = case(seed)
    assert lengths.max() >= 2 and schedule[0] <= ROOM[0] and schedule[1] <= ROOM[1]
    schedule = ROOM
    grid, grid_distances, places = on_grid(states, lengths, schedule)
    expected = reference(network, states, lengths)
    np.testing.assert_allclose(run(network, grid, grid_distances, schedule)[places], expected, rtol=0, atol=1e-5)
    assert np.abs(expected - reference(network, states, 0 * lengths)).max() > 0.1  # messages matter


def test_virtual_edges_reach_fifty_and_no_further(network: GatedGNN) -> None:
    nodes = 53
    lengths = distances([(v - 1, v) for v in range(1, nodes)], nodes)
    states = np.random.default_rng(3).normal(size=(nodes, WIDTH))
    grid, grid_distances, places = on_grid(states, lengths, (nodes, 1))
    result = run(network, grid, grid_distances, (nodes, 1))[places]
    np.testing.assert_allclose(result, reference(network, states, lengths), rtol=0, atol=1e-5)
    for cut in (49, 51):  # the reference notices one hop more or less
        other = reference(network, states, np.where(lengths <= cut, np.where(lengths == 51, 50, lengths), 0))
        assert np.abs(result - other).max() > 1e-4


def test_padding_changes_nothing(network: GatedGNN) -> None:
    states, lengths, schedule = case(4)
    results = []
    assert schedule[0] + 1 < ROOM[0] and schedule[1] + 1 < ROOM[1]
    for larger in (schedule, ROOM):
        grid, grid_distances, places = on_grid(states, lengths, larger)
        results.append(run(network, grid, grid_distances, larger)[places])
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-6)


def test_places_within_a_step_do_not_matter(network: GatedGNN) -> None:
    states, lengths, _ = case(5, share=0.25)
    schedule = ROOM
    plain = on_grid(states, lengths, schedule)
    mixed = on_grid(states, lengths, schedule, np.random.default_rng(0))
    assert (plain[2] != mixed[2]).any()
    results = [run(network, grid, grid_distances, schedule)[places] for grid, grid_distances, places in (plain, mixed)]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-6)


def test_no_propagation_is_the_identity() -> None:
    states, lengths, schedule = case(6)
    grid, grid_distances, _ = on_grid(states, lengths, schedule)
    none = make_propagation(GHNConfig(propagation="none"), rngs=nnx.Rngs(0))
    assert isinstance(none, NoPropagation)
    np.testing.assert_array_equal(none(jnp.asarray(grid), grid_distances, schedule, np.ones(len(grid), bool)), grid)
    assert not jax.tree.leaves(nnx.state(none))


@pytest.mark.skipif(not ORACLE.exists(), reason=f"the reference values of GHN-2 are not beside the checkout ({ORACLE})")
def test_sweeps_reproduce_ghn2() -> None:
    values = np.load(ORACLE)
    network = GatedGNN(32, 16, message_relu=True, rngs=nnx.Rngs(0))

    def set_linear(layer: nnx.Linear, weight: str, bias: str) -> None:
        assert layer.kernel.get_value().shape == values[f"sd/gnn.{weight}"].T.shape
        layer.kernel.set_value(jnp.asarray(values[f"sd/gnn.{weight}"].T))
        layer.bias.set_value(jnp.asarray(values[f"sd/gnn.{bias}"]))

    for name, layers in (("mlp", network.edge_message), ("mlp_ve", network.virtual_message)):
        for index, layer in zip((0, 2), layers, strict=True):
            set_linear(layer, f"{name}.fc.{index}.weight", f"{name}.fc.{index}.bias")
    set_linear(network.gru.input, "gru.weight_ih", "gru.bias_ih")
    set_linear(network.gru.state, "gru.weight_hh", "gru.bias_hh")
    states, edges = values["x"], values["edges"]
    lengths = np.zeros((len(states), len(states)), np.int64)
    lengths[edges[:, 0], edges[:, 1]] = edges[:, 2]
    assert (edges[:, 0] < edges[:, 1]).all() and (edges[:, 3] == 0).all()
    schedule = int(levels(lengths).max()) + 1, int(np.bincount(levels(lengths)).max())
    grid, grid_distances, places = on_grid(states, lengths, schedule)
    result = run(network, grid, grid_distances, schedule)[places]
    np.testing.assert_allclose(result, values["gnn_out"], rtol=0, atol=1e-5)
