"""Short training from given weights, generated or an initialiser's: a cheaper look than `train.target`.

One compiled program serves every architecture of a space, every start and every number of steps: weights, architecture
and number of steps are data.

Shape letters: B batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from architectures.checks import at_least
from architectures.layout import WeightArrays, initialise, occupancy
from architectures.spaces import SearchSpace
from train.data import AugmentConfig, Dataset, augment
from train.target import calibrated_logits, cross_entropy_of


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """SGD with Nesterov momentum and a cosine schedule to 0, over as many steps as are asked for."""

    learning_rate: float = 0.1  # peak; weights of a hypernetwork may want less than an initialiser's
    warmup: int = 10  # steps of linear warm-up
    batch: int = 64  # images a step
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # L2 penalty on all leaves
    augment: AugmentConfig = AugmentConfig(crop=0, flip=False)
    calibration: int = 1000  # training images whose batch statistics the evaluation uses
    seed: int = 0  # of batches and augmentation

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"FinetuneConfig.learning_rate={self.learning_rate}: must be positive")
        at_least(self, batch=1, calibration=1)


class Glance(NamedTuple):
    """What a short training shows: losses in nats and accuracies as shares of 1, on training and on score images."""

    train_loss: float
    train_accuracy: float
    score_loss: float
    score_accuracy: float


class Finetuner:
    """Trains architectures of one space for a few steps and looks at them, with one compilation for everything."""

    def __init__(self, space: SearchSpace[Any], train: Dataset, score: Dataset, config: FinetuneConfig) -> None:
        """Compiles nothing yet.

        Args:
            space: of the architectures.
            train: images to train on; the first `config.calibration` give the batch statistics and the training loss.
            score: images to evaluate on.
            config: how to train.

        Raises:
            ValueError: a batch larger than the train split.
        """
        check_batch(config, train)
        self._space = space
        self._data = tuple(jnp.asarray(array) for array in (train.images, train.labels, score.images, score.labels))
        self._run = jax.jit(functools.partial(_glance, space, config))

    def initial(self, architecture: Any, seed: int) -> WeightArrays:
        """An ordinary initialiser's weights."""
        return initial_weights(self._space, architecture, seed)

    def __call__(self, architecture: Any, weights: WeightArrays, steps: int) -> Glance:
        """Losses and accuracies after `steps` steps from `weights`."""
        outcome = self._run(weights, self._space.encode(architecture), np.int32(steps), *self._data)
        return Glance(*(float(value) for value in outcome))


def initial_weights(space: SearchSpace[Any], architecture: Any, seed: int) -> WeightArrays:
    """An ordinary initialiser's weights (He et al. 2015) in the slot layout of the space; one compilation for all."""
    filled = occupancy(space.layout, space.graph(architecture))
    return _initial(space, {name: group.variant for name, group in filled.items()}, np.int32(seed))


def check_batch(config: FinetuneConfig, train: Dataset) -> None:
    """ValueError where the train split does not fill one batch."""
    if config.batch > len(train.labels):
        raise ValueError(f"FinetuneConfig.batch={config.batch}: the train split has only {len(train.labels)} images")


def finetune(
    space: SearchSpace[Any],
    config: FinetuneConfig,
    weights: WeightArrays,
    encoding: dict[str, Array],
    steps: Array,
    images: Array,
    labels: Array,
) -> WeightArrays:
    """The weights after `steps` steps (int32, traced: any number in one program); every epoch has its own order."""
    rule = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.trace(config.momentum, nesterov=True))
    per_epoch = len(labels) // config.batch
    key = jax.random.key(config.seed)
    slope = jax.grad(cross_entropy_of(space, encoding))

    def epoch(number: Array, state: tuple[WeightArrays, Any]) -> tuple[WeightArrays, Any]:
        order = jax.random.permutation(jax.random.fold_in(key, number), len(labels))

        def step(place: Array, state: tuple[WeightArrays, Any]) -> tuple[WeightArrays, Any]:
            weights, momentum = state
            done = number * per_epoch + place
            rows = jax.lax.dynamic_slice(order, (place * config.batch,), (config.batch,))
            augment_key = jax.random.fold_in(jax.random.fold_in(key, 1), done)
            x = augment(augment_key, images[rows], config.augment.crop, config.augment.flip)
            updates, momentum = rule.update(slope(weights, x, labels[rows]), momentum, weights)
            rate = learning_rate(config, done, steps)
            return jax.tree.map(lambda w, u: w - rate * u, weights, updates), momentum

        return jax.lax.fori_loop(0, jnp.minimum(per_epoch, steps - number * per_epoch), step, state)

    epochs = -(-steps // per_epoch)
    return jax.lax.fori_loop(0, epochs, epoch, (weights, rule.init(weights)))[0]


def learning_rate(config: FinetuneConfig, done: Array, steps: Array) -> Array:
    """Of the step after `done` of `steps`: linear warm-up (a quarter of the steps at most), times a cosine to 0."""
    warmup = jnp.minimum(config.warmup, steps // 4)
    rising = jnp.minimum(1.0, (done + 1) / (warmup + 1))
    return config.learning_rate * rising * 0.5 * (1 + jnp.cos(jnp.pi * done / jnp.maximum(steps, 1)))


def _glance(
    space: SearchSpace[Any],
    config: FinetuneConfig,
    weights: WeightArrays,
    encoding: dict[str, Array],
    steps: Array,
    images: Array,
    labels: Array,
    score_images: Array,
    score_labels: Array,
) -> Glance:
    trained = finetune(space, config, weights, encoding, steps, images, labels)
    parts = calibrated_logits(space, trained, encoding, images[: config.calibration], score_images)
    values = []
    for part, answers in zip(parts, (labels[: config.calibration], score_labels), strict=True):
        values += [
            optax.softmax_cross_entropy_with_integer_labels(part, answers).mean(),
            (part.argmax(-1) == answers).mean(),
        ]
    return Glance(*values)


@functools.partial(jax.jit, static_argnums=0)
def _initial(space: SearchSpace[Any], variants: dict[str, Array], seed: Array) -> WeightArrays:
    return initialise(space.layout, jax.random.key(seed), variants)
