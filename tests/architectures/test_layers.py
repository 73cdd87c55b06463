"""Layers equal plain references, forward and backward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from architectures.layers import Layers

CANONICAL, PLAIN = Layers("canonical"), Layers("plain")


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def conv_and_gradients(
    layers: Layers, stride: int, dilation: int, x: Array, kernel: Array, g: Array
) -> tuple[Array, Array, Array]:
    """Output, and the gradients of (g * output).sum() by input and kernel."""
    y, pullback = jax.vjp(lambda x, kernel: layers.conv(x, kernel, stride, dilation), x, kernel)
    return y, *pullback(g)


@pytest.mark.parametrize("size", [(7, 6), (6, 7)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_canonical_conv_equals_jax(kernel: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    x, weights = normal(0, 2, *size, 3), normal(1, kernel, kernel, 3, 4)
    g = normal(2, 2, -(-size[0] // stride), -(-size[1] // stride), 4)
    got = conv_and_gradients(CANONICAL, stride, dilation, x, weights, g)
    expected = conv_and_gradients(PLAIN, stride, dilation, x, weights, g)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("kernel", "size"), [(3, 1), (5, 1), (5, 2), (2, 1)])
def test_canonical_conv_on_images_smaller_than_the_kernel(kernel: int, size: int) -> None:
    x, weights = normal(0, 2, size, size, 2), normal(1, kernel, kernel, 2, 2)
    for stride in (1, 2):
        out = -(-size // stride)
        got = conv_and_gradients(CANONICAL, stride, 1, x, weights, normal(2, 2, out, out, 2))
        expected = conv_and_gradients(PLAIN, stride, 1, x, weights, normal(2, 2, out, out, 2))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_canonical_conv_of_an_oblong_kernel() -> None:
    x, weights, g = normal(0, 2, 6, 7, 3), normal(1, 1, 3, 3, 2), normal(2, 2, 6, 7, 2)
    got = conv_and_gradients(CANONICAL, 1, 1, x, weights, g)
    for a, b in zip(got, conv_and_gradients(PLAIN, 1, 1, x, weights, g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [CANONICAL, PLAIN])
def test_conv_jitted_equals_unjitted(layers: Layers) -> None:
    x, weights, g = normal(0, 2, 7, 7, 3), normal(1, 3, 3, 3, 4), normal(2, 2, 4, 4, 4)
    with jax.disable_jit():
        expected = conv_and_gradients(layers, 2, 1, x, weights, g)
    for a, b in zip(conv_and_gradients(layers, 2, 1, x, weights, g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_pooling_keeps_bfloat16() -> None:
    x = normal(0, 2, 5, 5, 3)
    for pool in (PLAIN.avg_pool_3x3, PLAIN.avg_pool_2x2):
        y, pullback = jax.vjp(jax.jit(pool), x.astype(jnp.bfloat16))
        assert y.dtype == pullback(y)[0].dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(jnp.float32), pool(x), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient": "canonicle"}, r"Layers\.gradient='canonicle'"),
        ({"statistics_rows": 0}, r"Layers\.statistics_rows=0"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layers(**arguments)


@pytest.mark.parametrize("layers", [CANONICAL, PLAIN])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (3, 2), (5, 1)])
def test_conv_at_stride_1_is_same_padding(layers: Layers, kernel: int, dilation: int) -> None:
    x, weights = normal(0, 2, 7, 6, 3), normal(1, kernel, kernel, 3, 4)
    expected = lax.conv_general_dilated(
        x, weights, (1, 1), "SAME", rhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layers.conv(x, weights, 1, dilation), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_strided_conv_of_an_odd_kernel_is_centred(kernel: int, size: int) -> None:
    """Output i looks at pixel stride * i: every second output of stride 1, as PyTorch's padding = k // 2 gives."""
    x, weights = normal(0, 2, size, size, 3), normal(1, kernel, kernel, 3, 4)
    expected = CANONICAL.conv(x, weights)[:, ::2, ::2]
    np.testing.assert_allclose(CANONICAL.conv(x, weights, 2), expected, rtol=1e-5, atol=2e-5)


def pool_3x3_reference(x: Array) -> Array:
    """Sums of windows over numbers of pixels in them, by reduce_window."""

    def windows(values: Array) -> Array:
        return lax.reduce_window(values, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return windows(x) / windows(jnp.ones_like(x))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 7)])
def test_avg_pool_3x3_and_its_gradient_equal_reduce_window(size: tuple[int, int]) -> None:
    x, g = normal(0, 2, *size, 3), normal(1, 2, *size, 3)
    y, pullback = jax.vjp(PLAIN.avg_pool_3x3, x)
    expected, expected_pullback = jax.vjp(pool_3x3_reference, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pullback(g)[0], expected_pullback(g)[0], rtol=1e-5, atol=1e-6)


def test_avg_pool_3x3_does_not_count_padding() -> None:
    np.testing.assert_allclose(PLAIN.avg_pool_3x3(jnp.ones((1, 4, 5, 2))), np.ones((1, 4, 5, 2)), rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 6), (5, 7)])
