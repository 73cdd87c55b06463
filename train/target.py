"""Training one architecture from scratch under a fixed protocol: the ground truth that rankings are held against.

One compiled program trains any architecture of a space from start to end, its seeds side by side.

Shape letters: B batch, S seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from architectures.checks import at_least
from architectures.layers import Layers
from architectures.layout import WeightArrays, initialise, occupancy
from architectures.spaces import SearchSpace, settings
from train.data import AugmentConfig, DataConfig, Splits, augment

PROTOCOL_VERSION = 1  # raise it when the meaning of a protocol's fields changes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an architecture is trained; everything here enters the protocol's hash.

    SGD with Nesterov momentum and a cosine schedule to 0, as in NAS-Bench-201 (Dong & Yang 2020, table 1).
    """

    epochs: int = 10  # passes over the train split
    batch: int = 64  # images a step
    learning_rate: float = 0.1  # peak, at the end of the warm-up
    warmup: int = 50  # steps of linear warm-up
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # L2 penalty on all leaves
    calibration: int = 1000  # training images whose batch statistics the evaluation uses
    augment: AugmentConfig = AugmentConfig(crop=0, flip=False)

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch=1, warmup=0, calibration=1, weight_decay=0)
        if not self.learning_rate > 0:
            raise ValueError(f"Protocol.learning_rate={self.learning_rate}: must be positive")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Protocol.momentum={self.momentum}: must be in [0, 1)")

    def hash(self, space: SearchSpace[Any], data: DataConfig, provenance: dict[str, Any]) -> str:
        """12 hexadecimal digits of everything that decides the result, but for the architecture and the seed.

        Data are told by name and content, wherever they lie.
        """
        parts = {
            "version": PROTOCOL_VERSION,
            "protocol": dataclasses.asdict(self),
            "space": settings(space),
            "data": {**dataclasses.asdict(data), "source": provenance["source"]},
            "provenance": provenance,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Outcome(NamedTuple):
    """Results of training, each [S]: accuracies as shares of 1, losses in nats."""

    test_accuracy: Array
    test_loss: Array
    train_loss: Array


class Trainer:
    """Trains architectures of one space on one data set under one protocol, with one compilation."""

    def __init__(
        self, space: SearchSpace[Any], splits: Splits, protocol: Protocol, side_by_side: bool | None = None
    ) -> None:
        """Compiles nothing yet.

        Args:
            space: of the architectures.
            splits: the data.
            protocol: how to train.
            side_by_side: seeds by `vmap`, which keeps the switch because the ops are the same; or one after the other.
                By default side by side on accelerators only: batched convolutions become grouped ones, which CPUs run
                2.4 times slower (four seeds of a NAS-Bench-201 network, 10.6 against 4.5 s an epoch).

        Raises:
            ValueError: a protocol that does not fit the data.
        """
        check_data(protocol, splits)
        self._space = space
        train, test = splits.train, splits.test
        self._data = tuple(jnp.asarray(array) for array in (train.images, train.labels, test.images, test.labels))
        together = jax.default_backend() != "cpu" if side_by_side is None else side_by_side
        self._run = jax.jit(functools.partial(_train_seeds, space, protocol, together))

    def __call__(self, architecture: Any, seeds: list[int]) -> Outcome:
        """Trains `architecture` once for every seed; the same number of seeds reuses the compiled program."""
        graph = self._space.graph(architecture)
        variants = {name: filled.variant for name, filled in occupancy(self._space.layout, graph).items()}
        outcome = self._run(self._space.encode(architecture), variants, np.array(seeds, np.int32), *self._data)
        return jax.tree.map(np.asarray, outcome)


def check_data(protocol: Protocol, splits: Splits) -> None:
    """ValueError for a batch larger than the train split, or a crop wider than its images."""
    images, crop = splits.train.images, protocol.augment.crop
    if protocol.batch > len(images):
        raise ValueError(
            f"Protocol.batch={protocol.batch}: the train split has only {len(images)} images; use a smaller batch"
        )
    if crop >= min(images.shape[1:3]):
        raise ValueError(f"Protocol.augment.crop={crop}: must be less than the side of an image, {images.shape[1:3]}")


def _train_seeds(
    space: SearchSpace[Any],
    protocol: Protocol,
    side_by_side: bool,
    encoding: dict[str, Array],
    variants: dict[str, Array],
    seed_S: Array,
    *data: Array,
) -> Outcome:
    def one(seed: Array) -> Outcome:
        return _train(space, protocol, encoding, variants, jax.random.key(seed), *data)

    return jax.vmap(one)(seed_S) if side_by_side else jax.lax.map(one, seed_S)


def _train(
    space: SearchSpace[Any],
    protocol: Protocol,
    encoding: dict[str, Array],
    variants: dict[str, Array],
    key: Array,
    images: Array,
    labels: Array,
    test_images: Array,
    test_labels: Array,
) -> Outcome:
    steps = len(labels) // protocol.batch
    optimizer = sgd(protocol, steps * protocol.epochs)
    loss_fn = cross_entropy_of(space, encoding)

    def step(state: tuple[WeightArrays, Any], inputs: tuple[Array, Array]) -> tuple[tuple[WeightArrays, Any], Array]:
        weights, optimizer_state = state
        key, rows = inputs
        x = augment(key, images[rows], protocol.augment.crop, protocol.augment.flip)
        loss, grads = jax.value_and_grad(loss_fn)(weights, x, labels[rows])
        updates, optimizer_state = optimizer.update(grads, optimizer_state, weights)
        return (optax.apply_updates(weights, updates), optimizer_state), loss

    def epoch(state: tuple[WeightArrays, Any], key: Array) -> tuple[tuple[WeightArrays, Any], Array]:
        order_key, augment_key = jax.random.split(key)
        rows = jax.random.permutation(order_key, len(labels))[: steps * protocol.batch].reshape(steps, protocol.batch)
        return jax.lax.scan(step, state, (jax.random.split(augment_key, steps), rows))

    init_key, epochs_key = jax.random.split(key)
    weights = initialise(space.layout, init_key, variants)
    state, losses = jax.lax.scan(
        epoch, (weights, optimizer.init(weights)), jax.random.split(epochs_key, protocol.epochs)
    )
    _, logits = calibrated_logits(space, state[0], encoding, images[: protocol.calibration], test_images)
    return Outcome(
        test_accuracy=(logits.argmax(-1) == test_labels).mean(),
        test_loss=optax.softmax_cross_entropy_with_integer_labels(logits, test_labels).mean(),
        train_loss=losses[-1].mean(),
    )


def cross_entropy_of(
    space: SearchSpace[Any], encoding: dict[str, Array]
) -> Callable[[WeightArrays, Array, Array], Array]:
    """(weights, images, labels) -> an architecture's mean cross-entropy in nats, under the batch's own statistics."""

    def loss(weights: WeightArrays, images: Array, labels: Array) -> Array:
        logits, _ = space.forward(weights, encoding, images, Layers())
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


def calibrated_logits(
    space: SearchSpace[Any], weights: WeightArrays, encoding: dict[str, Array], calibration: Array, images: Array
) -> tuple[Array, Array]:
    """Logits of the calibration images and of `images`, when batch normalisation takes its statistics from the former
    alone."""
    layers = Layers(statistics_rows=len(calibration))
    logits, _ = space.forward(weights, encoding, jnp.concatenate([calibration, images]), layers)
    return logits[: len(calibration)], logits[len(calibration) :]


def sgd(protocol: Protocol, steps: int) -> optax.GradientTransformation:
    """The protocol's optimiser over a training of `steps` steps."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, protocol.learning_rate, min(protocol.warmup, steps - 1), max(steps, 2)
    )
    return optax.chain(
        optax.add_decayed_weights(protocol.weight_decay), optax.sgd(schedule, protocol.momentum, nesterov=True)
    )
