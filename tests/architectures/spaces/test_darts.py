"""The DARTS space: genotypes as values and text, its moves, isomorphic cells, graphs against traces, the executor."""

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest

from architectures.layers import Layers
from architectures.layout import occupancy
from architectures.spaces import DARTS, Genotype
from architectures.spaces.darts_cells import fullest
from architectures.spaces.darts_text import OPS, DartsCell, Edge
from tests.architectures.spaces.tapes import (
    assert_executor_is_the_plain_program,
    assert_graph_is_the_trace,
    assert_nothing_else_is_read,
    step_of,
)

SPACE = DARTS()
SAMPLES = [SPACE.sample(seed) for seed in range(4)]
NETWORKS = {**SPACE.models(), "full": fullest(4), **{f"sample {seed}": net for seed, net in enumerate(SAMPLES)}}

# As their authors publish it.
V2_NORMAL = [
    ("sep_conv_3x3", 0),
    ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 0),
    ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 1),
    ("skip_connect", 0),
    ("skip_connect", 0),
    ("dil_conv_3x3", 2),
]
V2_REDUCE = [
    ("max_pool_3x3", 0),
    ("max_pool_3x3", 1),
    ("skip_connect", 2),
    ("max_pool_3x3", 1),
    ("max_pool_3x3", 0),
    ("skip_connect", 2),
    ("skip_connect", 2),
    ("max_pool_3x3", 1),
]


# ------------------------------------------------------------------------------------------------------------- text


def test_text_survives_in_both_forms() -> None:
    for genotype in NETWORKS.values():
        assert SPACE.from_string(SPACE.to_string(genotype)) == genotype
        assert SPACE.from_string(genotype.darts) == genotype


def test_reads_what_darts_publishes() -> None:
    ends = [2, 3, 4, 5]
    second = SPACE.models()["darts-v2"]
    assert Genotype.from_darts(V2_NORMAL, range(2, 6), V2_REDUCE, ends) == second
    text = f"Genotype(normal={V2_NORMAL}, normal_concat={ends}, reduce={V2_REDUCE}, reduce_concat=range(2, 6))"
    assert SPACE.from_string(text) == second
    assert set(SPACE.models()) == {"darts-v1", "darts-v2", "pc-darts", "p-darts"}
    assert DARTS(nodes=3).models() == {}


