"""The host's arithmetic is the module's, and emission is the plain sum that it says it is."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ghn
from architectures.graph import MAX_DISTANCE, ArchGraph, GraphBuilder, Parameter
from architectures.ops import Leaf
from ghn.anymodel.emission import write_matrix
from ghn.anymodel.files import save_open
from ghn.anymodel.host import ancestor_distances
from ghn.anymodel.hypernetwork import node_inputs
from ghn.checkpoint import CheckpointError
from ghn.features import OPEN_BOUNDS
from ghn.noise import BANK, bank_offset, block_signs, copied_columns, node_colours, noise_bank
from ghn.open_network import OpenGHN

CONFIG = ghn.GHNConfig(network="open", width=8, message_width=4, hidden=8, tile=4, kernel_tile=3)


def branches(depth: int = 4) -> ArchGraph:
    """Residual branches and a head."""
    builder = GraphBuilder()
    x = builder.node("input", [], channels_in=3, channels_out=3, size=8)
    for _ in range(depth):
        y = builder.node("conv", [x], channels_in=3, channels_out=5, kernel=3, size=8)
        x = builder.node("sum", [x, builder.node("relu", [y], channels_in=5, channels_out=5, size=8)], size=8)
    builder.node("dense", [x], channels_in=5, channels_out=7)
    return builder.build()


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.OpenHypernetwork:
    return ghn.OpenHypernetwork.create(CONFIG, seed=3)


def test_distances_are_those_of_the_graph() -> None:
    graph = branches(30)
    rows = ancestor_distances(graph.nodes, graph.edges)
    for target, row in enumerate(rows):
        expected = graph.distances[:target, target]
        np.testing.assert_array_equal(np.where(row <= MAX_DISTANCE, row, 0), expected)


def test_states_are_the_modules(hypernetwork: ghn.OpenHypernetwork) -> None:
    graph = branches()
    states, unknown = hypernetwork.states(graph)
    assert not unknown
    op_N, features_NF, _ = node_inputs(graph, hypernetwork.vocabulary, OPEN_BOUNDS)
    abstract = nnx.eval_shape(lambda: OpenGHN(CONFIG, hypernetwork.vocabulary, rngs=nnx.Rngs(0)))
    module = nnx.merge(nnx.split(abstract, nnx.Param)[0], hypernetwork.parameters)

    expected = jax.jit(lambda: module.states(op_N, features_NF, graph.distances, (graph.nodes, 1)))()
    np.testing.assert_allclose(states, expected, atol=2e-5)
    tile = hypernetwork.host.kernel_tile("conv", states[1], 3, 3)
    decoded = module.kernel(jnp.asarray(states[1:2]), (3, 3, 4, 4))[0] + module.base["conv"].get_value()
    np.testing.assert_allclose(tile, decoded, atol=2e-5)
    small = hypernetwork.host.kernel_tile("dense", states[1], 1, 1)
    decoded = module.kernel(jnp.asarray(states[1:2]), (1, 1, 4, 4))[0] + module.base["dense"].get_value()
    np.testing.assert_allclose(small, decoded, atol=2e-5)
    table = module.embedding(jnp.asarray(states[1:2]), (4, 4))[0] + module.base["embedding"].get_value()[0, 0]
    np.testing.assert_allclose(hypernetwork.host.embedding_tile(states[1]), table, atol=2e-5)
    bias = module.bias(jnp.asarray(states[1:2]), (4,))[0]
    np.testing.assert_allclose(hypernetwork.host.vector("bias", states[1]), bias, atol=2e-5)


@pytest.mark.parametrize("propagation", ["transformer", "none"])
def test_states_by_other_propagations_are_the_modules(propagation: Any) -> None:
    config = dataclasses.replace(CONFIG, propagation=propagation, layers=2, heads=2, centre=True)
    fresh, graph = ghn.OpenHypernetwork.create(config), branches(30)
    rng = np.random.default_rng(0)  # not the biases of 0 and gains of 1 that layers start with
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), fresh.parameters)
    hypernetwork = dataclasses.replace(fresh, parameters=moved)
    op_N, features_NF, _ = node_inputs(graph, hypernetwork.vocabulary, OPEN_BOUNDS)
    abstract = nnx.eval_shape(lambda: OpenGHN(config, hypernetwork.vocabulary, rngs=nnx.Rngs(0)))
    module = nnx.merge(nnx.split(abstract, nnx.Param)[0], hypernetwork.parameters)
    expected = jax.jit(lambda: module.states(op_N, features_NF, graph.distances, (graph.nodes, 1)))()
    np.testing.assert_allclose(hypernetwork.states(graph)[0], expected, atol=1e-4)


@pytest.mark.parametrize("field", [{"propagation": "rnn"}, {"decoder": "chunks"}, {"delta": False}])
def test_parts_that_open_hypernetworks_lack_are_refused(field: dict[str, Any]) -> None:
    name, value = next(iter(field.items()))
    with pytest.raises(ValueError, match=rf"GHNConfig.{name}={value!r}: an open hypernetwork has .* only"):
        ghn.OpenHypernetwork.create(dataclasses.replace(CONFIG, **field))


@pytest.mark.parametrize(
    ("leaf", "copies", "shape", "axes", "dtype"),
    [
        ((1, 1, 3, 2), 1, (3, 2), None, np.float32),
        ((3, 3, 5, 9), 1, (3, 3, 5, 9), None, np.float32),
        ((3, 2, 5, 9), 1, (9, 5, 3, 2), (3, 2, 0, 1), np.float32),
        ((1, 1, 6, 10), 1, (2, 3, 10), None, jnp.bfloat16),
        ((1, 1, 6, 10), 1, (10, 2, 3), (2, 0, 1), np.float32),
        ((1, 1, 300, 700), 2, (2, 300, 700), None, np.float32),
    ],
)
def test_a_leaf_is_noise_and_a_tile_and_what_is_passed_on(
    leaf: Any, copies: int, shape: Any, axes: Any, dtype: Any
) -> None:
    row = Parameter(("w",), 0, Leaf("kernel", leaf), None, axes, shape, "float32", (), copies)
    tile = np.random.default_rng(0).normal(size=(min(leaf[0], 3), min(leaf[1], 3), 4, 4)).astype(np.float32)
    out = np.empty(shape, dtype)
    start = BANK - 1000  # reads beyond the end of the bank start again
    write_matrix(out, row, tile, 0.5, 0.3, 2.0, start)
    kh, kw, inputs, outputs = leaf
    size = copies * kh * kw * inputs * outputs
    noise = noise_bank()[(start + np.arange(size)) % BANK].reshape(copies, kh, kw, inputs, outputs)
    i, o = np.meshgrid(np.arange(inputs), np.arange(outputs), indexing="ij")
    repeated = tile[:, :, i % 4, copied_columns(4, outputs)[o]] * block_signs()[i // 4, o // 4]
    canonical = 2.0 * (0.5 * noise + repeated)
    passed = o % inputs == i if outputs >= inputs else i % outputs == o
    canonical[:, kh // 2, kw // 2] += 2.0 * 0.3 * math.sqrt(kh * kw * inputs * min(1, outputs / inputs)) * passed
    ordered = [(n, m) for n, m in enumerate(shape)] if axes is None else None
    if ordered is not None:
        expected = canonical.reshape(shape)
    else:
        expected = canonical.reshape([shape[a] for a in np.argsort(axes)]).transpose(axes)
    np.testing.assert_allclose(out.astype(np.float32), expected, rtol=1e-2 if dtype != np.float32 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("widths", [(64, 128, 64), (64, 256, 64), (32, 128, 32), (64, 128, 10), (128, 256, 128)])
def test_copies_of_a_tile_neither_cancel_nor_add_up_in_the_next_kernel(widths: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    kernels = []
    for shape in itertools.pairwise(widths):
        tile = rng.normal(size=(1, 1, 64, 64)).astype(np.float32)
        row = Parameter(("w",), 0, Leaf("kernel", (1, 1, *shape)), None, None, shape, "float32")
        kernels.append(np.empty(shape, np.float32))
        write_matrix(kernels[-1], row, tile, noise=0, direct=0, scale=1, offset=0)
    one, other = kernels
    independent = np.linalg.norm(one) * np.linalg.norm(other) / widths[1] ** 0.5
    assert 0.7 < np.linalg.norm(one @ other) / independent < 1.4


def test_no_two_rows_or_columns_of_a_wide_layer_are_equal(hypernetwork: ghn.OpenHypernetwork) -> None:
    params = {"w": jax.ShapeDtypeStruct((1300, 900), jnp.float32)}  # more than the bank holds, and many tiles
    result = ghn.predict_params(lambda p, x: x @ p["w"], params, jnp.ones((1, 1300)), hypernetwork=hypernetwork)
    weights = np.asarray(result.params["w"])
    assert len(np.unique(weights, axis=0)) == 1300 and len(np.unique(weights.T, axis=0)) == 900
    assert 0.97 < weights.std() * 1300**0.5 < 1.03
    # Its largest singular value is of the order of independent entries' (a block repeated without signs has 30).
    assert np.linalg.norm(weights, 2) < 2 * (1 + (900 / 1300) ** 0.5)


def test_colours_do_not_depend_on_the_order_of_nodes() -> None:
    def built(first: str, second: str) -> dict[str, bytes]:
        builder = GraphBuilder()
        x = builder.node("input", [], channels_out=3)
        nodes = {name: builder.node("conv", [x], kernel=float(name[1])) for name in (first, second)}
        end = builder.node("sum", [nodes[first], nodes[second]])
        colours = node_colours(builder.build())
        return {name: colours[node] for name, node in {**nodes, "end": end}.items()}

    assert built("k3", "k5") == built("k5", "k3")
    colours = node_colours(branches())
    assert len(set(colours)) == len(colours)
    assert len({bank_offset(c, role, n) for c in colours for role in ("kernel", "bias") for n in (0, 1)}) == 4 * len(
        colours
    )


def test_files_come_back(hypernetwork: ghn.OpenHypernetwork, tmp_path: Path) -> None:
    save_open(hypernetwork, tmp_path / "open.safetensors")
    loaded = ghn.load(tmp_path / "open.safetensors")
    graph = branches()
    np.testing.assert_array_equal(loaded.states(graph)[0], hypernetwork.states(graph)[0])
    assert (loaded.vocabulary, loaded.bounds, loaded.config) == (hypernetwork.vocabulary, OPEN_BOUNDS, CONFIG)
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "open.safetensors").read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        ghn.load(tmp_path / "damaged.safetensors")
