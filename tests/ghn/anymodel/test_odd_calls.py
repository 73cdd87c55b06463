"""Calls that are unusual and valid: methods, flags, random streams, arguments by name, tokens of any type."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ghn

X = jax.random.normal(jax.random.key(0), (32, 16))


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.OpenHypernetwork:
    return ghn.OpenHypernetwork.create(seed=0)


def test_tokens_of_numpys_own_type(hypernetwork: ghn.OpenHypernetwork) -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            return nn.Embed(5, 4)(tokens) * self.param("computed", lambda key: jnp.linspace(1, 2, 4))

    result = ghn.predict(Net(), np.zeros((2, 3), np.int64), hypernetwork=hypernetwork)
    np.testing.assert_allclose(result.params["computed"], np.linspace(1, 2, 4), rtol=1e-6)


class Encoder(nn.Module):
    @nn.compact
    def encode(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x))  # statistics of the batch, always
        return x + (0.0 if train else jax.random.normal(self.make_rng("noise"), x.shape))


class NNXEncoder(nnx.Module):
    def __init__(self) -> None:
        self.layer = nnx.Linear(16, 4, rngs=nnx.Rngs(0))

    def encode(self, x: jax.Array, deterministic: bool) -> jax.Array:
        return self.layer(x) if deterministic else x


def test_methods_flags_and_random_streams(hypernetwork: ghn.OpenHypernetwork) -> None:
    keys = {"noise": jax.random.key(3)}
    by_flag = [
        ghn.predict(Encoder(), *given, method="encode", rngs=keys, hypernetwork=hypernetwork)
        for given in ((X,), (X, False))
    ]
    jax.tree.map(np.testing.assert_array_equal, by_flag[0].variables, by_flag[1].variables)
    with pytest.raises(ValueError, match=r"Encoder: .*noise.*rngs="):
        ghn.predict(Encoder(), X, method="encode", hypernetwork=hypernetwork)
    found = ghn.predict(NNXEncoder(), X, method="encode", hypernetwork=hypernetwork)
    assert found.model.encode(X, True).shape == (32, 4)
    for model in (Encoder(), NNXEncoder()):
        with pytest.raises(TypeError, match="has no '__call__'; pass method="):
            ghn.predict(model, X, hypernetwork=hypernetwork)


class ByName(nn.Module):
    @nn.compact
    def __call__(self, *, tokens: jax.Array, context: Any) -> jax.Array:
        return nn.Dense(3)(nn.Embed(20, 8)(tokens) + nn.Dense(8)(context["of"]))


class ByPlace(ByName):
    def __call__(self, tokens: jax.Array, context: Any) -> jax.Array:
        return super().__call__(tokens=tokens, context=context)


class OfNNX(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.Linear(16, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x)


def test_arrays_passed_by_name_are_inputs(hypernetwork: ghn.OpenHypernetwork) -> None:
    tokens, context = jnp.zeros((2, 5), jnp.int32), {"of": jnp.ones((2, 5, 4))}
    named = ghn.predict(ByName(), tokens=tokens, context=context, hypernetwork=hypernetwork)
    placed = ghn.predict(ByPlace(), tokens, context, hypernetwork=hypernetwork)
    assert named.graph.ops == placed.graph.ops and named.graph.ops.count("input") == 2
    jax.tree.map(np.testing.assert_array_equal, named.params, placed.params)
    assert ghn.predict(OfNNX(), x=X, hypernetwork=hypernetwork).graph.ops == ("input", "dense")
