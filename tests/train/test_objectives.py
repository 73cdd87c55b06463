"""Objectives beside the mean loss, against plain loops over architectures."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from architectures.layers import Layers
from architectures.layout import initial_mean, initial_scale
from architectures.spaces import MLP, MLPSpace
from architectures.switch import cut
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train import loop
from train.config import DevicesConfig, OptimizerConfig, SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig
from train.objectives import HARD_DRAWS, hardest_loss, path_loss, startup_loss
from train.step import Batch, loss_fn

SPACE = MLPSpace(input_shape=(6, 6, 1), classes=3, widths=(4, 8), depths=(1, 2))
SMALL = GHNConfig(width=8, message_width=4, hidden=8, tile=8, propagation="none")
ARCHITECTURES = (MLP((4,)), MLP((8,)), MLP((4, 8)), MLP((8, 4)), MLP((8, 8)), MLP((4, 4)))


def make_batch(hypernetwork: Hypernetwork, architectures: tuple[MLP, ...]) -> Batch:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, *SPACE.input_shape)).astype(np.float32)
    labels = rng.integers(0, SPACE.classes, 16).astype(np.int32)
    graphs = stack_inputs([hypernetwork.inputs(SPACE.graph(one)) for one in architectures])
    return Batch(images, labels, graphs, stack_inputs([SPACE.encode(one) for one in architectures]))


def test_the_hardest_of_every_three_are_trained_on() -> None:
    hypernetwork = Hypernetwork.create(SPACE, dataclasses.replace(SMALL, delta_scale=1.0), seed=0)
    batch = make_batch(hypernetwork, ARCHITECTURES)
    some = batch._replace(images=batch.images[::4], labels=batch.labels[::4])
    definition, parameters = hypernetwork.definition, hypernetwork.parameters
    alone = [
        jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], (some.graphs, some.encodings))
        for index in range(len(ARCHITECTURES))
    ]
    one_loss = jax.jit(functools.partial(loss_fn, definition))
    losses = np.array(
        [
            float(one_loss(parameters, some._replace(graphs=graphs, encodings=encodings))[0])
            for graphs, encodings in alone
        ]
    )
    hardest = [first + int(losses[first : first + HARD_DRAWS].argmax()) for first in (0, HARD_DRAWS)]
    expected = make_batch(hypernetwork, tuple(ARCHITECTURES[index] for index in hardest))

    def gradient(objective: Any, batch: Batch) -> Any:
        loss = functools.partial(objective, definition, batch=batch)
        return jax.jit(jax.value_and_grad(lambda parameters: loss(parameters), has_aux=True))(parameters)

    found, plain = gradient(hardest_loss, batch), gradient(loss_fn, expected)
    assert len(set(hardest) - {0, 3}) > 0  # the first of three would be chosen without looking
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, plain)


def plain_path(
    hypernetwork: Hypernetwork, batch: Batch, ahead: int, rate: float
) -> tuple[list[float], list[float], Any]:
    """Losses and accuracies along the paths of `path_loss`, and its gradient; one network and one step at a time."""

    def loss(weights: Any, encoding: Any, images: Any, labels: Any) -> Any:
        logits, _ = SPACE.forward(weights, encoding, images, Layers())
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    slope_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
    losses, accuracies, gradient = np.zeros(ahead + 1), np.zeros(ahead + 1), None
    for index in range(count := len(batch.encodings["width"])):
        graphs, encoding = jax.tree.map(lambda leaf, index=index: leaf[index], (batch.graphs, batch.encodings))
        start, pull = jax.vjp(
            lambda p, graphs=graphs: nnx.merge(hypernetwork.definition, p)(graphs), hypernetwork.parameters
        )
        optimizer = optax.adam(rate)
        weights, moments, total = start, optimizer.init(start), jax.tree.map(jnp.zeros_like, start)
        for part in range(ahead + 1):
            images, labels = batch.images[part :: ahead + 1], batch.labels[part :: ahead + 1]
            (value, logits), slope = slope_of(weights, encoding, images, labels)
            losses[part] += value / count
            accuracies[part] += np.mean(logits.argmax(-1) == labels) / count
            total = jax.tree.map(lambda own, new: own + new / (ahead + 1) / count, total, slope)
            updates, moments = optimizer.update(slope, moments)
            weights = optax.apply_updates(weights, updates)
        (own,) = pull(total)
        gradient = own if gradient is None else jax.tree.map(jnp.add, gradient, own)
    return losses.tolist(), accuracies.tolist(), gradient


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_path_loss_is_that_of_trained_weights_and_its_gradient_that_along_the_path(ahead: int) -> None:
    hypernetwork = Hypernetwork.create(SPACE, dataclasses.replace(SMALL, delta_scale=1.0), seed=0)
    batch = make_batch(hypernetwork, ARCHITECTURES[:3])
    losses, accuracies, gradient = plain_path(hypernetwork, batch, ahead, 0.05)
    objective = functools.partial(path_loss, hypernetwork.definition, batch=batch, ahead=ahead, rate=0.05)
    (loss, told), found = jax.jit(jax.value_and_grad(objective, has_aux=True))(hypernetwork.parameters)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    expected = {
        "loss": losses[0],
        "accuracy": accuracies[0],
        "loss_ahead": losses[-1],
        "accuracy_ahead": accuracies[-1],
    }
    assert {name: float(value) for name, value in told.items()} == pytest.approx(expected, rel=1e-5)
    assert abs(losses[-1] - losses[0]) > 0.01  # the path goes somewhere
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), found, gradient)


def test_images_that_do_not_divide_along_a_path_are_refused() -> None:
    hypernetwork = Hypernetwork.create(SPACE, SMALL, seed=0)
    batch = make_batch(hypernetwork, ARCHITECTURES[:1])
    with pytest.raises(ValueError, match="batch: 16 images do not divide into 3 parts, ahead=2"):
        path_loss(hypernetwork.definition, hypernetwork.parameters, batch, ahead=2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ahead": -1}, "TrainConfig.ahead=-1"),
        ({"ahead": 3, "batch": 66}, r"TrainConfig.batch=66: .* ahead \+ 1 = 4 parts .* use a multiple of 4"),
        ({"ahead": 1, "batch": 6, "devices": DevicesConfig(batch=2)}, "devices.batch=2; use a multiple of 4"),
        ({"ahead": 1, "ahead_rate": 0.0}, "TrainConfig.ahead_rate=0.0: must be positive"),
        ({"ahead": 1, "sampling": "hard"}, "TrainConfig.ahead=1: sampling='hard'"),
    ],
)
def test_a_path_without_room_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainConfig(**settings)


def plain_startup(hypernetwork: Hypernetwork, architecture: MLP) -> float:
    """`startup_loss` of one architecture, leaf by leaf."""
    graph = SPACE.graph(architecture)
    weights = nnx.merge(hypernetwork.definition, hypernetwork.parameters)(hypernetwork.inputs(graph))
    apart: dict[str, list[float]] = {name: [] for name in SPACE.layout}
    for row in graph.parameters:
        assert row.place is not None
        leaf = np.asarray(cut(weights[row.place.group][row.place.slot], row.leaf.shape))
        square = float(np.square(leaf - initial_mean(row.leaf)).mean())
        scale = initial_scale(row.leaf)
        apart[row.place.group].append(np.log(np.sqrt(square) / scale) ** 2 if scale else square)
    return float(np.mean([np.mean(own) if own else 0.0 for own in apart.values()]))


@pytest.mark.parametrize("normalise", [True, False])
def test_the_startup_loss_is_the_distance_from_an_initialisers_sizes(normalise: bool) -> None:
    config = dataclasses.replace(SMALL, residual=False, normalise=normalise, delta_scale=0.5)
    hypernetwork = Hypernetwork.create(SPACE, config, seed=0)
    batch = make_batch(hypernetwork, ARCHITECTURES[:3])
    found, told = startup_loss(hypernetwork.definition, hypernetwork.parameters, batch)
    expected = float(np.mean([plain_startup(hypernetwork, one) for one in ARCHITECTURES[:3]]))
    assert float(found) == pytest.approx(expected, rel=1e-4) and told == {"startup_loss": found}
    assert expected > 0.1


def tiny_run(folder: Path, **settings: Any) -> TrainConfig:
    """A run on images of noise."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 6, 6), dtype=np.uint8), (np.arange(120) % 3).astype(np.uint8)
    np.savez(folder / "tiny.npz", x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
    return TrainConfig(
        space=SpaceConfig(name="mlp", widths=SPACE.widths, depths=SPACE.depths),
        data=DataConfig(source=str(folder / "tiny.npz"), image_size=6, score_images=30),
        augment=AugmentConfig(crop=0, flip=False),
        optimizer=OptimizerConfig(learning_rate=0.03, warmup=1),
        batch=8,
        log_every=20,
        **settings,
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_along_paths_learns_what_starts_well(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, ghn=SMALL, ahead=3, ahead_rate=0.01, steps=120)
    loop.train(config, tmp_path / "run", show=False)
    first, *_, last = metrics_of(tmp_path / "run")
    assert last["loss_ahead"] < 0.7 * first["loss_ahead"]


def test_a_run_starts_by_matching_an_initialiser(tmp_path: Path) -> None:
    ghn = dataclasses.replace(SMALL, residual=False, normalise=False)
    config = tiny_run(tmp_path, ghn=ghn, startup=40, steps=41)
    trained = loop.train(config, tmp_path / "run", show=False)
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [20, 40, 41]
    assert ["startup_loss" in line for line in lines] == ["loss" not in line for line in lines] == [True, True, False]
    start = loop.make_hypernetwork(config, loop.load(config.data))
    distances = [np.mean([plain_startup(one, mlp) for mlp in ARCHITECTURES]) for one in (start, trained)]
    assert distances[1] < 0.1 * distances[0]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trained.parameters))


def test_a_startup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TrainConfig.startup=10: must be at least 0 and less than steps=10"):
        TrainConfig(steps=10, startup=10)
