"""What checkpoints hold, the moving average of parameters; small leaves in one vector."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import OptimizerConfig, TrainConfig
from train.optimizer import averaged, flatten_small, make_optimizer


def test_the_average_is_that_of_a_plain_loop_and_changes_no_update() -> None:
    parameters = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    config = OptimizerConfig(learning_rate=0.1, warmup=1, ema=0.7)
    with_average, without = make_optimizer(config, 20), make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=1), 20)
    states = [with_average.init(parameters), without.init(parameters)]
    mean = parameters
    for step in range(8):
        grads = jax.tree.map(lambda leaf, step=step: jnp.sin(leaf + step), parameters)
        (updates, states[0]), (expected, states[1]) = (
            optimizer.update(grads, state, parameters)
            for optimizer, state in zip((with_average, without), states, strict=True)
        )
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        parameters = optax.apply_updates(parameters, updates)
        decay = min(0.7, (1 + step) / (10 + step))
        mean = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, mean, parameters)
    found = averaged(parameters, states[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, mean)
    assert np.abs(found["a"] - parameters["a"]).max() > 1e-3


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decays_out_of_range_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"OptimizerConfig.ema="):
        OptimizerConfig(ema=decay)


def test_a_sandwich_needs_three() -> None:
    with pytest.raises(ValueError, match=r"TrainConfig.meta_batch=2: sampling='sandwich' needs at least 3"):
        TrainConfig(sampling="sandwich", meta_batch=2)


@pytest.mark.parametrize("most", [0, 6, 100])
def test_flatten_small_changes_no_result(most: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": (4,), "c": {"d": (3, 5), "e": ()}}
    params = jax.tree.map(lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32), shapes, is_leaf=_shape)
    plain, packed = optax.adam(0.1), flatten_small(optax.adam(0.1), most)
    states, found = [plain.init(params), packed.init(params)], [params, params]
    for _ in range(3):
        for index, optimizer in enumerate((plain, packed)):
            grads = jax.tree.map(lambda leaf: leaf**2 - 1, found[index])
            updates, states[index] = optimizer.update(grads, states[index], found[index])
            found[index] = optax.apply_updates(found[index], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)


def _shape(value: object) -> bool:
    return isinstance(value, tuple)
