"""SMASH's own hypernetwork, and noise conditioning."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from architectures.layout import Weights
from architectures.spaces import SMASH, NASBench201
from eval.scoring import ScoreConfig, Scorer
from ghn.api import Hypernetwork
from ghn.config import NOT_SMASH, GHNConfig
from ghn.features import stack_inputs
from train.data import Dataset
from train.step import Batch, init_state, train_step

SPACE = SMASH(
    input_shape=(6, 6, 1), classes=3, blocks=2, banks=(1, 2, 3), layers=(1, 2), kernels=(3,), dilations=(1,), features=8
)
TINY = dataclasses.replace(SPACE, blocks=1, banks=(1, 2), layers=(1,))  # whose training step compiles in seconds
NOISE = 4


@pytest.fixture(scope="module")
def smash() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(network="smash", width=8, layers=2, noise=NOISE))


@pytest.fixture(scope="module")
def graph() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=8, noise=NOISE))


def generate(hypernetwork: Hypernetwork, text: str, noise: float = 0.0) -> dict[str, Any]:
    """Leaves by path, joined."""
    network = SPACE.from_string(text)
    inputs = hypernetwork.inputs(SPACE.graph(network))._replace(noise=np.full(NOISE, noise, np.float32))
    weights = hypernetwork.generate(inputs).as_pytree(network)
    return {"/".join(str(getattr(k, "key", k)) for k in path): np.asarray(leaf) for path, leaf in paths_of(weights)}


def paths_of(tree: Any) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree)


ONE = "2x2[0>1:2:k3d1g1;0,1>0:4:k3d1g1]/1x4[0>0:4:k3d1g1]"
OTHER_WRITE = "2x2[0>0:2:k3d1g1;0>0:4:k3d1g1]/1x4[0>0:4:k3d1g1]"
OTHER_CONV = "2x2[0>1:2:k3d1g2;0,1>0:4:k3d1g1]/1x4[0>0:4:k3d1g1]"


@pytest.mark.parametrize("name", ["smash", "graph"])
def test_kernels_that_read_banks_depend_on_the_architecture(name: str, request: pytest.FixtureRequest) -> None:
    hypernetwork = request.getfixturevalue(name)
    one, other = generate(hypernetwork, ONE), generate(hypernetwork, OTHER_WRITE)
    path = "block0/layer0/read/kernel"
    assert one[path].shape == other[path].shape and np.abs(one[path] - other[path]).max() > 1e-6


@pytest.mark.parametrize("name", ["smash", "graph"])
def test_other_convolutions_are_shared_and_sliced(name: str, request: pytest.FixtureRequest) -> None:
    hypernetwork = request.getfixturevalue(name)
    one, grouped = generate(hypernetwork, ONE), generate(hypernetwork, OTHER_CONV)
    path = "block0/layer0/path0/outer/kernel"
    half, whole = grouped[path], one[path][:, :, : one[path].shape[2] // 2]
    assert half.shape == whole.shape
    np.testing.assert_allclose(half / half.std(), whole / whole.std(), rtol=1e-4)  # scaled by their own fan-in


def test_smash_generates_nothing_but_reads(smash: Hypernetwork) -> None:
    one, noisy = generate(smash, ONE), generate(smash, ONE, noise=2.0)
    changed = {path for path in one if np.abs(one[path] - noisy[path]).max() > 1e-6}
    assert changed == {path for path in one if path.endswith("read/kernel") or path.startswith("leave")} - {
        path for path in one if path.startswith("leave") and not path.endswith("kernel")
    }


@pytest.mark.parametrize("name", ["smash", "graph"])
def test_generated_kernels_are_of_unit_scale(name: str, request: pytest.FixtureRequest) -> None:
    for path, leaf in generate(request.getfixturevalue(name), ONE, noise=1.0).items():
        if path.endswith("read/kernel"):
            rms = np.sqrt(np.mean(np.square(leaf)) * np.prod(leaf.shape[:-1]) / 2)
            np.testing.assert_allclose(rms, 1, rtol=1e-3, err_msg=path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decoder", "lowrank"),
        ("propagation", "transformer"),
        ("encoding", "raw"),
        ("centre", True),
        ("hidden", 32),
        ("tile", 16),
        ("rank", 4),
        ("kernel_tile", 5),
        ("message_width", 8),
        ("layer_norm", True),
    ],
)
def test_switches_of_parts_that_it_has_not_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"GHNConfig\.{field}={value!r}: network='smash' has no such part; leave"):
        GHNConfig(network="smash", **{field: value})  # type: ignore[arg-type]


def test_every_switch_is_read_or_refused() -> None:
    read = {"network", "width", "layers", "residual", "delta", "normalise", "noise", "delta_scale"}
    of_one = {"tasks", "conditions", "direct"}  # refused for every network but the graph's, or the open one
    assert {field.name for field in dataclasses.fields(GHNConfig)} == read | of_one | set(NOT_SMASH)


def test_only_memory_banks_can_be_read(smash: Hypernetwork) -> None:
    with pytest.raises(ValueError, match=r"network='smash': reads memory banks, which nasbench201 has not"):
        Hypernetwork.create(NASBench201(), smash.config)


@pytest.mark.parametrize("name", ["smash", "graph"])
def test_training_step_moves_every_parameter(name: str, request: pytest.FixtureRequest) -> None:
    hypernetwork = Hypernetwork.create(TINY, request.getfixturevalue(name).config)
    rng, optimizer = np.random.default_rng(0), optax.sgd(0.1)
    networks = [TINY.sample(seed) for seed in range(24)]
    graphs = stack_inputs([hypernetwork.inputs(TINY.graph(network)) for network in networks])
    graphs = graphs._replace(noise=rng.normal(size=graphs.noise.shape).astype(np.float32))
    batch = Batch(
        jnp.asarray(rng.normal(size=(8, *TINY.input_shape)), jnp.float32),
        rng.integers(0, TINY.classes, 8).astype(np.int32),
        graphs,
        stack_inputs([TINY.encode(network) for network in networks]),
    )
    state = init_state(hypernetwork, optimizer)
    step = jax.jit(functools.partial(train_step, hypernetwork.definition, optimizer))
    after, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    still = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(paths_of(state.parameters), jax.tree.leaves(after.parameters), strict=True)
        if not np.any(np.asarray(old) != np.asarray(new))
    ]
    assert not still


def test_several_draws_of_noise_average(graph: Hypernetwork) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *SPACE.input_shape)).astype(np.float32)
    split = Dataset("noise", images, rng.integers(0, 3, 8).astype(np.int32), 3, (0.0,), (1.0,), ("a", "b", "c"))
    networks = [SPACE.sample(seed) for seed in range(3)]
    one, three = (Scorer(graph, split, split, ScoreConfig(8, draws))(networks) for draws in (1, 3))
    assert np.isfinite(three.score_loss).all() and np.abs(one.score_loss - three.score_loss).max() > 1e-5
    single = dataclasses.replace(graph, config=dataclasses.replace(graph.config, noise=0))
    with pytest.raises(ValueError, match="draws=3: this hypernetwork takes no noise"):
        Scorer(single, split, split, ScoreConfig(8, 3))
    assert isinstance(graph(SPACE.graph(networks[0])), Weights)
