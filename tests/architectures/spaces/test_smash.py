"""SMASH's space: its size, its text, its moves, and the executor against networks written by hand."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights, occupancy
from architectures.spaces import SMASH, BankNetwork, Block
from architectures.spaces.bank_plain import run_block
from architectures.spaces.banks import (
    Conv,
    Layer,
    Path,
    canonical,
    densenet_block,
    filled,
    fractal_block,
    parse,
    resnet_block,
)
from architectures.switch import cut_slices

SPACE = SMASH(input_shape=(7, 7, 1), classes=3, blocks=2, channels=(2, 4), layers=(1, 2, 3), features=6)
TINY = SMASH(
    input_shape=(4, 4, 1),
    classes=2,
    blocks=1,
    channels=(1,),
    banks=(1, 2),
    layers=(1, 2),
    units=(1,),
    kernels=(1, 3),
    dilations=(1,),
    groups=(1,),
)
SEEDS = range(6)


def make_arrays(space: SMASH, seed: int = 0) -> WeightArrays:
    """Every slot filled, scales around 1 and biases away from 0."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(0.4 * rng.normal(size=(group.slots, *group.shape)) + (group.role == "scale"), jnp.float32)
        for name, group in space.layout.items()
    }


def make_images(space: SMASH, batch: int = 4) -> Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(batch, *space.input_shape)), jnp.float32)


# ------------------------------------------------------------------------------------------------------------- space


def all_blocks(space: SMASH) -> set[Block]:
    """Every block of a space with one block, by walking over all its choices."""
    paths = [Path(outer, inner) for outer in space.convs for inner in (None, *space.convs)]
    path_sets = [(a,) for a in paths] + list(itertools.product(paths, paths))

    def subsets(banks: Any) -> list[tuple[int, ...]]:
        banks = sorted(banks)
        return [c for size in range(1, len(banks) + 1) for c in itertools.combinations(banks, size)]

    result = set()
    for banks, channels, depth in itertools.product(space.banks, space.channels, space.layers):
        rows: list[tuple[Layer, ...]] = [()]
        for _ in range(depth):
            longer = []
            for row in rows:
                held = filled(Block(banks, channels, row))[-1]
                for read, write, units, own in itertools.product(
                    subsets(held), subsets(range(banks)), space.units, path_sets
                ):
                    longer.append((*row, Layer(read, write, units * channels, own)))
            rows = longer
        result |= {Block(banks, channels, row) for row in rows}
    return result


def test_size_equals_the_number_of_networks() -> None:
    small = dataclasses.replace(TINY, kernels=(3,))
    blocks = all_blocks(small)
    assert small.size == len(blocks)
    assert dataclasses.replace(small, blocks=2).size == len(blocks) ** 2
    assert "10^" in SPACE.describe()


def test_samples_are_of_the_space_and_their_text_round_trips() -> None:
    for seed in range(100):
        network = SPACE.sample(seed)
        assert SPACE.from_string(SPACE.to_string(network)) == network == SPACE.sample(seed)
        assert SPACE.connected(network)
    assert len({SPACE.sample(seed) for seed in range(100)}) == 100


def test_every_choice_is_sampled() -> None:
    networks = [SPACE.sample(seed) for seed in range(300)]
    layers = [layer for network in networks for block in network.blocks for layer in block.layers]
    assert {block.banks for network in networks for block in network.blocks} == set(SPACE.banks)
    assert {len(layer.paths) for layer in layers} == {1, 2}
    convs = [conv for layer in layers for path in layer.paths for conv in path.convolutions]
    assert set(convs) == set(SPACE.convs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2x4[0>1:4:k3d1g1]", "1 blocks, this space has 2"),
        ("2x4[0>1:4:k3d1g1]/nonsense", "cannot read block 1"),
        ("2x4[0>1:4]/2x8[0>0:8:k3d1g1]", "cannot read layer 0 of block 0"),
        ("2x4[0>1:4:k3d1]/2x8[0>0:8:k3d1g1]", "cannot read the convolution 'k3d1' in layer 0 of block 0"),
        ("2x4[0>1:4:k7d1g1]/2x8[0>0:8:k3d1g1]", "unknown convolution k7d1g1; choices: k3d1g1"),
        ("2x4[1>1:4:k3d1g1]/2x8[0>0:8:k3d1g1]", "layer 0 reads bank 1, which holds nothing yet"),
        ("2x4[0>2:4:k3d1g1]/2x8[0>0:8:k3d1g1]", "layer 0 writes"),
        ("2x4[0>1:5:k3d1g1]/2x8[0>0:8:k3d1g1]", "5 units; choices: "),
        ("9x4[0>1:4:k3d1g1]/2x8[0>0:8:k3d1g1]", "9 banks; choices: "),
        ("2x4[0>1:4:k3d1g1]/2x4[0>0:4:k3d1g1~k3d1g1~k3d1g1]", "a path has one or two convolutions"),
    ],
)
def test_malformed_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        SPACE.from_string(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", (3,)),
        ("banks", ()),
        ("kernels", (2,)),
        ("layers", (2, 1)),
        ("blocks", 0),
        ("input_shape", (4, 5, 1)),
    ],
)
def test_fields_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SMASH.({field}|groups)="):
        SMASH(**{field: value})


