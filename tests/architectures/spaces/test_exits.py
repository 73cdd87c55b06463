"""Early exits: each is the end of a shallower network, the executor's are the plain program's, off changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.ops import AVG_POOL_3X3, CONV_1X1, NONE, SKIP
from architectures.spaces import MLP, Cell, CellSpace, MLPSpace, NASBench201, base, from_settings, settings

OPS = (NONE, SKIP, CONV_1X1, AVG_POOL_3X3)
PLAIN = CellSpace(channels=2, cells=1, input_shape=(6, 6, 1), classes=3, stages=3, nodes=3, ops=OPS)
SPACE = dataclasses.replace(PLAIN, exits=True)
CELLS = (
    Cell(("nor_conv_1x1", "skip_connect", "nor_conv_1x1")),
    Cell(("avg_pool_3x3", "none", "nor_conv_1x1")),
    Cell(("skip_connect", "nor_conv_1x1", "none")),
)
IMAGES = jnp.asarray(np.random.default_rng(9).normal(size=(4, 6, 6, 1)), jnp.float32)


def filled(space: CellSpace) -> WeightArrays:
    """Every slot filled, scales around 1 and biases away from 0."""
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray((group.role == "scale") + 0.4 * rng.normal(size=(group.slots, *group.shape)), jnp.float32)
        for name, group in space.layout.items()
    }


@pytest.fixture(scope="module")
def arrays() -> WeightArrays:
    return filled(SPACE)


def loss_of(answers: tuple[Array, ...]) -> Array:
    """Weighs exits and classes differently."""
    return sum(((i + 1) * jnp.tanh(own @ jnp.array([1.0, -0.5, 0.2])).sum() for i, own in enumerate(answers)), 0.0)


def test_the_executors_exits_equal_those_of_the_plain_program() -> None:
    space = dataclasses.replace(SPACE, stages=2, ops=(SKIP, CONV_1X1))
    arrays, cell = filled(space), Cell(("nor_conv_1x1", "skip_connect", "nor_conv_1x1"))

    def executed(arrays: WeightArrays) -> tuple[Array, tuple[Array, ...]]:
        answers = space.forward_exits(arrays, space.encode(cell), IMAGES, Layers())
        return loss_of(answers), answers

    def plain(arrays: WeightArrays) -> tuple[Array, tuple[Array, ...]]:
        answers = space.forward_exits_static(arrays, cell, IMAGES, Layers("plain"))
        return loss_of(answers), answers

    (_, answers), gradients = jax.jit(jax.value_and_grad(executed, has_aux=True))(arrays)
    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(plain, has_aux=True))(arrays)
    assert len(answers) == len(expected) == 2
    for own, other in zip(answers, expected, strict=True):
        assert own.shape == (4, 3)
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    for name, gradient in expected_gradients.items():
        atol = 1e-4 * float(jnp.abs(gradient).max()) + 1e-6
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=atol, err_msg=name)
    for name in ("exit0/norm/scale", "exit0/classifier/kernel", "exit0/classifier/bias", "classifier/kernel"):
        assert float(jnp.abs(gradients[name]).max()) > 1e-3, name


def test_all_exits_of_all_cells_take_one_compilation(arrays: WeightArrays) -> None:
    weights = Weights(arrays, SPACE)
    before = base._apply_exits._cache_size()
    for cell in CELLS:
        *early, last = SPACE.apply_exits(weights, cell, IMAGES)
        assert len(early) == 2
        np.testing.assert_allclose(last, SPACE.apply(weights, cell, IMAGES), rtol=1e-5, atol=1e-6)
    assert base._apply_exits._cache_size() == before + 1


@pytest.mark.parametrize("stage", [0, 1])
def test_an_exit_is_the_end_of_a_shallower_network(stage: int, arrays: WeightArrays) -> None:
    shallow = dataclasses.replace(PLAIN, stages=stage + 1)
    own = {name.removeprefix(f"exit{stage}/"): array for name, array in arrays.items() if name.startswith("exit")}
    own = {name: {**arrays, **own}[name] for name in shallow.layout}
    expected = shallow.apply(Weights(own, shallow), CELLS[0], IMAGES)
    found = SPACE.apply_exits(Weights(arrays, SPACE), CELLS[0], IMAGES)[stage]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_without_exits_nothing_has_changed(arrays: WeightArrays) -> None:
    """What exits add is apart from all else: final logits, layout, graph, text, encoding, vocabulary, schedule."""
    own = {name: array for name, array in arrays.items() if not name.startswith("exit")}
    assert {name: SPACE.layout[name] for name in own} == PLAIN.layout
    final = SPACE.apply(Weights(arrays, SPACE), CELLS[0], IMAGES)
    (alone,) = PLAIN.apply_exits(Weights(own, PLAIN), CELLS[0], IMAGES)
    np.testing.assert_allclose(final, alone, rtol=1e-5, atol=1e-6)
    for cell in CELLS:
        graph, plain = SPACE.graph(cell), PLAIN.graph(cell)
        assert graph.nodes == plain.nodes + 2 * 3
        rest = [(row.path, row.leaf, row.place) for row in graph.parameters if not row.path[0].startswith("exit")]
        assert rest == [(row.path, row.leaf, row.place) for row in plain.parameters]
        assert (graph.ops[-1], graph.steps[-1]) == ("linear", plain.steps[-1])
        np.testing.assert_array_equal(SPACE.encode(cell)["op"], PLAIN.encode(cell)["op"])
        assert SPACE.canonical(cell) == PLAIN.canonical(cell)
    assert SPACE.op_names == PLAIN.op_names
    assert SPACE.schedule[0] == PLAIN.schedule[0]
    described = settings(NASBench201())
    assert "exits" not in described and from_settings(described) == NASBench201()
    assert NASBench201().describe() + ", an exit after each" == NASBench201(exits=True).describe()


def test_no_graph_exceeds_the_schedule_and_the_end_comes_last() -> None:
    steps, width = SPACE.schedule
    for cell in SPACE.all():
        graph = SPACE.graph(cell)
        assert graph.steps is not None
        assert graph.steps.max() < steps and np.bincount(graph.steps).max() <= width
        read = set(graph.edges[:, 0].tolist())
        heads = [node for node, op in enumerate(graph.ops) if op == "linear"]
        assert len(heads) == 3 and not read & set(heads)


def test_users_get_the_leaves_of_exits_by_name(arrays: WeightArrays) -> None:
    tree = Weights(arrays, SPACE).as_pytree(CELLS[0])
    assert {key for key in tree if key.startswith("exit")} == {"exit0", "exit1"}
    shapes = jax.tree.map(lambda leaf: leaf.shape, tree["exit1"])
    assert shapes == {"norm": {"scale": (4,), "bias": (4,)}, "classifier": {"kernel": (4, 3), "bias": (3,)}}
    np.testing.assert_array_equal(tree["exit1"]["classifier"]["kernel"], arrays["exit1/classifier/kernel"][0])
    more = SPACE.cost(CELLS[0]).parameters - PLAIN.cost(CELLS[0]).parameters
    assert more == sum(leaf.size for key in ("exit0", "exit1") for leaf in jax.tree.leaves(tree[key]))


def test_other_spaces_have_one_exit_and_misuse_is_refused(arrays: WeightArrays) -> None:
    space = MLPSpace(input_shape=(2, 2, 1), classes=3, widths=(4,), depths=(1,))
    zeros = {name: jnp.zeros((group.slots, *group.shape)) for name, group in space.layout.items()}
    (logits,) = space.apply_exits(Weights(zeros, space), MLP((4,)), jnp.zeros((2, 2, 2, 1)))
    assert logits.shape == (2, 3)
    with pytest.raises(ValueError, match=r"images: shape \(2, 5, 5, 1\), this space takes \[B, 6, 6, 1\]"):
        SPACE.apply_exits(Weights(arrays, SPACE), CELLS[0], jnp.zeros((2, 5, 5, 1)))
    with pytest.raises(ValueError, match="weights: made for"):
        SPACE.apply_exits(Weights(arrays, PLAIN), CELLS[0], IMAGES)
    with pytest.raises(ValueError, match=r"CellSpace\.exits=True: one stage has no early exit"):
        dataclasses.replace(SPACE, stages=1)
