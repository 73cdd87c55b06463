"""The executor of tapes against networks in their own widths, of every split and kind of block."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.spaces import DeepNets
from architectures.spaces.deepnets_text import OPTIONS
from architectures.switch import cut_slices

SPACE = DeepNets(
    input_shape=(8, 8, 2),
    classes=3,
    widths=(8, 12),
    channels=(16, 24),
    kernels=(3, 5),
    units=(14, 24),
    tokens=16,
    blocks=6,
)
# Between them: every kind of block, normalisation, activation, way down and head; grouped, dilated, narrow and wide
# convolutions; every op that the second resolution has.
TEXTS = {
    "strided": "conv5 group silu | 8 plain-k3-d2-g2 | block>12 bottle-k3 sep-k5-d2 sep-k3-d2 plain-k5 | flatten",
    "mobile": "conv3 layer gelu | 8 mb-k3-e2-se | block>12 mb-k5-e2-se next-k5-e1 | average",
    "transformer": "patch2 layer gelu | 16 pos attn-h4 mlp-e1 mix-e2 pool attn-h2 | flatten",
    "cells": "conv3 batch relu | 8 sum:skip+conv3+max+avg | "
    "max>12 dense-k3-n3-w4 cat:conv1+conv3+max sum:sep3+dil3+max | average",
    "norm-free": "conv3 none silu | 8 pre-k3 basic-k3 | avg>12 pos attn-h1 mlp-e2 dense-k3-n2-w4 | average",
    "wide": "conv3 batch relu | 16 plain-k3-d1-g1 | conv2>24 basic-k3 plain-k3-d2-g1 | average",
}


@pytest.fixture(scope="module")
def step() -> Any:
    """((loss, logits), gradients) of any network, compiled once."""
    return jax.jit(jax.value_and_grad(functools.partial(loss_of, SPACE), has_aux=True))


def loss_of(space: DeepNets, arrays: WeightArrays, code: dict[str, Array], images: Array) -> tuple[Array, Array]:
    logits, _ = space.forward(arrays, code, images, Layers())
    return jnp.sin(3 * logits).sum(), logits


def arrays_of(space: DeepNets, seed: int = 0) -> WeightArrays:
    """Every slot filled, beyond the leaves of any network too; scales around 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (0.3 * rng.normal(size=(g.slots, *g.shape)) + (g.role == "scale")).astype(np.float32)  # type: ignore[misc]
        for name, g in space.layout.items()
    }


def images_of(space: DeepNets) -> Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(3, *space.input_shape)), jnp.float32)


def test_the_networks_below_have_everything() -> None:
    networks = [SPACE.from_string(text) for text in TEXTS.values()]
    kinds = collections.Counter(
        block.kind for network in networks for stage in network.stages for block in stage.blocks
    )
    assert set(kinds) == set(OPTIONS)
    used = {int(op) for network in networks for op in np.unique(SPACE.encode(network)["op"][1])}
    assert used == set(range(len(SPACE.shape.ops[1])))


@pytest.mark.parametrize("name", TEXTS)
def test_executor_equals_the_plain_program(step: Any, name: str) -> None:
    network = SPACE.from_string(TEXTS[name])
    arrays, images = arrays_of(SPACE), images_of(SPACE)
    (_, logits), gradients = step(arrays, SPACE.encode(network), images)

    layers = Layers("canonical" if name in ("strided", "cells") else "plain")  # both forms of the same networks

    def plain(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = SPACE.forward_static(arrays, network, images, layers)
        return jnp.sin(3 * logits).sum(), logits

    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(plain, has_aux=True))(arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))
    assert float(jnp.ptp(expected, axis=0).max()) > 1e-3  # the images make a difference
    largest = max(float(jnp.abs(g).max()) for g in expected_gradients.values())
    for group, gradient in expected_gradients.items():
        scale = max(float(jnp.abs(gradient).max()), 1e-2 * largest)
        np.testing.assert_allclose(gradients[group], gradient, atol=2e-3 * scale, err_msg=group)
    assert step._cache_size() == 1


def test_what_lies_in_slots_beyond_the_leaves_is_never_read(step: Any) -> None:
    network = SPACE.from_string(TEXTS["mobile"])
    arrays, images = arrays_of(SPACE), images_of(SPACE)
    (_, logits), gradients = step(arrays, SPACE.encode(network), images)
    changed = {name: array + 1 for name, array in arrays.items()}
    for row in SPACE.graph(network).parameters:
        assert row.place is not None
        whole, before = (some[row.place.group][row.place.slot] for some in (changed, arrays))
        own = cut_slices(whole.shape, row.leaf.shape)
        whole[own] = before[own]  # type: ignore[index]
    np.testing.assert_array_equal(step(changed, SPACE.encode(network), images)[0][1], logits)
    gradients = {name: np.asarray(array) for name, array in gradients.items()}
    kept = sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(Weights(gradients, SPACE).as_pytree(network)))
    np.testing.assert_allclose(kept, sum(np.abs(array).sum() for array in gradients.values()), rtol=1e-5)
