"""Every leaf of every kind of model gets exactly one owner, of the right op, role and layout."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sequence_models
import vision_models

from architectures.graph import ArchGraph
from architectures.trace import OPS, TraceError, trace
from architectures.trace.values import reshaped

FLAGS = {"train": False, "training": False, "deterministic": True}


def traced(model: nn.Module, *inputs: Any) -> tuple[ArchGraph, Any]:
    """The graph of a Linen module and the shapes of its parameters."""
    names = type(model).__call__.__annotations__
    flags = {name: value for name, value in FLAGS.items() if name in names}
    variables = jax.eval_shape(lambda key, *x: model.init(key, *x, **flags), jax.random.key(0), *inputs)
    state = {name: value for name, value in variables.items() if name != "params"}

    def apply(params: Any, state: Any, *x: Any) -> Any:
        return model.apply({"params": params, **state}, *x, **flags)

    return trace(apply, variables["params"], *inputs, state=state), variables["params"]


def image(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    make, shape = vision_models.MODELS[name]
    return make(), (jax.ShapeDtypeStruct(shape, jnp.float32),)


def sequence(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    make, inputs = sequence_models.MODELS[name]
    return make(), inputs()


def rows(graph: ArchGraph, path: str) -> list[tuple[str, Any]]:
    """(op, row) of every row of a leaf."""
    return [(graph.ops[row.node], row) for row in graph.parameters if "/".join(row.path) == path]


@pytest.mark.parametrize("name", [*vision_models.MODELS, *sequence_models.MODELS])
def test_every_leaf_has_one_owner(name: str) -> None:
    model, inputs = image(name) if name in vision_models.MODELS else sequence(name)
    graph, params = traced(model, *inputs)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    held: Counter[str] = Counter()
    for row in graph.parameters:
        assert row.shape is not None
        assert row.copies * math.prod(row.leaf.shape) == math.prod(row.shape)
        held["/".join(row.path)] += math.prod(row.shape)
    assert held == {"/".join(str(key.key) for key in path): leaf.size for path, leaf in flat}
    assert set(graph.ops) <= set(OPS)
    read = {source for source, _ in graph.edges.tolist()}
    assert {"input"} <= set(graph.ops)
    assert all(node in read for node, op in enumerate(graph.ops) if op == "input")


def test_layouts_come_from_dimension_numbers() -> None:
    image = jax.ShapeDtypeStruct((2, 3, 16, 16), jnp.float32)
    graph = trace(vision_models.torch_layout, vision_models.torch_params(), image)
    ((op, second),) = rows(graph, "second")
    assert (op, second.leaf.role, second.leaf.shape) == ("conv", "kernel", (5, 3, 8, 12))
    kernel = np.arange(8 * 12 * 15).reshape(5, 3, 8, 12)
    assert kernel.transpose(second.axes).shape == (12, 8, 5, 3)
    assert kernel.transpose(second.axes)[4, 2, 3, 1] == kernel[3, 1, 2, 4]
    ((op, head),) = rows(graph, "head")
    assert (op, head.leaf.shape, head.axes) == ("dense", (1, 1, 12, 10), (1, 0))
    assert graph.ops.count("conv") == 2 and rows(graph, "first_bias")[0][0] == "conv"


def test_layers_of_a_scan_are_nodes_of_their_own() -> None:
    scanned, _ = traced(vision_models.ViT(), jax.ShapeDtypeStruct(vision_models.IMAGE, jnp.float32))
    unrolled, _ = traced(vision_models.ViT(scan=False), jax.ShapeDtypeStruct(vision_models.IMAGE, jnp.float32))
    assert scanned.ops == unrolled.ops
    assert scanned.edges.tolist() == unrolled.edges.tolist()
    kernels = rows(scanned, "ScanBlock_0/Dense_0/kernel") or rows(scanned, "ScanCheckpointBlock_0/Dense_0/kernel")
    assert [row.part for _, row in kernels] == [(0,), (1,), (2,)]
    assert len({row.node for _, row in kernels}) == 3


def test_attention_has_ops_of_its_own() -> None:
    graph, _ = traced(*_pair(image("vit_probe")))
    count = Counter(graph.ops)
    assert count["query_key"] == count["attend"] == count["softmax"] == 4
    kernels = [row for row in graph.parameters if row.path[-2:] == ("query", "kernel")]
    assert all(row.shape == (16, 4, 4) and row.leaf.shape == (1, 1, 16, 16) for row in kernels)
    out = [row for row in graph.parameters if row.path[-2:] == ("out", "kernel")]
    assert all(row.shape == (4, 4, 16) and row.leaf.shape == (1, 1, 16, 16) for row in out)


def test_a_probe_stays_a_node() -> None:
    graph, _ = traced(*_pair(image("vit_probe")))
    ((op, probe),) = rows(graph, "probe")
    assert op == "constant" and probe.leaf.role == "embedding"
    readers = {graph.ops[target] for source, target in graph.edges.tolist() if source == probe.node}
    assert readers == {"dense"}


def test_normalisation_folds_into_one_node() -> None:
    graph, _ = traced(*_pair(image("resnet")))
    norms = [node for node, op in enumerate(graph.ops) if op == "batch_norm"]
    owned = {node: {row.leaf.role for row in graph.parameters if row.node == node} for node in norms}
    assert len(norms) == graph.ops.count("conv") == 15
    assert all(roles == {"scale", "bias"} for roles in owned.values())


def test_standardised_and_modulated_kernels_belong_to_their_convolution() -> None:
    for name, paths in (("bit", "StandardisedConv"), ("stylegan", "ModulatedConv")):
        graph, _ = traced(*_pair(image(name)))
        found = [
            (graph.ops[row.node], row.leaf.role)
            for row in graph.parameters
            if row.path[0].startswith(paths) and row.path[-1] == "kernel" and len(row.path) == 2
        ]
        assert found and set(found) == {("conv", "kernel")}, name


def test_tied_weights_are_owned_once_and_used_twice() -> None:
    for name, path in (("gpt", "Embed_0/embedding"), ("gemma", "embedding")):
        graph, _ = traced(*_pair(sequence(name)))
        ((op, table),) = rows(graph, path)
        assert (op, table.leaf.role) == ("embedding", "embedding")
        head = max(node for node, op in enumerate(graph.ops) if op == "dense")
        assert not [row for row in graph.parameters if row.node == head]
        assert [table.node, head] in graph.edges.tolist()


def test_weights_of_a_recurrence_are_shared_over_time_and_reached_by_data() -> None:
    graph, _ = traced(*_pair(sequence("seq2seq")))
    assert all(row.part == () for row in graph.parameters)
    # The zero initial carry is data after one step: products with recurrent kernels read a node of their own.
    recurrent = [
        row.node for row in graph.parameters if row.path[-2] in ("hf", "hi", "hn") and row.path[-1] == "kernel"
    ]
    reads = {target: graph.ops[source] for source, target in graph.edges.tolist()}
    assert recurrent and all(reads[node] == "carry" for node in recurrent)
    # What a loop hands on: two states of a cell.
    assert [graph.ops[carry] for _, carry in graph.feedback] == ["carry"] * len(graph.feedback) != []
    assert all(carry < source for source, carry in graph.feedback)


def test_copies_and_offsets() -> None:
    graph, _ = traced(*_pair(image("local")))
    copies = {row.path[0]: (row.copies, row.leaf.shape) for row in graph.parameters if row.leaf.role == "kernel"}
    assert sorted(copies.values()) == [
        (1, (1, 1, 6, 15)),
        (64, (1, 1, 27, 6)),
    ]  # heads that read one input are one product
    graph, _ = traced(*_pair(sequence("gemma")))
    scales = [row for row in graph.parameters if row.path[-1] == "scale"]
    assert len(scales) == 5 and all(row.offset and graph.ops[row.node] == "rms_norm" for row in scales)


def test_parameters_that_are_no_weights_are_factors() -> None:
    graph, _ = traced(*_pair(sequence("mamba")))
    roles = {row.path[-1]: row.leaf.role for row in graph.parameters}
    assert roles["A_log"] == roles["D"] == "factor" and roles["dt_bias"] == "bias"
    graph, _ = traced(*_pair(image("convnext")))
    assert {row.leaf.role for row in graph.parameters if row.path[0].startswith("gamma")} == {"factor"}


def test_what_is_joined_or_normalised_is_not_mistaken() -> None:
    graph, _ = traced(*_pair(image("swin")))  # slices are concatenated, then less their mean: no sum of neighbours
    assert [(op, row.leaf.role) for op, row in rows(graph, "merged/scale")] == [("layer_norm", "scale")]
    assert "stencil" not in graph.ops
    graph, _ = traced(*_pair(image("convmixer")))  # an activation in front of a normalisation
    norms = {node for node, op in enumerate(graph.ops) if op == "batch_norm"}
    assert {graph.ops[source] for source, target in graph.edges.tolist() if target in norms} == {"gelu"}
    graph, _ = traced(*_pair(image("stylegan")))  # a scalar that noise is multiplied by is no bias
    assert {row.leaf.role for row in graph.parameters if row.path[-1] == "strength"} == {"factor"}

    def both(params: Any, x: jax.Array) -> jax.Array:
        x = x @ params["first"]
        return jnp.concatenate([x, jax.nn.relu(x)], -1) @ params["second"]

    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in (("first", (3, 4)), ("second", (8, 2)))}
    graph = trace(both, params, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert graph.ops == ("input", "dense", "relu", "concat", "dense")
    for activation in (jax.nn.silu, jax.nn.hard_silu):
        graph = trace(lambda p, x, f=activation: f(x @ p["w"]).sum(), {"w": jnp.ones((3, 4))}, jnp.ones((2, 3)))
        assert "silu" in graph.ops


def test_a_hard_sigmoid_is_a_gate_and_a_clamp_at_zero_is_none() -> None:
    x, w = jnp.ones((2, 4, 4, 3)), {"w": jnp.ones((3, 3))}
    for activation, op in ((jax.nn.hard_sigmoid, "sigmoid"), (jax.nn.relu6, "relu"), (jax.nn.sigmoid, "sigmoid")):
        graph = trace(lambda p, x, f=activation: x * f(x.mean((1, 2), keepdims=True) @ p["w"]), w, x)
        assert op in graph.ops and "product" in graph.ops


def test_a_table_that_is_compared_with_and_looked_up_is_owned_once() -> None:
    graph, _ = traced(*_pair(sequence("codebook")))
    ((op, table),) = rows(graph, "table")
    assert (op, table.leaf.role) == ("dense", "kernel")
    looked_up = graph.ops.index("embedding")
    assert [table.node, looked_up] in graph.edges.tolist()


@pytest.mark.parametrize("function", [jax.nn.relu, jax.nn.gelu, jax.nn.silu, jnp.tanh, jax.nn.sigmoid])
def test_what_is_added_to_an_activation_of_itself_is_a_sum(function: Any) -> None:
    w = {"w": jnp.ones((3, 3))}
    graph = trace(lambda p, x: (lambda y: y + function(y))(x @ p["w"]), w, jnp.ones((2, 3)))
    alone = trace(lambda p, x: function(x @ p["w"]), w, jnp.ones((2, 3)))
    assert graph.ops == (*alone.ops, "sum") and len(alone.ops) == 3
    assert graph.edges[graph.edges[:, 1] == 3, 0].tolist() == [1, 2]


STRAIGHT = {
    "x + stop(q - x)": lambda x, q: x + jax.lax.stop_gradient(q - x),
    "stop(q - x) + x": lambda x, q: jax.lax.stop_gradient(q - x) + x,
    "(q - stop(x)) + x": lambda x, q: q - jax.lax.stop_gradient(x) + x,
}


@pytest.mark.parametrize("way", STRAIGHT)
def test_a_straight_through_estimator_is_what_it_passes_on(way: str) -> None:
    params = {name: jax.ShapeDtypeStruct((4, 4), jnp.float32) for name in ("encoder", "table", "decoder")}

    def apply(params: Any, x: Any, join: Any) -> Any:
        x = x @ params["encoder"]
        return join(x, params["table"][jnp.argmax(x, -1)]) @ params["decoder"]

    def graph_of(join: Any) -> ArchGraph:
        return trace(lambda params, x: apply(params, x, join), params, jnp.ones((2, 4)))

    whole, plain, real_sum = (graph_of(join) for join in (STRAIGHT[way], lambda x, q: q, lambda x, q: x + (q - 2 * x)))
    assert whole.ops == plain.ops and whole.edges.tolist() == plain.edges.tolist()
    assert "sum" in real_sum.ops


def test_unused_leaves_are_owned_too() -> None:
    params = {"used": jax.ShapeDtypeStruct((3, 4), jnp.float32), "unused": jax.ShapeDtypeStruct((5,), jnp.float32)}
    graph = trace(lambda params, x: x @ params["used"], params, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert rows(graph, "unused")[0][0] == "constant" and rows(graph, "used")[0][0] == "dense"


def test_an_untraceable_model_names_line_and_reason() -> None:
    def apply(params: Any, x: jax.Array) -> jax.Array:
        if x.sum() > 0:  # the line
            return x @ params["w"]
        return x

    with pytest.raises(TraceError, match=r"test_trace\.py:\d+: if x\.sum\(\) > 0.*TracerBoolConversionError"):
        trace(apply, {"w": jnp.ones((3, 3))}, jnp.ones((2, 3)))
    with pytest.raises(TraceError, match=r"params\[.w.\]\.item\(\)"):
        trace(lambda params, x: x * params["w"].item(), {"w": jnp.ones(())}, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="no parameter leaves"):
        trace(lambda params, x: x, {}, jnp.ones(2))


@pytest.mark.parametrize(
    ("old", "new", "axes", "expected"),
    [
        ((6, 8), (6, 2, 4), ((0,), (1,)), ((0,), (1,), (1,))),
        ((6, 2, 4), (6, 8), ((0,), (1,), (2,)), ((0,), (1, 2))),
        ((3, 4), (1, 3, 1, 4), ((0,), (1,)), ((), (0,), (), (1,))),
        ((5,), (5, 1), ((0,),), ((0,), ())),
        ((4, 6), (8, 3), ((0,), (1,)), ((0, 1), (0, 1))),
    ],
)
def test_reshape_groups_axes(old: Any, new: Any, axes: Any, expected: Any) -> None:
    assert reshaped(axes, old, new) == expected


def _pair(pair: tuple[nn.Module, tuple[Any, ...]]) -> tuple[Any, ...]:
    return (pair[0], *pair[1])
