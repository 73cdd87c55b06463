"""Running statistics are those of all batches together, whatever the momentum, the size and the rest of the state."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from twin_models import LinenNet, NNXNet

import ghn


@pytest.fixture
def norm_net() -> tuple[Any, Any]:
    x = jax.random.normal(jax.random.key(0), (3, 16, 8, 8, 3)) * 2 + 1
    return ghn.predict(LinenNet(), x[0], hypernetwork=ghn.OpenHypernetwork.create()), x


def test_statistics_are_pooled(norm_net: tuple[Any, Any]) -> None:
    result, batches = norm_net
    calibrated = ghn.calibrate(LinenNet(), result.variables, list(batches))["batch_stats"]["BatchNorm_0"]
    stem = result.params["stem"]
    whole = batches.reshape(-1, 8, 8, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = (
        jax.lax.conv_general_dilated(whole, stem["kernel"], (1, 1), "SAME", dimension_numbers=numbers) + stem["bias"]
    )
    np.testing.assert_allclose(calibrated["mean"], hidden.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(calibrated["var"], hidden.var((0, 1, 2)), rtol=1e-3)
    with pytest.raises(ValueError, match="batches: none"):
        ghn.calibrate(LinenNet(), result.variables, [])
    with pytest.raises(ValueError, match="nothing to calibrate"):
        ghn.calibrate(nn.Dense(2), {"params": {}}, list(batches))


def test_nnx(norm_net: tuple[Any, Any]) -> None:
    batches = norm_net[1]
    model = ghn.predict(NNXNet(nnx.Rngs(0)), batches[0], hypernetwork=ghn.OpenHypernetwork.create()).model
    expected = ghn.calibrate(LinenNet(), norm_net[0].variables, list(batches))["batch_stats"]["BatchNorm_0"]
    calibrated = ghn.calibrate(model, None, list(batches))
    np.testing.assert_allclose(calibrated.norm.mean.get_value(), expected["mean"], atol=1e-4)
    np.testing.assert_allclose(calibrated.norm.var.get_value(), expected["var"], rtol=1e-3)


class Norm(nn.Module):
    momentum: float = 0.99
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm")
        statistics = norm(x)
        frozen = nn.BatchNorm(use_running_average=True, name="frozen")(statistics)
        steps = self.variable("batch_stats", "steps", lambda: jnp.zeros((), jnp.int32))
        if train:
            steps.value += 1
        return frozen


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_any_size_and_momentum(size: float, momentum: float) -> None:
    x = size * (np.random.default_rng(0).standard_normal((2, 64, 4)) + np.arange(4)).astype(np.float32)
    variables = Norm(momentum).init(jax.random.key(0), x[0])
    found = ghn.calibrate(Norm(momentum), {"params": {}, **variables}, list(x))["batch_stats"]
    whole = x.reshape(-1, 4)
    np.testing.assert_allclose(found["norm"]["mean"], whole.mean(0), rtol=2e-3, atol=2e-3 * size)
    np.testing.assert_allclose(found["norm"]["var"], whole.var(0), rtol=1e-2)
    assert found["steps"] == 2 and found["steps"].dtype == jnp.int32
    np.testing.assert_array_equal(found["frozen"]["mean"], 0)
    np.testing.assert_array_equal(found["frozen"]["var"], 1)


def test_batches_count_by_their_size() -> None:
    rng = np.random.default_rng(0)
    batches = [3.0 * i + rng.standard_normal((rows, 4)).astype(np.float32) for i, rows in enumerate((64, 64, 8))]
    variables = Norm().init(jax.random.key(0), batches[0])
    found = ghn.calibrate(Norm(), {"params": {}, **variables}, batches)["batch_stats"]["norm"]
    whole = np.concatenate(batches)
    np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-3)
    np.testing.assert_allclose(found["var"], whole.var(0), rtol=1e-3)


class Dropping(nnx.Module):
    """Training changes more of its state than the statistics: the dropout's keys and a counter."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.steps = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.steps.set_value(self.steps.get_value() + 1)
        return self.drop(self.norm(x))


def test_nnx_state_besides_statistics() -> None:
    x = 2 + np.random.default_rng(0).standard_normal((128, 4)).astype(np.float32)
    found = ghn.calibrate(Dropping(nnx.Rngs(0)), None, [x[:64], x[64:]])
    np.testing.assert_allclose(found.norm.mean.get_value(), x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.norm.var.get_value(), x.var(0), rtol=1e-3)
    assert found.steps.get_value() == 0


def test_half_precision_statistics() -> None:
    x = (np.random.default_rng(0).standard_normal((64, 4)) * 3 + np.arange(4)).astype(np.float32)
    variables = Norm().init(jax.random.key(0), x)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a, variables["batch_stats"])
    found = ghn.calibrate(Norm(), {"params": variables["params"], "batch_stats": half}, [x])["batch_stats"]["norm"]
    assert found["mean"].dtype == jnp.bfloat16
    np.testing.assert_allclose(found["mean"].astype(jnp.float32), x.mean(0), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(found["var"].astype(jnp.float32), x.var(0), rtol=0.02)


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.SpectralNorm(nn.Dense(8))(x, update_stats=train)
        x = nn.BatchNorm(use_running_average=not train)(x)
        noise = jax.random.normal(self.make_rng("noise"), x.shape) if train else 0.0
        return nn.Dense(3)(x + noise)


def test_what_is_no_average_goes_on_from_its_own_value() -> None:
    x = np.random.default_rng(0).standard_normal((128, 6)).astype(np.float32)
    model = Spectral()
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"Spectral: .*noise.*rngs="):
        ghn.calibrate(model, variables, [x])
    keys = {"noise": jax.random.key(1)}
    found = ghn.calibrate(model, variables, [x], rngs=keys)["batch_stats"]
    _, after = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=keys)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found["SpectralNorm_0"],
        after["batch_stats"]["SpectralNorm_0"],
    )
    norms = found["BatchNorm_0"], after["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(norms[0]["mean"], norms[1]["mean"] / 0.01, rtol=1e-2, atol=1e-3)


class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.BatchNorm(use_running_average=True)(x)


def test_statistics_that_nothing_enters_are_not_taken_for_calibrated() -> None:
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match="no batch enters any running statistics"):
        ghn.calibrate(Frozen(), Frozen().init(jax.random.key(0), x), [x])


class Parallel(nn.Module):
    """Normalises over the devices of an axis in training."""

    axis: str | None

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        return nn.BatchNorm(use_running_average=not train, axis_name=self.axis)(nn.Dense(4)(x))


def test_an_axis_of_devices_is_this_device() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 3))
    variables = Parallel(None).init(jax.random.key(1), x)
    expected = ghn.calibrate(Parallel(None), variables, [x])
    jax.tree.map(np.testing.assert_array_equal, ghn.calibrate(Parallel("devices"), variables, [x]), expected)
    norm = nnx.BatchNorm(3, axis_name="devices", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(ghn.calibrate(norm, None, [x]).mean.get_value(), x.mean(0), atol=1e-5)
