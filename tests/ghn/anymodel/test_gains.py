"""Signals are followed as they are, and sizes of kernels keep them alive without changing what matters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ghn
from architectures.graph import GraphBuilder, Parameter
from architectures.ops import Leaf
from ghn.anymodel.emission import write_matrix
from ghn.anymodel.gains import BAND, CALM, NodeWeights, gains
from ghn.anymodel.signals import answered, averaged, drawn, entering, fitted, normalised, rectified, strength


@pytest.mark.parametrize("direct", [0.0, 0.5])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 1, 3, 2), 1),
        ((1, 1, 11, 9), 1),
        ((3, 3, 10, 6), 1),
        ((7, 7, 2, 9), 1),
        ((5, 5, 1, 12), 12),
        ((3, 3, 3, 8), 2),
    ],
)
def test_a_kernels_answer_is_that_of_the_weights_that_are_written(shape: Any, groups: int, direct: float) -> None:
    tile = np.random.default_rng(1).normal(size=(min(shape[0], 3), min(shape[1], 3), 4, 4)).astype(np.float32)
    row = Parameter(("w",), 0, Leaf("kernel", shape), None, None, shape, "float32", (), 1)
    weights = np.empty(shape, np.float32)
    write_matrix(weights, row, tile, 0.0, direct, 1.0, 0)
    signal = 0.5 + drawn(shape[2] * groups, 5)
    of_group = np.arange(shape[3]) // (shape[3] // groups)
    inputs = signal.reshape(len(signal), groups, -1)[:, of_group]  # [S, O, I]
    middle = shape[0] // 2 * shape[1] + shape[1] // 2
    expected = sum(
        np.roll(np.einsum("soi,io->so", inputs, own), position - middle, axis=0)  # every position sees another sample
        for position, own in enumerate(weights.reshape(-1, *shape[2:]))
    )
    np.testing.assert_allclose(answered(signal, row.leaf, tile, 0.0, direct, groups), expected, atol=1e-4)
    noisy = answered(signal, row.leaf, np.zeros_like(tile), 0.5, 0.0, groups)
    square = shape[0] * shape[1] * shape[2] * 0.25 * strength(signal)
    np.testing.assert_allclose(strength(noisy), square, rtol=1e-4)


@pytest.mark.parametrize(("op", "function"), [("relu", jax.nn.relu), ("gelu", jax.nn.gelu), ("silu", jax.nn.silu)])
def test_activations_are_those_of_models(op: str, function: Any) -> None:
    x = 3 * drawn(64, 0)
    np.testing.assert_allclose(entering(op, ["dense"], [x], 1.0, x), function(x), atol=1e-3)


def test_what_meets_in_a_sum_adds_up_as_far_as_it_is_alike() -> None:
    x, other = drawn(512, 0), drawn(512, 1000)

    def together(*signals: Any) -> float:
        return strength(entering("sum", ["dense"] * len(signals), signals, 1.0, x))

    np.testing.assert_allclose(strength(x), 1, rtol=1e-4)
    np.testing.assert_allclose(together(x, x), 4, rtol=1e-4)
    np.testing.assert_allclose(together(x, -x), 0, atol=1e-6)
    np.testing.assert_allclose(together(x, other), 2, rtol=0.05)
    np.testing.assert_allclose(together(x, fitted(x[:, :256], 512)), 3, rtol=0.05)  # its second half is repeated


def test_channels_and_places_are_told_apart_where_they_are_joined() -> None:
    x, weak = drawn(16, 0), 0.1 * drawn(16, 1000)
    channels = entering("concat", ["dense", "dense"], [x, weak], 1.0, drawn(32, 0))
    np.testing.assert_array_equal(channels, np.concatenate([x, weak], 1))
    places = entering("concat", ["dense", "dense"], [x, weak], 1.0, drawn(16, 0))
    assert places.shape == x.shape
    after = entering("layer_norm", ["concat"], [places], 1.0, places)  # as strong in every place, however weak before
    np.testing.assert_allclose(np.square(after).mean(1), 1, rtol=1e-3)


def test_means_stay_where_places_are_averaged_and_go_where_channels_are_normalised() -> None:
    x = 2 + drawn(64, 0)
    np.testing.assert_allclose(strength(averaged(x, 100.0)), 4 + 1 / 100, rtol=1e-3)
    np.testing.assert_allclose(normalised(x), drawn(64, 0), atol=1e-3)
    assert not normalised(np.zeros_like(x)).any()


def chain(op: str | None, size: float, layers: int = 20) -> tuple[Any, list[NodeWeights]]:
    """Dense layers of one size, each behind a ReLU and in front of `op`."""
    builder = GraphBuilder()
    x = builder.node("input", [], channels_in=8, channels_out=8)
    weights = [NodeWeights()]
    rng = np.random.default_rng(0)
    for _ in range(layers):
        x = builder.node("dense", [builder.node("relu", [x])], channels_in=8, channels_out=8)
        tile = rng.normal(size=(1, 1, 8, 8)).astype(np.float32)
        weights += [NodeWeights(), NodeWeights(Leaf("kernel", (1, 1, 8, 8)), 2.0, tile, 0.0, size)]
        if op is not None:
            x = builder.node(op, [x], channels_in=8, channels_out=8)
            weights.append(NodeWeights(scale=(1.0, np.full(8, 2.0, np.float32))))
    return builder.build(), weights


@pytest.mark.parametrize("size", [0.2, 1.0, 5.0])
def test_sizes_do_not_multiply_along_a_chain(size: float) -> None:
    graph, weights = chain(None, size)  # followed with other inputs than those that sizes were found with
    for controlled in (True, False):
        x, strengths = drawn(8, 0), []
        for own, gain in zip(weights, gains(graph, weights), strict=True):
            if own.leaf is not None and own.tile is not None:
                factor = (2 / 8) ** 0.5 * (gain.size if controlled else size)  # He's scale: initially all is 1
                x = np.float32(factor) * answered(rectified(x), own.leaf, own.tile, 0.0, 0.0, 1)
                strengths.append(strength(x) ** 0.5)
        inside = [0.85 / BAND < strength < 1.15 * BAND for strength in strengths]
        assert all(inside) if controlled else size == 1 or not inside[-1]


def test_in_front_of_batch_normalisation_signals_are_calm() -> None:
    graph, weights = chain("batch_norm", 3.0)
    sizes = gains(graph, weights)
    x = drawn(8, 0)
    for own, gain in zip(weights, sizes, strict=True):
        if own.leaf is not None and own.tile is not None:
            x = answered(rectified(x), own.leaf, own.tile, 0.0, 0.0, 1) * np.float32((2 / 8) ** 0.5 * gain.size)
            assert strength(x) ** 0.5 <= CALM * 1.2
            x = 2 * x


def test_biases_beside_small_kernels_are_small() -> None:
    x = jnp.ones((2, 16))
    kernel = jax.random.normal(jax.random.key(0), (16, 16))

    def bias(scale: float) -> Any:
        params = {"w": scale * kernel, "b": jnp.zeros(16)}
        predicted = ghn.predict_params(lambda p, x: x @ p["w"] + p["b"], params, x, hypernetwork=ghn.load("default"))
        return np.asarray(predicted.params["b"])

    usual = bias(0.25)  # LeCun's scale
    assert np.abs(usual).max() > 0
    np.testing.assert_allclose(bias(0.02), usual * 0.08, rtol=1e-4)


def test_kernels_beside_large_biases_that_stay_are_not_measured_by_them() -> None:
    x = jax.random.normal(jax.random.key(1), (4, 16))
    kernel = jax.random.normal(jax.random.key(0), (16, 16)) / 4

    def gate(bias: float) -> Any:
        params = {"w": kernel, "b": jnp.full(16, bias)}
        return ghn.predict_params(lambda p, x: jax.nn.sigmoid(x @ p["w"] + p["b"]), params, x).params

    closed = gate(-10.0)
    assert (np.asarray(closed["b"]) == -10).all()
    np.testing.assert_allclose(closed["w"], gate(0.0)["w"], rtol=1e-4)


def test_where_signals_die_out_the_answer_is_that_of_the_initial_biases() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"deep": [1e-2 * jax.random.normal(key, (16, 16)) for key in keys[:2]]}
    params |= {"w": 0.1 * jax.random.normal(keys[2], (16, 10)), "b": 0.1 * jax.random.normal(keys[3], (10,))}

    def apply(p: Any, x: Any) -> Any:
        for kernel in p["deep"]:
            x = jax.nn.relu(x @ kernel)
        return x @ p["w"] + p["b"]

    x = jax.random.normal(jax.random.key(1), (64, 16))
    predicted = ghn.predict_params(apply, params, x, hypernetwork=ghn.load("default")).params
    ratio = float(apply(predicted, x).std() / apply(params, x).std())
    assert 0.1 < ratio < 10  # with the kernel's own answer as the measure: 0.0015


class Fading(nn.Module):
    """With initial statistics each ReLU halves what comes through: after 10 a thirtieth is left."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        for _ in range(10):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(16, (3, 3))(x)))
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x.mean((1, 2)))))


