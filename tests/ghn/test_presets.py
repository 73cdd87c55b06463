"""Hypernetworks of the presets, at small sizes, generate and train on a small space; places do not matter to them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from architectures.ops import CONV_1X1, CONV_3X3, NONE, SKIP
from architectures.spaces import Cell, CellSpace, NASBench201
from ghn import GHNConfig, presets
from ghn.api import Hypernetwork
from ghn.checkpoint import load, save_file
from ghn.features import BOUNDS, FEATURES, PADDING_OP, GraphInputs, graph_inputs, stack_inputs
from ghn.reference import reference_scale
from ghn.shape_encoder import ShapeEncoder, channel_bins, channel_lookup, kernel_bins, kernel_lookup
from train.step import Batch, init_state, train_step

SPACE = CellSpace(channels=8, input_shape=(6, 6, 1), classes=3, stages=1, nodes=4, ops=(NONE, SKIP, CONV_1X1, CONV_3X3))
CELL = Cell(("nor_conv_3x3", "nor_conv_1x1", "none", "nor_conv_3x3", "skip_connect", "nor_conv_1x1"))
SMALL = {"width": 8, "hidden": 16, "tile": 6, "kernel_tile": 5}
CONFIGS = {
    "ghn2": dataclasses.replace(presets.ghn2(), message_width=4, **SMALL),
    "ghn3": dataclasses.replace(presets.ghn3(), layers=2, heads=2, **SMALL),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def hypernetwork(request: pytest.FixtureRequest) -> Hypernetwork:
    config = CONFIGS[request.param]
    parameters = jax.jit(lambda: Hypernetwork.create(SPACE, config, seed=0).parameters)()
    return Hypernetwork(SPACE, config, parameters)


@functools.partial(jax.jit, static_argnums=0)
def generate(definition: Any, parameters: Any, inputs: GraphInputs) -> Any:
    return nnx.merge(definition, parameters)(inputs)


def weights_of(hypernetwork: Hypernetwork, inputs: GraphInputs) -> dict[str, Any]:
    return jax.tree.map(np.asarray, generate(hypernetwork.definition, hypernetwork.parameters, inputs))


def moved(inputs: GraphInputs, schedule: tuple[int, int], seed: int) -> GraphInputs:
    """The same graph with the places of each step permuted, and other features in empty places."""
    rng = np.random.default_rng(seed)
    steps, width = schedule
    order = np.concatenate([step * width + rng.permutation(width) for step in range(steps)])
    new_place = np.argsort(order)
    ops, features = np.asarray(inputs.op_N)[order], np.array(inputs.features_NF)[order]
    features[ops == PADDING_OP] = rng.uniform(size=features.shape)[ops == PADDING_OP]
    distances = np.asarray(inputs.distances_NN)[np.ix_(order, order)]
    owner = {name: new_place[places].astype(np.int32) for name, places in inputs.owner.items()}
    return GraphInputs(ops, features, distances, owner, inputs.variant, inputs.encoding, inputs.noise)


def test_weights_are_finite_and_of_ghn2s_scales(hypernetwork: Hypernetwork) -> None:
    space = hypernetwork.space
    weights = weights_of(hypernetwork, hypernetwork.inputs(space.graph(CELL)))
    for name, group in space.layout.items():
        array = weights[name]
        assert array.shape == (group.slots, *group.shape) and np.isfinite(array).all()
        if group.role == "scale":
            assert (array > 0).all() and (array < 2).all() and array.std() > 0.01
        elif group.role in ("bias", "head_bias"):
            assert (np.abs(array) < 1).all()
        elif len(group.variants) == 1:
            size = np.sqrt(np.mean(np.square(array))) / reference_scale(group.variants[0])
            assert 0.1 < size < 3, (name, size)


def test_places_and_what_empty_ones_hold_do_not_matter(hypernetwork: Hypernetwork) -> None:
    space = hypernetwork.space
    inputs = hypernetwork.inputs(space.graph(CELL))
    other = moved(inputs, space.schedule, seed=0)
    assert (np.asarray(inputs.op_N) == PADDING_OP).any() and (inputs.op_N != other.op_N).any()
    expected, found = weights_of(hypernetwork, inputs), weights_of(hypernetwork, other)
    used = {row.place.group for row in space.graph(CELL).parameters if row.place is not None}
    for name in used:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-5, err_msg=name)


def test_a_larger_grid_changes_nothing(hypernetwork: Hypernetwork) -> None:
    space, graph = hypernetwork.space, hypernetwork.space.graph(CELL)
    larger = space.schedule[0] + 1, space.schedule[1] + 2
    module = nnx.merge(hypernetwork.definition, hypernetwork.parameters)
    expected = weights_of(hypernetwork, hypernetwork.inputs(graph))
    inputs = graph_inputs(graph, space.layout, hypernetwork.vocabulary, larger)

    def states(inputs: GraphInputs) -> Any:
        return module.propagation(
            module.encoder(inputs.op_N, inputs.features_NF, inputs.noise),
            inputs.distances_NN,
            larger,
            inputs.op_N != PADDING_OP,
        )

    deltas = jax.jit(lambda inputs: module.deltas(inputs, module.norm(states(inputs))))(inputs)
    kernel = deltas["stem/kernel"] * reference_scale(space.layout["stem/kernel"].variants[0])
    np.testing.assert_allclose(kernel, expected["stem/kernel"], rtol=0, atol=2e-5)


def test_presets_train(hypernetwork: Hypernetwork) -> None:
    """The loss of one batch falls, and the first step, of plain gradient descent, moves every parameter."""
    space, rng = hypernetwork.space, np.random.default_rng(0)
    labels = rng.integers(0, space.classes, 8).astype(np.int32)
    images = (rng.normal(size=(8, *space.input_shape)) + labels[:, None, None, None]).astype(np.float32)
    graphs = stack_inputs([hypernetwork.inputs(space.graph(CELL))])
    batch = Batch(images, labels, graphs, stack_inputs([space.encode(CELL)]))
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(0.05))
    step = jax.jit(functools.partial(train_step, hypernetwork.definition, optimizer))
    state, losses = init_state(hypernetwork, optimizer), []
    for index in range(20):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        if index == 0:
            for path, leaf in nnx.to_flat_state(state.parameters):
                before = dict(nnx.to_flat_state(hypernetwork.parameters))[path]
                assert np.abs(leaf.get_value() - before.get_value()).max() > 0, path
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0], losses


def test_presets_come_back_from_a_file(hypernetwork: Hypernetwork, tmp_path: Any) -> None:
    """Shared weights of decoders are stored once, and shared again."""
    save_file(hypernetwork, tmp_path / "preset.safetensors")
    found = load(tmp_path / "preset.safetensors", space=SPACE)
    assert found.config == hypernetwork.config and found.parameter_count == hypernetwork.parameter_count
    jax.tree.map(np.testing.assert_array_equal, found.parameters, hypernetwork.parameters)
    module = nnx.merge(found.definition, found.parameters)
    assert module.head_kernel.kernels is module.kernel and module.scale.vectors is module.head_bias.vectors


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(presets.ghn2(), 1.62e6), (presets.ghn3("T"), 6.9e6), (presets.ghn3("XL"), 654e6)],
    ids=["ghn2", "ghn3-T", "ghn3-XL"],
)
def test_presets_have_the_published_sizes(config: GHNConfig, parameters: float) -> None:
    """To 2%: GHN-2's is of 10 classes, GHN-3's of 1,000."""
    space = NASBench201(channels=8, cells=1, input_shape=(6, 6, 3), classes=10 if config.width == 32 else 1000)
    shapes = jax.tree.leaves(jax.eval_shape(lambda: Hypernetwork.create(space, config).parameters))
    assert abs(sum(leaf.size for leaf in shapes) / parameters - 1) < 0.02


def test_an_unknown_size_is_refused() -> None:
    size: Any = "XXL"
    with pytest.raises(ValueError, match="size 'XXL'; use one of T, S, L, XL"):
        presets.ghn3(size)


# ---------------------------------------------------------------------------------------------- binned shapes


@pytest.mark.parametrize(
    ("channels", "bin_size"),
    [(1, 1), (2, 1), (3, 3), (4, 8), (7, 8), (8, 8), (12, 8), (13, 16), (72, 64), (73, 80), (8191, 8192), (100, 100)],
)
def test_channels_fall_into_the_nearest_bin(channels: int, bin_size: int) -> None:
    assert channel_bins(100)[channel_lookup(100)[channels]] == bin_size


@pytest.mark.parametrize(("size", "bin_size"), [(1, 1), (2, 3), (3, 3), (4, 3), (12, 11), (13, 14), (15, 14), (16, 16)])
def test_kernels_fall_into_the_nearest_bin(size: int, bin_size: int) -> None:
    assert kernel_bins(11)[kernel_lookup(11)[size]] == bin_size


def test_every_size_is_restored_from_features() -> None:
    """Sizes arrive as logarithms in [0, 1]; each finds its own bin again, and those beyond the last one that."""
    for name, largest in (("channels_in", 8192), ("channels_out", 65536), ("kernel", 1024)):
        sizes = np.arange(1, largest + 1)
        scaled = BOUNDS[name].scale(name, sizes.astype(np.float64)).astype(np.float32)
        restored = np.rint(np.asarray(BOUNDS[name].restore(jnp.asarray(scaled))))
        np.testing.assert_array_equal(restored[:8192], sizes[:8192])
        assert (restored[8192:] > 8192).all()


def test_sizes_beyond_the_largest_bin_are_in_it() -> None:
    encoder = ShapeEncoder(1, 8, kernel_tile=11, classes=10, rngs=nnx.Rngs(0))
    features = np.zeros((3, len(FEATURES)), np.float32)
    features[1, FEATURES.index("channels_out")] = 1.0  # 65,536
    features[2, FEATURES.index("channels_out")] = np.log(8192) / np.log(65536)
    states = np.asarray(jax.jit(lambda features: encoder(np.ones(3, np.int32), features, np.zeros(0)))(features))
    np.testing.assert_array_equal(states[1], states[2])
    assert np.abs(states[1] - states[0]).max() > 0.1
