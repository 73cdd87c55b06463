"""The executor runs every architecture under one compilation, and equals the plain program of each."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.ops import AVG_POOL_3X3, CONV_1X1, NONE, SKIP, Leaf, Op
from architectures.spaces import Cell, CellSpace, NASBench201

CONV = "nor_conv_3x3"
BATCH = 4
DISCONNECTED = Cell((CONV, "none", "none", "none", "none", CONV))  # node 2 is zero: the output is a constant
Step = Callable[..., tuple[tuple[Array, Array], WeightArrays]]


def make_space(cells: int, stages: int) -> NASBench201:
    return NASBench201(channels=2, cells=cells, input_shape=(6, 6, 1), classes=3, stages=stages)


def make_arrays(space: CellSpace, seed: int) -> WeightArrays:
    """Every slot filled, scales around 1 and biases away from 0."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, group in space.layout.items():
        noise = 0.4 * rng.normal(size=(group.slots, *group.shape))
        arrays[name] = jnp.asarray(noise + (group.role == "scale"), jnp.float32)
    return arrays


def make_images(space: CellSpace) -> Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(BATCH, *space.input_shape)), jnp.float32)


def loss_of(logits: Array) -> Array:
    return jnp.tanh(logits @ jnp.linspace(-1.0, 1.0, logits.shape[-1])).sum()


def executor_loss(space: CellSpace, arrays: WeightArrays, encoding: Any, images: Array) -> tuple[Array, Array]:
    logits = space.forward(arrays, encoding, images, Layers())[0]
    return loss_of(logits), logits