def test_behind_batch_normalisations_signals_are_alive_with_either_statistics() -> None:
    model, x = Fading(), jax.random.normal(jax.random.key(0), (32, 8, 8, 3))
    kinds = [ghn.predict(model, x).variables, model.init(jax.random.key(1), x)]
    apply = jax.jit(model.apply)
    for variables in (kinds, [ghn.calibrate(model, own, [x]) for own in kinds]):
        predicted, initial = (float(apply(own, x).std()) for own in variables)
        assert 0.1 < predicted / initial < 10


class Embedding(nn.Module):
    """A face embedding: batch normalisation is the last word."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        for _ in range(3):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(32, (3, 3))(x)))
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x.mean((1, 2))))


def test_a_batch_normalisation_that_answers_keeps_near_its_initial_vectors() -> None:
    model, x = Embedding(), jax.random.normal(jax.random.key(0), (32, 8, 8, 3))
    norms = {name: own for name, own in ghn.predict(model, x).params.items() if name.startswith("Batch")}
    spread = {name: float(np.abs(own["scale"] - 1).max()) for name, own in norms.items()}
    assert spread.pop("BatchNorm_3") <= 0.9 and float(np.abs(norms["BatchNorm_3"]["bias"]).max()) <= 0.9
    assert min(spread.values()) > 0.9  # kernels read these, and learned with them


class Recurrent(nn.Module):
    """A cell that starts from a state of zeros, on weak inputs."""

    cell: Any

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(50, 32, embedding_init=nn.initializers.normal(0.02))(tokens)
        return nn.Dense(5)(nn.RNN(self.cell(32))(x).mean(1))


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.GRUCell])
def test_a_loops_state_is_as_strong_as_its_inputs_make_it(cell: Any) -> None:
    model, tokens = Recurrent(cell), jax.random.randint(jax.random.key(0), (16, 8), 0, 50)
    predicted, initial = ghn.predict(model, tokens).variables, model.init(jax.random.key(1), tokens)
    ratio = jnp.square(model.apply(predicted, tokens)).mean() / jnp.square(model.apply(initial, tokens)).mean()
    assert 0.3 < float(ratio) ** 0.5 < 4  # with states of strength 1, whose biases stay: 17


class Tied(nn.Module):
    """A table that is the head, too."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        table = nn.Embed(100, 32, embedding_init=nn.initializers.normal(0.02))
        x = table(tokens)
        for _ in range(2):
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return table.attend(nn.LayerNorm()(x))


