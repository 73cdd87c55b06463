"""Programs for accelerators are lowered without one."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export

from architectures.layers import Layers, Precision
from architectures.layout import Weights
from architectures.spaces import NASBench201
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from ghn.hypernetwork import GHN
from train.step import Batch, TrainState, train_step

SPACE = NASBench201(channels=4, cells=1, input_shape=(8, 8, 1), classes=3, stages=1)
PLATFORMS = ["cuda", "tpu"]


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    """Shapes are enough."""
    config = GHNConfig(width=8, message_width=4, hidden=8, tile=8)
    abstract = nnx.eval_shape(lambda: GHN(config, SPACE, rngs=nnx.Rngs(0)))
    return Hypernetwork(SPACE, config, nnx.state(abstract, nnx.Param))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_training_step_lowers(hypernetwork: Hypernetwork, precision: Precision) -> None:
    cells = [SPACE.sample(seed) for seed in range(2)]
    batch = Batch(
        np.zeros((4, *SPACE.input_shape), np.float32),
        np.zeros(4, np.int32),
        stack_inputs([hypernetwork.inputs(SPACE.graph(cell)) for cell in cells]),
        stack_inputs([SPACE.encode(cell) for cell in cells]),
    )
    optimizer = optax.adam(1e-3)
    step = functools.partial(train_step, hypernetwork.definition, optimizer, layers=Layers(precision=precision))
    parameters = hypernetwork.parameters
    state = TrainState(parameters, jax.eval_shape(optimizer.init, parameters), jax.ShapeDtypeStruct((), np.int32))
    exported = export.export(jax.jit(step), platforms=PLATFORMS)(state, batch)
    assert exported.platforms == tuple(PLATFORMS)
    assert "stablehlo.case" in exported.mlir_module()  # the switch over ops is one there too


def test_the_executor_lowers() -> None:
    cell = SPACE.sample(seed=0)
    images = jax.ShapeDtypeStruct((4, *SPACE.input_shape), np.float32)
    arrays = {
        name: jax.ShapeDtypeStruct((group.slots, *group.shape), np.float32) for name, group in SPACE.layout.items()
    }
    apply = jax.jit(lambda weights, images: SPACE.apply(weights, cell, images))
    exported = export.export(apply, platforms=PLATFORMS)(Weights(arrays, SPACE), images)
    assert exported.platforms == tuple(PLATFORMS)
    assert [value.shape for value in exported.out_avals] == [(4, 3)]
