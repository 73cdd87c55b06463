"""Decoders: any shape from one tile, without identical channels, whatever the norm of the states."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from architectures.spaces import NASBench201
from architectures.switch import cut
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.decoder import HeadDecoder, KernelDecoder, VectorDecoder
from ghn.features import graph_inputs
from ghn.hypernetwork import GHN, vocabulary_ids

WIDTH, HIDDEN, TILE, KERNEL = 8, 8, 8, 3


@pytest.fixture(scope="module")
def kernel() -> KernelDecoder:
    return KernelDecoder(WIDTH, HIDDEN, TILE, KERNEL, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def head() -> HeadDecoder:
    return HeadDecoder(WIDTH, HIDDEN, TILE, rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def vector() -> VectorDecoder:
    return VectorDecoder(WIDTH, HIDDEN, TILE, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def states() -> Any:
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, WIDTH)), jnp.float32)


def rows_of(kernel: Any) -> Any:
    """[output channels, everything that leads to one]."""
    return np.moveaxis(np.asarray(kernel), -1, 0).reshape(kernel.shape[-1], -1)


def distinct(rows: Any) -> int:
    return len(np.unique(np.round(rows, 6), axis=0))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (3, 3, 8, 8), (3, 3, 2, 5), (2, 3, 4, 4), (3, 3, 9, 8), (1, 1, 20, 30), (5, 5, 3, 17)],
    ids=str,
)
def test_kernels_have_the_shape_asked_for(kernel: KernelDecoder, states: Any, shape: tuple[int, ...]) -> None:
    decoded = np.asarray(kernel(states, shape))
    assert decoded.shape == (3, *shape)
    assert np.isfinite(decoded).all() and (np.abs(decoded).max((1, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 3), (20, 3), (5, 30)], ids=str)
def test_heads_have_the_shape_asked_for(head: HeadDecoder, states: Any, shape: tuple[int, ...]) -> None:
    decoded = np.asarray(head(states, shape))
    assert decoded.shape == (3, *shape)
    assert np.isfinite(decoded).all() and (np.abs(decoded).max((1, 2)) > 0).all()


@pytest.mark.parametrize("size", [1, 8, 20])
def test_vectors_have_the_shape_asked_for(vector: VectorDecoder, states: Any, size: int) -> None:
    assert vector(states, (size,)).shape == (3, size)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 3, 8, 24),
        (3, 3, 24, 24),
        (1, 1, 20, 40),
        (3, 3, 3, 24),
        (3, 3, 1, 24),
    ],
    ids=str,
)
def test_a_repeated_tile_makes_no_identical_output_channels(
    kernel: KernelDecoder, states: Any, shape: tuple[int, ...]
) -> None:
    for decoded in kernel(states, shape):
        assert distinct(rows_of(decoded)) == shape[-1]


@pytest.mark.parametrize("shape", [(24, 24), (20, 40)], ids=str)
def test_a_repeated_tile_makes_no_identical_outputs_of_heads(
    head: HeadDecoder, states: Any, shape: tuple[int, ...]
) -> None:
    for decoded in head(states, shape):
        assert distinct(rows_of(decoded)) == shape[-1]


@pytest.mark.parametrize("large", [(3, 3, 8, 8), (3, 3, 20, 24)], ids=str)
@pytest.mark.parametrize("small", [(1, 1, 8, 8), (3, 3, 2, 5), (1, 3, 8, 1), (1, 1, 3, 4)], ids=str)
def test_a_smaller_kernel_is_a_part_of_a_larger_one(
    kernel: KernelDecoder, states: Any, small: tuple[int, ...], large: tuple[int, ...]
) -> None:
    """Channels are cut at the front and kernel positions at the centre, just as a slot's smaller leaves are."""
    expected = [cut(slot, small) for slot in kernel(states, large)]
    np.testing.assert_allclose(kernel(states, small), np.stack(expected), rtol=1e-4, atol=1e-6)


def test_a_smaller_head_or_vector_is_the_front_of_a_larger_one(
    head: HeadDecoder, vector: VectorDecoder, states: Any
) -> None:
    np.testing.assert_allclose(head(states, (5, 3)), head(states, (20, 24))[:, :5, :3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vector(states, (5,)), vector(states, (20,))[:, :5], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_deltas_do_not_depend_on_the_norm_of_states(fresh: Hypernetwork, factor: float) -> None:
    module = nnx.merge(fresh.definition, fresh.parameters)
    deltas, scaled = (deltas_of(module, fresh.space, size) for size in (1.0, factor))
    assert deltas.keys() == fresh.space.layout.keys()
    for name, delta in deltas.items():
        np.testing.assert_allclose(scaled[name], delta, rtol=0, atol=1e-5 * np.abs(delta).max(), err_msg=name)


def test_raw_deltas_do_depend_on_the_norm_of_states(space: NASBench201) -> None:
    module = GHN(GHNConfig(width=WIDTH, message_width=4, hidden=8, tile=6, encoding="raw"), space, rngs=nnx.Rngs(0))
    deltas, scaled = (deltas_of(module, space, size) for size in (1.0, 100.0))
    for name, delta in deltas.items():
        assert np.abs(scaled[name] - delta).max() > np.abs(delta).max(), name


def deltas_of(module: GHN, space: NASBench201, size: float) -> dict[str, Any]:
    """What is decoded from random states of this size."""
    inputs = graph_inputs(space.graph(space.sample(0)), space.layout, vocabulary_ids(space.op_names), space.schedule)
    states = np.random.default_rng(0).normal(size=(len(inputs.op_N), WIDTH)).astype(np.float32)
    return {name: np.asarray(delta) for name, delta in module.deltas(inputs, jnp.asarray(size * states)).items()}