def test_avg_pool_2x2_equals_a_loop(size: tuple[int, int]) -> None:
    x = np.asarray(normal(0, 2, *size, 3))
    expected = np.zeros((2, -(-size[0] // 2), -(-size[1] // 2), 3), np.float32)
    for row in range(expected.shape[1]):
        for column in range(expected.shape[2]):
            block = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]  # short at an odd border
            expected[:, row, column] = block.mean((1, 2))
    got = PLAIN.avg_pool_2x2(jnp.asarray(x))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def batch_norm_reference(rows: np.ndarray, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean, variance = rows.mean((0, 1, 2), np.float64), rows.astype(np.float64).var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def test_batch_norm_equals_numpy() -> None:
    x, scale, bias = 2 + 3 * normal(0, 4, 5, 6, 3), 1 + 0.5 * normal(1, 3), normal(2, 3)
    expected = batch_norm_reference(*(np.asarray(a) for a in (x, x, scale, bias)))
    np.testing.assert_allclose(Layers().batch_norm(x, scale, bias), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_far_from_zero_equals_numpy() -> None:
    """The variance is that of the differences from the mean: E[x^2] - mean^2 would cancel to noise in float32."""
    x, scale, bias = 100 + normal(0, 16, 8, 8, 2), jnp.ones(2), jnp.zeros(2)
    expected = batch_norm_reference(*(np.asarray(a) for a in (x, x, scale, bias)))
    np.testing.assert_allclose(Layers().batch_norm(x, scale, bias), expected, rtol=0, atol=1e-4)


def test_batch_norm_of_a_constant_is_its_bias() -> None:
    got = Layers().batch_norm(jnp.full((2, 3, 3, 2), 1.7), jnp.ones(2), jnp.array([0.25, -1.0]))
    np.testing.assert_allclose(got, np.broadcast_to([0.25, -1.0], (2, 3, 3, 2)), atol=2e-3)


def test_statistics_come_from_the_first_rows_only() -> None:
    layers = Layers(statistics_rows=4)
    x, scale, bias = normal(0, 6, 3, 3, 2), 1 + 0.5 * normal(1, 2), normal(2, 2)
    first = np.asarray(x)[:4]
    expected = batch_norm_reference(first, np.asarray(x), np.asarray(scale), np.asarray(bias))
    np.testing.assert_allclose(layers.batch_norm(x, scale, bias), expected, rtol=1e-4, atol=1e-5)


def test_rows_beyond_the_statistics_influence_no_other() -> None:
    layers = Layers(statistics_rows=4)
    x, scale, bias = normal(0, 6, 3, 3, 2), jnp.ones(2), jnp.zeros(2)
    changed = x.at[4].add(100.0)
    before, after = layers.batch_norm(x, scale, bias), layers.batch_norm(changed, scale, bias)
    others = np.array([0, 1, 2, 3, 5])
    np.testing.assert_array_equal(before[others], after[others])
    assert not np.allclose(before[4], after[4])
    gradient = jax.jit(jax.grad(lambda x: jnp.tanh(layers.batch_norm(x, scale, bias))[others].sum()))(x)
    np.testing.assert_array_equal(gradient[4], np.zeros((3, 3, 2)))
    assert np.abs(gradient[others]).max() > 1e-3
    everything = Layers().batch_norm(changed, scale, bias)
    assert not np.allclose(before[others], everything[others])


# ------------------------------------------------------------------------------------------- devices and precision


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_batch_norm_over_a_spread_batch_is_that_of_the_whole(offset: float) -> None:
    """Output and gradients, with the parts of the batch along a named axis; far from zero, one-pass moments fail."""
    x, target = offset + normal(0, 8, 3, 3, 2) * 2, normal(3, 8, 3, 3, 2)
    scale, bias = 1 + 0.5 * normal(1, 2), normal(2, 2)

    def loss(layers: Layers, x: Array, target: Array) -> tuple[Array, Array]:
        y = layers.batch_norm(x, scale, bias)
        return (jnp.tanh(y) * target).sum(), y

    def parts(array: Array) -> Array:
        return array.reshape(4, 2, *array.shape[1:])

    whole = jax.value_and_grad(functools.partial(loss, Layers()), has_aux=True)
    spread = jax.value_and_grad(functools.partial(loss, Layers(batch_axis="batch")), has_aux=True)
    (_, expected), expected_gradient = whole(x, target)
    (_, found), gradient = jax.vmap(spread, axis_name="batch")(parts(x), parts(target))
    tolerance = 1e-5 if offset == 0 else 1e-3
    np.testing.assert_allclose(found, parts(expected), rtol=0, atol=tolerance)
    np.testing.assert_allclose(gradient, parts(expected_gradient), rtol=0, atol=tolerance)


def test_batch_norm_of_bfloat16_takes_its_moments_in_float32() -> None:
    x = (5 + normal(0, 64, 8, 8, 2)).astype(jnp.bfloat16)
    scale, bias = 1 + 0.5 * normal(1, 2), normal(2, 2)
    found = Layers(precision="bfloat16").batch_norm(x, scale, bias)
    assert found.dtype == jnp.bfloat16
    exact = Layers().batch_norm(x.astype(jnp.float32), scale, bias)
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_statistics_rows_of_a_spread_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Layers\.statistics_rows: .*no batch_axis"):
        Layers(statistics_rows=2, batch_axis="batch")