def test_numbering_of_banks_and_order_of_paths_do_not_matter() -> None:
    one = parse("3x4[0>1:4:k3d1g1|k5d1g1;0,1>0,2:4:k3d1g1]")
    two = parse("3x4[0>2:4:k5d1g1|k3d1g1;0,2>0,1:4:k3d1g1]")
    assert canonical(one) == canonical(two)
    assert canonical(one) != canonical(parse("3x4[0>1:4:k3d1g1|k5d1g1;0,1>1,2:4:k3d1g1]"))


@pytest.mark.parametrize("seed", SEEDS)
def test_moves_stay_in_the_space(seed: int) -> None:
    network = SPACE.sample(seed)
    others = list(SPACE.neighbours(network))
    assert network not in others and len(set(others)) == len(others) > 30
    for other in others:
        assert SPACE.from_string(str(other)) == other
    assert SPACE.mutate(network, seed) in others
    assert all(network in SPACE.neighbours(other) for other in others[::7] if form(network) == form(other))


def form(network: BankNetwork) -> list[list[int]]:
    """Paths of every layer; what has grown cannot always shrink back in one move, nor the reverse."""
    return [[len(layer.paths) for layer in block.layers] for block in network.blocks]


def test_perturbation_changes_as_many_choices_as_asked() -> None:
    network = SPACE.sample(3)
    assert SPACE.perturb(network, 0, probability=0.0) == network
    changed = [SPACE.perturb(network, seed, 0.05) for seed in range(200)]
    assert all(SPACE.from_string(str(other)) == other for other in changed)
    share = np.mean([other != network for other in changed])
    wholly = [SPACE.perturb(network, seed, 1.0) for seed in range(50)]
    assert 0.3 < share < 0.95 and len(set(wholly)) > 45


# ---------------------------------------------------------------------------------------------------------- executor


def loss_of(logits: Array) -> Array:
    return jnp.tanh(logits @ jnp.linspace(-1.0, 1.0, logits.shape[-1])).sum()


