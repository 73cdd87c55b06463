"""Which role a leaf has where shapes alone would mislead: biases, scales, tables, factors of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures.graph import ArchGraph
from architectures.trace import trace


def params_of(**shapes: tuple[int, ...]) -> dict[str, Any]:
    """Parameters by name, without values."""
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def linen_graph(call: Callable[[nn.Module, jax.Array], jax.Array], x: jax.Array) -> ArchGraph:
    """The graph of a Linen module whose `__call__` is a function."""
    model = type("Model", (nn.Module,), {"__call__": nn.compact(call), "__module__": __name__})()
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return trace(lambda params, x: model.apply({"params": params}, x), params, x)


def roles(graph: ArchGraph) -> dict[str, tuple[str, str]]:
    """The op and the role of every leaf."""
    return {"/".join(row.path): (graph.ops[row.node], row.leaf.role) for row in graph.parameters}


NORMS = {
    "layer_norm": nn.LayerNorm,
    "rms_norm": nn.RMSNorm,
    "group_norm": lambda: nn.GroupNorm(4),
    "normalise": lambda: nn.LayerNorm(use_bias=False, use_scale=False),
}
NORMS_OWN = {"layer_norm": ["bias", "scale"], "rms_norm": ["scale"], "group_norm": ["bias", "scale"], "normalise": []}


@pytest.mark.parametrize("op", NORMS)
def test_a_position_table_behind_a_norm_is_no_bias_of_it(op: str) -> None:
    def call(self: Any, x: jax.Array) -> jax.Array:
        table = self.param("table", nn.initializers.normal(0.02), (1, 5, 8))
        return nn.Dense(3)(NORMS[op]()(nn.Dense(8)(x)) + table)

    graph = linen_graph(call, jnp.ones((2, 5, 4)))
    assert graph.ops == ("input", "dense", op, "position", "dense")
    found = roles(graph)
    assert found.pop("table") == ("position", "embedding")
    assert [role for of, role in found.values() if of == op] == NORMS_OWN[op]


def test_a_norm_of_the_mean_of_some_tokens_is_one_of_channels() -> None:
    def call(self: Any, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.LayerNorm()(nn.Dense(8)(x)[:, 1:].mean(1)))

    assert linen_graph(call, jnp.ones((2, 5, 4))).ops == ("input", "dense", "global_avg_pool", "layer_norm", "dense")


def test_a_second_bias_behind_a_norm_is_a_shift() -> None:
    def call(self: Any, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.LayerNorm()(x) + self.param("second", nn.initializers.zeros, (8,)))

    found = roles(linen_graph(call, jnp.ones((2, 8))))
    assert found["second"] == ("shift", "bias") and found["LayerNorm_0/bias"] == ("layer_norm", "bias")


DISTANCES = np.abs(np.arange(5)[:, None] - np.arange(5)).astype(np.float32)
STRENGTHS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "of positions": lambda p, x: x - p[:, None, None] * jnp.abs(jnp.arange(5)[:, None] - jnp.arange(5)),
    "of a buffer": lambda p, x: x - p[:, None, None] * DISTANCES,
    "of noise": lambda p, x: x + p[:, None, None] * jax.random.normal(jax.random.key(0), x.shape[1:]),
    "of a decay": lambda p, x: x - jnp.exp(p)[:, None, None],
}


@pytest.mark.parametrize("way", STRENGTHS)
def test_strengths_of_what_is_added_are_no_biases(way: str) -> None:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(STRENGTHS[way](p["slopes"], jnp.einsum("bqhd,bkhd->bhqk", x, x)))

    graph = trace(apply, params_of(slopes=(3,)), jnp.ones((2, 5, 3, 4)))
    assert roles(graph)["slopes"] == ("shift", "factor")


MERGED = {
    "w + a b": lambda p: p["w"] + p["a"] @ p["b"],
    "half of a b, transposed": lambda p: (0.5 * (p["a"] @ p["b"])).T + p["w"],
    "normalised": lambda p: (p["w"] - p["a"] @ p["b"]) / jnp.linalg.norm(p["w"] - p["a"] @ p["b"], axis=0),
}


@pytest.mark.parametrize("way", MERGED)
def test_a_product_of_parameters_that_is_added_to_a_kernel_holds_factors_of_it(way: str) -> None:
    params = params_of(w=(8, 8), a=(8, 2), b=(2, 8), head=(8, 3))
    graph = trace(lambda p, x: x @ MERGED[way](p) @ p["head"], params, jnp.ones((4, 8)))
    assert graph.ops == ("input", "dense", "dense")
    assert roles(graph) == {
        **dict.fromkeys(("a", "b"), ("dense", "factor")),
        **dict.fromkeys(("w", "head"), ("dense", "kernel")),
    }


@pytest.mark.parametrize("flipped", [False, True])
def test_a_product_of_kernels_is_a_layer_for_each(flipped: bool) -> None:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        kernel = (p["c"].T @ p["b"].T @ p["a"].T).T if flipped else p["a"] @ p["b"] @ p["c"]
        return jax.nn.relu(x) @ kernel

    graph = trace(apply, params_of(a=(8, 2), b=(2, 3), c=(3, 5)), jnp.ones((4, 8)))
    assert graph.ops == ("input", "relu", "dense", "dense", "dense")
    assert [row.leaf.shape for row in sorted(graph.parameters, key=lambda row: row.node)] == [
        (1, 1, 8, 2),
        (1, 1, 2, 3),
        (1, 1, 3, 5),
    ]


def test_learned_queries_stay_a_constant_that_goes_through_a_layer() -> None:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        keys, values = x @ p["key"], x @ p["value"]
        return jax.nn.softmax(jnp.einsum("md,bnd->bmn", p["latents"] @ p["query"], keys)) @ values

    params = params_of(latents=(6, 8), query=(8, 8), key=(8, 8), value=(8, 8))
    graph = trace(apply, params, jnp.ones((2, 5, 8)))
    assert roles(graph) == {
        "latents": ("constant", "embedding"),
        **dict.fromkeys(("query", "key", "value"), ("dense", "kernel")),
    }
    assert "query_key" in graph.ops


GATES = {
    "glu": (lambda a, b: a * jax.nn.sigmoid(b), ["sigmoid"]),
    "swiglu": (lambda a, b: jax.nn.silu(a) * b, ["silu"]),
    "geglu": (lambda a, b: jax.nn.gelu(a) * b, ["gelu"]),
    "wavenet": (lambda a, b: jnp.tanh(a) * jax.nn.sigmoid(b), ["tanh", "sigmoid"]),
    "plain": (lambda a, b: a * b, []),
    "ratio": (lambda a, b: a / b, []),
}


@pytest.mark.parametrize("way", GATES)
@pytest.mark.parametrize("split", [lambda x: jnp.split(x, 2, -1), lambda x: (x[..., :8], x[..., 8:])])
def test_a_gate_on_two_halves_of_one_product_is_that_on_two_products(way: str, split: Any) -> None:
    gate, functions = GATES[way]
    x = jnp.ones((2, 4))
    halves = trace(lambda p, x: gate(*split(x @ p["w"])) @ p["out"], params_of(w=(4, 16), out=(8, 4)), x)
    two = trace(lambda p, x: gate(x @ p["a"], x @ p["b"]) @ p["out"], params_of(a=(4, 8), b=(4, 8), out=(8, 4)), x)
    assert halves.ops == ("input", "dense", *functions, "product", "dense")
    assert two.ops == ("input", "dense", *halves.ops[1:])


def test_what_is_multiplied_with_a_function_of_the_same_slice_is_an_activation() -> None:
    graph = trace(lambda p, x: jax.nn.silu((x @ p["w"])[..., :8]).sum(), params_of(w=(4, 16)), jnp.ones((2, 4)))
    assert "silu" in graph.ops and "product" not in graph.ops


def beit(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["w"] + jnp.concatenate([p["b"], jnp.zeros_like(p["b"]), p["c"]])


BIASES: dict[str, tuple[Callable[[Any, jax.Array], jax.Array], dict[str, tuple[int, ...]]]] = {
    "of a stack": (lambda p, x: jnp.einsum("ebi,eio->ebo", x, p["w"]) + p["b"], {"w": (3, 4, 5), "b": (3, 1, 5)}),
    "stack behind": (lambda p, x: jnp.einsum("ebi,eio->beo", x, p["w"]) + p["b"], {"w": (3, 4, 5), "b": (3, 5)}),
    "of two thirds": (beit, {"w": (4, 15), "b": (5,), "c": (5,)}),
}


@pytest.mark.parametrize("way", BIASES)
def test_biases_of_stacks_and_of_parts_belong_to_the_kernel(way: str) -> None:
    apply, shapes = BIASES[way]
    graph = trace(apply, params_of(**shapes), jnp.ones((3, 2, 4)))
    assert graph.ops == ("input", "dense")
    assert {role for name, role in roles(graph).items() if name != "w"} == {("dense", "bias")}


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_scale_of_normalised_learned_queries_is_a_scale(norm: str, copies: int) -> None:
    def call(self: Any, x: jax.Array) -> jax.Array:
        queries = jnp.broadcast_to(self.param("queries", nn.initializers.normal(0.02), (1, 6, 8)), (copies, 6, 8))
        normalised = NORMS[norm](name="norm")(queries)
        return queries + nn.MultiHeadDotProductAttention(2, name="attention")(normalised, x, x)

    found = roles(linen_graph(call, jnp.ones((copies, 5, 8))))
    assert found["queries"] == ("constant", "embedding") and found["norm/scale"] == (norm, "scale")
    assert found["attention/query/kernel"] == ("dense", "kernel")


def test_the_gain_of_a_normalised_kernel_stays_with_it() -> None:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        return x @ (p["w"] / jnp.linalg.norm(p["w"], axis=-1, keepdims=True) * p["gain"]).T

    assert trace(apply, params_of(w=(4, 8), gain=(4, 1)), jnp.ones((2, 8))).ops == ("input", "dense")


def test_kernels_that_data_chooses_from_a_stack_are_kernels() -> None:
    def experts(p: Any, x: jax.Array) -> jax.Array:
        weight, expert = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
        h = jax.nn.gelu(jnp.einsum("bti,btkio->btko", x, p["up"][expert]))
        return jnp.einsum("btko,btkoi,btk->bti", h, p["down"][expert], weight)

    params = params_of(router=(6, 4), up=(4, 6, 5), down=(4, 5, 6))
    graph = trace(experts, params, jnp.ones((2, 3, 6)))
    assert set(roles(graph).values()) == {("dense", "kernel")}
    found = {row.path[0]: (row.copies, row.leaf.shape) for row in graph.parameters}
    assert found == {"router": (1, (1, 1, 6, 4)), "up": (4, (1, 1, 6, 5)), "down": (4, (1, 1, 5, 6))}


def test_operations_of_copies_are_counted() -> None:
    def mean(p: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(lambda w: x @ w)(p["members"]).mean(0)

    params = params_of(members=(5, 6, 4))
    graph = trace(mean, params, jnp.ones((2, 6)))
    assert (graph.macs, graph.parameter_count) == (5 * 6 * 4, 5 * 6 * 4)


@pytest.mark.parametrize("use", [lambda row, x: row + x, lambda row, x: (row * x).sum(-1)])
def test_rows_of_a_table_that_are_matrices_are_looked_up(use: Any) -> None:
    def apply(p: Any, index: jax.Array, x: jax.Array) -> jax.Array:
        return use(p["table"][index], x @ p["w"])

    params = params_of(table=(7, 3, 5), w=(4, 5))
    graph = trace(apply, params, jax.ShapeDtypeStruct((2,), jnp.int32), jnp.ones((2, 3, 4)))
    assert roles(graph)["table"] == ("embedding", "embedding")
