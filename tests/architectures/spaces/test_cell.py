"""Cell spaces of any size and with any ops."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from architectures.layers import Layers
from architectures.layout import Weights
from architectures.ops import CONV_1X1, CONV_3X3, NONE, SKIP, Leaf, Op
from architectures.spaces import Cell, CellSpace, NASBench201

GATE = Op("gate", lambda w, x, layers: x * w["gain"], lambda c: {"gain": Leaf("scale", (c,))})
SMALL = CellSpace(channels=2, cells=2, input_shape=(6, 6, 1), classes=3, stages=2, nodes=3, ops=(NONE, SKIP, CONV_1X1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 0),
        ("cells", 0),
        ("classes", -1),
        ("stages", 0),
        ("nodes", 1),
        ("input_shape", (6, 6)),
        ("input_shape", (6, 0, 1)),
        ("input_shape", (6, 7, 1)),
        ("input_shape", [6, 6, 1]),
        ("input_shape", (6.0, 6.0, 1)),
        ("ops", ()),
        ("ops", (SKIP, SKIP)),
    ],
)
def test_bad_fields_are_named(field: str, value: Any) -> None:
    arguments = {"ops": (SKIP,), field: value}
    with pytest.raises(ValueError, match=rf"CellSpace\.{field}="):
        CellSpace(**arguments)


@pytest.mark.parametrize("name", ["a|b", "a~b", "a+b", "", "none", "skip_connect", "nor_conv_3x3", "linear", "sum"])
def test_ops_whose_name_is_taken_or_unwritable_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"CellSpace\.ops: '{re.escape(name)}'"):
        CellSpace(ops=(dataclasses.replace(GATE, name=name),))


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_wiring_and_strings_of_any_number_of_nodes(nodes: int) -> None:
    space = CellSpace(nodes=nodes, ops=(NONE, SKIP, GATE))
    assert len(space.wiring) == nodes * (nodes - 1) // 2
    assert sorted(set(space.wiring)) == [(s, t) for s in range(nodes) for t in range(s + 1, nodes)]
    assert [target for _, target in space.wiring] == sorted(target for _, target in space.wiring)
    assert space.size == 3 ** len(space.wiring)
    for seed in range(20):
        cell = space.sample(seed)
        assert space.from_string(space.to_string(cell)) == cell


def test_all_lists_the_space_once() -> None:
    cells = list(SMALL.all())
    assert len(set(cells)) == len(cells) == SMALL.size == 27
    assert {SMALL.sample(seed) for seed in range(400)} == set(cells)


def test_unknown_ops_and_wrong_lengths_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown op 'gate' on the edge 1 -> 2; CellSpace has none, skip_connect"):
        SMALL.from_string("|none~0|+|none~0|gate~1|")
    for method in (SMALL.graph, SMALL.encode, SMALL.canonical, SMALL.connected):
        with pytest.raises(ValueError, match=r"unknown op 'gate'; the space has none"):
            method(Cell(("gate", "none", "none")))
        with pytest.raises(ValueError, match=r"6 edges, this space has 3"):
            method(Cell(("none",) * 6))
        with pytest.raises(ValueError, match=r"2 edges, this space has 3: \('none', 'skip_connect'\)$"):
            method(Cell(("none", "skip_connect")))


def test_a_leaf_name_with_two_roles_is_refused() -> None:
    other = Op("other", lambda w, x, layers: x + w["gain"], lambda c: {"gain": Leaf("bias", (c,))})
    with pytest.raises(ValueError, match=r"op 'other': leaf 'gain' is a bias"):
        _ = CellSpace(ops=(GATE, other)).layout


def test_a_single_op_cannot_mutate() -> None:
    space = CellSpace(ops=(SKIP,))
    assert list(space.neighbours(space.sample(0))) == []
    with pytest.raises(ValueError, match="single op"):
        space.mutate(space.sample(0), 0)


def reaches(edges: np.ndarray, source: int, target: int) -> bool:
    return source == target or any(reaches(edges, int(t), target) for s, t in edges if s == source)


def test_graphs_hold_their_ops_and_connections() -> None:
    space = CellSpace(channels=2, cells=1, input_shape=(5, 5, 1), stages=2, ops=(NONE, SKIP, CONV_3X3, GATE))
    connected = []
    for seed in range(30):
        cell = space.sample(seed)
        graph = space.graph(cell)
        assert set(graph.ops) <= set(space.op_names)
        assert graph.ops.count("gate") == 2 * cell.edges.count("gate")
        assert graph.ops.count("nor_conv_3x3") == 2 * cell.edges.count("nor_conv_3x3") + 2  # and the reduction's
        assert "none" not in graph.ops
        assert (graph.ops[0], graph.ops[-1]) == ("input", "linear")
        assert reaches(graph.edges, 0, graph.nodes - 1) == space.connected(cell)
        connected.append(space.connected(cell))
        assert len({(p.place.group, p.place.slot) for p in graph.parameters if p.place}) == len(graph.parameters)
    assert 0 < sum(connected) < 30
    assert len(set(space.op_names)) == len(space.op_names)


def test_no_graph_exceeds_the_schedule() -> None:
    space = CellSpace(channels=2, cells=2, input_shape=(5, 5, 1), stages=2, ops=(NONE, SKIP, GATE))
    full = space.graph(Cell(("gate",) * 6))
    assert space.schedule == (full.steps.max() + 1, np.bincount(full.steps).max())
    for seed in range(30):
        cell = space.sample(seed)
        graph = space.graph(cell)
        assert (graph.steps[graph.edges[:, 0]] < graph.steps[graph.edges[:, 1]]).all()
        steps, width = space.schedule
        assert graph.steps.max() < steps and np.bincount(graph.steps).max() <= width
        # a node of any graph has the step that it has when every edge is present
        assert (np.bincount(graph.steps, minlength=steps) <= np.bincount(full.steps)).all()
        assert graph.steps[-1] == full.steps[-1]


def test_attributes_follow_the_skeleton() -> None:
    space = CellSpace(channels=2, cells=1, input_shape=(7, 7, 3), stages=2, nodes=3, ops=(NONE, CONV_3X3))
    graph = space.graph(Cell(("nor_conv_3x3", "none", "nor_conv_3x3")))
    rows = [
        {name: values[node] for name, values in graph.attributes.items()} | {"op": graph.ops[node]}
        for node in range(graph.nodes)
    ]
    stem = next(row for row in rows if row["op"] == "stem_conv_3x3")
    assert (stem["channels_in"], stem["channels_out"], stem["size"]) == (3, 2, 7)
    pool = next(row for row in rows if row["op"] == "avg_pool_2x2")
    assert (pool["stride"], pool["size"], pool["kernel"]) == (2, 4, 2)
    cell = [row for row in rows if row["op"] == "nor_conv_3x3" and row["position"] > 0]
    assert [(row["channels_out"], row["size"]) for row in cell] == [(2, 7), (2, 7), (4, 4), (4, 4)]
    assert [row["position"] for row in cell] == pytest.approx([1 / 3, 1] * 2)
    assert [row["stride"] for row in rows if row["op"] == "nor_conv_3x3" and not row["position"]] == [2, 1]


def test_without_none_nothing_is_pruned() -> None:
    space = CellSpace(nodes=3, ops=(SKIP, GATE))
    assert space.encode(Cell(("gate", "skip_connect", "gate")))["op"].tolist() == [1, 0, 1]


def test_cost_of_an_op_is_its_leaves() -> None:
    base = SMALL.cost(Cell(("skip_connect", "none", "skip_connect")))
    more = SMALL.cost(Cell(("skip_connect", "nor_conv_1x1", "skip_connect")))
    # two cells a stage; 2 channels at 6x6, then 4 channels at 3x3
    assert more.parameters - base.parameters == 2 * (4 + 2 * 2) + 2 * (16 + 2 * 4)
    assert more.macs - base.macs == 2 * 4 * 36 + 2 * 16 * 9


@pytest.fixture(scope="module")
def weights() -> Weights:
    rng = np.random.default_rng(0)
    arrays = {
        name: jnp.asarray((group.role == "scale") + 0.4 * rng.normal(size=(group.slots, *group.shape)), jnp.float32)
        for name, group in SMALL.layout.items()
    }
    return Weights(arrays, SMALL)


def test_apply_equals_the_static_program(weights: Weights) -> None:
    images = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 6, 1)), jnp.float32)
    for cell in (
        Cell(("nor_conv_1x1", "skip_connect", "nor_conv_1x1")),
        Cell(("skip_connect", "none", "skip_connect")),
    ):
        logits = SMALL.apply(weights, cell, images)
        assert logits.shape == (4, 3)
        expected = SMALL.forward_static(weights.arrays, cell, images, Layers())
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_apply_refuses_other_images_and_weights(weights: Weights) -> None:
    cell = SMALL.sample(0)
    with pytest.raises(ValueError, match=r"images: shape \(2, 5, 5, 1\), this space takes \[B, 6, 6, 1\]"):
        SMALL.apply(weights, cell, jnp.zeros((2, 5, 5, 1)))
    with pytest.raises(ValueError, match=r"images: uint8, .*use hypernetwork\.preprocessing\.normalise"):
        SMALL.apply(weights, cell, jnp.zeros((2, 6, 6, 1), jnp.uint8))
    for call in (lambda text: SMALL.apply(weights, text, jnp.zeros((2, 6, 6, 1))), SMALL.cost):
        with pytest.raises(ValueError, match=r"architecture '\|.*': is text; read it with space\.from_string"):
            call(SMALL.to_string(cell))
    with pytest.raises(ValueError, match=r"weights: made for"):
        SMALL.apply(Weights(weights.arrays, CellSpace(ops=(SKIP,))), cell, jnp.zeros((2, 6, 6, 1)))


def test_spaces_are_equal_by_their_fields() -> None:
    assert NASBench201() == NASBench201() and hash(NASBench201()) == hash(NASBench201())
    assert NASBench201() != NASBench201(channels=4)
    assert NASBench201() != CellSpace(ops=NASBench201().ops)


def test_describe() -> None:
    assert SMALL.describe() == "cell: 27 architectures, input (6, 6, 1), 3 classes"
    large = CellSpace(nodes=6, ops=(NONE, SKIP, CONV_1X1, CONV_3X3, GATE))
    assert "about 10^10.5 architectures" in large.describe()  # 5^15
