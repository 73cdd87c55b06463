"""The open hypernetwork in the package: its weights are worth something for models that nobody wrote down."""

from __future__ import annotations

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ghn
from train.data import DataConfig, load


class ResidualNet(nn.Module):
    """No network of the space that it was trained on: other widths, a stem of its own, statistics of the batch."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not train)(x)

        x = nn.Conv(20, (3, 3), use_bias=False)(x)
        for width in (20, 40):
            x = nn.Conv(width, (3, 3), strides=(2, 2), use_bias=False)(nn.relu(norm(x)))
            y = nn.Conv(width, (3, 3), use_bias=False)(nn.relu(norm(x)))
            x = x + nn.Conv(width, (3, 3), use_bias=False)(nn.relu(norm(y)))
        return nn.Dense(10)(nn.relu(norm(x)).mean((1, 2)))


@pytest.fixture(scope="module")
def images() -> tuple[Any, Any]:
    split = load(DataConfig()).test  # normalised as in training
    return jnp.asarray(split.images), np.asarray(split.labels)


def accuracy(variables: Any, images: tuple[Any, Any]) -> float:
    def logits(variables: Any, x: jax.Array) -> jax.Array:
        return ResidualNet().apply(variables, x, train=True, mutable=["batch_stats"])[0]

    apply = jax.jit(logits)
    return float(np.mean(np.asarray(apply(variables, images[0])).argmax(-1) == images[1]))


def test_it_loads_fast_and_knows_what_it_is() -> None:
    start = time.process_time()
    opened = ghn.load("default")
    assert isinstance(opened, ghn.OpenHypernetwork)
    assert opened.step > 0
    assert time.process_time() - start < 5  # on a busy machine; well under 1 s otherwise


def test_its_weights_are_worth_something(images: tuple[Any, Any]) -> None:
    result = ghn.predict(ResidualNet(), images[0][:2])  # which takes it for models that are not of the space of "demo"
    assert result.report.predicted == len(result.report.rows)
    assert "training steps" in str(result.report)
    fresh = ghn.predict(ResidualNet(), images[0][:2], hypernetwork=ghn.OpenHypernetwork.create())
    assert accuracy(result.variables, images) > 0.3
    assert accuracy(result.variables, images) > accuracy(fresh.variables, images) + 0.1
