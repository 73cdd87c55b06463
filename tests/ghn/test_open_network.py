"""An open network emits for a space what prediction on the host emits for the same graphs as models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ghn
from architectures.graph import ArchGraph
from architectures.spaces import DeepNets, NASBench201
from architectures.switch import cut
from ghn.anymodel.initialiser import NoInitialiser
from ghn.anymodel.prediction import predict_leaves

SPACE = DeepNets(
    input_shape=(8, 8, 1), classes=3, widths=(8, 8), channels=(12, 16), blocks=3, blocks_deep=4, units=(12, 20)
)
CONFIG = ghn.GHNConfig(
    network="open", width=8, message_width=4, hidden=8, tile=6, kernel_tile=7, centre=True, direct=True
)


def leaves_of(graph: ArchGraph) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(row.leaf.shape, jnp.float32) for row in graph.parameters]


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.Hypernetwork:
    """No part of it at zero."""
    fresh, rng = ghn.Hypernetwork.create(SPACE, CONFIG), np.random.default_rng(0)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32), fresh.parameters
    )
    return dataclasses.replace(fresh, parameters=moved)


@pytest.mark.parametrize("seed", range(4))
def test_equals_prediction_on_the_host(hypernetwork: ghn.Hypernetwork, seed: int) -> None:
    graph = SPACE.graph(SPACE.sample(seed))
    weights = hypernetwork(graph).arrays
    opened = ghn.OpenHypernetwork.of(hypernetwork)
    found = predict_leaves(opened, graph, leaves_of(graph), NoInitialiser(), strict=True, alive=False)
    for row, expected in zip(graph.parameters, found.arrays, strict=True):
        assert row.place is not None
        own = cut(np.asarray(weights[row.place.group][row.place.slot]), row.leaf.shape)
        np.testing.assert_allclose(own, expected, atol=2e-5, err_msg=str(row.path))


def test_kernels_have_the_size_of_an_initialiser(hypernetwork: ghn.Hypernetwork) -> None:
    graph = SPACE.graph(SPACE.sample(0))
    weights = hypernetwork(graph).arrays
    for row in graph.parameters:
        if row.leaf.role == "kernel" and np.prod(row.leaf.shape) > 200:
            assert row.place is not None
            own = cut(np.asarray(weights[row.place.group][row.place.slot]), row.leaf.shape)
            assert 0.7 < float(np.sqrt(np.mean(np.square(own)) * row.leaf.fan_in)) < 1.4


def test_every_part_learns() -> None:
    space = dataclasses.replace(SPACE, widths=(8,), channels=(12,), units=(20,))  # compiles in half the time
    hypernetwork = ghn.Hypernetwork.create(space, CONFIG)
    graphs = [hypernetwork.inputs(space.graph(space.sample(seed))) for seed in range(8)]

    @jax.jit
    def gradient(parameters: nnx.State, inputs: object) -> nnx.State:
        def total(parameters: nnx.State) -> jax.Array:
            return sum(
                jnp.sum(jnp.sin(9 * leaf)) for leaf in nnx.merge(hypernetwork.definition, parameters)(inputs).values()
            )

        return jax.grad(total)(parameters)

    sums: dict[tuple[object, ...], float] = {}
    for inputs in graphs:
        for key, leaf in nnx.to_flat_state(gradient(hypernetwork.parameters, inputs)):
            assert jnp.isfinite(leaf.get_value()).all()
            sums[key] = sums.get(key, 0.0) + float(jnp.abs(leaf.get_value()).max())
    still = {key for key, size in sums.items() if size == 0}
    assert still <= {("base", "conv_transpose")}, still


def test_kernels_pass_on_what_they_are_told_to() -> None:
    """With nothing but that, the first of two equally wide layers is the identity."""
    graph = SPACE.graph(SPACE.from_string("conv3 batch relu | 8 plain | conv3>8 plain | average"))
    fresh = ghn.Hypernetwork.create(SPACE, CONFIG)
    flat = {
        key: leaf.replace(jnp.full_like(leaf.get_value(), 1e4)) if key == ("direct", "bias") else leaf
        for key, leaf in nnx.to_flat_state(fresh.parameters)
    }
    weights = dataclasses.replace(fresh, parameters=nnx.from_flat_state(flat))(graph).arrays
    row = next(row for row in graph.parameters if row.leaf.shape == (3, 3, 8, 8))
    assert row.place is not None
    kernel = cut(np.asarray(weights[row.place.group][row.place.slot]), row.leaf.shape)
    np.testing.assert_allclose(kernel[1, 1], np.eye(8), atol=1e-3)
    np.testing.assert_allclose(np.delete(kernel.reshape(9, 8, 8), 4, 0), 0, atol=1e-3)


def test_other_networks_pass_nothing_on() -> None:
    with pytest.raises(ValueError, match=r"GHNConfig.direct=True: network='graph' has no such part"):
        ghn.GHNConfig(direct=True)


def test_a_space_of_other_ops_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network='open': op .* of the space nasbench201 is not in the vocabulary"):
        ghn.Hypernetwork.create(NASBench201(channels=2, cells=1, input_shape=(6, 6, 1), classes=3), CONFIG)
