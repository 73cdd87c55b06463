"""One step, compiled for all architectures, equals a plain loop over architectures."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array

from architectures.layers import Layers
from architectures.ops import CONV_1X1, SKIP
from architectures.spaces import MLP, Cell, CellSpace, MLPSpace, NASBench201
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train.step import Batch, TrainState, init_state, loss_fn, train_step

SPACE = NASBench201(channels=2, cells=1, input_shape=(6, 6, 1), classes=3, stages=1)
CELLS = (
    Cell(("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")),
    Cell(("nor_conv_1x1", "nor_conv_3x3", "skip_connect", "none", "nor_conv_3x3", "avg_pool_3x3")),
)
TWICE = tuple((cell, cell) for cell in CELLS)
RATE = 0.1
Result = tuple[TrainState, dict[str, Array]]


def keep_gradients() -> optax.GradientTransformation:
    """Plain gradient descent that leaves the gradients in its state."""
    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
        lambda gradients, state, parameters=None: (jax.tree.map(lambda g: -RATE * g, gradients), gradients),
    )


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=8), seed=0)


def make_batch(hypernetwork: Hypernetwork, cells: tuple[Cell, ...]) -> Batch:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *SPACE.input_shape)).astype(np.float32)
    labels = rng.integers(0, SPACE.classes, 8).astype(np.int32)
    graphs = stack_inputs([hypernetwork.inputs(SPACE.graph(cell)) for cell in cells])
    return Batch(images, labels, graphs, stack_inputs([SPACE.encode(cell) for cell in cells]))


@pytest.fixture(scope="module")
def results(hypernetwork: Hypernetwork) -> dict[tuple[Cell, ...], Result]:
    """A step on both architectures, and on each one twice."""
    optimizer = keep_gradients()
    state = init_state(hypernetwork, optimizer)
    step = jax.jit(functools.partial(train_step, hypernetwork.definition, optimizer))
    found = {cells: step(state, make_batch(hypernetwork, cells)) for cells in (CELLS, *TWICE)}
    assert step._cache_size() == 1
    return found


@pytest.fixture(scope="module")
def plain(hypernetwork: Hypernetwork) -> tuple[Any, dict[str, Array], Any]:
    """Loss, metrics and gradients of a loop over architectures, through their static programs."""
    batch = make_batch(hypernetwork, CELLS)

    def loss(parameters: Any) -> tuple[Array, dict[str, Array]]:
        module = nnx.merge(hypernetwork.definition, parameters)
        losses, accuracies = [], []
        for cell in CELLS:
            weights = module(hypernetwork.inputs(SPACE.graph(cell)))
            logits = SPACE.forward_static(weights, cell, batch.images, Layers("plain"))
            log_probabilities = logits - jax.nn.logsumexp(logits, -1, keepdims=True)
            losses.append(-log_probabilities[jnp.arange(8), batch.labels].mean())
            accuracies.append((logits.argmax(-1) == batch.labels).mean())
        return sum(losses) / len(CELLS), {"loss": sum(losses) / len(CELLS), "accuracy": sum(accuracies) / len(CELLS)}

    (_, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(hypernetwork.parameters)
    return hypernetwork.parameters, metrics, gradients


def named(state: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}


def test_gradients_equal_those_of_a_plain_loop(results: dict[Any, Result], plain: Any) -> None:
    found, expected = named(results[CELLS][0].optimizer_state), named(plain[2])
    assert found.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        tolerance = 1e-4 * np.abs(gradient).max() + 1e-6 * largest
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=tolerance, err_msg=name)
    used = [name for name, gradient in expected.items() if np.abs(gradient).max() > 1e-4 * largest]
    assert {"base", "encoder", "propagation", "kernel", "head_kernel"} <= {name.split("/")[0] for name in used}


def test_metrics_equal_those_of_a_plain_loop(results: dict[Any, Result], plain: Any) -> None:
    metrics = results[CELLS][1]
    np.testing.assert_allclose(metrics["loss"], plain[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], plain[1]["accuracy"], rtol=1e-6)
    squares = sum(float(np.square(gradient.astype(np.float64)).sum()) for gradient in named(plain[2]).values())
    np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(squares), rtol=1e-4)


def test_the_update_is_the_optimisers(results: dict[Any, Result], plain: Any) -> None:
    state = results[CELLS][0]
    assert int(state.step) == 1
    gradients, before = named(state.optimizer_state), named(plain[0])
    for name, after in named(state.parameters).items():
        np.testing.assert_allclose(after, before[name] - RATE * gradients[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_batch_of_two_architectures_is_the_mean_of_those_of_each(results: dict[Any, Result]) -> None:
    both, singles = results[CELLS], [results[cells] for cells in TWICE]
    for name in ("loss", "accuracy"):
        mean = np.mean([metrics[name] for _, metrics in singles])
        np.testing.assert_allclose(both[1][name], mean, rtol=1e-5)
    assert abs(float(singles[0][1]["loss"]) - float(singles[1][1]["loss"])) > 1e-3
    gradients = [named(state.optimizer_state) for state, _ in singles]
    for name, found in named(both[0].optimizer_state).items():
        expected = (gradients[0][name] + gradients[1][name]) / 2
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-6, err_msg=name)


def test_jitted_equals_unjitted() -> None:
    space = MLPSpace(input_shape=(3, 3, 1), classes=3, widths=(4, 6), depths=(1, 2))  # op by op, cells take long
    hypernetwork = Hypernetwork.create(space, GHNConfig(width=8, message_width=4, hidden=8, tile=8), seed=0)
    networks = [MLP((4,)), MLP((6, 4))]
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.normal(size=(8, *space.input_shape)).astype(np.float32),
        rng.integers(0, space.classes, 8).astype(np.int32),
        stack_inputs([hypernetwork.inputs(space.graph(network)) for network in networks]),
        stack_inputs([space.encode(network) for network in networks]),
    )
    _, expected = jax.jit(functools.partial(loss_fn, hypernetwork.definition))(hypernetwork.parameters, batch)
    loss, metrics = loss_fn(hypernetwork.definition, hypernetwork.parameters, batch)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    np.testing.assert_array_equal(loss, metrics["loss"])
    spread = batch._replace(labels=0.9 * np.eye(3, dtype=np.float32)[batch.labels] + np.float32(0.1 / 3))
    _, smooth = loss_fn(hypernetwork.definition, hypernetwork.parameters, spread)
    everywhere = [
        loss_fn(hypernetwork.definition, hypernetwork.parameters, batch._replace(labels=np.full(8, label, np.int32)))[0]
        for label in range(3)
    ]
    np.testing.assert_allclose(smooth["loss"], 0.9 * loss + 0.1 * np.mean(everywhere), rtol=1e-5)
    assert smooth["accuracy"] == metrics["accuracy"]


def test_the_loss_is_the_mean_over_exits_and_reaches_their_leaves() -> None:
    space = CellSpace(2, 1, (6, 6, 1), 3, stages=2, nodes=2, ops=(SKIP, CONV_1X1), exits=True)
    hypernetwork = Hypernetwork.create(space, GHNConfig(width=8, message_width=4, hidden=8, tile=8), seed=0)
    cells = list(space.all())
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *space.input_shape)).astype(np.float32)
    labels = rng.integers(0, 3, 8).astype(np.int32)
    graphs = stack_inputs([hypernetwork.inputs(space.graph(cell)) for cell in cells])
    batch = Batch(images, labels, graphs, stack_inputs([space.encode(cell) for cell in cells]))
    backward = jax.jit(jax.grad(functools.partial(loss_fn, hypernetwork.definition), has_aux=True))
    grads, metrics = backward(hypernetwork.parameters, batch)
    losses, accuracies = [], []
    for cell in cells:
        answers = space.apply_exits(hypernetwork(space.graph(cell)), cell, jnp.asarray(images))
        assert len(answers) == 2
        losses += [optax.softmax_cross_entropy_with_integer_labels(own, labels).mean() for own in answers]
        accuracies.append((answers[-1].argmax(-1) == labels).mean())
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-6)
    named_grads = named(grads)
    for leaf in ("norm.scale", "norm.bias", "classifier.kernel", "classifier.bias"):
        assert np.abs(named_grads[f"base/exit0.{leaf}"]).max() > 1e-4, leaf


@pytest.fixture(scope="module")
def small() -> tuple[Hypernetwork, Batch, list[MLP]]:
    space = MLPSpace(input_shape=(3, 3, 1), classes=3, widths=(4, 6), depths=(1, 2))
    hypernetwork = Hypernetwork.create(space, GHNConfig(width=8, message_width=4, hidden=8, tile=8), seed=0)
    networks = [MLP((4,)), MLP((6, 4))]
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.normal(size=(8, *space.input_shape)).astype(np.float32),
        rng.dirichlet(np.ones(3), 8).astype(np.float32),
        stack_inputs([hypernetwork.inputs(space.graph(network)) for network in networks]),
        stack_inputs([space.encode(network) for network in networks]),
    )
    return hypernetwork, batch, networks


def test_gradients_by_images_and_soft_labels_are_those_of_static_programs(
    small: tuple[Hypernetwork, Batch, list[MLP]],
) -> None:
    hypernetwork, batch, networks = small
    module = nnx.merge(hypernetwork.definition, hypernetwork.parameters)
    weights = [module(hypernetwork.inputs(hypernetwork.space.graph(network))) for network in networks]

    def plain_loss(images: Array, labels: Array) -> Array:
        losses = [
            optax.softmax_cross_entropy(
                hypernetwork.space.forward_static(own, network, images, Layers("plain")), labels
            ).mean()
            for own, network in zip(weights, networks, strict=True)
        ]
        return sum(losses) / len(losses)

    def loss(images: Array, labels: Array) -> Array:
        own = batch._replace(images=images, labels=labels)
        return loss_fn(hypernetwork.definition, hypernetwork.parameters, own)[0]

    found = jax.jit(jax.grad(loss, (0, 1)))(batch.images, batch.labels)
    for own, expected in zip(found, jax.grad(plain_loss, (0, 1))(batch.images, batch.labels), strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)
    accuracy = jax.grad(
        lambda images: loss_fn(hypernetwork.definition, hypernetwork.parameters, batch._replace(images=images))[1][
            "accuracy"
        ]
    )(batch.images)
    assert not np.any(accuracy)


def test_encodings_have_no_gradient(small: tuple[Hypernetwork, Batch, list[MLP]]) -> None:
    hypernetwork, batch, _ = small

    def loss(width: Array) -> Array:
        own = batch._replace(encodings={"width": width})
        return loss_fn(hypernetwork.definition, hypernetwork.parameters, own)[0]

    with pytest.raises(ValueError, match="encodings: have no gradient"):
        jax.grad(loss)(jnp.asarray(batch.encodings["width"], jnp.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((8, 1), np.int32)}, r"labels: int32 of shape \(8, 1\).*integers \[B\].*floats \[B, 3\]"),
        ({"labels": np.zeros((8, 3), np.int32)}, r"labels: int32 of shape \(8, 3\)"),
        ({"labels": np.zeros(8, np.float32)}, r"labels: float32 of shape \(8,\)"),
        ({"labels": np.zeros(1, np.int32)}, r"labels: int32 of shape \(1,\) for 8 images"),
        ({"labels": np.zeros((8, 4), np.float32)}, r"labels: float32 of shape \(8, 4\)"),
        ({"images": np.zeros((8, 9), np.float32)}, r"images: .*shape \(8, 9\).*\[B, 3, 3, 1\]"),
        ({"images": np.zeros((8, 3, 3, 1), np.uint8)}, r"images: uint8.*preprocessing\.normalise"),
    ],
)
def test_wrong_images_and_labels_are_named(
    small: tuple[Hypernetwork, Batch, list[MLP]], change: dict[str, Any], message: str
) -> None:
    hypernetwork, batch, _ = small
    step = functools.partial(loss_fn, hypernetwork.definition)
    for function in (step, jax.grad(step, has_aux=True)):
        with pytest.raises(ValueError, match=message):
            function(hypernetwork.parameters, batch._replace(**change))
