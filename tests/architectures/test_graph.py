"""Graphs: levels, distances, validation, jraph."""

from collections import deque

import jraph
import numpy as np
import pytest

from architectures.graph import ATTRIBUTES, MAX_DISTANCE, ArchGraph, GraphBuilder, Parameter, bucket, pad_jraph
from architectures.ops import Leaf


def make(nodes: int, edges: list[tuple[int, int]], parameters: tuple[Parameter, ...] = ()) -> ArchGraph:
    attributes = {name: np.ones(nodes) for name in ATTRIBUTES}
    return ArchGraph(("op",) * nodes, attributes, np.array(edges, np.int64).reshape(-1, 2), parameters)


def random_graph(seed: int) -> ArchGraph:
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(2, 15))
    return make(nodes, [(s, t) for t in range(nodes) for s in range(t) if rng.random() < 0.25])


def breadth_first(graph: ArchGraph, start: int) -> np.ndarray:
    """Steps from `start` to every node; 0 for itself and for what it does not reach."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for source, target in graph.edges.tolist():
            if source == node and target not in steps:
                steps[target] = steps[node] + 1
                queue.append(target)
    return np.array([steps.get(node, 0) for node in range(graph.nodes)])


def longest(graph: ArchGraph, node: int) -> int:
    return max((1 + longest(graph, s) for s, t in graph.edges.tolist() if t == node), default=0)


@pytest.mark.parametrize("seed", range(20))
def test_distances_equal_breadth_first_search(seed: int) -> None:
    graph = random_graph(seed)
    expected = np.array([breadth_first(graph, node) for node in range(graph.nodes)])
    np.testing.assert_array_equal(graph.distances, expected)


@pytest.mark.parametrize("seed", range(20))
def test_levels_are_longest_paths(seed: int) -> None:
    graph = random_graph(seed)
    assert graph.levels.tolist() == [longest(graph, node) for node in range(graph.nodes)]


def test_levels_do_not_depend_on_the_order_of_edges() -> None:
    edges = [(0, 1), (1, 2), (2, 3), (0, 3)]
    assert make(4, edges).levels.tolist() == make(4, edges[::-1]).levels.tolist() == [0, 1, 2, 3]


def test_distances_of_a_chain_end_at_the_cap() -> None:
    assert MAX_DISTANCE == 50
    chain = make(60, [(i, i + 1) for i in range(59)])
    ahead = np.arange(60) - np.arange(60)[:, None]
    np.testing.assert_array_equal(chain.distances, np.where((ahead > 0) & (ahead <= 50), ahead, 0))


def test_a_graph_without_edges() -> None:
    graph = make(3, [])
    assert not graph.distances.any() and not graph.levels.any()


def test_attributes_that_are_missing_or_unknown_are_named() -> None:
    attributes = {name: np.ones(1) for name in ATTRIBUTES}
    with pytest.raises(ValueError, match=r"attributes.*'groups'"):
        ArchGraph(("a",), {k: v for k, v in attributes.items() if k != "groups"}, np.zeros((0, 2), np.int64), ())
    with pytest.raises(ValueError, match=r"attributes.*'colour'"):
        ArchGraph(("a",), {**attributes, "colour": np.ones(1)}, np.zeros((0, 2), np.int64), ())
    with pytest.raises(ValueError, match=r"attributes\['stride'\].*\(2,\)"):
        ArchGraph(("a",), {**attributes, "stride": np.ones(2)}, np.zeros((0, 2), np.int64), ())


@pytest.mark.parametrize("edge", [(1, 0), (1, 1), (0, 3), (-1, 0)])
def test_edges_out_of_order_or_range_are_refused(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"ArchGraph\.edges.*topological"):
        make(3, [(0, 1), edge])


def test_edges_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ArchGraph\.edges: shape \(3,\)"):
        ArchGraph(("a",), {name: np.ones(1) for name in ATTRIBUTES}, np.zeros(3, np.int64), ())


@pytest.mark.parametrize("node", [-1, 2])
def test_a_parameter_without_owner_is_named(node: int) -> None:
    with pytest.raises(ValueError, match=r"ArchGraph\.parameters: head/kernel"):
        make(2, [(0, 1)], (Parameter(("head", "kernel"), node, Leaf("bias", (3,))),))


def test_steps_are_levels_unless_given() -> None:
    graph = random_graph(3)
    np.testing.assert_array_equal(graph.steps, graph.levels)
    builder = GraphBuilder()
    a = builder.node("a", [])
    b = builder.node("b", [a], step=4)
    c = builder.node("c", [a, b])
    assert [builder.step(node) for node in (a, b, c)] == builder.build().steps.tolist() == [0, 4, 5]


def test_an_edge_that_leads_to_no_later_step_is_refused() -> None:
    builder = GraphBuilder()
    builder.node("b", [builder.node("a", [], step=2)], step=2)
    with pytest.raises(ValueError, match=r"ArchGraph\.steps: every edge must lead to a later step"):
        builder.build()


def test_steps_of_another_length_are_refused() -> None:
    graph = make(3, [(0, 1), (1, 2)])
    for steps in ([0, 1], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match=rf"ArchGraph\.steps: shape \({len(steps)},\), expected \(3,\)"):
            ArchGraph(graph.ops, graph.attributes, graph.edges, (), np.array(steps))


@pytest.mark.parametrize("source", [-1, 1, 5])
def test_builder_names_an_input_that_does_not_exist(source: int) -> None:
    builder = GraphBuilder()
    builder.node("a", [])
    with pytest.raises(ValueError, match=rf"node 'conv': input {source} is no earlier node"):
        builder.node("conv", [0, source])


def test_leaves_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Leaf\.role='gain'"):
        Leaf("gain", (3,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Leaf\.shape=\(3, 3\).*4 positive"):
        Leaf("kernel", (3, 3))
    with pytest.raises(ValueError, match=r"Leaf\.shape=\(0,\)"):
        Leaf("bias", (0,))


def test_fan_in() -> None:
    assert Leaf("kernel", (3, 5, 7, 11)).fan_in == 105
    assert Leaf("head_kernel", (7, 11)).fan_in == 7
    assert Leaf("bias", (9,)).fan_in == 1


def test_counts() -> None:
    builder = GraphBuilder()
    x = builder.node("input", [], size=8)
    conv = builder.node("conv", [x], size=4, kernel=3)
    builder.parameter(["conv", "kernel"], conv, Leaf("kernel", (3, 3, 2, 5)))
    builder.parameter(["conv", "bias"], conv, Leaf("bias", (5,)))
    head = builder.node("linear", [conv], size=1)
    builder.parameter(["head"], head, Leaf("head_kernel", (5, 7)))
    graph = builder.build()
    assert graph.parameter_count == 90 + 5 + 35
    assert graph.macs == 90 * 16 + 35


def test_builder_defaults_and_edges() -> None:
    builder = GraphBuilder()
    a = builder.node("a", [])
    b = builder.node("b", [a], stride=2)
    builder.node("c", [b, a], position=0.5)
    graph = builder.build()
    assert graph.ops == ("a", "b", "c")
    assert sorted(map(tuple, graph.edges.tolist())) == [(0, 1), (0, 2), (1, 2)]
    assert graph.attributes["stride"].tolist() == [1, 2, 1]
    assert graph.attributes["position"].tolist() == [0, 0, 0.5]


def test_builder_names_unknown_attributes() -> None:
    with pytest.raises(ValueError, match=r"node 'conv': unknown attributes \['colour'\]; known: channels_in"):
        GraphBuilder().node("conv", [], colour=3.0)


@pytest.mark.parametrize("seed", range(5))
def test_jraph_holds_the_edges(seed: int) -> None:
    graph = random_graph(seed)
    result = graph.to_jraph()
    assert sorted(zip(result.senders, result.receivers, strict=True)) == sorted(map(tuple, graph.edges.tolist()))
    np.testing.assert_array_equal(result.edges["distance"], np.ones(len(graph.edges)))
    assert (result.n_node.tolist(), result.n_edge.tolist()) == ([graph.nodes], [len(graph.edges)])
    assert result.nodes["op"].tolist() == list(graph.ops)
    assert set(result.nodes) == {"op", *ATTRIBUTES}


@pytest.mark.parametrize("seed", range(5))
def test_jraph_with_virtual_edges_holds_every_pair_within_reach(seed: int) -> None:
    graph = random_graph(seed)
    result = graph.to_jraph(virtual_edges=True)
    got = {(s, t): d for s, t, d in zip(result.senders, result.receivers, result.edges["distance"], strict=True)}
    steps = [breadth_first(graph, node) for node in range(graph.nodes)]
    assert got == {(s, t): steps[s][t] for s in range(graph.nodes) for t in range(graph.nodes) if steps[s][t]}
    assert result.n_edge.tolist() == [len(got)]


def test_buckets_are_monotone_and_pad_at_most_a_third() -> None:
    sizes = np.arange(1, 5000)
    buckets = np.array([bucket(int(size)) for size in sizes])
    assert (buckets >= sizes).all() and (np.diff(buckets) >= 0).all()
    assert all(bucket(int(b)) == b for b in set(buckets.tolist()))
    assert sorted(set(buckets.tolist()))[:6] == [16, 24, 32, 48, 64, 96]
    padding = (buckets - sizes) / buckets
    assert padding[sizes >= 16].max() <= 1 / 3


@pytest.mark.parametrize("nodes", [5, 15, 16, 40])
def test_padding_fills_the_buckets_and_is_masked(nodes: int) -> None:
    graph = make(nodes, [(s, t) for t in range(nodes) for s in range(max(0, t - 2), t)]).to_jraph()
    graph = graph._replace(nodes={**graph.nodes, "op": np.arange(nodes)})
    padded = pad_jraph(graph)
    assert padded.nodes["op"].shape[0] == bucket(nodes + 1)
    assert padded.senders.shape[0] == bucket(len(graph.senders))
    mask = np.asarray(jraph.get_node_padding_mask(padded))
    assert mask.tolist() == [True] * nodes + [False] * (len(mask) - nodes)
    np.testing.assert_array_equal(np.asarray(padded.nodes["op"])[mask], np.arange(nodes))
    edges = np.asarray(jraph.get_edge_padding_mask(padded))
    assert edges.sum() == len(graph.senders)
    np.testing.assert_array_equal(np.asarray(padded.receivers)[edges], graph.receivers)
    assert (np.asarray(padded.receivers)[~edges] >= nodes).all()  # padding edges touch only padding nodes
    assert np.asarray(jraph.get_graph_padding_mask(padded)).tolist() == [True, False]
