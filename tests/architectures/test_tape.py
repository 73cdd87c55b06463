"""The executor of tapes against networks in their own widths, of every split and kind of block."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures import tape_plain
from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.spaces import DeepNets
from architectures.spaces.deepnets_text import OPTIONS

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
# Between them: every kind of block, normalisation, activation, way down, stem and head; grouped, dilated, narrow and
# wide convolutions.
TEXTS = {
    "residual": "conv3 batch relu | 8 basic-k3 bottle-k3-g1 | block>12 basic-k5 pre-k3 | average",
    "strided": "conv5 group silu | 8 plain-k3-d2-g2 | block>12 bottle-k3-g1 sep-k5-d1 sep-k3-d2 | flatten",
    "mobile": "conv3 layer gelu | 8 mb-k3-e2-se | block>12 mb-k5-e2-se mb-k3-e1 next-k5-e1 | average",
    "transformer": "patch2 layer gelu | 16 pos attn-h4 mlp-e1 mix-e2 pool attn-h2 | flatten",
    "cells": "conv3 batch relu | 8 sum:skip+conv3+max+avg | "
    "conv2>12 dense-k3-n3-w4 cat:conv1+conv3+max sum:sep5+dil3 | average",
    "norm-free": "conv3 none silu | 8 pre-k3 cat:conv5+avg+sep3 | avg>12 pos attn-h1 mlp-e2 dense-k3-n2-w4 | average",
    "wide": "conv3 batch relu | 16 plain-k3-d1-g1 | max>24 basic-k3 plain-k3-d2-g1 | average",
    "halved": "half3 group relu | 12 basic-k3 sum:conv1+skip | average",
    "carried": "conv3 batch none | 8 plain-k3-d1-g1 | conv3>12 mb-k3-e2 | average",
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
        name: jnp.asarray(0.3 * rng.normal(size=(g.slots, *g.shape)) + (g.role == "scale"), jnp.float32)
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

    def plain(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = SPACE.forward_static(arrays, network, images, Layers("plain"))
        return jnp.sin(3 * logits).sum(), logits

    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(plain, has_aux=True))(arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))
    assert float(jnp.ptp(expected, axis=0).max()) > 1e-3  # the images make a difference
    largest = max(float(jnp.abs(g).max()) for g in expected_gradients.values())
    for group, gradient in expected_gradients.items():
        scale = max(float(jnp.abs(gradient).max()), 1e-2 * largest)
        np.testing.assert_allclose(gradients[group], gradient, atol=1e-3 * scale, err_msg=group)
    assert step._cache_size() == 1


def test_canonical_and_plain_layers_agree_on_a_network_by_itself() -> None:
    network = SPACE.from_string(TEXTS["cells"])
    arrays, images = arrays_of(SPACE), images_of(SPACE)
    tree = Weights(arrays, SPACE).as_pytree(network)
    both = [tape_plain.forward(SPACE.tape(network), tree, images, Layers(form)) for form in ("plain", "canonical")]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-4, atol=1e-4)


def test_what_lies_in_slots_beyond_the_leaves_is_never_read(step: Any) -> None:
    network = SPACE.from_string(TEXTS["mobile"])
    arrays, images = arrays_of(SPACE), images_of(SPACE)
    own = {row.place.group: [] for row in SPACE.graph(network).parameters if row.place is not None}
    (_, logits), gradients = step(arrays, SPACE.encode(network), images)
    changed = {name: array + (0 if name in own else 1) for name, array in arrays.items()}
    np.testing.assert_array_equal(step(changed, SPACE.encode(network), images)[0][1], logits)
    kept = Weights(gradients, SPACE).as_pytree(network)
    total = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(kept))
    np.testing.assert_allclose(total, sum(float(jnp.abs(g).sum()) for g in gradients.values()), rtol=1e-5)
