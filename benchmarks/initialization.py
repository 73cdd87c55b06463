"""Are generated weights a better start for training than an ordinary initialiser?

    python benchmarks/initialization.py
    python benchmarks/initialization.py --data FASHION_MNIST_FOLDER --seeds 3 --steps 1000

Networks made by hand, which the open hypernetwork in the package never saw, are trained from its weights and from an
initialiser's (He et al. 2015) on the same batches, each at every learning rate; each side's rate is the one that is
best on the score split after the last step. Test accuracy after 0, 50, 200, ... steps. All networks run under one
compilation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from common import finish, progress
from jax import Array
from numpy.typing import NDArray

import ghn
from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import DeepNets
from ghn import GHNConfig, Hypernetwork
from train.data import DataConfig, Dataset, batch_indices, load
from train.memory import keep_memory
from train.step import evaluate_weights

STOPS = (0, 50, 200, 1000)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    checkpoint: str = "default"  # an open hypernetwork
    data: str = DataConfig().source  # the data in the package, or a folder of a data set's files
    networks: tuple[str, ...] = ()  # by name; all that fit the space where none is given
    steps: int = 200  # of training
    batch: int = 64  # images a step
    rates: tuple[float, ...] = (1e-3, 4e-3)  # of Adam, constant
    seeds: int = 1  # of initialisers and batches
    images: int = 500  # of the score and of the test split
    quick: bool = False  # two networks, 4 steps, one rate
    out: Path = Path("benchmarks/results")  # results


class Trainer:
    """Trains the weights of any network of a space, under one compilation."""

    def __init__(self, space: DeepNets, data: Dataset, batch: int) -> None:
        self._space, self._data, self._batch = space, data, batch
        self._optimizer = optax.inject_hyperparams(optax.adam)(1e-3)

    @functools.cached_property
    def _step(self) -> Callable[..., Any]:
        @jax.jit
        def step(weights: WeightArrays, state: Any, code: Any, images: Array, labels: Array) -> tuple[Any, Any]:
            def loss(weights: WeightArrays) -> Array:
                several = jax.tree.map(lambda leaf: leaf[None], (weights, code))
                return evaluate_weights(self._space, *several, images, labels, Layers())[0][0]

            updates, state = self._optimizer.update(jax.grad(loss)(weights), state, weights)
            return optax.apply_updates(weights, updates), state

        return step

    def __call__(
        self, network: Any, weights: WeightArrays, rate: float, stops: tuple[int, ...], seed: int
    ) -> list[WeightArrays]:
        """Weights after each of the numbers of steps."""
        code, state = self._space.encode(network), self._optimizer.init(weights)
        state.hyperparams["learning_rate"] = np.float32(rate)
        kept = []
        for step in range(max(stops) + 1):
            if step in stops:
                kept.append(weights)
            rows = batch_indices(len(self._data.labels), self._batch, seed, step)
            if step < max(stops):
                weights, state = self._step(weights, state, code, self._data.images[rows], self._data.labels[rows])
        return kept


def accuracies(space: DeepNets, network: Any, kept: list[WeightArrays], split: Dataset, images: int) -> list[float]:
    """Shares of a split that are classified rightly, under statistics of its own images."""
    code = space.encode(network)
    return [float(_accuracy(space, weights, code, split.images[:images], split.labels[:images])) for weights in kept]


@functools.partial(jax.jit, static_argnums=0)
def _accuracy(space: DeepNets, weights: WeightArrays, code: Any, images: Array, labels: Array) -> Array:
    return (space.forward(weights, code, images, Layers())[0].argmax(-1) == labels).mean()


def starts(space: DeepNets, checkpoint: str, seed: int) -> dict[str, Hypernetwork]:
    """What emits the weights of each side: the open hypernetwork, and ordinary initialisers."""
    opened = ghn.load(checkpoint)
    assert isinstance(opened, ghn.OpenHypernetwork), f"{checkpoint} is no open hypernetwork"
    fresh = Hypernetwork.create(space, opened.config)
    return {
        "generated": dataclasses.replace(fresh, parameters=opened.parameters),
        "default": Hypernetwork.create(space, GHNConfig(delta=False), seed),
    }


def main(options: Options) -> None:
    """Trains, chooses rates, writes the table."""
    keep_memory()
    if options.quick:
        options = dataclasses.replace(options, networks=("resnet18", "vit"), steps=4, rates=(1e-3,), images=100)
    splits = load(DataConfig(source=options.data, image_size=14))
    space = DeepNets(input_shape=splits.train.images.shape[1:], classes=splits.train.classes)
    models = {name: net for name, net in space.models().items() if name in options.networks or not options.networks}
    trainer = Trainer(space, splits.train, options.batch)
    stops = tuple(stop for stop in (*STOPS, options.steps) if stop <= options.steps)
    stops = tuple(sorted(set(stops)))
    curves: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in models}
    rates: dict[str, dict[str, float]] = {name: {} for name in models}
    with progress() as bar:
        task = bar.add_task("training", total=len(models) * 2 * len(options.rates) * options.seeds)
        for name, network in models.items():
            for side in ("generated", "default"):
                score = np.zeros((len(options.rates), options.seeds))
                test = np.zeros((len(options.rates), options.seeds, len(stops)))
                for seed in range(options.seeds):
                    emitter = starts(space, options.checkpoint, seed)[side]
                    weights = emitter(space.graph(network)).arrays
                    for index, rate in enumerate(options.rates):
                        kept = trainer(network, weights, rate, stops, seed)
                        score[index, seed] = accuracies(space, network, kept[-1:], splits.score, options.images)[0]
                        test[index, seed] = accuracies(space, network, kept, splits.test, options.images)
                        bar.advance(task)
                best = int(score.mean(1).argmax())
                curves[name][side], rates[name][side] = test[best].mean(0), options.rates[best]
    report(options, curves, rates, stops)


def report(
    options: Options,
    curves: dict[str, dict[str, NDArray[np.float64]]],
    rates: dict[str, dict[str, float]],
    stops: tuple[int, ...],
) -> None:
    """The JSON and the table."""
    results: dict[str, Any] = {
        "models": {
            name: {side: dict(zip(map(str, stops), curve.tolist(), strict=True)) for side, curve in sides.items()}
            for name, sides in curves.items()
        },
        "rates": rates,
    }
    for index, stop in enumerate(stops):
        wins = [sides["generated"][index] > sides["default"][index] for sides in curves.values()]
        results[f"win_rate_{stop}"] = float(np.mean(wins))
    header = ["network", *(f"after {stop}: generated / initialiser %" for stop in stops), "rates"]
    rows = [
        [
            name,
            *(f"{100 * a:.1f} / {100 * b:.1f}" for a, b in zip(sides["generated"], sides["default"], strict=True)),
            f"{rates[name]['generated']:g} / {rates[name]['default']:g}",
        ]
        for name, sides in curves.items()
    ]
    won = ", ".join(f"{results[f'win_rate_{stop}']:.0%} after {stop}" for stop in stops)
    notes = [
        f"Generated weights are ahead on {won} steps; {options.seeds} seed(s), rates {options.rates} for either side, "
        f"{options.images} test images."
    ]
    finish("initialization", results, header, rows, notes, list(range(options.seeds)), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
