"""What tests of spaces of tapes hold them to: graphs against traces, the executor against the plain program."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from architectures import tape_plain
from architectures.graph import ArchGraph
from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.spaces import TapeSpace
from architectures.switch import cut_slices
from architectures.trace import trace


def traced(space: TapeSpace[Any], network: Any) -> ArchGraph:
    """The graph of the plain program, as tracing sees it."""
    tree: dict[str, Any] = {}
    for row in space.graph(network).parameters:
        branch = tree
        for key in row.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[row.path[-1]] = jax.ShapeDtypeStruct(row.leaf.shape, jnp.float32)
    tape, layers = space.tape(network), Layers("plain")
    image = jax.ShapeDtypeStruct((2, *space.input_shape), jnp.float32)
    return trace(lambda params, images: tape_plain.forward(tape, params, images, layers), tree, image)


def nodes(graph: ArchGraph, attributes: bool) -> collections.Counter[Any]:
    """Multiset of ops, with their attributes if asked for."""
    names = sorted(graph.attributes) if attributes else []
    rows = [tuple(round(float(graph.attributes[name][i]), 2) for name in names) for i in range(graph.nodes)]
    return collections.Counter(zip(graph.ops, rows, strict=True))


def assert_graph_is_the_trace(space: TapeSpace[Any], network: Any, attributes: bool = True) -> None:
    """The same ops (with their attributes if asked for), edges and parameters."""
    ours, theirs = space.graph(network), traced(space, network)
    assert nodes(ours, attributes) == nodes(theirs, attributes)
    ends = [collections.Counter((g.ops[i], g.ops[j]) for i, j in g.edges.tolist()) for g in (ours, theirs)]
    assert ends[0] == ends[1]
    leaves = [{row.path: (g.ops[row.node], row.leaf) for row in g.parameters} for g in (ours, theirs)]
    assert leaves[0] == leaves[1]


def step_of(space: TapeSpace[Any]) -> Any:
    """((loss, logits), gradients) of any network, compiled once: a function of arrays, encoding, images."""

    def loss_of(arrays: WeightArrays, code: dict[str, Array], images: Array) -> tuple[Array, Array]:
        logits, _ = space.forward(arrays, code, images, Layers())
        return jnp.sin(3 * logits).sum(), logits

    return jax.jit(jax.value_and_grad(loss_of, has_aux=True))


def arrays_of(space: TapeSpace[Any], seed: int = 0) -> WeightArrays:
    """Every slot filled, beyond the leaves of any network too; scales around 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (0.3 * rng.normal(size=(g.slots, *g.shape)) + (g.role == "scale")).astype(np.float32)  # type: ignore[misc]
        for name, g in space.layout.items()
    }


def images_of(space: TapeSpace[Any]) -> Array:
    """Three."""
    return jnp.asarray(np.random.default_rng(9).normal(size=(3, *space.input_shape)), jnp.float32)


def assert_executor_is_the_plain_program(step: Any, space: TapeSpace[Any], network: Any, layers: Layers) -> None:
    """Logits and gradients by `step_of` and by the program of this network alone."""
    arrays, images = arrays_of(space), images_of(space)
    (_, logits), gradients = step(arrays, space.encode(network), images)

    def plain(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = space.forward_static(arrays, network, images, layers)
        return jnp.sin(3 * logits).sum(), logits

    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(plain, has_aux=True))(arrays)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))
    assert float(jnp.ptp(expected, axis=0).max()) > 1e-3  # the images make a difference
    largest = max(float(jnp.abs(g).max()) for g in expected_gradients.values())
    for group, gradient in expected_gradients.items():
        scale = max(float(jnp.abs(gradient).max()), 1e-2 * largest)
        np.testing.assert_allclose(gradients[group], gradient, atol=2e-3 * scale, err_msg=group)
    assert step._cache_size() == 1


def assert_nothing_else_is_read(step: Any, space: TapeSpace[Any], network: Any) -> None:
    """What lies in slots beyond the leaves of a network changes nothing, and has no gradient."""
    arrays, images = arrays_of(space), images_of(space)
    (_, logits), gradients = step(arrays, space.encode(network), images)
    changed = {name: array + 1 for name, array in arrays.items()}
    for row in space.graph(network).parameters:
        assert row.place is not None
        whole, before = (some[row.place.group][row.place.slot] for some in (changed, arrays))
        own = cut_slices(whole.shape, row.leaf.shape)
        whole[own] = before[own]  # type: ignore[index]
    np.testing.assert_array_equal(step(changed, space.encode(network), images)[0][1], logits)
    gradients = {name: np.asarray(array) for name, array in gradients.items()}
    kept = sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(Weights(gradients, space).as_pytree(network)))
    np.testing.assert_allclose(kept, sum(np.abs(array).sum() for array in gradients.values()), rtol=1e-5)
