"""Objectives beside the mean loss, against plain loops over architectures."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from architectures.layout import initial_mean, initial_scale
from architectures.spaces import MLP, MLPSpace
from architectures.switch import cut
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train import loop
from train.config import OptimizerConfig, SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig
from train.objectives import HARD_DRAWS, hardest_loss, startup_loss
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


def test_a_run_starts_by_matching_an_initialiser(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 6, 6), dtype=np.uint8), (np.arange(120) % 3).astype(np.uint8)
    np.savez(tmp_path / "tiny.npz", x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
    config = TrainConfig(
        space=SpaceConfig(name="mlp", widths=SPACE.widths, depths=SPACE.depths),
        data=DataConfig(source=str(tmp_path / "tiny.npz"), image_size=6, score_images=30),
        augment=AugmentConfig(crop=0, flip=False),
        ghn=dataclasses.replace(SMALL, residual=False, normalise=False),
        optimizer=OptimizerConfig(learning_rate=0.03, warmup=1),
        startup=40,
        steps=41,
        batch=8,
        log_every=20,
    )
    trained = loop.train(config, tmp_path / "run", show=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 41]
    assert ["startup_loss" in line for line in lines] == ["loss" not in line for line in lines] == [True, True, False]
    start = loop.make_hypernetwork(config, loop.load(config.data))
    distances = [np.mean([plain_startup(one, mlp) for mlp in ARCHITECTURES]) for one in (start, trained)]
    assert distances[1] < 0.1 * distances[0]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trained.parameters))


def test_a_startup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TrainConfig.startup=10: must be at least 0 and less than steps=10"):
        TrainConfig(steps=10, startup=10)
