"""Scores of architectures under generated weights: the one-shot evaluator.

Batch normalisation uses the statistics of the images that are scored, as in training; no labels enter them.

Shape letters: A architectures.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from ghn.api import Hypernetwork, Parameters
from ghn.features import stack_inputs
from train.data import Dataset, check_images, check_labels
from train.step import Batch, Definition, evaluate_weights

CHUNK = 16  # architectures that one call of the compiled program scores


class Scores(NamedTuple):
    """[A] mean cross-entropies in nats and accuracies as shares of 1, with generated weights."""

    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    score_loss: NDArray[np.float64]
    score_accuracy: NDArray[np.float64]


class Scorer:
    """Scores any number of architectures on fixed images, with one compilation."""

    def __init__(
        self, hypernetwork: Hypernetwork, train: Dataset, score: Dataset, images: int = 1000, draws: int = 1
    ) -> None:
        """Takes the first `images` images of both splits (all, where there are fewer).

        Args:
            hypernetwork: generates the weights.
            train: the split that the hypernetwork was trained on.
            score: the split that it has never seen.
            images: how many of each.
            draws: of noise, the same for every architecture, for a hypernetwork conditioned on it (SMASH); losses and
                accuracies are means over them.

        Raises:
            DataError: images or labels that do not fit the hypernetwork's space.
            ValueError: no draw, or several for a hypernetwork that takes no noise.
        """
        if draws < 1 or (draws > 1 and hypernetwork.config.noise == 0):
            raise ValueError(f"draws={draws}: give 1, or more for a hypernetwork with noise (GHNConfig.noise)")
        self._hypernetwork = hypernetwork
        shape = (draws, hypernetwork.config.noise)
        self._noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        self._splits = []
        for name, split in (("train", train), ("score", score)):
            x, y = split.images[:images], split.labels[:images]
            check_images(x, hypernetwork.space.input_shape, f"{name} images")
            check_labels(y, hypernetwork.space.classes, f"{name} labels")
            self._splits.append((jax.device_put(x), jax.device_put(y)))

    def __call__(self, architectures: Sequence[Any], graphs_of: Sequence[Any] | None = None) -> Scores:
        """Losses and accuracies of every architecture.

        With `graphs_of`, as many other architectures, weights are generated from their graphs instead: SMASH's check
        that a hypernetwork reads what it is given.
        """
        read = architectures if graphs_of is None else graphs_of
        starts = range(0, len(architectures), CHUNK)
        chunks = [self._chunk(architectures[start : start + CHUNK], read[start : start + CHUNK]) for start in starts]
        return Scores(*(np.concatenate(columns).astype(np.float64) for columns in zip(*chunks, strict=True)))

    def _chunk(self, architectures: Sequence[Any], read: Sequence[Any]) -> list[NDArray[np.float32]]:
        hypernetwork, space = self._hypernetwork, self._hypernetwork.space
        filled = [*architectures, *[architectures[-1]] * (CHUNK - len(architectures))]
        graphs = stack_inputs(
            [
                hypernetwork.inputs(space.graph(architecture))
                for architecture in [*read, *[read[-1]] * (CHUNK - len(read))]
            ]
        )
        encodings = stack_inputs([space.encode(architecture) for architecture in filled])
        columns = []
        for images, labels in self._splits:
            draws = []
            for noise in self._noise:
                drawn = graphs._replace(noise=np.broadcast_to(noise, graphs.noise.shape))
                batch = Batch(images, labels, drawn, encodings)
                draws.append(_score(hypernetwork.definition, hypernetwork.parameters, batch))
            columns += [np.mean(own, axis=0) for own in zip(*draws, strict=True)]
        return [np.asarray(column)[: len(architectures)] for column in columns]


@functools.partial(jax.jit, static_argnums=0)
def _score(definition: Definition, parameters: Parameters, batch: Batch) -> tuple[Array, Array]:
    module = nnx.merge(definition, parameters)
    weights_A = jax.vmap(module)(batch.graphs)
    return evaluate_weights(module.space, weights_A, batch.encodings, batch.images, batch.labels)
