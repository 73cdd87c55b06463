"""The user gets the model's own pytree back, all of it accounted for, alive, and read from the graph."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sequence_models
import vision_models
from flax import nnx
from twin_models import LinenNet, NNXNet

import ghn
from architectures.graph import ArchGraph
from ghn.anymodel.modules import adapt, bound

NAMES = [*vision_models.MODELS, *sequence_models.MODELS]
ALIVE = [
    "resnet",
    "vgg",
    "bit",
    "efficientnet",
    "convnext",
    "convmixer",
    "densenet_grey",
    "vit_scanned",
    "swin",
    "stylegan",
    "gpt",
    "gemma",
    "mamba",
    "seq2seq",
    "conformer",
    "gnn",
    "graph_network",
    "codebook",
]


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.OpenHypernetwork:
    return ghn.OpenHypernetwork.create(seed=0)


def model_and_inputs(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    if name in vision_models.MODELS:
        make, shape = vision_models.MODELS[name]
        return make(), (jax.random.normal(jax.random.key(1), shape),)
    build, inputs = sequence_models.MODELS[name]
    return build(), inputs()


@pytest.mark.parametrize("name", NAMES)
def test_the_models_own_pytree(name: str, hypernetwork: ghn.OpenHypernetwork) -> None:
    model, inputs = model_and_inputs(name)
    adapted = adapt(model, inputs, None, {})
    result = ghn.predict(model, *inputs, hypernetwork=hypernetwork)
    expected = jax.tree_util.tree_flatten_with_path(adapted.params)
    found = jax.tree_util.tree_flatten_with_path(result.params)
    assert found[1] == expected[1]
    for (path, leaf), (_, like), row in zip(found[0], expected[0], result.report.rows, strict=True):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
        values = np.asarray(leaf, np.float32)
        assert np.isfinite(values).all(), path
        assert row.source != "neutral" and bool(row.reason) >= (row.source != "predicted")
        if leaf.ndim >= 2 and row.source == "predicted" and row.reason:  # biases of a stack have none, and repeat
            flat = np.unique(values.reshape(-1, leaf.shape[-1]), axis=0)
            if leaf.dtype == jnp.float32:
                assert len(flat) == leaf.size // leaf.shape[-1], f"{path}: repeated rows"
    kernels = [row for row in result.report.rows if row.op in ("conv", "dense") and "kernel" in row.path]
    assert all(row.source == "predicted" for row in kernels)


@pytest.mark.parametrize("name", ALIVE)
def test_signals_stay_alive(name: str, hypernetwork: ghn.OpenHypernetwork) -> None:
    """With a fresh hypernetwork and with the trained one, whose sizes and scales multiply."""
    model, inputs = model_and_inputs(name)
    _, flags, _ = bound(type(model).__call__, (), {}, training=False)
    adapted = adapt(model, inputs, None, {})
    leaves, structure = jax.tree.flatten(adapted.params)
    drawn = adapted.initialiser.values(range(len(leaves)))
    run = jax.jit(lambda variables, *x: model.apply(variables, *x, **flags))
    for predicting in (hypernetwork, ghn.load("default")):
        result = ghn.predict(model, *inputs, hypernetwork=predicting)
        initial = {**result.variables, "params": jax.tree.unflatten(structure, [drawn[i] for i in range(len(leaves))])}
        ours, theirs = (np.asarray(run(variables, *inputs), np.float32) for variables in (result.variables, initial))
        assert np.isfinite(ours).all()
        if name != "bit":  # its head starts at 0
            assert 0.1 < ours.std() / theirs.std() < 10
        assert ours.std() > 1e-4


def plain_net(params: dict[str, Any], state: dict[str, Any], x: jax.Array) -> jax.Array:
    def conv(x: jax.Array, part: dict[str, Any]) -> jax.Array:
        numbers = ("NHWC", "OIHW", "NHWC")
        return jax.lax.conv_general_dilated(x, part["w"], (1, 1), "SAME", dimension_numbers=numbers) + part["b"]

    x = conv(x, params["stem"])
    gain = params["norm"]["w"] * jax.lax.rsqrt(state["var"] + 1e-5)
    x = jax.nn.relu((x - state["mean"]) * gain + params["norm"]["b"])
    x = x + conv(x, params["inner"])
    return x.mean((1, 2)) @ params["head"]["w"].T + params["head"]["b"]


def test_equal_graphs_give_equal_weights(hypernetwork: ghn.OpenHypernetwork) -> None:
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    linen = ghn.predict(LinenNet(), x, hypernetwork=hypernetwork).params
    module = ghn.predict(NNXNet(nnx.Rngs(0)), x, hypernetwork=hypernetwork).model
    shapes = {"stem": (8, 3, 3, 3), "inner": (8, 8, 3, 3), "head": (5, 8)}
    params: dict[str, Any] = {
        name: {"w": jax.ShapeDtypeStruct(shape, jnp.float32), "b": jax.ShapeDtypeStruct(shape[:1], jnp.float32)}
        for name, shape in shapes.items()
    }
    params["norm"] = {name: jax.ShapeDtypeStruct((8,), jnp.float32) for name in "wb"}
    state = {"mean": jnp.zeros(8), "var": jnp.ones(8)}
    plain = ghn.predict_params(plain_net, params, x, state=state, hypernetwork=hypernetwork).params
    for name in ("stem", "inner", "head"):
        back = (1, 0) if name == "head" else (2, 3, 1, 0)
        kernel, layer = linen[name]["kernel"], getattr(module, name)
        np.testing.assert_array_equal(kernel, layer.kernel.get_value())
        np.testing.assert_array_equal(kernel, plain[name]["w"].transpose(back))
        np.testing.assert_array_equal(linen[name]["bias"], layer.bias.get_value())
        np.testing.assert_array_equal(linen[name]["bias"], plain[name]["b"])
    np.testing.assert_array_equal(linen["BatchNorm_0"]["scale"], module.norm.scale.get_value())
    np.testing.assert_array_equal(linen["BatchNorm_0"]["scale"], plain["norm"]["w"])


def test_weights_are_a_function_of_the_graph(hypernetwork: ghn.OpenHypernetwork) -> None:
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    own = ghn.predict(LinenNet(), x, hypernetwork=hypernetwork)
    other = ghn.predict(LinenNet(), x, hypernetwork=hypernetwork, graph=_shuffled(own.graph))
    changed = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (own.params, other.params)), strict=True)]
    assert all(changed)


def _shuffled(graph: ArchGraph) -> ArchGraph:
    """The same ops in another order, between the same edges."""
    order = np.random.default_rng(0).permutation(graph.nodes)
    return dataclasses.replace(
        graph,
        ops=tuple(graph.ops[i] for i in order),
        attributes={name: values[order] for name, values in graph.attributes.items()},
    )


def test_nnx_state_and_evaluation_mode(hypernetwork: ghn.OpenHypernetwork) -> None:
    model = NNXNet(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    result = ghn.predict(model, jnp.ones((2, 8, 8, 3)), hypernetwork=hypernetwork)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    jax.tree.map(np.testing.assert_array_equal, before, after)  # the user's module is left as it was
    assert result.model.norm.use_running_average is False  # and so is its mode
    assert any("calibrate" in note for note in result.report.notes)
    abstract = nnx.eval_shape(lambda: NNXNet(nnx.Rngs(0)))
    shapes = ghn.predict(abstract, jnp.ones((2, 8, 8, 3)), hypernetwork=hypernetwork)
    np.testing.assert_array_equal(shapes.model.head.kernel.get_value(), result.model.head.kernel.get_value())
    assert any("norm/mean, norm/var" in note and "not its shapes" in note for note in shapes.report.notes)
    assert not any("without values" in note for note in result.report.notes)


def test_missing_flags_are_filled_in_and_reported_or_named(hypernetwork: ghn.OpenHypernetwork) -> None:
    class Flagged(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, mode: str) -> jax.Array:
            return nn.Dense(3)(x)

    x = jnp.ones((2, 4))
    result = ghn.predict(vision_models.DenseNet(), jnp.ones((2, 8, 8, 1)), hypernetwork=hypernetwork)
    assert "train=False passed to trace in evaluation mode" in result.report.notes
    with pytest.raises(TypeError, match=r"Flagged: .*'mode'.*by keyword"):
        ghn.predict(Flagged(), x, hypernetwork=hypernetwork)
    ghn.predict(Flagged(), x, hypernetwork=hypernetwork, mode="any")
    with pytest.raises(TypeError, match="predict_params"):
        ghn.predict(lambda x: x, x)
    with pytest.raises(TypeError, match="inputs/0: 'text' is no array"):
        ghn.predict(nn.Dense(3), "text", hypernetwork=hypernetwork)


def test_strict_and_report(hypernetwork: ghn.OpenHypernetwork) -> None:
    model, inputs = model_and_inputs("convnext")
    result = ghn.predict(model, *inputs, hypernetwork=hypernetwork)
    text = str(result.report)
    assert "gamma0" in text and "whose size only the model knows" in text and "NOT TRAINED" in text
    assert {row.path for row in result.report.fallbacks} == {"gamma0", "gamma1"}
    np.testing.assert_array_equal(result.params["gamma0"], np.full(12, 1e-6, np.float32))
    with pytest.raises(ValueError, match=r"strict=True: not predicted: gamma0 \(a factor"):
        ghn.predict(model, *inputs, hypernetwork=hypernetwork, strict=True)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_and_comes_back_as_it_was(on: bool, hypernetwork: ghn.OpenHypernetwork) -> None:
    seen: list[bool] = []

    def apply(params: Any, x: jax.Array) -> jax.Array:
        seen.append(gc.isenabled())
        return x @ params

    def broken(params: Any, x: jax.Array) -> jax.Array:
        raise RuntimeError("out of order")

    params, x = jnp.ones((4, 2)), jnp.ones((1, 4))
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        ghn.predict_params(apply, params, x, hypernetwork=hypernetwork)
        assert gc.isenabled() == on and not any(seen)
        with pytest.raises(RuntimeError, match="out of order"):
            ghn.predict_params(broken, params, x, hypernetwork=hypernetwork)
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()


def test_boxes_and_shardings_come_back(hypernetwork: ghn.OpenHypernetwork) -> None:
    boxed = nn.Dense(6, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model")))
    result = ghn.predict(boxed, jnp.ones((2, 4)), hypernetwork=hypernetwork)
    assert isinstance(result.params["kernel"], nn.Partitioned) and result.params["kernel"].names == (None, "model")
    assert [row.path for row in result.report.rows] == ["bias", "kernel"]
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
    params = {"w": jax.ShapeDtypeStruct((4, 6), jnp.float16, sharding=sharding)}
    given = ghn.predict_params(lambda p, x: x @ p["w"], params, jnp.ones((2, 4)), hypernetwork=hypernetwork).params
    assert given["w"].dtype == jnp.float16 and given["w"].sharding == sharding


def test_what_is_unknown_goes_to_the_initialiser_with_the_reason() -> None:
    narrow = ghn.OpenHypernetwork.create(vocabulary=("input", "dense"))
    params = {"w": jnp.full((4, 6), 0.5) * jnp.arange(6), "c": jnp.ones((3, 3, 1, 2))}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, params["c"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y.reshape(2, -1)[:, :4] @ params["w"]

    result = ghn.predict_params(apply, params, jnp.ones((2, 4, 4, 1)), hypernetwork=narrow)
    sources = {row.path: (row.source, row.reason) for row in result.report.rows}
    assert sources["c"] == ("initialiser", "op 'conv' is not in the vocabulary")
    np.testing.assert_array_equal(result.params["c"], params["c"])
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    neutral = ghn.predict_params(apply, shapes, jnp.ones((2, 4, 4, 1)), hypernetwork=narrow)
    assert [row.source for row in neutral.report.rows] == ["neutral", "predicted"]
