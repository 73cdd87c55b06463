"""Features are placed on the grid, encoded at constant norm, and refused where they make no sense."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from architectures.graph import ATTRIBUTES, ArchGraph, GraphBuilder
from ghn.features import BOUNDS, FEATURES, PADDING_OP, centred, constant_norm, encode, graph_inputs

VOCABULARY = {"input": 0, "conv": 1, "pool": 2}


def chain(*ops: str, **last: float) -> ArchGraph:
    """A chain of nodes; `last` are attributes of its last node."""
    builder = GraphBuilder()
    for index, op in enumerate(ops):
        builder.node(op, [index - 1] if index else [], **(last if index == len(ops) - 1 else {}))
    return builder.build()


def test_mip_encoding_has_constant_norm() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)[:, None] * np.ones(len(FEATURES), np.float32)
    values[:50] = np.random.default_rng(0).uniform(size=(50, len(FEATURES)))
    norms = np.linalg.norm(encode(jnp.asarray(values), "mip"), axis=-1)
    np.testing.assert_allclose(norms, np.sqrt(len(FEATURES)), rtol=1e-5)


def test_mip_encoding_tells_all_values_apart() -> None:
    codes = np.asarray(encode(jnp.linspace(0, 1, 201)[:, None], "mip"))
    distances = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 1e-3
    np.testing.assert_allclose(codes[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(codes[-1], [0, 1], atol=1e-6)


def test_raw_encoding_is_the_value() -> None:
    values = jnp.linspace(0, 1, 7)[:, None]
    np.testing.assert_array_equal(encode(values, "raw"), values)


@pytest.mark.parametrize("factor", [0.01, 0.3, 7.0, 100.0])
def test_constant_norm_ignores_the_scale(factor: float) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 8)), jnp.float32)
    result = constant_norm(x)
    np.testing.assert_allclose(np.linalg.norm(result, axis=-1), np.sqrt(8), rtol=1e-5)
    np.testing.assert_allclose(result * np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(8), x, rtol=1e-5)
    np.testing.assert_allclose(constant_norm(factor * x), result, rtol=1e-5)


def test_centring_takes_away_what_nodes_share() -> None:
    x_ND = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    present_N = np.array([True, True, False, True, True])
    result = np.asarray(centred(x_ND + np.arange(8, dtype=np.float32), present_N))[present_N]
    np.testing.assert_allclose(result, x_ND[present_N] - x_ND[present_N].mean(0), atol=1e-6)
    x_ND[~present_N] = 1e3  # empty places hold anything
    np.testing.assert_allclose(np.asarray(centred(x_ND, present_N))[present_N], result, atol=1e-5)


def test_constant_norm_of_zero_is_zero() -> None:
    np.testing.assert_array_equal(constant_norm(jnp.zeros((2, 8))), np.zeros((2, 8)))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_bounds_are_mapped_to_the_unit_interval(name: str) -> None:
    column = FEATURES.index(name)
    bounds = BOUNDS[name]
    middle = np.sqrt(bounds.low * bounds.high) if bounds.log else (bounds.low + bounds.high) / 2
    for value, expected in [(bounds.low, 0.0), (middle, 0.5), (bounds.high, 1.0)]:
        inputs = graph_inputs(chain("input", "conv", **{name: value}), {}, VOCABULARY, (2, 1))
        np.testing.assert_allclose(inputs.features_NF[1, column], expected, atol=1e-6)


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("side", ["below", "above"])
def test_values_outside_their_bounds_are_named(name: str, side: str) -> None:
    bounds = BOUNDS[name]
    value = bounds.low - 0.5 if side == "below" else bounds.high + 1
    expected = f"{name}={value:g} of node 2 is outside the declared bounds [{bounds.low:g}, {bounds.high:g}]"
    with pytest.raises(ValueError, match=re.escape(expected)):
        graph_inputs(chain("input", "conv", "conv", **{name: value}), {}, VOCABULARY, (3, 1))


@pytest.mark.parametrize("name", ["stride", "position"])
def test_nan_is_outside_all_bounds(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=nan of node 1"):
        graph_inputs(chain("input", "conv", **{name: np.nan}), {}, VOCABULARY, (2, 1))


def test_unknown_op_is_named() -> None:
    with pytest.raises(ValueError, match=r"op 'swirl': unknown.*input, conv, pool"):
        graph_inputs(chain("input", "swirl"), {}, VOCABULARY, (2, 1))


@pytest.mark.parametrize("schedule", [(2, 4), (3, 1)])
def test_graph_larger_than_the_schedule_is_refused(schedule: tuple[int, int]) -> None:
    builder = GraphBuilder()
    first = builder.node("input", [])
    sides = [builder.node("conv", [first]), builder.node("pool", [first])]
    builder.node("conv", sides)
    with pytest.raises(
        ValueError, match=r"3 steps of up to 2 nodes do not fit the schedule " + re.escape(str(schedule))
    ):
        graph_inputs(builder.build(), {}, VOCABULARY, schedule)
    assert graph_inputs(builder.build(), {}, VOCABULARY, (3, 2)).op_N.shape == (6,)


def test_nodes_lie_at_their_step_and_empty_places_are_empty() -> None:
    builder = GraphBuilder()
    first = builder.node("input", [])
    sides = [builder.node("conv", [first], kernel=3), builder.node("pool", [first])]
    builder.node("conv", sides, step=3)
    inputs = graph_inputs(builder.build(), {}, VOCABULARY, (4, 3))
    empty = PADDING_OP
    assert inputs.op_N.tolist() == [1, empty, empty, 2, 3, empty, empty, empty, empty, 2, empty, empty]
    places = [0, 3, 4, 9]
    expected = np.zeros((12, 12))
    expected[np.ix_(places, places)] = [[0, 1, 1, 2], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(inputs.distances_NN, expected)
    depth = inputs.features_NF[:, FEATURES.index("depth")]
    np.testing.assert_allclose(depth[places], [0, 0.5, 0.5, 1])  # by level, not by step
    np.testing.assert_allclose(inputs.features_NF[3, FEATURES.index("kernel")], np.log(3) / np.log(1024), rtol=1e-6)
    assert not inputs.features_NF[np.setdiff1d(np.arange(12), places)].any()
