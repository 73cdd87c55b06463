"""Which role a leaf has where shapes alone would mislead: biases, scales, tables, factors of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
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


def test_a_second_bias_behind_a_norm_is_a_shift() -> None:
    def call(self: Any, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.LayerNorm()(x) + self.param("second", nn.initializers.zeros, (8,)))

    found = roles(linen_graph(call, jnp.ones((2, 8))))
    assert found["second"] == ("shift", "bias") and found["LayerNorm_0/bias"] == ("layer_norm", "bias")
