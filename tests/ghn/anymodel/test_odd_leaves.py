"""Leaves that are unusual and valid: each is predicted, or kept with its reason, or refused by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ghn
from ghn.anymodel.report import LeafReport

X = jax.random.normal(jax.random.key(0), (32, 16))


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.OpenHypernetwork:
    return ghn.OpenHypernetwork.create(seed=0)


def by_path(result: ghn.Prediction) -> dict[str, LeafReport]:
    return {row.path: row for row in result.report.rows}


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[-2])


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32, jnp.int8, jnp.float32])
def test_masks_and_integers_are_kept(dtype: Any, hypernetwork: ghn.OpenHypernetwork) -> None:
    mask = (np.random.default_rng(0).random((16, 4)) < 0.2).astype(dtype)
    params = {"w": normal(16, 4), "m": jnp.asarray(mask)}
    result = ghn.predict_params(lambda p, x: x @ (p["w"] * p["m"]), params, X, hypernetwork=hypernetwork)
    np.testing.assert_array_equal(result.params["m"], mask)
    row = by_path(result)["m"]
    assert row.source == "initialiser" and "mask" in row.reason and by_path(result)["w"].source == "predicted"


def test_complex_kernels_are_complex(hypernetwork: ghn.OpenHypernetwork) -> None:
    wide = jax.random.normal(jax.random.key(2), (16, 64), jnp.complex64) / 4
    result = ghn.predict_params(lambda p, x: jnp.abs(x @ p["w"]), {"w": wide}, X, hypernetwork=hypernetwork)
    found = np.asarray(result.params["w"])
    assert found.dtype == np.complex64 and by_path(result)["w"].reason == "scale: LeCun"
    np.testing.assert_allclose([found.real.std(), found.imag.std()], wide.real.std(), rtol=0.2)
    assert abs(np.corrcoef(found.real.ravel(), found.imag.ravel())[0, 1]) < 0.9


def test_complex_initialisers_are_read(hypernetwork: ghn.OpenHypernetwork) -> None:
    class Spectral(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            def initialise(key: Any) -> jax.Array:
                real, imaginary = jax.random.uniform(key, (2, 16, 8), minval=-1)
                return 0.25 * (real + 1j * imaginary)

            return jnp.abs(x @ self.param("kernel", initialise))

    result = ghn.predict(Spectral(), X, hypernetwork=hypernetwork)
    (row,) = result.report.rows
    assert (row.source, row.dtype) == ("predicted", "complex64") and row.reason.startswith("scale: ")
    assert 0.05 < np.asarray(result.params["kernel"]).real.std() < 0.5


@pytest.mark.filterwarnings("error")
def test_empty_leaves(hypernetwork: ghn.OpenHypernetwork) -> None:
    params = {"none": jnp.zeros((16, 0)), "from": jnp.zeros((0, 4)), "w": normal(16, 4)}

    def apply(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["w"] + (x @ p["none"]) @ p["from"]

    result = ghn.predict_params(apply, params, X, hypernetwork=hypernetwork, strict=True)
    assert [leaf.shape for leaf in jax.tree.leaves(result.params)] == [(0, 4), (16, 0), (16, 4)]
    assert np.isfinite(apply(result.params, X)).all()


def test_numbers_are_arrays_and_other_things_are_named(hypernetwork: ghn.OpenHypernetwork) -> None:
    def apply(p: Any, x: Any, factor: Any) -> Any:
        return (x @ p["w"]) * p["s"] * factor

    result = ghn.predict_params(apply, {"w": normal(16, 4), "s": 2.0}, X, 0.5, hypernetwork=hypernetwork)
    assert result.params["s"].shape == () and result.params["s"] == 2
    for wrong, match in (("mode", r"inputs/1: 'mode' is no array; close over it"), (True, "functools.partial")):
        with pytest.raises((TypeError, ValueError), match=match):
            ghn.predict_params(lambda p, x, flag: x @ p if flag else x, normal(16, 4), X, wrong)
    with pytest.raises(TypeError, match=r"params/key: a random key .*state="):
        ghn.predict_params(apply, {"w": normal(16, 4), "key": jax.random.key(0)}, X, 1.0)


class Triple(NamedTuple):
    query: Any
    key: Any
    value: Any


def test_a_field_called_value_keeps_its_name(hypernetwork: ghn.OpenHypernetwork) -> None:
    params = {
        "a": Triple(normal(16, 4), normal(16, 4), normal(16, 4)),
        "box": nn.Partitioned(normal(4, 2), (None, None)),
    }
    result = ghn.predict_params(
        lambda p, x: sum(x @ w for w in p["a"]) @ p["box"].value, params, X, hypernetwork=hypernetwork
    )
    assert list(by_path(result)) == ["a/query", "a/key", "a/value", "box"]


def test_a_vast_table_without_initialiser_is_noise(hypernetwork: ghn.OpenHypernetwork) -> None:
    table = {"e": jax.ShapeDtypeStruct((1_200_000, 4), jnp.float32)}
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    result = ghn.predict_params(lambda p, t: p["e"][t], table, tokens, hypernetwork=hypernetwork)
    assert by_path(result)["e"].source == "neutral"
    assert 0.4 < np.asarray(result.params["e"]).std() < 0.6


NEUTRAL: dict[str, tuple[Any, dict[str, tuple[tuple[int, ...], int]]]] = {
    "weight norm": (
        lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0) * p["gain"]),
        {"gain": ((16,), 1)},
    ),
    "affine": (lambda p, x: (x @ p["w"]) * p["a"] + p["b"], {"a": ((), 1), "b": ((), 0)}),
    "low rank": (lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), {"a": ((16, 2), 0), "b": ((2, 16), 0)}),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_factors_without_initialiser_are_neutral(name: str, hypernetwork: ghn.OpenHypernetwork) -> None:
    apply, factors = NEUTRAL[name]
    sizes = {"w": (16, 16)} | {key: shape for key, (shape, _) in factors.items()}
    shapes = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in sizes.items()}
    result = ghn.predict_params(apply, shapes, X, hypernetwork=hypernetwork)
    for key, (_, value) in factors.items():
        assert by_path(result)[key].source == "neutral" and (np.asarray(result.params[key]) == value).all()
    assert apply(result.params, X).std() > 0.1


def test_scales_that_start_at_zero_are_told(hypernetwork: ghn.OpenHypernetwork) -> None:
    model = nn.Sequential([nn.Dense(8), nn.LayerNorm(scale_init=nn.initializers.zeros), nn.Dense(2)])
    rows = by_path(ghn.predict(model, X, hypernetwork=hypernetwork))
    assert rows["layers_1/scale"].reason == "initialised to 0, predicted around 1"


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_orthogonal_initialisers_are_read(shape: tuple[int, int], hypernetwork: ghn.OpenHypernetwork) -> None:
    model = nn.Dense(shape[1], kernel_init=nn.initializers.orthogonal(), use_bias=False)
    x = jnp.ones((2, shape[0]))
    given = model.init(jax.random.key(0), x)["params"]
    linen = ghn.predict(model, x, hypernetwork=hypernetwork).params["kernel"]
    plain = ghn.predict_params(lambda p, x: x @ p["kernel"], given, x, hypernetwork=hypernetwork).params["kernel"]
    np.testing.assert_array_equal(linen, plain)
    np.testing.assert_allclose(np.asarray(given["kernel"]).std(), max(shape) ** -0.5, rtol=0.05)


def test_experts_of_ragged_groups_are_kernels_side_by_side(hypernetwork: ghn.OpenHypernetwork) -> None:
    experts = {"w": normal(3, 16, 4)}
    groups = jax.ShapeDtypeStruct((3,), jnp.int32)
    ragged = ghn.predict_params(
        lambda p, x, g: jax.lax.ragged_dot(x, p["w"], g), experts, X, groups, hypernetwork=hypernetwork
    )
    (row,) = ragged.graph.parameters
    assert (row.leaf.role, row.copies, row.leaf.shape) == ("kernel", 3, (1, 1, 16, 4))


def _centred(x: jax.Array) -> jax.Array:
    """Layer normalisation without parameters."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


