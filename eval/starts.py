"""Training from generated weights and from an ordinary initialiser's, held against each other.

The same networks, which the hypernetwork never saw, are trained from both starts on the same batches, at every
learning rate of one grid; the rate of a start is the one that is best on the score split after the last step, over all
seeds. Each network runs as its own compiled program, which for long trainings of few networks is several times faster
than one program for all.

Shape letters: R learning rates, S seeds, K stops.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from architectures.checks import at_least
from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import SearchSpace
from train.data import Dataset, Splits, batch_indices
from train.finetune import initial_weights

Floats = NDArray[np.float64]
STARTS = ("generated", "default")
STOPS = (0, 50, 200, 1000)  # steps after which test accuracy is taken, and after the last


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How every network is trained, from either start: Adam at a constant rate."""

    steps: int = 200  # of each training
    batch: int = 64  # images a step
    rates: tuple[float, ...] = (1e-3, 4e-3)  # learning rates that are tried
    seeds: int = 1  # of batches and of the initialiser
    images: int = 500  # of the score and of the test split

    def __post_init__(self) -> None:
        at_least(self, steps=1, batch=1, seeds=1, images=1)
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"TrainingConfig.rates={self.rates}: give at least one, all positive")

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of steps after which accuracy is taken."""
        return (*(stop for stop in STOPS if stop < self.steps), self.steps)


@dataclasses.dataclass(frozen=True)
class Curves:
    """One network from one start, at its best rate.

    Attributes:
        rate: the learning rate.
        test_SK: test accuracy, share of 1, by seed and stop.
    """

    rate: float
    test_SK: Floats

    @property
    def mean_K(self) -> Floats:
        """Over seeds."""
        return np.asarray(self.test_SK.mean(0))

    @property
    def error_K(self) -> Floats:
        """Standard error of the mean; NaN for one seed."""
        seeds = len(self.test_SK)
        return self.test_SK.std(0, ddof=1) / seeds**0.5 if seeds > 1 else np.full(self.test_SK.shape[1], np.nan)


def train_all(
    space: SearchSpace[Any],
    networks: Mapping[str, Any],
    generate: Callable[[Any], WeightArrays],
    splits: Splits,
    config: TrainingConfig,
    table: Path,
) -> Iterator[None]:
    """Trains every network from both starts, at every rate, with every seed; yields after each training.

    Args:
        space: of the networks.
        networks: by the name that the table gives them.
        generate: weights of a network by the hypernetwork.
        splits: of the data.
        config: how to train.
        table: JSON lines, one a training; those that it holds are not made again.
    """
    known = {_key(row) for row in read_rows(table)}
    for name, network in networks.items():
        program = Program(space, network, splits, config)  # compiles when it is first run
        for start in STARTS:
            for seed in range(config.seeds):
                weights = None
                for rate in config.rates:
                    row = {"network": name, "start": start, "seed": seed, "rate": rate}
                    if _key(row) not in known:
                        if weights is None:
                            emitted = start == "generated"
                            weights = generate(network) if emitted else initial_weights(space, network, seed)
                        test, score = program(weights, rate, seed)
                        with table.open("a") as file:
                            file.write(json.dumps({**row, "test": test, "score": score}) + "\n")
                    yield


class Program:
    """One network's training and evaluation."""

    def __init__(self, space: SearchSpace[Any], network: Any, splits: Splits, config: TrainingConfig) -> None:
        self._splits, self._config = splits, config
        self._optimizer = optax.inject_hyperparams(optax.adam)(1e-3)

        def logits(weights: WeightArrays, images: Array) -> Array:
            return space.forward_static(weights, network, images, Layers())

        def loss(weights: WeightArrays, images: Array, labels: Array) -> Array:
            return optax.softmax_cross_entropy_with_integer_labels(logits(weights, images), labels).mean()

        def step(weights: WeightArrays, state: Any, images: Array, labels: Array) -> tuple[WeightArrays, Any]:
            updates, state = self._optimizer.update(jax.grad(loss)(weights, images, labels), state, weights)
            return optax.apply_updates(weights, updates), state

        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._right = jax.jit(lambda weights, images, labels: (logits(weights, images).argmax(-1) == labels).mean())

    def __call__(self, weights: WeightArrays, rate: float, seed: int) -> tuple[list[float], float]:
        """Test accuracy after every stop, and accuracy on the score split after the last."""
        train, weights = self._splits.train, jax.tree.map(jnp.array, weights)  # copies: steps give theirs back
        state, test = self._optimizer.init(weights), []
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        for step in range(self._config.steps + 1):
            if step in self._config.stops:
                test.append(self._accuracy(weights, self._splits.test))
            if step < self._config.steps:
                rows = batch_indices(len(train.labels), self._config.batch, seed, step)
                weights, state = self._step(weights, state, train.images[rows], train.labels[rows])
        return test, self._accuracy(weights, self._splits.score)

    def _accuracy(self, weights: WeightArrays, split: Dataset) -> float:
        """Share that is classified rightly, under batch statistics of these images."""
        count = self._config.images
        return float(self._right(weights, split.images[:count], split.labels[:count]))


def read_rows(table: Path) -> list[dict[str, Any]]:
    """The trainings that a table holds; a last line that was cut short is made again."""
    lines = table.read_text().splitlines(keepends=True) if table.exists() else []
    if lines and not lines[-1].endswith("\n"):
        table.write_text("".join(lines := lines[:-1]))
    return [json.loads(line) for line in lines]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "start", "seed", "rate"))


def curves(
    rows: Sequence[Mapping[str, Any]], networks: Sequence[str], config: TrainingConfig
) -> dict[str, dict[str, Curves]]:
    """Network -> start -> its accuracies at the rate that is best on the score split."""
    found = {_key(row): row for row in rows}
    result: dict[str, dict[str, Curves]] = {name: {} for name in networks}
    for name in networks:
        for start in STARTS:
            own_RS = [[found[name, start, seed, rate] for seed in range(config.seeds)] for rate in config.rates]
            best = int(np.mean([[row["score"] for row in rows] for rows in own_RS], 1).argmax())
            result[name][start] = Curves(config.rates[best], np.array([row["test"] for row in own_RS[best]]))
    return result


def win_rates(found: Mapping[str, Mapping[str, Curves]]) -> Floats:
    """[K] share of networks whose generated weights are ahead after each stop, ties counted half."""
    gains = np.array([own["generated"].mean_K - own["default"].mean_K for own in found.values()])
    return np.asarray(((gains > 0) + 0.5 * (gains == 0)).mean(0))
