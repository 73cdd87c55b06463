"""Decoders of low rank: their formula, any shape, no copies."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from architectures.spaces import NASBench201
from architectures.switch import cut
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.decoder import copy_signs
from ghn.factors import FREQUENCIES, CoordinateDecoder, CoordinateVectorDecoder, LowRankDecoder, _features

WIDTH, HIDDEN, TILE, KERNEL, RANK = 6, 8, 5, 3, 2
STATES = jnp.asarray(np.random.default_rng(0).normal(size=(2, WIDTH)), jnp.float32)
DECODERS = {
    "lowrank": LowRankDecoder(WIDTH, HIDDEN, TILE, KERNEL, RANK, rngs=nnx.Rngs(0)),
    "coordinate": CoordinateDecoder(WIDTH, HIDDEN, RANK, rngs=nnx.Rngs(1)),
}


def leaky(x: Any) -> Any:
    return np.where(x > 0, x, 0.01 * x)


def linear(layer: Any, x: Any) -> Any:
    bias = 0.0 if layer.bias is None else np.asarray(layer.bias.get_value(), np.float64)
    return x @ np.asarray(layer.kernel.get_value(), np.float64) + bias


def features(index: int) -> Any:
    angles = [np.pi * index / 2**power for power in range(FREQUENCIES)]
    return np.array([*np.cos(angles), *np.sin(angles)])


def hidden_at(network: Any, state: Any, *indices: int) -> Any:
    first = linear(network.state, state) + linear(network.place, np.concatenate([features(i) for i in indices]))
    return leaky(linear(network.mix, leaky(first)))


def test_lowrank_is_its_formula() -> None:
    decoder = DECODERS["lowrank"]
    assert isinstance(decoder, LowRankDecoder)
    shape = (1, 3, 4, 7)  # more outputs than the tile has
    left, right = (np.asarray(part.get_value(), np.float64) for part in (decoder.left, decoder.right))
    signs = copy_signs(shape, TILE)
    for state, found in zip(np.asarray(STATES, np.float64), decoder(STATES, shape), strict=True):
        hidden = leaky(linear(decoder.hidden, state))
        for _, b, i, o in np.ndindex(shape):
            factors = hidden @ left[:, 1, b, i].reshape(HIDDEN, RANK), hidden @ right[:, o % TILE]
            np.testing.assert_allclose(found[0, b, i, o], signs[0, b, i, o] * factors[0] @ factors[1], rtol=1e-4)


def test_coordinate_is_its_formula() -> None:
    decoder = DECODERS["coordinate"]
    assert isinstance(decoder, CoordinateDecoder)
    shape = (3, 2, 4, 5)
    for state, found in zip(np.asarray(STATES, np.float64), decoder(STATES, shape), strict=True):
        for a, b, i, o in np.ndindex(shape):
            left = linear(decoder.left_out, hidden_at(decoder.left, state, a - 1, b - 1, i))
            right = linear(decoder.right_out, hidden_at(decoder.right, state, o))
            np.testing.assert_allclose(found[a, b, i, o], left @ right, rtol=1e-3, atol=1e-5)


def test_vectors_are_read_off_their_indices() -> None:
    decoder = CoordinateVectorDecoder(WIDTH, HIDDEN, rngs=nnx.Rngs(2))
    for state, found in zip(np.asarray(STATES, np.float64), decoder(STATES, (9,)), strict=True):
        expected = [linear(decoder.output, hidden_at(decoder.network, state, o))[0] for o in range(9)]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("small", [(1, 1, 4, 5), (3, 3, 2, 3), (3, 1, 3, 1)], ids=str)
def test_a_smaller_kernel_is_a_part_of_a_larger_one(name: str, small: tuple[int, ...]) -> None:
    expected = [cut(slot, small) for slot in DECODERS[name](STATES, (3, 3, 9, 12))]
    np.testing.assert_allclose(DECODERS[name](STATES, small), np.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_the_rank_is_bounded_and_heads_are_kernels_of_one_position(name: str) -> None:
    kernel = np.asarray(DECODERS[name](STATES, (3, 3, TILE, TILE)))
    assert all(np.linalg.matrix_rank(slot.reshape(-1, TILE), tol=1e-4) == RANK for slot in kernel)
    head = DECODERS[name](STATES, (4, 3))
    np.testing.assert_allclose(head, DECODERS[name](STATES, (1, 1, 4, 3))[:, 0, 0], rtol=1e-6)


def test_coordinates_repeat_after_as_many_as_the_frequencies_tell_apart() -> None:
    period = 2**FREQUENCIES
    assert period == 4096  # as the decoder's description says
    np.testing.assert_allclose(_features((0, 5)), _features((period, period + 5)), atol=1e-9)
    assert len(np.unique(_features(tuple(range(period))).round(4), axis=0)) == period


def test_coordinates_make_no_copies_within_the_period() -> None:
    rows = np.asarray(DECODERS["coordinate"](STATES, (1, 1, 3, 700)))[0, 0, 0].T
    assert len(np.unique(np.round(rows, 6), axis=0)) == 700


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_hypernetwork_of_it_emits_weights_that_every_parameter_changes(decoder: str) -> None:
    space = NASBench201(channels=4, stages=2, input_shape=(6, 6, 1), classes=3)
    config = GHNConfig(width=8, message_width=4, hidden=8, tile=4, decoder=decoder, rank=3)  # type: ignore[arg-type]
    hypernetwork = Hypernetwork.create(space, config)
    graph = space.graph(
        space.from_string("|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|")
    )
    weights = hypernetwork(graph)
    assert all(np.isfinite(np.asarray(array)).all() for array in weights.arrays.values())
    inputs = hypernetwork.inputs(graph)

    def size(parameters: Any) -> Any:
        arrays = nnx.merge(hypernetwork.definition, parameters)(inputs)
        return sum(
            jnp.square(array + 0.1 * jnp.cos(jnp.arange(array.size)).reshape(array.shape)).sum()
            for array in arrays.values()
        )

    gradients = nnx.to_flat_state(jax.jit(jax.grad(size))(hypernetwork.parameters))
    decoders = {"kernel", "head_kernel", "scale", "bias", "head_bias"}
    own = {key: leaf for key, leaf in gradients if key[0] in decoders}
    assert {key[0] for key in own} >= {"kernel", "head_kernel", "scale"}
    assert all(np.abs(np.asarray(leaf.get_value())).max() > 0 for leaf in own.values())