def test_tables_that_are_heads_are_as_loud_as_heads() -> None:
    model, tokens = Tied(), jax.random.randint(jax.random.key(0), (8, 8), 0, 100)
    predicted, initial = ghn.predict(model, tokens).variables, model.init(jax.random.key(1), tokens)
    ratio = float(model.apply(predicted, tokens).std() / model.apply(initial, tokens).std())
    assert 0.3 < ratio < 3.5  # without: 6


class FadedToken(nn.Module):
    """A class token of zeros, of which scaled branches make next to nothing (LayerScale), is the answer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        token = self.param("token", nn.initializers.zeros, (1, 16))
        for i in range(2):
            scale = self.param(f"layer_scale_{i}", nn.initializers.constant(1e-5), (16,))
            token = token + scale * nn.Dense(16)(nn.relu(nn.Dense(32)(x)))
        return nn.Dense(10)(nn.LayerNorm()(token))


def test_what_is_too_weak_to_be_normalised_is_no_reason_to_speak_up() -> None:
    model, x = FadedToken(), jax.random.normal(jax.random.key(0), (64, 16))
    predicted, initial = ghn.predict(model, x).variables, model.init(jax.random.key(1), x)
    ratio = float(model.apply(predicted, x).std() / model.apply(initial, x).std())
    assert 0.1 < ratio < 10  # with a normalisation that makes 1 of everything: 19
