"""What generated weights are: right in size before and after training, and dependent on the graph as configured."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import spearmanr

from architectures.layout import occupancy
from architectures.spaces import Cell, NASBench201
from architectures.switch import cut
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import PADDING_OP, constant_norm

CONV, SMALL = "nor_conv_3x3", "nor_conv_1x1"
CELL = Cell((CONV, SMALL, "avg_pool_3x3", CONV, "skip_connect", SMALL))


@pytest.fixture(scope="module")
def architectures(space: NASBench201) -> list[Cell]:
    """Thirty connected cells of distinct classes."""
    found: dict[str, Cell] = {}
    rng = np.random.default_rng(5)
    while len(found) < 30:
        cell = space.sample(rng)
        if space.connected(cell):
            found.setdefault(space.canonical(cell), cell)
    return list(found.values())


@pytest.fixture(params=["fresh", "trained"])
def hypernetwork(request: pytest.FixtureRequest) -> Hypernetwork:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def local(space: NASBench201, config: GHNConfig) -> Hypernetwork:
    return Hypernetwork.create(space, dataclasses.replace(config, propagation="none"), seed=0)


@pytest.fixture(scope="module")
def supernet(space: NASBench201, config: GHNConfig) -> Hypernetwork:
    return Hypernetwork.create(space, dataclasses.replace(config, delta=False), seed=0)


@pytest.fixture(scope="module")
def bare(space: NASBench201, config: GHNConfig) -> Hypernetwork:
    return Hypernetwork.create(space, dataclasses.replace(config, residual=False), seed=0)


def leaves(hypernetwork: Hypernetwork, architectures: list[Cell]) -> list[dict[tuple[str, ...], Any]]:
    """For every architecture: path -> leaf."""
    space = hypernetwork.space
    graphs = [space.graph(cell) for cell in architectures]
    arrays = jax.tree.map(np.asarray, hypernetwork.generate_many(graphs))
    result = []
    for index, graph in enumerate(graphs):
        rows = [(row, row.place) for row in graph.parameters if row.place is not None]
        result.append({row.path: cut(arrays[p.group][index, p.slot], row.leaf.shape) for row, p in rows})
    return result


def kernel_sizes(hypernetwork: Hypernetwork, architectures: list[Cell]) -> list[list[float]]:
    """For every architecture, rms * sqrt(fan_in / 2) of each of its kernels."""
    result = []
    for cell, found in zip(architectures, leaves(hypernetwork, architectures), strict=True):
        kernels = [row for row in hypernetwork.space.graph(cell).parameters if row.leaf.role == "kernel"]
        result.append([float(np.sqrt(np.mean(found[k.path] ** 2) * k.leaf.fan_in / 2)) for k in kernels])
    return result


def test_kernels_have_the_size_of_an_ordinary_initialiser(
    hypernetwork: Hypernetwork, architectures: list[Cell]
) -> None:
    sizes = np.concatenate(kernel_sizes(hypernetwork, architectures))
    assert len(sizes) > 90
    assert sizes.min() > 0.5 and sizes.max() < 2
    assert 0.8 < np.median(sizes) < 1.25


def test_the_size_of_kernels_does_not_follow_the_size_of_graphs(
    hypernetwork: Hypernetwork, architectures: list[Cell]
) -> None:
    sizes = kernel_sizes(hypernetwork, architectures)
    nodes = [hypernetwork.space.graph(cell).nodes for cell in architectures]
    assert max(nodes) - min(nodes) >= 3
    pairs = np.array([(count, size) for count, own in zip(nodes, sizes, strict=True) for size in own])
    assert abs(spearmanr(pairs[:, 0], pairs[:, 1]).statistic) < 0.3  # over all kernels
    means = np.array([np.mean(own) for own in sizes])
    assert abs(spearmanr(nodes, means).statistic) < 0.5  # over architectures


@pytest.mark.parametrize("centre", [False, True])
def test_weights_are_base_plus_scaled_delta(fresh: Hypernetwork, centre: bool) -> None:
    """The formula, leaf by leaf, from the states of their nodes."""
    space = fresh.space
    fresh = Hypernetwork.create(space, dataclasses.replace(fresh.config, centre=centre))
    graph, module = space.graph(CELL), nnx.merge(fresh.definition, fresh.parameters)
    inputs = fresh.inputs(graph)
    states = jax.jit(module.node_states)(inputs)
    if centre:
        states = states - states[inputs.op_N != PADDING_OP].mean(0)
    states = constant_norm(states)
    weights = fresh(graph)
    filled = occupancy(space.layout, graph)
    assert sum(int(group.used.sum()) for group in filled.values()) == len(graph.parameters)
    for row in graph.parameters:
        assert row.place is not None
        group = space.layout[row.place.group]
        place = int(inputs.owner[group.name][row.place.slot])
        delta = getattr(module, group.role)(states[place : place + 1], group.shape)[0]
        base = module.base[group.name.replace("/", ".")].get_value()[row.place.slot, row.place.variant]
        scale = {"kernel": np.sqrt(2 / row.leaf.fan_in), "head_kernel": np.sqrt(1 / row.leaf.fan_in)}.get(group.role, 1)
        unit = cut(base / scale + delta, row.leaf.shape)
        if group.role == "kernel":
            unit = unit / np.sqrt(np.mean(np.square(unit)))
        found = cut(weights.arrays[group.name][row.place.slot], row.leaf.shape)
        np.testing.assert_allclose(found, scale * unit, atol=1e-5, err_msg=str(row.path))


def test_distinct_graphs_get_distinct_deltas(hypernetwork: Hypernetwork, architectures: list[Cell]) -> None:
    """Of all leaves that all architectures have."""
    module = nnx.merge(hypernetwork.definition, hypernetwork.parameters)
    fixed = [name for name in hypernetwork.space.layout if not name.startswith("stage")]
    decode = jax.jit(lambda inputs: module.deltas(inputs, module.node_states(inputs)))
    rows = []
    for architecture in architectures:
        deltas = decode(hypernetwork.inputs(hypernetwork.space.graph(architecture)))
        rows.append(np.concatenate([np.ravel(deltas[name]) for name in fixed]))
    distances = np.linalg.norm(np.stack(rows)[:, None] - np.stack(rows)[None], axis=-1) / np.linalg.norm(rows[0])
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 1e-4 and np.median(distances) > 3e-3, (distances.min(), np.median(distances))


def test_centred_states_move_weights_by_a_good_share(fresh: Hypernetwork, architectures: list[Cell]) -> None:
    """Of a leaf that all architectures have; not so where states are decoded as message passing leaves them."""

    def share(config: GHNConfig) -> float:
        own = Hypernetwork.create(fresh.space, config)
        module = nnx.merge(own.definition, own.parameters)
        decode = jax.jit(lambda inputs: module.deltas(inputs, module.node_states(inputs))["norm/scale"])
        deltas = np.stack([decode(own.inputs(own.space.graph(cell))) for cell in architectures])
        return float(deltas.std(0).mean() / np.sqrt(np.mean(np.square(deltas))))

    centred = share(dataclasses.replace(fresh.config, centre=True))
    assert centred > 0.2
    assert centred > 2 * share(fresh.config)


def test_repeated_calls_give_equal_weights(fresh: Hypernetwork) -> None:
    first, second = (fresh(fresh.space.graph(CELL)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.arrays, second.arrays)


def other(cell: Cell, edge: int, op: str) -> Cell:
    return Cell((*cell.edges[:edge], op, *cell.edges[edge + 1 :]))


def test_without_delta_a_leaf_depends_on_its_own_op_alone(supernet: Hypernetwork, architectures: list[Cell]) -> None:
    known: dict[tuple[str, ...], Any] = {}
    seen = 0
    for own in leaves(supernet, architectures):
        for path, leaf in own.items():
            seen += path in known
            np.testing.assert_array_equal(known.setdefault(path, leaf), leaf, err_msg=str(path))
    assert seen > 300
    large, small = leaves(supernet, [CELL, other(CELL, 0, SMALL)])
    edge = ("stage0", "cell0", "edge_0_1")
    middle = large[(*edge, CONV, "kernel")][1:2, 1:2]
    assert np.abs(middle - small[(*edge, SMALL, "kernel")]).max() > 0.1  # each op has a base of its own
    assert {path[0] for path, _ in nnx.to_flat_state(supernet.parameters)} == {"base"}


def changed(hypernetwork: Hypernetwork, before: Cell, after: Cell) -> set[tuple[str, ...]]:
    """Paths of the leaves that both have and that differ."""
    first, second = leaves(hypernetwork, [before, after])
    return {path for path in first.keys() & second.keys() if np.abs(first[path] - second[path]).max() > 1e-6}


@pytest.mark.parametrize("edge", [1, 5])
def test_without_propagation_other_nodes_do_not_matter(local: Hypernetwork, edge: int) -> None:
    swapped = other(CELL, edge, CONV)
    assert swapped != CELL
    assert not changed(local, CELL, swapped)


@pytest.mark.parametrize("edge", [1, 5])
def test_with_propagation_every_node_hears_of_every_other(fresh: Hypernetwork, edge: int) -> None:
    swapped = other(CELL, edge, CONV)
    common = {row.path for row in fresh.space.graph(CELL).parameters} & {
        row.path for row in fresh.space.graph(swapped).parameters
    }
    before_and_after = changed(fresh, CELL, swapped)
    assert {("stem", "kernel"), ("classifier", "kernel")} <= before_and_after
    assert len(before_and_after) > 0.9 * len(common)


def test_without_residual_weights_are_deltas_alone(bare: Hypernetwork, architectures: list[Cell]) -> None:
    assert not any("base" in str(path) for path, _ in nnx.to_flat_state(bare.parameters))
    sizes = np.concatenate(kernel_sizes(bare, architectures))
    assert sizes.min() > 0.1 and sizes.max() < 3
    own = leaves(bare, [CELL])[0]
    assert all(np.abs(leaf - 1).max() < 0.5 for path, leaf in own.items() if path[-1] == "scale")
    assert all(np.abs(leaf).max() < 0.5 for path, leaf in own.items() if path[-1] == "bias")


def test_generate_many_equals_one_by_one(fresh: Hypernetwork, architectures: list[Cell]) -> None:
    graphs = [fresh.space.graph(cell) for cell in architectures]
    many = fresh.generate_many(graphs)
    for index in (0, 7, 29):
        for name, array in fresh(graphs[index]).arrays.items():
            np.testing.assert_allclose(many[name][index], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_as_pytree_holds_the_generated_leaves(fresh: Hypernetwork) -> None:
    tree = fresh(fresh.space.graph(CELL)).as_pytree(CELL)
    flat = {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    expected = leaves(fresh, [CELL])[0]
    assert flat.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(flat[path], leaf, rtol=1e-5, atol=1e-6, err_msg=str(path))


def test_seeds_and_parameter_count(fresh: Hypernetwork, space: NASBench201, config: GHNConfig) -> None:
    same, different = (Hypernetwork.create(space, config, seed=seed) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, same.parameters, fresh.parameters)
    pairs = zip(jax.tree.leaves(different.parameters), jax.tree.leaves(fresh.parameters), strict=True)
    assert any(np.abs(a - b).max() > 0.1 for a, b in pairs)
    expected = sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(fresh.parameters))
    assert fresh.parameter_count == expected > 1000


@pytest.mark.parametrize(
    ("field", "value", "mend"),
    [
        ("width", 0, "at least 1"),
        ("message_width", 0, "at least 1"),
        ("hidden", -1, "at least 1"),
        ("tile", 0, "at least 1"),
        ("kernel_tile", 0, "at least 1"),
        ("layers", 0, "at least 1"),
        ("heads", 0, "at least 1"),
        ("propagation", "attention", "gatedgnn, transformer, rnn, none"),
        ("encoding", "fourier", "mip, raw, ghn2"),
        ("decoder", "conv", "tile, chunks, lowrank, coordinate, ghn2, ghn3"),
        ("scaling", "ghn3", "initialiser, ghn2"),
        ("delta_scale", 0.0, "positive"),
        ("delta_scale", float("nan"), "positive"),
    ],
)
def test_config_errors_name_the_field(field: str, value: Any, mend: str) -> None:
    with pytest.raises(ValueError, match=rf"GHNConfig\.{field}=.*{value}.*{mend}"):
        GHNConfig(**{field: value})


def test_config_without_base_and_delta_is_refused() -> None:
    with pytest.raises(ValueError, match="delta=False with residual=False"):
        GHNConfig(delta=False, residual=False)


@pytest.mark.parametrize(
    ("fields", "mend"),
    [
        ({"propagation": "transformer", "heads": 5}, r"heads=5: must divide width=32"),
        ({"encoding": "ghn2", "width": 30}, r"width=30: .*multiple of 4"),
        ({"scaling": "ghn2"}, r"scaling='ghn2': .*residual=False"),
        ({"noise": 2, "delta": False}, r"noise=2: with delta=False .*noise=0"),
        (
            {"network": "open", "encoding": "ghn2"},
            r"encoding='ghn2': an open hypernetwork has 'mip' or 'raw' only; use that",
        ),
        ({"network": "open", "noise": 2}, r"noise=2: an open hypernetwork has 0 only; use that"),
        ({"network": "open", "decoder": "chunks"}, r"decoder='chunks': an open hypernetwork has 'tile' only; use that"),
        ({"network": "open", "residual": False}, r"residual=False: an open hypernetwork has True only; use that"),
        ({"network": "open", "residual": False, "scaling": "ghn2"}, r"scaling='ghn2': an open hypernetwork has"),
        ({"network": "open", "layer_norm": True}, r"layer_norm=True: an open hypernetwork has False only; use that"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_whose_fields_do_not_go_together_are_refused(fields: dict[str, Any], mend: str) -> None:
    with pytest.raises(ValueError, match=r"GHNConfig\." + mend):
        GHNConfig(**fields)


def test_embeddings_are_means_of_node_states(fresh: Hypernetwork, architectures: list[Cell]) -> None:
    graphs = [fresh.space.graph(cell) for cell in architectures[:3]]
    embeddings = np.asarray(fresh.embed(graphs))
    module = nnx.merge(fresh.definition, fresh.parameters)
    for embedding, graph in zip(embeddings, graphs, strict=True):
        inputs = fresh.inputs(graph)
        states = np.asarray(module.node_states(inputs))[inputs.op_N != 0]
        assert len(states) == graph.nodes
        np.testing.assert_allclose(embedding, states.mean(0), rtol=1e-4, atol=1e-6)


def test_a_supernet_has_no_embedding(supernet: Hypernetwork) -> None:
    with pytest.raises(ValueError, match="only a graph hypernetwork"):
        supernet.embed([supernet.space.graph(CELL)])