def _layers(layer: Any) -> Any:
    """Four of a kind, one after the other."""

    def run(p: Any, x: jax.Array) -> jax.Array:
        for i in range(4):
            x = jax.nn.relu(layer(jax.tree.map(lambda a, i=i: a[i], p), x))
        return x

    return run


def _stacked(*shape: int) -> jax.Array:
    return jnp.stack([normal(*shape, seed=seed) for seed in range(4)])


MULTIPLIED: dict[str, tuple[Any, dict[str, Any]]] = {
    "divided": (lambda p, x: (_centred(x) / p["t"]) @ p["o"], {"t": jnp.ones(16)}),
    "log scale of a norm": (lambda p, x: (_centred(x) * jnp.exp(p["t"])) @ p["o"], {"t": jnp.zeros(16)}),
    "gate of a norm": (lambda p, x: (_centred(x) * jax.nn.sigmoid(p["t"])) @ p["o"], {"t": jnp.zeros(16)}),
    "1 - t": (lambda p, x: (_centred(x) * (1 - p["t"])) @ p["o"], {"t": jnp.zeros(16)}),
    "log scale": (lambda p, x: (x * jnp.exp(p["t"])) @ p["o"], {"t": jnp.zeros(16)}),
    "log scales": (
        _layers(lambda p, x: (x @ p["w"]) * jnp.exp(p["t"])),
        {"t": jnp.zeros((4, 16)), "w": _stacked(16, 16)},
    ),
    "ReZero": (
        lambda p, x: (x + p["a"] * jax.nn.relu(x @ p["w"]) @ p["v"]) @ p["o"],
        {"a": jnp.zeros(()), "w": normal(16, 16), "v": normal(16, 16, seed=2)},
    ),
    "w + d": (_layers(lambda p, x: x @ (p["w"] + p["d"])), {"w": _stacked(16, 16), "d": jnp.zeros((4, 16, 16))}),
    "w + a b": (
        _layers(lambda p, x: x @ (p["w"] + p["a"] @ p["b"])),
        {"w": _stacked(16, 16), "a": _stacked(16, 4), "b": jnp.zeros((4, 4, 16))},
    ),
}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_signals_live_on_behind_multipliers_of_all_kinds(name: str) -> None:
    apply, own = MULTIPLIED[name]
    params = {**own, "o": normal(16, 16, seed=3)}
    result = ghn.predict_params(apply, params, X, hypernetwork=ghn.load("default"))
    ratio = float(apply(result.params, X).std() / apply(params, X).std())
    assert 0.1 < ratio < 10
    for leaf, before in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
        if leaf.ndim > 1 and np.any(before):
            assert 0.1 < float(leaf.std() / before.std()) < 10


