"""The stream of training batches: images of the train split, architectures that are not held out.

Every batch is a function of seed, step and the retreats before it, so that a resumed run continues with exactly the
batches that an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from architectures.spaces import SearchSpace
from ghn.api import Hypernetwork
from train.config import Sampling, TrainConfig
from train.data import Dataset, augment, batch_indices
from train.objectives import HARD_DRAWS
from train.retreats import Retreats
from train.step import Batch

_ARCHITECTURE_STREAM = 1
MOST_DRAWS = 10_000  # in search of an architecture that is not held out
SEVERAL = 8  # draws that "balanced" and "sandwich" choose from


class BatchStream:
    """Batches of a run, by step."""

    def __init__(
        self, config: TrainConfig, hypernetwork: Hypernetwork, train: Dataset, retreats: Retreats | None = None
    ) -> None:
        """ValueError where the train split does not fill one batch."""
        if config.batch > len(train.labels):
            raise ValueError(
                f"TrainConfig.batch={config.batch}: the train split has only {len(train.labels)} images; "
                "use a smaller batch"
            )
        self._retreats = retreats
        self._config, self._hypernetwork, self._train = config, hypernetwork, train
        self._cache: dict[Any, tuple[Any, Any]] = {}
        self._augment = _augmentation(config)

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""
        config = self._config
        seed = config.seed
        if self._retreats is not None and (before := self._retreats.before(step)):
            seed = int(np.random.SeedSequence((seed, before)).generate_state(1)[0])
        rows = batch_indices(len(self._train.labels), config.batch, seed, step)
        rng = np.random.default_rng((seed, _ARCHITECTURE_STREAM, step))
        pairs = [self._encoded(architecture) for architecture in self._sample(rng)]
        graphs, encodings = jax.tree.map(lambda *leaves: np.stack(leaves), *pairs)
        graphs = graphs._replace(noise=rng.standard_normal(graphs.noise.shape, np.float32))
        labels = smoothed(self._train.labels[rows], self._train.classes, config.label_smoothing)
        return Batch(self._augment(step, self._train.images[rows]), labels, graphs, encodings)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start to stop - 1."""
        return (self[step] for step in range(start, stop))

    def _sample(self, rng: np.random.Generator) -> list[Any]:
        """The architectures of a step."""
        count, sampling = self._config.meta_batch, self._config.sampling
        if sampling == "sandwich":
            pool, sizes = self._draw(rng, SEVERAL)
            return [pool[sizes.argmin()], pool[sizes.argmax()], *self._draw(rng, count - 2)[0]]
        if sampling == "hard":  # the step itself finds the hardest of every few
            return self._draw(rng, count * HARD_DRAWS)[0]
        return [self._sample_one(rng, sampling) for _ in range(count)]

    def _sample_one(self, rng: np.random.Generator, sampling: Sampling) -> Any:
        draws, sizes = self._draw(rng, {"uniform": 1, "balanced": SEVERAL}.get(sampling, 2))
        if sampling == "balanced":
            logs = np.log(np.maximum(sizes, 1))
            return draws[np.abs(logs - rng.uniform(logs.min(), logs.max())).argmin()]
        return draws[sizes.argmin() if sampling == "small" else sizes.argmax()]

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[list[Any], np.ndarray]:
        """Architectures that are not held out, and their parameter counts."""
        space = self._hypernetwork.space
        draws = [draw_training(space, rng, self._config) for _ in range(count)]
        return draws, np.array([space.cost(draw).parameters for draw in draws] if count > 1 else [0])

    def _encoded(self, architecture: Any) -> tuple[Any, Any]:
        if architecture not in self._cache:
            space = self._hypernetwork.space
            pair = (self._hypernetwork.inputs(space.graph(architecture)), space.encode(architecture))
            if len(self._cache) >= 20_000:  # some 200 MB
                self._cache.clear()
            self._cache[architecture] = pair
        return self._cache[architecture]


def smoothed(labels: np.ndarray, classes: int, share: float) -> np.ndarray:
    """[B] labels as they are, or [B, classes] distributions with a share spread evenly (Szegedy et al. 2016)."""
    if not share:
        return labels
    return np.asarray((1 - share) * np.eye(classes)[labels] + share / classes, np.float32)


def draw_training(space: SearchSpace[Any], rng: np.random.Generator, config: TrainConfig) -> Any:
    """A random architecture whose isomorphism class is not held out; ValueError where thousands of draws give none."""
    for _ in range(MOST_DRAWS):
        architecture = space.sample(rng)
        if not space.held_out(architecture, config.held_out, config.held_out_seed):
            return architecture
    raise ValueError(
        f"TrainConfig.held_out={config.held_out}: keeps all of {MOST_DRAWS:,} drawn architectures of this space out of "
        "training; lower it or take another held_out_seed"
    )


def _augmentation(config: TrainConfig) -> Callable[[int, np.ndarray], Any]:
    """(step, images) -> augmented images, on the device."""
    if config.augment.crop == 0 and not config.augment.flip:
        return lambda step, images: images
    key = jax.random.fold_in(jax.random.key(config.seed), 2)

    @jax.jit
    def apply(step: jax.Array, images: jax.Array) -> jax.Array:
        return augment(jax.random.fold_in(key, step), images, config.augment.crop, config.augment.flip)

    return lambda step, images: apply(np.int32(step), images)