CELL = "sep3@0 sep3@1 | sep3@0 sep3@1 | sep3@0 sep3@1 | skip@0 sep3@1"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CELL, r"1 cells; give a normal and a reduction cell, as in 'sep3@0"),
        (f"{CELL} ; skip@0 sep3", r"cannot read 'sep3'; write op@state"),
        (f"{CELL} ; skip@0 conv3@1", r"reduce cell, node 2: unknown op 'conv3'; use one of skip, max3"),
        (f"skip@0 sep3@2 | skip@0 sep3@1 ; {CELL}", r"normal cell, node 2: sep3@2 reads a state .* there are 0 to 1"),
        (f"{CELL} ; skip@0 sep3@1 | skip@0", r"reduce cell, node 3: 'skip@0' has 1 ops; give two"),
        (f"{CELL} ; skip@0 sep3@0", r"reduce cell, node 2: 'skip@0 sep3@0' reads state 0 twice"),
        (f"{CELL} ; skip@0 sep3@1", r"cells of 4 and 1 nodes; give both the same number"),
        ("skip@0 sep3@1 ; skip@0 sep3@1", r"cells of 1 nodes; this space has 4"),
        ("Genotype(normal=[", r"cannot read it as Genotype\(normal="),
        ("Genotype", r"cannot read it as Genotype\(normal="),
        (f"Genotype(normal=[1], normal_concat=[], reduce={V2_REDUCE}, reduce_concat=[])", r"normal cell: 1 is no pair"),
        ("Genotype(normal=[], reduce=[])", r"Genotype has normal, normal_concat, .*; this one has normal, reduce"),
    ],
)
def test_wrong_text_names_the_part(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        SPACE.from_string(text)
    assert str(error.value).startswith("architecture ")


def test_genotypes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normal cell: op 'sep_conv_7x7' is not in this space"):
        Genotype.from_darts([("sep_conv_7x7", 0), *V2_NORMAL[1:]], range(2, 6), V2_REDUCE, range(2, 6))
    with pytest.raises(ValueError, match=r"reduce_concat=\[4, 5\]: this space's cells end in all .* \[2, 3, 4, 5\]"):
        Genotype.from_darts(V2_NORMAL, range(2, 6), V2_REDUCE, [4, 5])
    with pytest.raises(ValueError, match=r"normal cell: 7 ops; give two a node"):
        Genotype.from_darts(V2_NORMAL[:7], range(2, 6), V2_REDUCE, range(2, 6))


@pytest.mark.parametrize(
    "edge", [("sep3", "a"), ("sep3", None), ("sep3", 0.5), ("sep3", True), ("sep3", 0.0), (["x"], 0)]
)
def test_what_is_no_name_and_no_number_is_refused(edge: tuple[Any, Any]) -> None:
    node = ((edge, Edge("skip", 1)),)
    with pytest.raises(ValueError, match=r"normal cell, node 2: .* is no pair of an op and a state; give"):
        Genotype(node, node)
    listed = [("sep_conv_3x3" if edge[0] == "sep3" else edge[0], edge[1]), ("skip_connect", 1)]
    with pytest.raises(ValueError, match=r"normal cell: .* is no pair of an op and a state; give"):
        Genotype.from_darts(listed, [2], listed, [2])


def test_what_is_concatenated_are_numbers() -> None:
    for ends in (["a", 2, 3, 4], [2.0, 3, 4, 5]):
        with pytest.raises(ValueError, match=r"normal_concat=\[.*this space's cells end in all"):
            Genotype.from_darts(V2_NORMAL, ends, V2_REDUCE, range(2, 6))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- moves, identity


def test_the_space_is_as_large_as_its_authors_say() -> None:
    assert SPACE.size == (180 * 7**8) ** 2  # "10^18 possible architectures" (Liu et al. 2019, section 3.1)
    assert SPACE.describe().startswith("darts: about 10^18.0 architectures")


def test_moves_lead_to_every_genotype_of_a_small_space() -> None:
    space = DARTS(nodes=1)
    found, border = {space.sample(0)}, [space.sample(0)]
    while border:
        border = list({other for own in border for other in space.neighbours(own)} - found)
        found |= set(border)
    assert len(found) == space.size == 49**2


def edges(genotype: Genotype) -> list[tuple[int, int, Edge]]:
    return [(k, n, edge) for k, cell in enumerate(genotype.cells) for n, node in enumerate(cell) for edge in node]


def test_neighbours_differ_in_one_edge() -> None:
    own = SAMPLES[0]
    neighbours = list(SPACE.neighbours(own))
    # 16 edges, 6 other ops; each edge of the n-th node reads one of n + 2 states and not what the other reads
    assert len(neighbours) == len(set(neighbours)) == 16 * 6 + 2 * 2 * (0 + 1 + 2 + 3)
    for other in neighbours:
        assert sum((collections.Counter(edges(own)) - collections.Counter(edges(other))).values()) == 1
    assert SPACE.mutate(own, 0) == SPACE.mutate(own, 0) != own
    assert {SPACE.mutate(own, seed) for seed in range(20)} <= set(neighbours)


def test_samples_are_uniform_over_ops_and_states() -> None:
    drawn = [edge for seed in range(200) for edge in edges(SPACE.sample(seed))]
    for op in OPS:
        assert sum(edge.op == op for *_, edge in drawn) == pytest.approx(len(drawn) / 7, rel=0.15)
    last = [edge.source for _, node, edge in drawn if node == 3]
    assert np.bincount(last) == pytest.approx(np.full(5, len(last) / 5), rel=0.2)
    assert SPACE.sample(0) == SAMPLES[0]


def reordered(cell: DartsCell, rng: np.random.Generator) -> DartsCell:
    """The same cell, its nodes in another order that is possible, the edges of each node too."""
    place, left, nodes = {0: 0, 1: 1}, list(range(len(cell))), []
    while left:
        ready = [node for node in left if all(source in place for _, source in cell[node])]
        node = ready[rng.integers(len(ready))]
        left.remove(node)
        nodes.append(tuple(Edge(op, place[source]) for op, source in cell[node])[:: rng.choice([-1, 1])])
        place[node + 2] = len(nodes) + 1
    return tuple(nodes)


def test_isomorphic_cells_are_one() -> None:
    rng, changed = np.random.default_rng(0), 0
    for own in NETWORKS.values():
        for _ in range(5):
            other = Genotype(reordered(own.normal, rng), reordered(own.reduce, rng))
            changed += other != own
            assert SPACE.canonical(other) == SPACE.canonical(own)
            assert SPACE.held_out(other, 0.5) == SPACE.held_out(own, 0.5)
        assert SPACE.from_string(SPACE.canonical(own)).cells == tuple(map(sorted_by_order, own.cells))
    assert changed > 20


def sorted_by_order(cell: DartsCell) -> DartsCell:
    """The least of many orders."""
    rng = np.random.default_rng(1)
    return min(Genotype(other, other).normal for other in (reordered(cell, rng) for _ in range(300)))


def test_other_cells_are_not_one() -> None:
    for own in SAMPLES:
        keys = {SPACE.canonical(other) for other in SPACE.neighbours(own)}
        assert SPACE.canonical(own) not in keys and len(keys) > 100
    space = DARTS(nodes=1)
    pair = [space.from_string(f"{node} ; skip@0 skip@1") for node in ("sep3@0 skip@1", "skip@0 sep3@1")]
    assert space.canonical(pair[0]) != space.canonical(pair[1])  # the two inputs of a cell are not alike


def test_published_cells_are_always_held_out() -> None:
    for genotype in SPACE.models().values():
        assert SPACE.held_out(genotype, 0.0)
    assert not any(SPACE.held_out(genotype, 0.0) for genotype in SAMPLES)


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", 0), ("channels", 6), ("cells", 0), ("stages", 0), ("nodes", 7), ("input_shape", (14, 12, 1))],
)
def test_wrong_sizes_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"DARTS\.{field}="):
        dataclasses.replace(SPACE, **{field: value})