def test_the_kernel_is_the_one_that_is_no_data(hypernetwork: ghn.OpenHypernetwork) -> None:
    params = {"r": jnp.ones((4, 16)), "w": normal(16, 8)}
    by_batch = [
        ghn.predict_params(lambda p, x: (x[:, None] * p["r"]) @ p["w"], params, X[:rows], hypernetwork=hypernetwork)
        for rows in (1, 32)
    ]
    assert [by_path(result)["w"].op for result in by_batch] == ["dense", "dense"]
    np.testing.assert_array_equal(by_batch[0].params["w"], by_batch[1].params["w"])
    np.testing.assert_array_equal(by_batch[1].params["r"], 1)


def test_shardings_that_are_types_are_traced(hypernetwork: ghn.OpenHypernetwork) -> None:
    mesh = jax.make_mesh((1, 1), ("d", "m"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    spec = jax.sharding.PartitionSpec
    w, x = (
        jax.device_put(a, jax.sharding.NamedSharding(mesh, part))
        for a, part in ((normal(16, 4), spec(None, "m")), (X, spec("d", None)))
    )

    def apply(p: Any, x: jax.Array) -> jax.Array:
        local = jax.shard_map(
            jnp.matmul, mesh=mesh, in_specs=(spec("d", None), spec(None, "m")), out_specs=spec("d", "m")
        )
        return local(x, p["w"])

    result = ghn.predict_params(apply, {"w": w}, x, hypernetwork=hypernetwork)
    assert result.params["w"].sharding == w.sharding and by_path(result)["w"].op == "dense"


def test_scales_of_one_norm_may_vary_along_different_axes(hypernetwork: ghn.OpenHypernetwork) -> None:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        x = x.reshape(4, 8, 16)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["channels"] * p["places"]
        return x @ p["w"]

    params = {"channels": jnp.ones(16), "places": jnp.ones((8, 1)), "w": normal(16, 4)}
    result = ghn.predict_params(apply, params, X, hypernetwork=hypernetwork)
    assert {by_path(result)[name].op for name in ("channels", "places")} == {"rms_norm"}
    assert np.isfinite(apply(result.params, X)).all()


def test_kernels_drawn_between_0_and_a_bound_are_predicted(hypernetwork: ghn.OpenHypernetwork) -> None:
    def kept(initialiser: Any) -> dict[str, str]:
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                return nn.Dense(64, kernel_init=initialiser, use_bias=False)(x)

        model = Model()
        params = model.init(jax.random.key(0), X)["params"]
        read = ghn.predict(model, X, hypernetwork=hypernetwork)
        estimated = ghn.predict_params(lambda p, x: model.apply({"params": p}, x), params, X, hypernetwork=hypernetwork)
        np.testing.assert_array_equal(read.params["Dense_0"]["kernel"], estimated.params["Dense_0"]["kernel"])
        assert read.report.rows[0].reason == estimated.report.rows[0].reason
        return {read.report.rows[0].source: read.report.rows[0].reason}

    assert kept(nn.initializers.uniform(0.03)) == {"predicted": "scale: 0.017, that of a uniform draw from 0"}
    offset = ghn.predict_params(
        lambda p, x: x @ p["w"], {"w": 0.1 + jax.random.uniform(jax.random.key(0), (16, 64))}, X
    )
    grid = ghn.predict_params(lambda p, x: x @ p["w"], {"w": jnp.arange(16 * 64.0).reshape(16, 64)}, X)
    assert {row.source for row in (*offset.report.rows, *grid.report.rows)} == {"initialiser"}


def test_a_low_rank_addition_that_begins_at_0_stays_there(hypernetwork: ghn.OpenHypernetwork) -> None:
    params = {"w": normal(16, 16), "a": normal(16, 2), "b": jnp.zeros((2, 16))}
    result = ghn.predict_params(lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), params, X, hypernetwork=hypernetwork)
    assert not result.params["b"].any() and by_path(result)["w"].reason == "scale: LeCun"
    np.testing.assert_array_equal(result.params["a"], params["a"])


def test_a_correction_that_begins_at_0_stays_there_and_a_residual_branch_does_not(
    hypernetwork: ghn.OpenHypernetwork,
) -> None:
    def lora(p: Any, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = jax.nn.gelu(x @ p["w"] + 4 * ((x @ p["a"]) @ p["b"]) + p["bias"])
        return x

    def residual(p: Any, x: jax.Array) -> jax.Array:
        x = x @ p["w"] + p["bias"]
        return x + (x @ p["a"]) @ p["b"]

    params = {"w": normal(16, 16), "bias": jnp.zeros(16), "a": normal(16, 2), "b": jnp.zeros((2, 16))}
    kept = ghn.predict_params(lora, params, X, hypernetwork=hypernetwork)
    assert not kept.params["b"].any() and "same input" in by_path(kept)["b"].reason
    assert kept.report.predicted == 3
    assert ghn.predict_params(residual, params, X, hypernetwork=hypernetwork).report.predicted == 4


def grid(key: Any, shape: tuple[int, ...]) -> jax.Array:
    return jnp.tile(jnp.pi * jnp.arange(shape[1], dtype=jnp.float32), (shape[0], 1))


def triangle(key: Any, shape: tuple[int, ...]) -> jax.Array:
    root = jnp.sqrt(2 * jnp.arange(shape[0]) + 1.0)
    return -jnp.tril(root[:, None] * root)


def shifted_normal(key: Any, shape: tuple[int, ...]) -> jax.Array:
    return 0.02 * jnp.cumsum(jax.random.normal(key, (2, *shape)), 0)[0]


class OneKernel(nn.Module):
    initialiser: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ self.param("kernel", self.initialiser, (16, 16))).sum(-1)


@pytest.mark.parametrize(
    ("initialiser", "source", "reason"),
    [
        (grid, "initialiser", "structure"),
        (triangle, "initialiser", "structure"),
        (shifted_normal, "predicted", "scale: 0.02"),
        (nn.initializers.truncated_normal(0.02), "predicted", "scale: 0.02, truncated"),
        (nn.initializers.truncated_normal(0.01), "predicted", "scale: 0.01, truncated"),
        (nn.initializers.normal(0.02), "predicted", "scale: 0.02"),
    ],
)
def test_a_module_and_its_own_arrays_get_the_same_kernel(
    initialiser: Any, source: str, reason: str, hypernetwork: ghn.OpenHypernetwork
) -> None:
    model = OneKernel(initialiser)
    params = model.init(jax.random.key(0), X)["params"]
    read = ghn.predict(model, X, hypernetwork=hypernetwork)
    arrays = ghn.predict_params(lambda p, x: model.apply({"params": p}, x), params, X, hypernetwork=hypernetwork)
    for result in (read, arrays):
        assert by_path(result)["kernel"].source == source and reason in by_path(result)["kernel"].reason
    assert by_path(read)["kernel"].reason == by_path(arrays)["kernel"].reason
    np.testing.assert_array_equal(read.params["kernel"], arrays.params["kernel"])


def waves(key: Any, shape: tuple[int, ...]) -> jax.Array:
    return jnp.sin(jnp.arange(shape[0])[:, None] * 100.0 ** (-jnp.arange(shape[1]) / shape[1]))


def drawn_waves(key: Any, shape: tuple[int, ...]) -> jax.Array:
    return jnp.sin(jax.random.uniform(key, (shape[0], 1)) * 9.0 * jnp.arange(shape[1]))


@pytest.mark.parametrize(("initialiser", "kept"), [(waves, True), (drawn_waves, False)])
def test_tables_of_a_formula_are_kept(initialiser: Any, kept: bool, hypernetwork: ghn.OpenHypernetwork) -> None:
    class Positions(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(2)(nn.Dense(8)(x) + self.param("table", initialiser, (12, 8)))

    result = ghn.predict(Positions(), jnp.ones((2, 12, 4)), hypernetwork=hypernetwork)
    row = by_path(result)["table"]
    assert (row.source == "initialiser" and "formula" in row.reason) == kept
    assert result.report.predicted == 4 + (not kept)
    if kept:
        np.testing.assert_allclose(result.params["table"], waves(None, (12, 8)), rtol=1e-5, atol=1e-6)
