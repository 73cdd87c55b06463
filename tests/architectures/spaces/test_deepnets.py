"""The DeepNets space: its text, its moves, its splits, and its graphs against traces of its networks."""

import collections
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures import tape_plain
from architectures.layers import Layers
from architectures.layout import occupancy
from architectures.spaces import DeepNets, deepnets_models
from architectures.spaces.deepnets_blocks import lower
from architectures.spaces.deepnets_sampling import SPLITS, Split
from architectures.spaces.deepnets_text import OPTIONS, Block, DeepNet, Stage
from architectures.spaces.registry import settings
from architectures.tape import tape_leaves
from tests.architectures.spaces.tapes import assert_graph_is_the_trace

SPACE = DeepNets()
SAMPLES = [(split, SPACE.sample_split(split, seed)) for split in SPLITS for seed in range(6)]
NETWORKS = [*(network for _, network in SAMPLES), *SPACE.models().values()]


# ---------------------------------------------------------------------------------------------- text, moves, splits


def test_text_survives() -> None:
    for network in NETWORKS:
        assert SPACE.from_string(SPACE.to_string(network)) == network


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("conv3 batch relu | 16 basic", r"give stem, stages and head"),
        ("conv3 batch | 16 basic | average", r"must be a stem, a norm and an activation"),
        ("conv4 batch relu | 16 basic | average", r"stem 'conv4'; use one of conv3"),
        ("conv3 batch relu | max>16 basic | average", r"stage 0 begins with 'max>16'; write '16'"),
        ("conv3 batch relu | 16 basic-q2 | average", r"stage 0: block 'basic': no option 'q'; it has k"),
        ("conv3 batch relu | 16 plain-k3-k5-k3 | average", r"stage 0: block 'plain': option 'k' is given 3 times"),
        ("conv3 batch relu | 16 mb-e2-se-se | average", r"stage 0: block 'mb-e2-se-se': 'se' is given 2 times"),
        ("conv3 batch relu | 16 sum | average", r"branches belong to 'sum' and 'cat'"),
        ("conv3 batch relu | 16 basic-k9 | average", r"k=9; choices \[3, 5, 7\]"),
        ("conv3 batch relu | 10 basic | average", r"width 10 is no multiple of 4"),
        ("conv3 batch relu | 16 attn | average", r"attention at 14x14 pixels; this space has it up to 64 pixels"),
        ("conv3 batch relu | 24 mb | average", r"24 to 48 channels at 14x14 pixels; at most 24"),
        ("conv3 batch relu | 16 basic | block>32 sep | average", r"begins with one of basic, bottle, mb"),
        ("patch4 batch relu | 16 basic | max>32 basic | average", r"2 stages from 4 pixels on; the space ends at 4"),
    ],
)
def test_wrong_text_names_the_part(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SPACE.from_string(text)


def test_samples_repeat_and_stay_within_their_split() -> None:
    assert [SPACE.sample_split(split, seed) for split in SPLITS for seed in range(6)] == [net for _, net in SAMPLES]
    for split, network in SAMPLES:
        wide = any(s.width > SPACE.widths[-1 - i] for i, s in enumerate(reversed(network.stages)))
        assert (network.norm == "none") == (split == "norm-free")
        assert (network.depth > SPACE.blocks) == (split == "deep") or split == "dense"
        if split == "dense":
            blocks = [block for stage in network.stages for block in stage.blocks]
            assert all((b.kind == "dense" and b["n"] >= 4) or len(b.branches) == 4 for b in blocks)
        elif split == "id":
            assert network.depth <= SPACE.blocks and not wide
    with pytest.raises(ValueError, match="split 'narrow': use one of id, wide"):
        SPACE.sample_split("narrow", 0)  # type: ignore[arg-type]


def test_spaces_without_wider_channels_have_convolutions() -> None:
    space = dataclasses.replace(SPACE, channels=SPACE.widths)
    network = space.from_string("conv3 batch relu | 16 basic-k3 plain-k5 | max>32 bottle-k3-g1 | average")
    for section, units in enumerate(space.tape(network).sections):
        named = [space.shape.ops[section][op] for op in space.encode(network)["op"][section][: len(units)]]
        assert named.count("conv3d1") == (2, 1, 0)[section] and named.count("narrow5d1") == (1, 0, 0)[section]


def test_training_draws_every_kind_of_block() -> None:
    drawn = [SPACE.sample(seed) for seed in range(200)]
    kinds = collections.Counter(block.kind for network in drawn for stage in network.stages for block in stage.blocks)
    assert set(kinds) == set(OPTIONS)
    assert {network.head for network in drawn} == {"average", "flatten"}
    assert {network.stem for network in drawn} == set(SPACE.stems)


def test_a_family_draws_its_kinds_and_moves_stay_in_it() -> None:
    family = DeepNets(kinds=("basic", "sep"), norm_kinds=("batch", "group"))
    drawn = [family.sample(seed) for seed in range(60)]
    assert {block.kind for network in drawn for stage in network.stages for block in stage.blocks} == {"basic", "sep"}
    assert {network.norm for network in drawn} == {"batch", "group"}
    assert len({stage.width for network in drawn for stage in network.stages}) > 5
    for other in family.neighbours(drawn[0]):
        assert {block.kind for stage in other.stages for block in stage.blocks} <= {"basic", "sep"}
        assert other.norm in ("batch", "group")
    assert family.size < SPACE.size
    assert DeepNets(kinds=("sum",)).size > 0
    vit = SPACE.to_string(SPACE.models()["vit"])
    assert family.to_string(family.from_string(vit)) == vit  # the rest of the space is still there
    assert "kinds" not in settings(SPACE) and settings(family)["kinds"] == ["basic", "sep"]


def test_networks_made_by_hand_are_always_held_out() -> None:
    models = SPACE.models()
    assert len(models) >= 10 and {"resnet18", "resnet50", "vit", "mixer", "convnext", "efficientnet"} <= set(models)
    for network in models.values():
        assert SPACE.held_out(network, 0.0)
    assert not any(SPACE.held_out(SPACE.sample(seed), 0.0) for seed in range(50))


def test_neighbours_differ_in_one_choice_and_moves_stay_in_the_space() -> None:
    for _, network in SAMPLES[:3]:
        neighbours = list(SPACE.neighbours(network))
        assert len(neighbours) > 20 and len(set(neighbours)) == len(neighbours) and network not in neighbours
        for other in neighbours:
            SPACE.encode(other)
        assert SPACE.mutate(network, 0) == SPACE.mutate(network, 0) != network
        assert SPACE.mutate(network, 1) in neighbours


def moves(block: str) -> set[str]:
    """What neighbours have in the place of the only block, where it is of the same kind."""
    own = SPACE.from_string(f"conv3 batch relu | 16 {block} | average")
    others = (other.stages[0].blocks for other in SPACE.neighbours(own))
    return {str(blocks[0]) for blocks in others if len(blocks) == 1 and blocks[0].kind == own.stages[0].blocks[0].kind}


def test_one_branch_comes_or_goes_and_the_others_stay() -> None:
    assert {"cat:skip+max+conv3", "cat:max+conv3+avg", "cat:max", "cat:conv3"} <= moves("cat:max+conv3")
    assert "cat:skip+conv3+max" not in moves("cat:max+conv3")
    assert {"sum:skip+conv3+conv3", "sum:conv3"} <= moves("sum:conv3+conv3")
    assert not {"sum:skip+conv3", "sum:skip"} & moves("sum:conv3+conv3")


def test_canonical_orders_the_branches_of_sums_only() -> None:
    network = SPACE.from_string("conv3 batch relu | 16 sum:skip+conv3 | average")
    other = SPACE.from_string("conv3 batch relu | 16 sum:conv3+skip | average")
    assert network != other and SPACE.canonical(network) == SPACE.canonical(other)
    assert SPACE.canonical(SPACE.sample(0)) != SPACE.canonical(SPACE.sample(1))


def test_branches_side_by_side_have_an_order_but_no_split_of_their_own() -> None:
    texts = [f"conv3 batch relu | 16 cat:{branches} | average" for branches in ("conv3+conv5+max", "max+conv3+conv5")]
    networks = [SPACE.from_string(text) for text in texts]
    assert len({SPACE.cost(network).parameters for network in networks}) == 2  # 4 + 4 + 8 channels
    assert len({SPACE.canonical(network) for network in networks}) == 2
    for seed in range(40):
        assert len({SPACE.held_out(network, 0.5, seed) for network in networks}) == 1


def test_splits_remain_those_of_trained_checkpoints() -> None:
    text = "conv3 batch relu | 16 cat:skip+conv3+max sum:skip+conv3 | max>32 basic-k3 | average"
    held = [SPACE.held_out(SPACE.from_string(text), 0.5, seed) for seed in range(16)]
    assert "".join(map(str, map(int, held))) == "1010100110001111"


def test_wrong_sizes_are_refused() -> None:
    for field, value in [("kinds", ("basic", "attn")), ("norm_kinds", ("none",))]:
        with pytest.raises(ValueError, match=rf"DeepNets\.{field}=.*: of (plain|batch), "):
            dataclasses.replace(SPACE, **{field: value})
    for field, value in [("widths", (16, 30, 48)), ("channels", (16, 32, 40)), ("kernels", (5,)), ("classes", 0)]:
        with pytest.raises(ValueError, match=rf"DeepNets\.{field}="):
            dataclasses.replace(SPACE, **{field: value})
    with pytest.raises(ValueError, match="padded and cannot be observed"):
        SPACE.forward({}, {}, jnp.zeros((1, 14, 14, 1)), Layers(), observe=lambda x: x)


def test_the_space_says_how_large_it_is() -> None:
    assert SPACE.size > 10**20
    assert "deepnets: about 10^23.1" in SPACE.describe()
    assert DeepNets(tokens=1).size < SPACE.size  # has no attention
    assert dataclasses.replace(SPACE, channels=SPACE.widths).size < SPACE.size  # has no expansions at the widest


def test_a_small_space_has_as_many_networks_as_it_says() -> None:
    sizes: dict[str, Any] = {"widths": (4,), "channels": (4,), "units": (14,), "kernels": (3,), "tokens": 1}
    small = DeepNets(input_shape=(2, 2, 1), blocks=2, blocks_deep=3, norm_kinds=("batch",), **sizes)
    blocks = [Block(kind, branches=("conv3",) if kind in ("sum", "cat") else ()) for kind in OPTIONS if kind != "pos"]
    blocks += [
        Block(kind, tuple(zip(OPTIONS[kind], values, strict=True)))
        for kind in OPTIONS
        for values in itertools.product(*(small.choices(kind, letter, 4) for letter in OPTIONS[kind]))
        if kind not in ("sum", "cat", "pos")
    ]
    found = set()
    for chosen in (*((block,) for block in blocks), *itertools.product(set(blocks), repeat=2)):
        network = DeepNet("conv3", "batch", "relu", (Stage(None, 4, chosen),))
        if small._fault(network) is None:
            found.add(network)
    assert len(found) * 3 == small.size  # by activations


# ------------------------------------------------------------------------------------------------- graphs and traces


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_graphs_are_what_tracing_says_of_the_plain_program(network: DeepNet) -> None:
    # A group normalisation right after an activation regroups its channels, and tracing gives the activation those.
    assert_graph_is_the_trace(SPACE, network, attributes=network.norm != "group")


@pytest.mark.parametrize("channels", [12, 20, 48])
def test_token_mixers_count_every_channel(channels: int) -> None:
    text = f"conv3 none relu | 16 | max>{channels} mix-e2 | average"
    pixels, hidden = 7 * 7, 2 * 7 * 7
    # stem, the convolution to more channels after the pool, both layers of the mixer for each channel, classifier
    expected = 14 * 14 * 9 * 16 + pixels * 16 * channels + channels * 2 * pixels * hidden + channels * 10
    assert SPACE.cost(SPACE.from_string(text)).macs == expected


def test_full_size_networks_are_models_of_their_own() -> None:
    sizes = (32, 16, 8, 4)
    counts = {}
    for name, network in deepnets_models.full_size().items():
        tape, tree = lower(network, sizes, 3), {}
        for path, leaf in tape_leaves(tape, sizes, 10).items():
            branch: dict[str, Any] = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        run = functools.partial(tape_plain.forward, tape, layers=Layers("plain"))
        assert jax.eval_shape(lambda tree, images, run=run: run(tree, images), tree, images).shape == (2, 10)
        counts[name] = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert counts["resnet18"] == 11_173_962  # as CIFAR's ResNet-18 with convolutions as shortcuts has
    assert 5_000_000 < counts["vit"] < 6_000_000


def test_graphs_fit_layout_schedule_and_vocabulary() -> None:
    for network in NETWORKS:
        graph = SPACE.graph(network)
        assert graph.nodes <= SPACE.schedule[0] and np.bincount(graph.steps).max() == 1
        assert set(graph.ops) <= set(SPACE.op_names)
        filled = occupancy(SPACE.layout, graph)
        assert sum(int(group.used.sum()) for group in filled.values()) == len(graph.parameters)
        assert SPACE.cost(network).parameters == graph.parameter_count > 0


def test_encodings_of_all_networks_have_one_shape() -> None:
    shapes = {name: array.shape for name, array in SPACE.encode(NETWORKS[0]).items()}
    for network in NETWORKS:
        code = SPACE.encode(network)
        assert {name: array.shape for name, array in code.items()} == shapes
        assert all(array.dtype == np.int32 for array in code.values())


def test_splits_are_named() -> None:
    assert set(SPLITS) == set(Split.__args__)  # type: ignore[attr-defined]
    assert Block("mb").excited is False