def static_step(space: CellSpace, arrays: WeightArrays, cell: Cell, images: Array) -> tuple[Array, WeightArrays]:
    """Logits and gradients by the plain program, whose convolutions leave their gradients to JAX."""

    def loss(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = space.forward_static(arrays, cell, images, Layers("plain"))
        return loss_of(logits), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
    return logits, gradients


def make_step(space: CellSpace) -> Step:
    return jax.jit(jax.value_and_grad(functools.partial(executor_loss, space), has_aux=True))


def assert_gradients_equal(got: WeightArrays, expected: WeightArrays, relative: float = 1e-4) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        largest = float(jnp.abs(value).max())
        np.testing.assert_allclose(got[name], value, rtol=0, atol=relative * largest + 1e-6, err_msg=name)


@pytest.fixture(scope="module")
def compiled() -> tuple[NASBench201, WeightArrays, Array, Step]:
    space = make_space(2, 2)
    return space, make_arrays(space, 0), make_images(space), make_step(space)


def test_executor_equals_the_static_program(compiled: tuple[NASBench201, WeightArrays, Array, Step]) -> None:
    space, arrays, images, step = compiled
    full = Cell((CONV, "nor_conv_1x1", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", CONV))
    for cell in [full, DISCONNECTED, *(space.sample(seed) for seed in range(3))]:
        (_, logits), gradients = step(arrays, space.encode(cell), images)
        expected, expected_gradients = static_step(space, arrays, cell, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5, err_msg=str(cell))
        if space.connected(cell):  # else the head normalises a constant, and rounding alone decides its gradient
            assert_gradients_equal(gradients, expected_gradients)
    assert jnp.abs(gradients["stem/kernel"]).max() > 1e-4  # of a connected cell: not the equality of zeros
    assert step._cache_size() == 1


def test_one_compilation_for_many_architectures(compiled: tuple[NASBench201, WeightArrays, Array, Step]) -> None:
    space, arrays, images, step = compiled
    results = {float(step(arrays, space.encode(space.sample(seed)), images)[0][0]) for seed in range(20, 40)}
    assert len(results) > 10  # the architecture matters
    assert step._cache_size() == 1


def test_gradients_of_slots_without_leaves_are_zero(compiled: tuple[NASBench201, WeightArrays, Array, Step]) -> None:
    space, arrays, images, step = compiled
    cell = Cell(("nor_conv_1x1", "skip_connect", CONV, "avg_pool_3x3", "none", CONV))
    gradients = step(arrays, space.encode(cell), images)[1]
    used = np.array([op in ("nor_conv_1x1", CONV) for op in cell.edges] * space.cells)
    for stage in range(space.stages):
        kernels = np.asarray(gradients[f"stage{stage}/kernel"])
        assert not kernels[~used].any()
        assert (np.abs(kernels[used]).max((1, 2, 3, 4)) > 0).all()
        small = kernels[:: len(cell.edges)].copy()  # the 1x1 convolution on the first edge of each cell
        small[:, 1, 1] = 0
        assert not small.any()


def test_only_connected_cells_see_the_image(compiled: tuple[NASBench201, WeightArrays, Array, Step]) -> None:
    space, arrays, images, step = compiled
    assert not space.connected(DISCONNECTED)
    logits = step(arrays, space.encode(DISCONNECTED), images)[0][1]
    np.testing.assert_allclose(logits, jnp.broadcast_to(logits[0], logits.shape), atol=1e-6)
    skip = Cell(("none", "none", "none", "skip_connect", "none", "none"))
    logits = step(arrays, space.encode(skip), images)[0][1]
    assert jnp.abs(logits - logits[0]).max() > 1e-3


def paths_to_output(space: CellSpace, cell: Cell, node: int) -> bool:
    """Whether a path of ops leads from a node to the output, by walking forward."""
    return node == space.nodes - 1 or any(
        paths_to_output(space, cell, target)
        for (source, target), op in zip(space.wiring, cell.edges, strict=True)
        if source == node and op != "none"
    )


def test_encode_prunes_exactly_the_dead_edges() -> None:
    space = make_space(1, 1)
    pruned = 0
    for seed in range(300):
        cell = space.sample(seed)
        expected = [
            space.choices.index(op) if paths_to_output(space, cell, target) else space.choices.index("none")
            for (_, target), op in zip(space.wiring, cell.edges, strict=True)
        ]
        encoding = space.encode(cell)["op"]
        assert encoding.dtype == np.int32
        assert encoding.tolist() == expected
        pruned += expected != [space.choices.index(op) for op in cell.edges]
    assert pruned > 20


def test_pruning_leaves_the_output_unchanged(compiled: tuple[NASBench201, WeightArrays, Array, Step]) -> None:
    space, arrays, images, step = compiled
    for edges in [
        (CONV, "none", "none", "skip_connect", "none", "none"),
        (CONV, "nor_conv_1x1", CONV, CONV, "none", "none"),
        (CONV, "avg_pool_3x3", "nor_conv_1x1", "none", CONV, "none"),
    ]:
        cell = Cell(edges)
        whole = {"op": np.array([space.choices.index(op) for op in edges], np.int32)}
        assert not np.array_equal(space.encode(cell)["op"], whole["op"])
        (_, logits), gradients = step(arrays, space.encode(cell), images)
        (_, expected), expected_gradients = step(arrays, whole, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)
        assert_gradients_equal(gradients, expected_gradients, 1e-5)


def test_vmap_over_seeds_equals_a_loop() -> None:
    ops = make_space(1, 1).ops
    space = CellSpace(channels=2, cells=2, input_shape=(6, 6, 1), classes=3, stages=1, nodes=3, ops=ops)
    cell = Cell((CONV, "avg_pool_3x3", "nor_conv_1x1"))
    images, encoding = make_images(space), space.encode(cell)
    seeds = [make_arrays(space, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    step = jax.value_and_grad(functools.partial(executor_loss, space), has_aux=True)
    (_, logits), gradients = jax.jit(jax.vmap(step, (0, None, None)))(stacked, encoding, images)
    assert jnp.abs(logits[0] - logits[1]).max() > 1e-3
    for seed, arrays in enumerate(seeds):
        expected, expected_gradients = static_step(space, arrays, cell, images)
        np.testing.assert_allclose(logits[seed], expected, rtol=1e-5, atol=1e-5)
        assert_gradients_equal({name: leaf[seed] for name, leaf in gradients.items()}, expected_gradients)


def test_observations_are_sums_over_the_relu_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space(2, 2)
    arrays, images = make_arrays(space, 0), make_images(space)

    def observe(x: Array) -> Array:
        return jnp.array([1.0, jnp.tanh(x).sum(), jnp.square(x).sum()])

    @jax.jit
    def run(encoding: dict[str, Array]) -> tuple[Array, Array | float]:
        return space.forward(arrays, encoding, images, Layers(), observe)

    cells = [DISCONNECTED, *(space.sample(seed) for seed in range(3)), Cell(("avg_pool_3x3",) * 6), Cell((CONV,) * 6)]
    observed = [run(space.encode(cell)) for cell in cells]
    plain_relu = jax.nn.relu
    for cell, (logits, total) in zip(cells, observed, strict=True):
        seen: list[Array] = []

        def recording_relu(x: Array, seen: list[Array] = seen) -> Array:
            seen.append(observe(x))
            return plain_relu(x)

        with monkeypatch.context() as patch:
            patch.setattr(jax.nn, "relu", recording_relu)
            expected = space.forward_static(arrays, cell, images, Layers())
        live = [space.choices[op] for op in space.encode(cell)["op"]]
        convolutions = sum(op in ("nor_conv_1x1", CONV) for op in live)
        assert len(seen) == 2 * 2 * convolutions + 2 + 1  # stages x cells, a reduction, the head
        np.testing.assert_allclose(total, sum(seen), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


# A space of the user's own: ops with one part, with leaf names that no other op has, with a leaf in both parts.
GATE = Op("gate", lambda w, x, layers: jnp.tanh(x) * w["gain"], lambda c: {"gain": Leaf("scale", (c,))})
TWO_KERNELS = Op(
    "two_kernels",
    lambda w, x, layers: layers.conv(jnp.tanh(x), w["second"]),
    lambda c: {"first": Leaf("kernel", (5, 5, c, c)), "second": Leaf("kernel", (1, 1, c, c))},
    linear=lambda w, x, layers: layers.conv(x, w["first"]),
)
BOTTLENECK = Op(
    "bottleneck",
    lambda w, x, layers: layers.conv(jnp.tanh(layers.conv(x, w["first"])), w["second"]),
    lambda c: {"first": Leaf("kernel", (3, 3, c, 3)), "second": Leaf("kernel", (1, 1, 3, c))},
)
TWICE = Op(
    "twice",
    lambda w, x, layers: layers.conv(jnp.tanh(x), w["kernel"]),
    lambda c: {"kernel": Leaf("kernel", (3, 3, c, c))},
    linear=lambda w, x, layers: layers.conv(x, w["kernel"]),
)


def test_ops_of_the_user_give_the_gradients_of_the_static_program() -> None:
    ops = (NONE, GATE, TWO_KERNELS, BOTTLENECK, TWICE, CONV_1X1)
    space = CellSpace(channels=2, input_shape=(5, 5, 2), classes=3, stages=1, nodes=3, ops=ops)
    assert space.layout["stage0/first"].shape == (5, 5, 2, 3)
    assert space.layout["stage0/second"].shape == (1, 1, 3, 2)
    arrays, images, step = make_arrays(space, 0), make_images(space), make_step(space)
    cells = [("gate", "two_kernels", "twice"), ("bottleneck", "gate", "gate"), ("nor_conv_1x1", "none", "two_kernels")]
    for cell in map(Cell, cells):
        (_, logits), gradients = step(arrays, space.encode(cell), images)
        expected, expected_gradients = static_step(space, arrays, cell, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        assert_gradients_equal(gradients, expected_gradients)
        for op in set(cell.edges) - {"none"}:
            for name in next(o for o in ops if o.name == op).leaves(2):
                assert jnp.abs(gradients[f"stage0/{name}"]).max() > 1e-4
    assert step._cache_size() == 1


def test_a_space_without_parameters_and_without_none() -> None:
    space = CellSpace(channels=2, input_shape=(5, 5, 1), classes=3, stages=1, nodes=3, ops=(SKIP, AVG_POOL_3X3))
    arrays, images, step = make_arrays(space, 0), make_images(space), make_step(space)
    for cell in (Cell(("skip_connect", "avg_pool_3x3", "skip_connect")), Cell(("avg_pool_3x3",) * 3)):
        (_, logits), gradients = step(arrays, space.encode(cell), images)
        expected, expected_gradients = static_step(space, arrays, cell, images)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        assert_gradients_equal(gradients, expected_gradients)
