"""Scores of architectures under generated weights: the one-shot evaluator.

No labels enter batch normalisation: it uses the statistics of the images that are scored, as in training, or those of
training images, the same for every architecture.

Shape letters: A architectures, B images, K classes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.checks import at_least
from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import SearchSpace
from ghn.api import Hypernetwork, Parameters
from ghn.features import GraphInputs, stack_inputs
from train.data import Dataset, check_images, check_labels
from train.finetune import FinetuneConfig, check_batch, finetune
from train.step import Definition
from train.target import calibrated_logits

CHUNK = 16  # architectures that one call of the compiled program scores
IN_FLIGHT = 2  # chunks that are computed while the next one is prepared
NEWTON_STEPS = 10  # of fitting a temperature


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How an architecture is scored."""

    images: int = 1000  # images of each split, the first ones (as many as the smaller split has, where it has fewer)
    draws: int = 1  # of noise, for hypernetworks conditioned on it; losses and accuracies are means over them
    calibration: int = 0  # training images that batch statistics come from; 0: from the scored images themselves
    steps: int = 0  # of fine-tuning from the generated weights before scoring; any number is the same program
    finetune: FinetuneConfig = FinetuneConfig(learning_rate=0.02)  # how
    unseen: bool = True  # also score on images that the hypernetwork has not seen; without, it takes half the time

    def __post_init__(self) -> None:
        at_least(self, images=2, draws=1, calibration=0, steps=0)


class Scores(NamedTuple):
    """[A] mean cross-entropies in nats and accuracies as shares of 1, with generated weights.

    The tempered losses are those at the best temperature of each architecture, fitted on one half of the images and
    taken on the other, both ways. Those of the score split are nan without `ScoreConfig.unseen`.
    """

    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    train_tempered: NDArray[np.float64]
    score_loss: NDArray[np.float64]
    score_accuracy: NDArray[np.float64]
    score_tempered: NDArray[np.float64]


class _Images(NamedTuple):
    """Everything that a score reads besides architectures: pairs of images and labels."""

    scored: tuple[Any, Any]  # [2, B, ...]: of the train and of the score split; [1, B, ...]: of the train split alone
    finetune: tuple[Any, Any]
    calibration: Any


class Scorer:
    """Scores any number of architectures on fixed images, with one compilation."""

    def __init__(
        self, hypernetwork: Hypernetwork, train: Dataset, score: Dataset, config: ScoreConfig = ScoreConfig()
    ) -> None:
        """Compiles nothing yet.

        Args:
            hypernetwork: generates the weights.
            train: the split that the hypernetwork was trained on.
            score: the split that it has never seen.
            config: how to score.

        Raises:
            DataError: images or labels that do not fit the hypernetwork's space.
            ValueError: several draws for a hypernetwork that takes no noise, or a batch larger than the train split.
        """
        if config.draws > 1 and hypernetwork.config.noise == 0:
            raise ValueError(f"draws={config.draws}: this hypernetwork takes no noise (GHNConfig.noise); give 1")
        if config.steps:
            check_batch(config.finetune, train)
        self._hypernetwork, self._steps = hypernetwork, np.int32(config.steps)
        self._tune = config.finetune if config.steps else None  # how many steps is not part of the program
        shape = (config.draws, hypernetwork.config.noise)
        self._noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        for name, split in (("train", train), ("score", score)):
            check_images(split.images, hypernetwork.space.input_shape, f"{name} images")
            check_labels(split.labels, hypernetwork.space.classes, f"{name} labels")
        count = min(config.images, len(train.labels), len(score.labels))
        tuned = slice(len(train.labels) if config.steps else 1)
        parts = (train, score) if config.unseen else (train,)
        self._images = jax.device_put(
            _Images(
                (
                    np.stack([split.images[:count] for split in parts]),
                    np.stack([split.labels[:count] for split in parts]),
                ),
                (train.images[tuned], train.labels[tuned]),
                train.images[: config.calibration],
            )
        )

    def __call__(
        self,
        architectures: Sequence[Any],
        graphs_of: Sequence[Any] | None = None,
        alter: Callable[[GraphInputs], GraphInputs] | None = None,
    ) -> Scores:
        """Losses and accuracies of every architecture.

        Two checks that a hypernetwork reads what it is given: with `graphs_of`, as many other architectures, weights
        are generated from their graphs instead; `alter` changes what the hypernetwork reads of each graph.

        Raises:
            ValueError: no architecture.
        """
        if not len(architectures):
            raise ValueError("architectures: there are none to score; give at least one")
        read = architectures if graphs_of is None else graphs_of
        finished, running = [], collections.deque[Any]()
        for start in range(0, len(architectures), CHUNK):
            chunk = slice(start, start + CHUNK)
            running.append(self._begin(architectures[chunk], read[chunk], alter))
            if len(running) > IN_FLIGHT:
                finished.append(jax.device_get(running.popleft()))
        finished += [jax.device_get(chunk) for chunk in running]
        columns = (np.concatenate(column)[: len(architectures)] for column in zip(*finished, strict=True))
        return Scores(*(column.astype(np.float64) for column in columns))

    def _begin(self, architectures: Sequence[Any], read: Sequence[Any], alter: Any) -> tuple[Array, ...]:
        """Starts a chunk, filled up with copies of its last architecture; the results are not waited for."""
        hypernetwork, space = self._hypernetwork, self._hypernetwork.space
        fill = [-1] * (CHUNK - len(architectures))
        own = [hypernetwork.inputs(space.graph(architecture)) for architecture in read]
        own = own if alter is None else [alter(inputs) for inputs in own]
        graphs = stack_inputs([*own, *(own[row] for row in fill)])
        encoded = [space.encode(architecture) for architecture in architectures]
        encodings = stack_inputs([*encoded, *(encoded[row] for row in fill)])
        draws = []
        for noise in self._noise:
            drawn = graphs._replace(noise=np.broadcast_to(noise, graphs.noise.shape))
            program = (hypernetwork.definition, self._tune, hypernetwork.parameters)
            draws.append(_score(*program, drawn, encodings, self._images, self._steps))
        return draws[0] if len(draws) == 1 else jax.tree.map(lambda *columns: sum(columns) / len(columns), *draws)


