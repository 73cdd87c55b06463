"""bfloat16: where it is used, and that it changes little."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Jaxpr

from architectures.layers import Layers
from architectures.spaces import NASBench201
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train.step import Batch, init_state, train_step

SPACE = NASBench201(channels=4, cells=1, input_shape=(8, 8, 1), classes=3, stages=1, nodes=3)
HALF = Layers(precision="bfloat16")
OPTIMIZER = optax.adam(1e-2)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=8, propagation="none"), seed=0)


@pytest.fixture(scope="module")
def batch(hypernetwork: Hypernetwork) -> Batch:
    rng = np.random.default_rng(0)
    cells = [SPACE.sample(seed) for seed in range(4)]
    return Batch(
        rng.normal(size=(8, *SPACE.input_shape)).astype(np.float32),
        rng.integers(0, 3, 8).astype(np.int32),
        stack_inputs([hypernetwork.inputs(SPACE.graph(cell)) for cell in cells]),
        stack_inputs([SPACE.encode(cell) for cell in cells]),
    )


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All equations, those of nested programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for nested in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(nested, "eqns"):
                yield from equations(getattr(nested, "jaxpr", nested))


@pytest.mark.parametrize("layers", [Layers(), HALF], ids=lambda layers: layers.precision)
def test_convolutions_compute_in_the_precision_and_nothing_in_float64(
    hypernetwork: Hypernetwork, batch: Batch, layers: Layers
) -> None:
    step = functools.partial(train_step, hypernetwork.definition, OPTIMIZER, layers=layers)
    found = list(equations(jax.make_jaxpr(step)(init_state(hypernetwork, OPTIMIZER), batch).jaxpr))
    types = {
        (equation.primitive.name, str(variable.aval.dtype))
        for equation in found
        for variable in (*equation.invars, *equation.outvars)
        if hasattr(variable.aval, "dtype")
    }
    assert {dtype for name, dtype in types if name == "conv_general_dilated"} == {layers.precision}
    images = (8, *SPACE.input_shape[:2], 4)
    products = [e for e in found if e.primitive.name == "dot_general" and e.invars[0].aval.shape == images]
    assert products and all(str(v.aval.dtype) == layers.precision for e in products for v in (*e.invars, *e.outvars))
    assert "float64" not in {dtype for _, dtype in types}


def test_a_step_differs_little_and_its_state_stays_float32(hypernetwork: Hypernetwork, batch: Batch) -> None:
    state = init_state(hypernetwork, OPTIMIZER)
    metrics = {}
    for layers in (Layers(), HALF):
        step = functools.partial(train_step, hypernetwork.definition, OPTIMIZER, layers=layers)
        after, metrics[layers.precision] = jax.jit(step)(state, batch)
        assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
        assert all(value.dtype == jnp.float32 and np.isfinite(value) for value in metrics[layers.precision].values())
    for name in ("loss", "gradient_norm"):
        full, half = (float(metrics[precision][name]) for precision in ("float32", "bfloat16"))
        assert 0 < abs(half / full - 1) < 0.05, name


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Layers.precision='half': use 'float32' or 'bfloat16'"):
        Layers(precision="half")  # type: ignore[arg-type]
