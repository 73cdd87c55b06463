"""The slot layout: what is in it, what a user gets out of it, how it is initialised."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures.graph import GraphBuilder, Place
from architectures.layout import LeafGroup, Weights, initial_mean, initial_scale, initialise, occupancy
from architectures.ops import Leaf
from architectures.spaces import Cell, NASBench201

SPACE = NASBench201(channels=2, cells=2, input_shape=(6, 6, 1), classes=3, stages=2)
MIXED = Cell(("nor_conv_1x1", "none", "nor_conv_3x3", "skip_connect", "nor_conv_1x1", "avg_pool_3x3"))


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Every number of the layout is another one."""
    arrays, start = {}, 0
    for name, group in SPACE.layout.items():
        shape = (group.slots, *group.shape)
        arrays[name] = jnp.asarray(np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape))
        start += int(np.prod(shape))
    return Weights(arrays, SPACE)


def flatten(tree: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(key.key for key in path): leaf for path, leaf in paths}


@pytest.mark.parametrize("cell", [MIXED, SPACE.sample(0), SPACE.sample(1), Cell(("none",) * 6)], ids=str)
def test_the_pytree_holds_exactly_the_leaves_of_the_parameter_table(weights: Weights, cell: Cell) -> None:
    leaves = flatten(weights.as_pytree(cell))
    table = {row.path: row.leaf.shape for row in SPACE.graph(cell).parameters}
    assert len(table) == len(SPACE.graph(cell).parameters)
    assert {path: leaf.shape for path, leaf in leaves.items()} == table
    assert sum(leaf.size for leaf in leaves.values()) == SPACE.cost(cell).parameters
    numbers = np.concatenate([np.ravel(leaf) for leaf in leaves.values()])
    assert len(np.unique(numbers)) == len(numbers)  # no two leaves share a place


def test_leaves_come_from_their_slots(weights: Weights) -> None:
    tree = weights.as_pytree(MIXED)
    stage = tree["stage1"]["cell1"]
    kernels = weights.arrays["stage1/kernel"]  # slots: 6 edges of cell 0, 6 of cell 1
    np.testing.assert_array_equal(stage["edge_0_1"]["nor_conv_1x1"]["kernel"], kernels[6, 1:2, 1:2])
    np.testing.assert_array_equal(stage["edge_1_2"]["nor_conv_3x3"]["kernel"], kernels[8])
    np.testing.assert_array_equal(stage["edge_1_3"]["nor_conv_1x1"]["scale"], weights.arrays["stage1/scale"][10])
    np.testing.assert_array_equal(tree["stem"]["kernel"], weights.arrays["stem/kernel"][0])
    assert "edge_0_2" not in stage and "edge_0_3" not in stage


def test_slots_are_as_large_as_their_largest_variant() -> None:
    group = SPACE.layout["stage0/kernel"]
    assert (group.slots, group.shape, group.role) == (12, (3, 3, 2, 2), "kernel")
    assert [leaf.shape for leaf in group.variants] == [(1, 1, 2, 2), (3, 3, 2, 2)]
    assert LeafGroup("a", 1, (Leaf("kernel", (1, 5, 4, 2)), Leaf("kernel", (3, 3, 2, 8)))).shape == (3, 5, 4, 8)


def test_occupancy_names_owner_and_variant() -> None:
    graph = SPACE.graph(MIXED)
    filled = occupancy(SPACE.layout, graph)
    kernels = filled["stage0/kernel"]
    assert kernels.used.tolist() == [True, False, True, False, True, False] * 2
    assert kernels.variant.tolist() == [0, 0, 1, 0, 0, 0] * 2
    for row in graph.parameters:
        assert row.place is not None
        group = filled[row.place.group]
        assert group.used[row.place.slot] and group.owner[row.place.slot] == row.node
        assert SPACE.layout[row.place.group].variants[group.variant[row.place.slot]] == row.leaf
    assert sum(int(group.used.sum()) for group in filled.values()) == len(graph.parameters)