def ensemble(members: Sequence[Scores]) -> Scores:
    """The mean of every column over several hypernetworks, or several points of one's training."""
    return Scores(*(np.mean(columns, axis=0) for columns in zip(*members, strict=True)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    definition: Definition,
    tune: FinetuneConfig | None,
    parameters: Parameters,
    graphs: GraphInputs,
    encodings: dict[str, Array],
    images: _Images,
    steps: Array,
) -> tuple[Array, ...]:
    module = nnx.merge(definition, parameters)
    weights_A = jax.vmap(module)(graphs)

    def one(pair: tuple[WeightArrays, dict[str, Array]]) -> tuple[Array, ...]:
        weights, encoding = pair
        if tune is not None:
            weights = finetune(module.space, tune, weights, encoding, steps, *images.finetune)

        def split(pair: tuple[Any, Any]) -> tuple[Array, ...]:
            x, y = pair
            logits = _logits(module.space, weights, encoding, images.calibration, x)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, (logits.argmax(-1) == y).mean(), tempered_loss(logits, y)

        rows = jnp.stack(jax.lax.map(split, images.scored)).T  # one split after the other: one copy in the program
        missing = jnp.full((2 - len(rows), rows.shape[1]), jnp.nan)
        return tuple(jnp.concatenate([rows, missing]).ravel())

    return jax.lax.map(one, (weights_A, encodings))


def _logits(
    space: SearchSpace[Any], weights: WeightArrays, encoding: dict[str, Array], calibration: Any, x: Array
) -> Array:
    if len(calibration):
        return calibrated_logits(space, weights, encoding, calibration, x)[1]
    return space.forward(weights, encoding, x, Layers())[0]


def tempered_loss(logits_BK: Array, labels_B: Array) -> Array:
    """Mean cross-entropy in nats at the best temperature (Guo et al. 2017, On calibration of modern neural networks).

    Fitted on the images at even places and taken on those at odd places, and the other way round.
    """
    halves = [(logits_BK[start::2], labels_B[start::2]) for start in (0, 1)]
    losses = [
        optax.softmax_cross_entropy_with_integer_labels(inverse_temperature(*fit) * logits, labels).sum()
        for fit, (logits, labels) in (halves, halves[::-1])
    ]
    return sum(losses) / len(labels_B)


def inverse_temperature(logits_BK: Array, labels_B: Array) -> Array:
    """The factor on the logits that minimises the cross-entropy, by Newton's method (the loss is convex in it)."""
    answers_B = jnp.take_along_axis(logits_BK, labels_B[:, None], axis=1)[:, 0]

    def step(_: int, factor: Array) -> Array:
        shares_BK = jax.nn.softmax(factor * logits_BK)
        mean_B = (shares_BK * logits_BK).sum(-1)
        slope = (mean_B - answers_B).mean()
        curvature = ((shares_BK * jnp.square(logits_BK - mean_B[:, None])).sum(-1)).mean()
        return jnp.clip(factor - slope / jnp.maximum(curvature, 1e-12), factor / 4, factor * 4)

    return jax.lax.fori_loop(0, NEWTON_STEPS, step, jnp.ones((), logits_BK.dtype))