# ------------------------------------------------------------------------------------------------- graphs and traces


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_are_what_tracing_says_of_the_plain_program(name: str) -> None:
    assert_graph_is_the_trace(SPACE, NETWORKS[name])


def test_parameters_are_those_of_the_second_order_cell() -> None:
    """By hand: 3 normal cells of 5 separable and a dilated convolution, 2 reduction cells of pools."""

    def once(c: int) -> int:  # depthwise, 1x1, batch normalisation
        return 9 * c + c * c + 2 * c

    def inputs(c: int, *read: int) -> int:
        return sum(r * c + 2 * c for r in read)

    normal = [inputs(8, 24, 24), inputs(16, 32, 64), inputs(32, 64, 128)]  # read stem twice; last stage, reduction
    reduce = [inputs(16, 24, 32), inputs(32, 64, 64)]
    expected = sum(normal) + sum(reduce) + sum(11 * once(c) for c in (8, 16, 32))
    expected += 9 * 24 + 2 * 24 + 128 * 10 + 10
    second = SPACE.models()["darts-v2"]
    assert SPACE.cost(second).parameters == expected
    assert SPACE.graph(second).ops.count("conv") == 1 + 5 * 2 + 3 * 22


def test_graphs_fit_layout_schedule_and_vocabulary() -> None:
    for space in (SPACE, DARTS(nodes=1, stages=1), DARTS(nodes=2, cells=2, channels=4, input_shape=(7, 7, 3))):
        for seed in range(5):
            genotype = space.sample(seed) if seed else fullest(space.nodes)
            graph, encoding = space.graph(genotype), space.encode(genotype)
            assert graph.nodes <= space.schedule[0] and np.bincount(graph.steps).max() == 1
            assert set(graph.ops) <= set(space.op_names)
            filled = occupancy(space.layout, graph)
            assert sum(int(group.used.sum()) for group in filled.values()) == len(graph.parameters)
            assert (encoding["count"] <= space.shape.units).all()
            if not seed:  # nothing has more: every slot and unit is in use
                assert (encoding["count"] == space.shape.units).all() and graph.nodes == space.schedule[0]


# ---------------------------------------------------------------------------------------------------------- executor

SMALL = DARTS(input_shape=(6, 6, 2), classes=3, channels=4, stages=2, nodes=2)
# Between them: every op first and second in its node, reading inputs and nodes.
TEXTS = {
    "separable": "sep3@0 sep5@1 | dil5@0 sep3@2 ; dil3@0 sep5@1 | skip@0 dil3@2",
    "pools": "max3@0 avg3@1 | skip@1 max3@2 ; skip@0 skip@1 | avg3@0 dil5@1",
}


@pytest.fixture(scope="module")
def step() -> Any:
    """((loss, logits), gradients) of any network, compiled once."""
    return step_of(SMALL)


@pytest.mark.parametrize("name", TEXTS)
def test_executor_equals_the_plain_program(step: Any, name: str) -> None:
    layers = Layers("canonical" if name == "pools" else "plain")  # both forms of the same networks
    assert_executor_is_the_plain_program(step, SMALL, SMALL.from_string(TEXTS[name]), layers)


def test_what_lies_in_slots_beyond_the_leaves_is_never_read(step: Any) -> None:
    assert_nothing_else_is_read(step, SMALL, SMALL.from_string(TEXTS["pools"]))


def test_the_networks_above_have_every_op() -> None:
    networks = [SMALL.from_string(text) for text in TEXTS.values()]
    assert {edge.op for network in networks for *_, edge in edges(network)} == set(OPS)
    used = {int(op) for network in networks for op in np.unique(SMALL.encode(network)["op"])}
    assert used == set(range(len(SMALL.shape.ops[0])))
