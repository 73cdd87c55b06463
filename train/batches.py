"""The stream of training batches: images of the train split, architectures that are not held out.

Every batch is a function of (seed, step) alone, so that a resumed run continues with exactly the batches that an
unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from architectures.spaces import SearchSpace
from ghn.api import Hypernetwork
from train.config import TrainConfig
from train.data import Dataset, augment, batch_indices
from train.step import Batch

_ARCHITECTURE_STREAM = 1


class BatchStream:
    """Batches of a run, by step."""

    def __init__(self, config: TrainConfig, hypernetwork: Hypernetwork, train: Dataset) -> None:
        self._config, self._hypernetwork, self._train = config, hypernetwork, train
        self._cache: dict[Any, tuple[Any, Any]] = {}
        self._augment = _augmentation(config)

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""
        config = self._config
        rows = batch_indices(len(self._train.labels), config.batch, config.seed, step)
        rng = np.random.default_rng((config.seed, _ARCHITECTURE_STREAM, step))
        pairs = [self._encoded(self._sample(rng)) for _ in range(config.meta_batch)]
        graphs, encodings = jax.tree.map(lambda *leaves: np.stack(leaves), *pairs)
        graphs = graphs._replace(noise=rng.standard_normal(graphs.noise.shape, np.float32))
        return Batch(self._augment(step, self._train.images[rows]), self._train.labels[rows], graphs, encodings)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start to stop - 1."""
        return (self[step] for step in range(start, stop))

    def _sample(self, rng: np.random.Generator) -> Any:
        space = self._hypernetwork.space
        draws = [draw_training(space, rng, self._config) for _ in range(2 if self._config.sampling == "large" else 1)]
        return max(draws, key=lambda draw: space.cost(draw).parameters) if len(draws) > 1 else draws[0]

    def _encoded(self, architecture: Any) -> tuple[Any, Any]:
        if architecture not in self._cache:
            space = self._hypernetwork.space
            pair = (self._hypernetwork.inputs(space.graph(architecture)), space.encode(architecture))
            if len(self._cache) >= 20_000:  # some 200 MB
                self._cache.clear()
            self._cache[architecture] = pair
        return self._cache[architecture]


def draw_training(space: SearchSpace[Any], rng: np.random.Generator, config: TrainConfig) -> Any:
    """A random architecture whose isomorphism class is not held out."""
    while True:
        architecture = space.sample(rng)
        if not space.held_out(architecture, config.held_out, config.held_out_seed):
            return architecture


def _augmentation(config: TrainConfig) -> Callable[[int, np.ndarray], Any]:
    """(step, images) -> augmented images, on the device."""
    if config.augment.crop == 0 and not config.augment.flip:
        return lambda step, images: images
    key = jax.random.fold_in(jax.random.key(config.seed), 2)

    @jax.jit
    def apply(step: jax.Array, images: jax.Array) -> jax.Array:
        return augment(jax.random.fold_in(key, step), images, config.augment.crop, config.augment.flip)

    return lambda step, images: apply(np.int32(step), images)