def test_occupancy_names_a_parameter_without_slot() -> None:
    builder = GraphBuilder()
    builder.parameter(["block", "kernel"], builder.node("conv", []), Leaf("kernel", (1, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"parameter block/kernel has no slot"):
        occupancy(SPACE.layout, builder.build())


def test_occupancy_refuses_the_graph_of_another_space() -> None:
    deeper = NASBench201(channels=2, cells=2, input_shape=(6, 6, 1), classes=3, stages=3)
    with pytest.raises(ValueError, match=r"parameter reduction2/a/kernel has no slot"):
        occupancy(SPACE.layout, deeper.graph(MIXED))


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        (Place("stage0/kernel", 12, 0), (1, 1, 2, 2)),
        (Place("stage0/kernel", -1, 0), (1, 1, 2, 2)),
        (Place("stage0/kernel", 0, 2), (1, 1, 2, 2)),
        (Place("stage0/kernel", 0, -1), (3, 3, 2, 2)),
        (Place("stage0/kernel", 0, 1), (1, 1, 2, 2)),
        (Place("stage0/kernel", 0, 0), (1, 1, 4, 4)),
    ],
    ids=str,
)
def test_occupancy_refuses_a_place_of_another_leaf(place: Place, shape: tuple[int, ...]) -> None:
    builder = GraphBuilder()
    builder.parameter(["block", "kernel"], builder.node("conv", []), Leaf("kernel", shape), place)
    with pytest.raises(ValueError, match=r"parameter block/kernel has no slot"):
        occupancy(SPACE.layout, builder.build())


def test_occupancy_refuses_the_graph_of_a_wider_or_longer_space() -> None:
    for channels, cells in ((4, 2), (2, 3)):
        other = NASBench201(channels=channels, cells=cells, input_shape=(6, 6, 1), classes=3, stages=2)
        with pytest.raises(ValueError, match=r"parameter .* has no slot"):
            occupancy(SPACE.layout, other.graph(MIXED))


@pytest.mark.parametrize(
    ("leaf", "mean", "scale"),
    [
        (Leaf("kernel", (3, 3, 8, 4)), 0, np.sqrt(2 / 72)),
        (Leaf("kernel", (1, 1, 8, 4)), 0, np.sqrt(2 / 8)),
        (Leaf("head_kernel", (16, 10)), 0, 0.25),
        (Leaf("scale", (4,)), 1, 0),
        (Leaf("bias", (4,)), 0, 0),
        (Leaf("head_bias", (4,)), 0, 0),
    ],
    ids=lambda value: f"{value.role}{value.shape}" if isinstance(value, Leaf) else "",
)
def test_initial_moments(leaf: Leaf, mean: float, scale: float) -> None:
    assert initial_mean(leaf) == mean
    assert initial_scale(leaf) == pytest.approx(scale)


def test_initialise_follows_he_per_variant() -> None:
    layout = {
        "kernel": LeafGroup("kernel", 20, (Leaf("kernel", (1, 1, 16, 16)), Leaf("kernel", (3, 3, 16, 16)))),
        "scale": LeafGroup("scale", 20, (Leaf("scale", (16,)), Leaf("scale", (16,)))),
        "head": LeafGroup("head", 1, (Leaf("head_kernel", (64, 100)),)),
        "head2": LeafGroup("head2", 1, (Leaf("head_kernel", (64, 100)),)),
    }
    variants = {name: jnp.arange(group.slots) % len(group.variants) for name, group in layout.items()}
    draw = jax.jit(lambda key, variants: initialise(layout, key, variants))
    arrays = draw(jax.random.key(0), variants)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: (group.slots, *group.shape) for name, group in layout.items()
    }
    small, large = np.asarray(arrays["kernel"][::2, 1:2, 1:2]), np.asarray(arrays["kernel"][1::2])
    assert small.std() == pytest.approx(np.sqrt(2 / 16), rel=0.06)  # 2,560 numbers
    assert large.std() == pytest.approx(np.sqrt(2 / 144), rel=0.03)  # 23,040 numbers
    assert abs(large.mean()) < 0.005
    assert np.asarray(arrays["head"]).std() == pytest.approx(1 / 8, rel=0.05)
    np.testing.assert_array_equal(arrays["scale"], np.ones((20, 16)))
    assert not np.array_equal(arrays["head"], arrays["head2"])  # groups draw from keys of their own
    again, other = (draw(jax.random.key(seed), variants) for seed in (0, 1))
    np.testing.assert_array_equal(arrays["kernel"], again["kernel"])
    assert not np.array_equal(arrays["kernel"], other["kernel"])


def test_weights_are_a_pytree_of_their_arrays(weights: Weights) -> None:
    doubled = jax.tree.map(lambda leaf: 2 * leaf, weights)
    assert doubled.space == SPACE
    np.testing.assert_array_equal(doubled.arrays["stem/kernel"], 2 * weights.arrays["stem/kernel"])
    assert len(jax.tree.leaves(weights)) == len(SPACE.layout)
