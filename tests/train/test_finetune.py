"""Short training: from given weights, of any length in one program, the same as a plain loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from architectures.layers import Layers
from architectures.spaces import NASBench201
from train.data import Dataset
from train.finetune import FinetuneConfig, Finetuner, finetune, learning_rate

SPACE = NASBench201(channels=2, cells=1, input_shape=(4, 4, 1), classes=3, stages=1)
CELLS = [SPACE.sample(seed) for seed in (0, 1)]
CONFIG = FinetuneConfig(learning_rate=0.1, warmup=1, batch=8, calibration=12)


def split(seed: int, count: int) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    images = (rng.normal(size=(count, 4, 4, 1)) + labels[:, None, None, None]).astype(np.float32)
    return Dataset("made up", images, labels, 3, (0.0,), (1.0,), ("a", "b", "c"))


@pytest.fixture(scope="module")
def finetuner() -> Finetuner:
    return Finetuner(SPACE, split(0, 28), split(1, 12), CONFIG)


def test_any_number_of_steps_of_any_architecture_is_one_program(finetuner: Finetuner) -> None:
    weights = finetuner.initial(CELLS[0], 0)
    none, some, many = (finetuner(CELLS[0], weights, steps) for steps in (0, 2, 40))
    assert finetuner(CELLS[1], finetuner.initial(CELLS[1], 0), 3) != some
    assert finetuner._run._cache_size() == 1
    assert many.train_loss < some.train_loss != none.train_loss
    assert many.train_loss < none.train_loss - 0.2


def test_no_step_evaluates_the_weights_themselves(finetuner: Finetuner) -> None:
    weights, data = finetuner.initial(CELLS[0], 3), (split(0, 28), split(1, 12))
    glance = finetuner(CELLS[0], weights, 0)
    images = np.concatenate([data[0].images[:12], data[1].images])
    logits = SPACE.forward_static(weights, CELLS[0], images, Layers(statistics_rows=12))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits[12:], data[1].labels).mean()
    assert glance.score_loss == pytest.approx(float(loss), rel=1e-4)
    assert glance.train_accuracy == pytest.approx(float((logits[:12].argmax(-1) == data[0].labels[:12]).mean()))


def test_steps_are_those_of_a_plain_loop() -> None:
    data, steps = split(0, 28), 5  # three batches an epoch: into the second one
    tuner = Finetuner(SPACE, data, split(1, 12), CONFIG)
    weights, encoding = tuner.initial(CELLS[0], 0), SPACE.encode(CELLS[0])
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    program = jax.jit(functools.partial(finetune, SPACE, CONFIG))
    got = program(weights, encoding, jnp.int32(steps), images, labels)

    momentum = jax.tree.map(jnp.zeros_like, weights)
    gradient = jax.jit(
        jax.grad(
            lambda w, x, y: optax.softmax_cross_entropy_with_integer_labels(
                SPACE.forward(w, encoding, x, Layers())[0], y
            ).mean()
        ),
    )
    key, expected = jax.random.key(CONFIG.seed), weights
    for step in range(steps):
        epoch, place = divmod(step, 3)
        order = jax.random.permutation(jax.random.fold_in(key, epoch), 28)
        rows = order[8 * place : 8 * place + 8]
        grads = gradient(expected, images[rows], labels[rows])
        decayed = jax.tree.map(lambda g, w: g + CONFIG.weight_decay * w, grads, expected)
        momentum = jax.tree.map(lambda m, g: CONFIG.momentum * m + g, momentum, decayed)
        rate = learning_rate(CONFIG, jnp.int32(step), jnp.int32(steps))
        expected = jax.tree.map(lambda w, m, g, r=rate: w - r * (g + 0.9 * m), expected, momentum, decayed)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_learning_rate_rises_and_falls() -> None:
    config = FinetuneConfig(learning_rate=0.5, warmup=10)
    rates = [float(learning_rate(config, jnp.int32(done), jnp.int32(100))) for done in range(100)]
    assert rates.index(max(rates)) == 10 and 0.45 < max(rates) <= 0.5
    assert rates[0] < 0.06 and rates[-1] < 0.001
    short = [float(learning_rate(config, jnp.int32(done), jnp.int32(4))) for done in range(4)]
    assert max(short) > 0.4  # a warm-up of 10 steps would be longer than all of them


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"batch": 0}, {"calibration": 0}])
def test_bad_configurations_are_named(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"FinetuneConfig.{name}"):
        FinetuneConfig(**change)  # type: ignore[arg-type]


def test_a_batch_larger_than_the_train_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"FinetuneConfig.batch=64: the train split has only 28 images"):
        Finetuner(SPACE, split(0, 28), split(1, 12), FinetuneConfig())
