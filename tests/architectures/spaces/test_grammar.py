"""The grammar: its text, its moves, how many derivations there are, and its networks against known blocks."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures import tape_plain
from architectures.layers import Layers
from architectures.layout import occupancy
from architectures.spaces import DeepNets, Derivation, Grammar
from architectures.spaces.grammar import MIXER, RESNET, VIT
from architectures.spaces.grammar_rules import ENDINGS, Rules
from architectures.spaces.grammar_text import ONCE, OPERATIONS, WIDTHS, Branch, Chain, Leaf, depth_of, leaves_of
from architectures.tape import Tape, tape_leaves
from tests.architectures.spaces.tapes import (
    assert_executor_is_the_plain_program,
    assert_graph_is_the_trace,
    images_of,
    step_of,
)

SPACE = Grammar()
SAMPLES = [SPACE.sample(seed) for seed in range(60)]
MODELS = SPACE.models()
SMALL = Grammar(input_shape=(8, 8, 2), classes=3, widths=(8, 16))


# ----------------------------------------------------------------------------------------------------- text and moves


def test_text_survives() -> None:
    for network in (*SAMPLES, *MODELS.values()):
        assert SPACE.from_string(SPACE.to_string(network)) == network


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("id > relu > id", "relu"),
        ("add(add(relu, linear), id)", "add(relu, linear, id)"),
        ("add(id > linear > id, relu>avg)", "add(linear, relu > avg)"),
        ("cat(id, cat(linear/2, linear/2)) > linear", "cat(id, linear/2, linear/2) > linear"),
        ("add(linear, cat(linear/2, conv3/2))", "add(linear, cat(linear/2, conv3/2))"),
    ],
)
def test_derivations_are_in_normal_form(text: str, same: str) -> None:
    space = dataclasses.replace(SPACE, widths=(8,))
    assert str(space.from_string(text)) == same


def test_canonical_orders_sums_only() -> None:
    def canonical(text: str) -> str:
        return SPACE.canonical(SPACE.from_string(f"{text} | id | id"))

    assert canonical("add(relu > conv3, add(avg, id))") == canonical("add(id, avg, relu > conv3)")
    assert canonical("add(linear > add(max, avg), id)") == canonical("add(id, linear > add(avg, max))")
    assert canonical("cat(conv3/2, linear/2)") != canonical("cat(linear/2, conv3/2)")
    assert canonical("relu > avg") != canonical("avg > relu")
    assert len({SPACE.canonical(network) for network in SAMPLES}) > 50


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id | id", r"2 stages; this space has 3"),
        ("conv4 | id | id", r"stage 0: operation 'conv4': use id, add\(...\), cat\(...\) or one of linear, conv3"),
        ("id | relu*2 | id", r"stage 1: operation 'relu\*2': there are only relu, which writes what it reads"),
        ("linear*3 | id | id", r"operation 'linear\*3': there are only linear, linear\*2 and linear/2"),
        ("relu > | id | id", r"the text ends where an operation is due; write 'id' for none"),
        ("relu > > max | id | id", r"'>' stands where an operation is due"),
        ("relu max | id | id", r"'max' after 'relu'; go on with '>'"),
        ("add | id | id", r"'add' without its branches; write add\(..., ...\)"),
        ("add(relu, id | id | id", r"'add\(' is not closed after 'id'"),
        ("add(relu) | id | id", r"add\(relu\): give two branches at least"),
        ("add(" * 40 + " | id | id", r"brackets lie more than 32 deep"),
        ("add(id, id) | id | id", r"add\(id, id\): the identity twice"),
        ("add(max, avg, relu, id) | id | id", r"4 branches; at most 3"),
        ("add(linear*2, id) | id | id", r"branches of twice and once the stage's width cannot be added"),
        ("cat(conv3/2, max) | id | id", r"'max' has to end in linear or conv3"),
        ("cat(conv3/2, linear) | id | id", r"half and once the stage's width side by side; use half \+ half"),
        ("linear*2 | id | id", r"stage 0: it ends at twice the stage's width; end it with 'linear'"),
        (
            "conv5*2 > linear | id | id",
            r"conv5\*2 on once the stage's width; at this resolution there are linear\*2",
        ),
        ("conv7 | id | id", r"conv7 on once the stage's width; at this resolution there are linear, conv3, conv5"),
        ("attn4 | id | id", r"stage 0: attn4 on once the stage's width; at this resolution there are linear"),
        ("add(add(add(relu, id) > max, id) > max, id) | id | id", r"branches lie 3 deep; at most 2"),
        (" > ".join(["max"] * 17) + " | id | id", r"17 operations; at most 16"),
        ("id | pos > relu > pos | id", r"leaf 2 of kind 'position' at 7x7 pixels; this space has room for 1"),
    ],
)
def test_wrong_text_names_the_part(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SPACE.from_string(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", (12,)),
        ("kernels", (5,)),
        ("kernels", (5, 3)),
        ("input_shape", (14, 12, 1)),
        ("depth", -1),
        ("leaves", 0),
        ("sequence", 1.0),
        ("branching", 0.3),
    ],
)
def test_wrong_fields_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Grammar\.{field}="):
        dataclasses.replace(SPACE, **{field: value})


def test_values_that_cannot_be_written_are_refused() -> None:
    for make, match in [
        (lambda: Leaf("foo"), r"operation 'foo': use one of linear"),
        (lambda: Leaf("relu", ONCE), r"operation 'relu': halves=2; nothing may follow"),
        (lambda: Leaf("linear"), r"operation 'linear': halves=0"),
        (lambda: Branch("mul", ((), ())), r"merge 'mul': use one of add, cat"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(ValueError, match="padded and cannot be observed"):
        SPACE.forward({}, {}, jnp.zeros((1, 14, 14, 1)), Layers(), observe=lambda x: x)


def test_draws_repeat_and_stay_within_the_limits() -> None:
    assert [SPACE.sample(seed) for seed in range(10)] == SAMPLES[:10]
    stages = [stage for network in SAMPLES for stage in network.stages]
    assert all(depth_of(stage) <= SPACE.depth and leaves_of(stage) <= SPACE.leaves for stage in stages)
    assert {depth_of(stage) for stage in stages} == {0, 1, 2}
    text = " ".join(map(str, SAMPLES))
    assert all(name in text for name in (*OPERATIONS, "add(", "cat(", "*2", "/2") if not name.endswith("7"))
    shallow = Grammar(widths=(8,), depth=0, sequence=0.9, branching=0.04)
    assert all(depth_of(shallow.sample(seed).stages[0]) == 0 for seed in range(30))
    with pytest.raises(ValueError, match=r"Grammar: none of 1000 derivations fits; give the space more"):
        Grammar(widths=(8,), nodes=3).sample(0)


def test_derivations_end_by_themselves() -> None:
    """Without any limit, chains of the default grammar have some five operations on average."""
    rules, rng = SPACE.rules[1], np.random.default_rng(0)
    drawn = [leaves_of(rules.chain(rng, ONCE, ONCE, 1000)) for _ in range(1000)]
    assert 4 < np.mean(drawn) < 9


def test_mutation_derives_a_part_again() -> None:
    network = MODELS["vit"]
    others = [SPACE.mutate(network, seed) for seed in range(20)]
    assert others == [SPACE.mutate(network, seed) for seed in range(20)] and network not in others
    assert len(set(others)) > 15
    for other in others:  # one stage at a time
        assert sum(a != b for a, b in zip(network.stages, other.stages, strict=True)) == 1
        SPACE.encode(other)
    assert SPACE.mutate(SPACE.from_string("id | id | id"), 0) != SPACE.from_string("id | id | id")


def test_neighbours_differ_in_one_choice() -> None:
    space = Grammar(widths=(8,), kernels=(3,))
    network = space.from_string("add(relu > linear, avg, id)")
    neighbours = list(space.neighbours(network))
    assert len(set(neighbours)) == len(neighbours) > 60 and network not in neighbours
    assert {
        "add(gelu > linear, avg, id)",
        "add(relu > linear > max, avg, id)",
        "add(linear, avg, id)",
        "relu > linear",
        "add(avg, id)",
        "id",
        "max > add(relu > linear, avg, id)",
        "add(add(relu, id) > linear, avg, id)",
    } <= set(map(str, neighbours))
    same_size = [other for other in neighbours if leaves_of(other.stages[0]) == 4]
    assert all(network in space.neighbours(other) for other in same_size[::5])


# ------------------------------------------------------------------------------------------------------------- size


def chains(rules: Rules, most: int) -> set[Chain]:
    """Every chain of at most so many leaves, put together of smaller ones in every way, not as the grammar derives."""
    found: dict[int, dict[tuple[int, int], set[Chain]]] = {}
    for count in range(1, most + 1):
        own: dict[tuple[int, int], set[Chain]] = {(a, b): set() for a in WIDTHS for b in WIDTHS}
        if count == 1:
            for key, leaves in rules.operations.items():
                own[key] |= {(leaf,) for leaf in leaves}
        for first in range(1, count):
            for (a, c), heads in found[first].items():
                for b in WIDTHS:
                    own[a, b] |= {head + tail for head in heads for tail in found[count - first][c, b]}
        for a in WIDTHS:
            parts = {
                n: [part for b in WIDTHS for part in found[n][a, b]] + ([()] if n == 1 else []) for n in range(1, count)
            }
            for merge in ("add", "cat"):
                for branch in (
                    Branch(merge, (one, other))  # type: ignore[arg-type]
                    for n in range(1, count)
                    for one in parts[n]
                    for other in parts[count - n]
                    if merge == "add" or (other and isinstance(other[-1], Leaf) and other[-1].name in ENDINGS)
                ):
                    try:
                        width = rules.output(branch, a)
                    except ValueError:
                        continue
                    if depth_of((branch,)) <= rules.depth and leaves_of((branch,)) == count:
                        own[a, width].add((branch,))
        found[count] = own
    return {chain for own in found.values() for chain in own[ONCE, ONCE]}


@pytest.mark.parametrize(("depth", "leaves"), [(0, 3), (2, 3)])
def test_the_size_is_that_of_an_enumeration(depth: int, leaves: int) -> None:
    rules = Rules((3,), False, depth, leaves, 0.5, 0.1)
    every = chains(rules, leaves) | {()}
    assert all(rules.fault(chain) is None for chain in every)
    assert rules.count() == len(every)


def test_the_space_says_how_large_it_is() -> None:
    assert SPACE.size == np.prod([rules.count() for rules in SPACE.rules], dtype=object) > 10**40
    assert "grammar: about 10^" in SPACE.describe()
    one, more = Grammar(widths=(8,), leaves=1, depth=0), Grammar(widths=(8,), leaves=2, depth=0)
    assert one.size == 1 + len(one.rules[0].operations[ONCE, ONCE]) < more.size


# ------------------------------------------------------------------------------------------------------ known blocks

BLOCKS = {
    "resnet": ("basic-k3", RESNET, RESNET),
    "vit": ("attn-h4 mlp-e2", VIT.removesuffix(" > layer"), VIT),
    "mixer": ("mix-e1 mlp-e2", MIXER.removesuffix(" > layer"), MIXER),
}


def logits_of(tape: Tape, sizes: tuple[int, ...], images: Array) -> Array:
    """With weights that depend on the order of the leaves alone."""
    rng = np.random.default_rng(0)
    leaves = tape_leaves(tape, sizes, 3)
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
    return tape_plain.forward(tape, tree, images, Layers("plain"))


@pytest.mark.parametrize("name", BLOCKS)
def test_known_blocks_are_derived(name: str) -> None:
    """The same graph as the block of the DeepNets space and, with the same weights, the same function."""
    block, first, last = BLOCKS[name]
    start = "" if name == "resnet" else "relu > "
    derived = SMALL.from_string(f"{start}{first} | {start}{last}")
    deepnets = DeepNets(input_shape=(8, 8, 2), classes=3, widths=(8, 16), channels=(16, 32), units=(16, 24))
    known = deepnets.from_string(f"conv3 batch relu | 8 {block} | conv3>16 {block} | average")
    graphs = SMALL.graph(derived), deepnets.graph(known)
    assert graphs[0].ops == graphs[1].ops
    np.testing.assert_array_equal(graphs[0].edges, graphs[1].edges)
    for attribute, values in graphs[0].attributes.items():
        np.testing.assert_array_equal(values, graphs[1].attributes[attribute])
    images = images_of(SMALL)
    own, expected = (logits_of(s.tape(n), SMALL.sizes, images) for s, n in ((SMALL, derived), (deepnets, known)))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(own, expected)
    assert float(jnp.ptp(own, axis=0).max()) > 1e-3


def test_networks_made_by_hand_are_always_held_out() -> None:
    assert set(MODELS) == {"resnet", "mobilenet", "densenet", "convnext", "vit", "mixer"}
    assert all(SPACE.held_out(network, 0.0) for network in MODELS.values())
    assert not any(SPACE.held_out(network, 0.0) for network in SAMPLES)


# --------------------------------------------------------------------------------------------------- graphs and runs


def told_apart(network: Derivation) -> bool:
    """Whether tracing gives every operation a node: not activations of activations, sums of functions of one value
    without parameters, or parameters that are added to a normalisation."""
    activations, norms = ("relu", "gelu", "silu"), ("batch", "layer", "group")

    def clear(chain: Chain, before: str) -> bool:
        for item in chain:
            if isinstance(item, Branch):
                bare = sum(all(getattr(step, "name", "") in activations for step in part) for part in item.parts)
                if bare > 1 or not all(clear(part, before) for part in item.parts):
                    return False
                before = ""
            elif (before in activations and item.name in activations) or (before in norms and item.name == "pos"):
                return False
            else:
                before = item.name
        return True

    return all(clear(stage, "batch") for stage in network.stages)


CLEAR = [network for network in SAMPLES if told_apart(network)][:30]


@pytest.mark.parametrize("network", [*CLEAR, *MODELS.values()], ids=str)
def test_graphs_are_what_tracing_says_of_the_plain_program(network: Derivation) -> None:
    # a group normalisation regroups the channels of what is before it
    assert_graph_is_the_trace(SPACE, network, attributes="group" not in str(network))


def test_graphs_and_encodings_fit() -> None:
    shapes = {name: array.shape for name, array in SPACE.encode(SAMPLES[0]).items()}
    for network in (*SAMPLES, *MODELS.values()):
        graph = SPACE.graph(network)
        assert graph.nodes <= SPACE.schedule[0] and np.bincount(graph.steps).max() == 1
        assert set(graph.ops) <= set(SPACE.op_names)
        filled = occupancy(SPACE.layout, graph)
        assert sum(int(group.used.sum()) for group in filled.values()) == len(graph.parameters)
        assert SPACE.cost(network).parameters == graph.parameter_count > 0
        assert {name: array.shape for name, array in SPACE.encode(network).items()} == shapes


# Between them: every op of either resolution, sums and channels side by side of all kinds.
TEXTS = [
    "id | id",
    "add(pos > max, group > excite > conv5, id) > gelu > depthwise5 | mix1 > cat(silu, relu > conv3) > batch > linear",
    "cat(avg > relu, linear/2 > conv3/2, conv3/2) > attn2 > conv3*2 > linear | depthwise3 > add(relu, layer) > attn1",
    f"cat(linear/2, conv3/2) > add(relu, relu > linear) > mix2 | {VIT} > pos > add(add(id, relu) > silu, conv5, avg)",
]


@pytest.fixture(scope="module")
def step() -> Any:
    """((loss, logits), gradients) of any network, compiled once."""
    return step_of(SMALL)


def test_the_texts_have_everything() -> None:
    codes = [SMALL.encode(SMALL.from_string(text)) for text in TEXTS]
    used = {int(op) for code in codes for section in range(2) for op in code["op"][section][: code["count"][section]]}
    assert used == set(range(len(SMALL.shape.ops[0])))


@pytest.mark.parametrize("text", [*TEXTS, *(str(SMALL.sample(seed)) for seed in range(4))])
def test_executor_equals_the_plain_program(step: Any, text: str) -> None:
    assert_executor_is_the_plain_program(step, SMALL, SMALL.from_string(text), Layers("plain"))
