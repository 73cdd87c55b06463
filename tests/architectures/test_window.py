"""Depthwise convolution and max pooling against JAX's own, with gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from architectures.layers import DIMENSIONS, same_padding
from architectures.window import depthwise, max_pool_3x3


def gradients(run: Callable[..., Array], *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    """Output, and gradients of a sum in which no two outputs weigh the same."""

    def loss(*arrays: Array) -> tuple[Array, Array]:
        y = run(*arrays)
        return (y * jnp.linspace(-1, 2, y.size).reshape(y.shape)).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True))(*arrays)
    return y, grads


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 2), (5, 2, 1), (7, 1, 1)])
def test_depthwise_is_a_grouped_convolution(kernel: int, stride: int, dilation: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 3)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(kernel, kernel, 3)), jnp.float32)

    def reference(x: Array, weight: Array) -> Array:
        pads = [same_padding(size, kernel, stride, dilation) for size in x.shape[1:3]]
        strides, dilations = (stride, stride), (dilation, dilation)
        return lax.conv_general_dilated(
            x,
            weight[:, :, None],
            strides,
            pads,
            rhs_dilation=dilations,
            dimension_numbers=DIMENSIONS,
            feature_group_count=3,
        )

    y, grads = gradients(lambda x, w: depthwise(x, w, stride, dilation), x, weight)
    expected, expected_grads = gradients(reference, x, weight)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for grad, own in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, own, atol=1e-4)


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 5), (2, 6)])
def test_max_pool_and_its_gradient_are_those_of_reduce_window(stride: int, size: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 2, size=(2, size, size, 3)), jnp.float32)  # with many ties
    pads = ((0, 0), *(same_padding(size, 3, stride, 1) for _ in range(2)), (0, 0))

    def reference(x: Array) -> Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), pads)

    y, (grad,) = gradients(lambda x: max_pool_3x3(x, stride), x)
    expected, (expected_grad,) = gradients(reference, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-5)