@functools.partial(jax.jit, static_argnums=0)
def executor(space: SMASH, arrays: WeightArrays, encoding: Any, images: Array) -> Any:
    def loss(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = space.forward(arrays, encoding, images, Layers())[0]
        return loss_of(logits), logits

    return jax.value_and_grad(loss, has_aux=True)(arrays)


@functools.partial(jax.jit, static_argnums=(0, 2))
def static(space: SMASH, arrays: WeightArrays, network: BankNetwork, images: Array) -> Any:
    def loss(arrays: WeightArrays) -> tuple[Array, Array]:
        logits = space.forward_static(arrays, network, images, Layers("plain"))
        return loss_of(logits), logits

    return jax.value_and_grad(loss, has_aux=True)(arrays)


@pytest.mark.parametrize("seed", SEEDS)
def test_executor_equals_the_plain_network(seed: int) -> None:
    network, arrays, images = SPACE.sample(seed), make_arrays(SPACE, seed), make_images(SPACE)
    (_, logits), gradients = executor(SPACE, arrays, SPACE.encode(network), images)
    (_, expected), expected_gradients = static(SPACE, arrays, network, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_one_compilation_serves_all() -> None:
    arrays, images = make_arrays(SPACE), make_images(SPACE)
    executor(SPACE, arrays, SPACE.encode(SPACE.sample(0)), images)
    before = executor._cache_size()  # type: ignore[attr-defined]
    for seed in SEEDS:
        executor(SPACE, arrays, SPACE.encode(SPACE.sample(seed)), images)
    assert executor._cache_size() == before  # type: ignore[attr-defined]


def test_padded_program_equals_the_plain_network() -> None:
    network, arrays, images = SPACE.sample(1), make_arrays(SPACE), make_images(SPACE)
    padded = jax.jit(lambda arrays: SPACE.forward_padded(arrays, network, images, Layers()))(arrays)
    plain = jax.jit(lambda arrays: SPACE.forward_static(arrays, network, images, Layers()))(arrays)
    np.testing.assert_allclose(padded, plain, rtol=0, atol=1e-5)


def test_what_a_network_does_not_use_has_no_influence() -> None:
    network, images = SPACE.sample(2), make_images(SPACE)
    arrays = make_arrays(SPACE)
    weights = Weights(arrays, SPACE)
    used = {row.path: row for row in SPACE.graph(network).parameters}
    other = make_arrays(SPACE, 5)
    mixed = {name: np.array(array) for name, array in other.items()}
    for row in used.values():
        assert row.place is not None
        own = (row.place.slot, *cut_slices(mixed[row.place.group].shape[1:], row.leaf.shape))
        mixed[row.place.group][own] = np.asarray(arrays[row.place.group])[own]
    mixed_weights = Weights({name: jnp.asarray(array) for name, array in mixed.items()}, SPACE)
    logits, same = (SPACE.apply(own, network, images) for own in (weights, mixed_weights))
    np.testing.assert_allclose(same, logits, rtol=0, atol=1e-5)


def test_graphs_fit_their_schedule_and_layout() -> None:
    for seed in range(50):
        graph = SPACE.graph(SPACE.sample(seed))
        assert graph.steps is not None
        assert graph.steps.max() < SPACE.schedule[0] and np.bincount(graph.steps).max() <= SPACE.schedule[1]
        assert set(graph.ops) <= set(SPACE.op_names)
        occupancy(SPACE.layout, graph)


def test_cost_counts_groups_and_widths() -> None:
    plain, grouped = (SPACE.from_string(f"1x4[0>0:4:k3d1g{groups}]/1x4[0>0:4:k3d1g1]") for groups in (1, 2))
    saved = 3 * 3 * 4 * 4 // 2
    assert SPACE.cost(plain).parameters - SPACE.cost(grouped).parameters == saved
    assert SPACE.cost(plain).macs - SPACE.cost(grouped).macs == saved * 7 * 7


def test_shared_convolutions_are_not_generated_unless_asked_for() -> None:
    def generated(space: SMASH) -> set[str]:
        return {name.split("/")[-2] for name, group in space.layout.items() if group.generated}

    assert generated(SPACE) == {"stem", "read", "leave0", "leave1", "classifier"}
    assert generated(dataclasses.replace(SPACE, generate_all=True)) > {"inner", "outer"}


# ------------------------------------------------------------------------------------------------------ named blocks


def leaves_of(block: Block, seed: int = 0) -> dict[str, Any]:
    """Random weights for the layers of a block, by the names that `as_pytree` uses."""
    rng = np.random.default_rng(seed)

    def conv_bn(kernel: int, inputs: int, outputs: int) -> dict[str, Array]:
        shapes = {"kernel": (kernel, kernel, inputs, outputs), "scale": (outputs,), "bias": (outputs,)}
        return {name: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    return {
        f"layer{row}": {
            "read": conv_bn(1, len(layer.read) * block.channels, layer.units),
            "path0": {"outer": conv_bn(layer.paths[0].outer.kernel, layer.units, block.channels)},
        }
        for row, layer in enumerate(block.layers)
    }


def unit(tree: dict[str, Any], x: Array) -> Array:
    """1x1 convolution, normalisation, ReLU, 3x3 convolution, normalisation."""
    layers = Layers("plain")
    for index, part in enumerate((tree["read"], tree["path0"]["outer"])):
        x = layers.conv(jax.nn.relu(x) if index else x, part["kernel"])
        x = layers.batch_norm(x, part["scale"], part["bias"])
    return x


def test_resnet_block() -> None:
    block = resnet_block(4, 3)
    tree, x = leaves_of(block), jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 4)), jnp.float32)
    expected = x
    for row in range(3):
        expected = expected + unit(tree[f"layer{row}"], expected)
    (found,) = run_block(block, tree, x, Layers("plain"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_densenet_block() -> None:
    block = densenet_block(4, 3, units=8)
    tree, x = leaves_of(block), jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 4)), jnp.float32)
    expected = x
    for row in range(3):
        expected = jnp.concatenate([expected, unit(tree[f"layer{row}"], expected)], -1)
    found = jnp.concatenate(run_block(block, tree, x, Layers("plain")), -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fractal_block() -> None:
    block = fractal_block(4, 3)
    tree, x = leaves_of(block), jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 4)), jnp.float32)
    rows = iter(tree[f"layer{row}"] for row in range(len(block.layers)))

    def fractal(x: Array, columns: int) -> Array:
        deep = None if columns == 1 else fractal(fractal(x, columns - 1), columns - 1)
        shallow = unit(next(rows), x)
        return shallow if deep is None else deep + shallow

    expected = fractal(x, 3)
    found = run_block(block, tree, x, Layers("plain"))
    assert len(block.layers) == 7
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


@pytest.mark.parametrize("block", [resnet_block(4, 3), densenet_block(4, 3, units=8), fractal_block(4, 2)], ids=str)
def test_named_blocks_are_of_the_space_and_run(block: Block) -> None:
    conv = (Path(Conv(3)),)
    network = BankNetwork((block, Block(1, 4, (Layer((0,), (0,), 4, conv),))))
    assert SPACE.from_string(str(network)) == network
    arrays, images = make_arrays(SPACE), make_images(SPACE)
    (_, logits), _ = executor(SPACE, arrays, SPACE.encode(network), images)
    (_, expected), _ = static(SPACE, arrays, network, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_bfloat16_stays_bfloat16() -> None:
    layers = Layers(precision="bfloat16")
    arrays, images = layers.cast(make_arrays(SPACE)), layers.cast(make_images(SPACE))
    encoding = SPACE.encode(SPACE.sample(0))
    logits = jax.eval_shape(lambda arrays, images: SPACE.forward(arrays, encoding, images, layers)[0], arrays, images)
    assert logits.dtype == jnp.bfloat16
