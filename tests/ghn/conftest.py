"""One small space and one small hypernetwork for all tests of the package, as created and after twenty steps."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from architectures.spaces import NASBench201
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train.step import Batch, init_state, train_step

STEPS = 20


@pytest.fixture(scope="session")
def space() -> NASBench201:
    return NASBench201(channels=8, cells=1, input_shape=(6, 6, 1), classes=3, stages=1)


@pytest.fixture(scope="session")
def config() -> GHNConfig:
    """Its tile is narrower than the network, so that decoders have to repeat it."""
    return GHNConfig(width=8, message_width=4, hidden=8, tile=6)


@pytest.fixture(scope="session")
def fresh(space: NASBench201, config: GHNConfig) -> Hypernetwork:
    return Hypernetwork.create(space, config, seed=0)


@pytest.fixture(scope="session")
def trained(fresh: Hypernetwork) -> Hypernetwork:
    """The same after twenty steps at a large learning rate, every step another architecture."""
    space, rng = fresh.space, np.random.default_rng(0)
    optimizer = optax.adam(1e-2)
    state = init_state(fresh, optimizer)
    step = jax.jit(functools.partial(train_step, fresh.definition, optimizer))
    for _ in range(STEPS):
        labels = rng.integers(0, space.classes, 8).astype(np.int32)
        images = (rng.normal(size=(8, *space.input_shape)) + labels[:, None, None, None]).astype(np.float32)
        architecture = space.sample(rng)
        graphs = stack_inputs([fresh.inputs(space.graph(architecture))])
        state, metrics = step(state, Batch(images, labels, graphs, stack_inputs([space.encode(architecture)])))
    assert np.isfinite(metrics["loss"])
    return dataclasses.replace(fresh, parameters=state.parameters, step=int(state.step))
