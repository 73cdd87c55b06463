"""One training step of a graph hypernetwork, for any loop.

    state = init_state(hypernetwork, optimizer)
    step = jax.jit(functools.partial(train_step, hypernetwork.definition, optimizer))
    for batch in batches:                      # any iterator of Batch
        state, metrics = step(state, batch)

Shape letters: A architectures of a meta-batch, B images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import SearchSpace
from ghn.api import Hypernetwork, Network, Parameters
from ghn.features import GraphInputs

Definition = nnx.GraphDef[Network]
# (definition, parameters, batch, layers) -> the loss, and what else is told of the step
Objective = Callable[["Definition", Parameters, "Batch", Layers], tuple[Array, dict[str, Array]]]


class Batch(NamedTuple):
    """What one step reads.

    Attributes:
        images: [B, H, W, C] float32, normalised.
        labels: [B] integers, or [B, classes] float32: a distribution for every image.
        graphs: the A architectures as the hypernetwork reads them, stacked.
        encodings: the same architectures as the executor reads them, stacked.
    """

    images: Array
    labels: Array | NDArray[Any]
    graphs: GraphInputs
    encodings: dict[str, Array]


class TrainState(NamedTuple):
    """Everything that a step changes."""

    parameters: Parameters
    optimizer_state: Any
    step: Array  # int32


def init_state(hypernetwork: Hypernetwork, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(hypernetwork.parameters, optimizer.init(hypernetwork.parameters), jnp.zeros((), jnp.int32))


def loss_fn(
    definition: Definition, parameters: Parameters, batch: Batch, layers: Layers = Layers()
) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy in nats over the A architectures with generated weights, on one batch of images; over their
    exits too, where the space has early ones.

    Args:
        definition: the hypernetwork's structure.
        parameters: its parameters.
        batch: architectures and images.
        layers: how the architectures compute their layers.

    Returns:
        The loss, and {"loss", "accuracy"} as means over architectures and images; the accuracy is of the final exit.

    Raises:
        ValueError: images or labels of another shape or kind than `Batch` says.
    """
    module = nnx.merge(definition, parameters)
    weights_A = jax.vmap(module)(batch.graphs)
    loss_A, accuracy_A = evaluate_weights(module.space, weights_A, batch.encodings, batch.images, batch.labels, layers)
    return loss_A.mean(), {"loss": loss_A.mean(), "accuracy": accuracy_A.mean()}


def train_step(
    definition: Definition,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    layers: Layers = Layers(),
    objective: Objective | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """One optimiser step, on one device; `train.parallel.train_step` is the same on several.

    Args:
        definition: the hypernetwork's structure.
        optimizer: of its parameters.
        state: before the step.
        batch: what the step reads.
        layers: how the architectures compute their layers: `Layers(precision="bfloat16")` for accelerators.
        objective: what is minimised; None: `loss_fn`. Others are in `train.objectives`.

    Returns:
        The new state, and {"loss" in nats, "accuracy" (or what the objective tells), "gradient_norm",
        "parameter_norm"}. All but the last are of the state before the step; the last is of the new one, so that all
        being finite vouches for both.
    """
    grads, metrics = gradients(definition, state.parameters, batch, layers, objective)
    return apply_gradients(optimizer, state, grads, metrics)


def gradients(
    definition: Definition,
    parameters: Parameters,
    batch: Batch,
    layers: Layers,
    objective: Objective | None = None,
) -> tuple[Parameters, dict[str, Array]]:
    """Gradients of `objective` (None: `loss_fn`) by the parameters, and what it tells."""

    def loss(parameters: Parameters) -> tuple[Array, dict[str, Array]]:
        return (objective or loss_fn)(definition, parameters, batch, layers)

    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(parameters)
    return grads, metrics


def apply_gradients(
    optimizer: optax.GradientTransformation, state: TrainState, grads: Parameters, metrics: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The state after the optimiser's update by these gradients, and the metrics with the two norms added."""
    grads = jax.lax.optimization_barrier(grads)  # XLA:CPU would fuse them into the optimiser: 5 times the compilation
    updates, optimizer_state = optimizer.update(grads, state.optimizer_state, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    norms = {"gradient_norm": optax.tree.norm(grads), "parameter_norm": optax.tree.norm(parameters)}
    return TrainState(parameters, optimizer_state, state.step + 1), metrics | norms


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def evaluate_weights(
    space: SearchSpace[Any],
    weights_A: WeightArrays,
    encoding_A: dict[str, Array],
    images: Array,
    labels: Array,
    layers: Layers = Layers(),
) -> tuple[Array, Array]:
    """Cross-entropy [A] in nats, the mean over exits, and accuracy [A] of the final one, of A architectures with given
    weights on the same images.

    Architectures run one after the other inside one program. When differentiated, each one's gradient is taken right
    after its forward pass, so that memory does not grow with A (by images and soft labels: a gradient of their size
    for each architecture is kept). There is no gradient by encodings.

    Raises:
        ValueError: images or labels of another shape or kind than `Batch` says; a gradient by encodings.
    """
    _check(space, images, labels)
    return jax.lax.map(lambda pair: _evaluate(space, pair[0], pair[1], images, labels, layers), (weights_A, encoding_A))


def _check(space: SearchSpace[Any], images: Array, labels: Array) -> None:
    """ValueError for images or labels that the space's networks would take for something else."""
    space.check_images(images)
    integer = jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == images.shape[:1]
    soft = jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == (len(images), space.classes)
    if not (integer or soft):
        raise ValueError(
            f"labels: {labels.dtype} of shape {labels.shape} for {len(images)} images; give integers [B], or "
            f"distributions as floats [B, {space.classes}]"
        )


def _evaluate(
    space: SearchSpace[Any],
    weights: WeightArrays,
    encoding: dict[str, Array],
    images: Array,
    labels: Array,
    layers: Layers,
) -> tuple[Array, Array]:
    answers = space.forward_exits(layers.cast(weights), encoding, layers.cast(images), layers)
    logits_X = [logits.astype(jnp.float32) for logits in answers]
    losses = [_cross_entropy(logits, labels) for logits in logits_X]
    truth = labels if labels.ndim == 1 else jnp.argmax(labels, -1)
    return sum(losses[1:], losses[0]) / len(losses), (logits_X[-1].argmax(-1) == truth).mean()


def _cross_entropy(logits: Array, labels: Array) -> Array:
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return optax.softmax_cross_entropy(logits, labels).mean()


class _Gradients(NamedTuple):
    """Of each architecture's loss; None where none was asked for."""

    weights_A: WeightArrays
    images_A: Array | None
    labels_A: Array | None


def _evaluate_forward(
    space: SearchSpace[Any], weights_A: Any, encoding_A: Any, images: Any, labels: Any, layers: Layers
) -> tuple[tuple[Array, Array], _Gradients]:
    """The arguments are `jax.custom_derivatives.CustomVJPPrimal`, which tell what is differentiated by."""
    if any(_asked(leaf) for leaf in jax.tree.leaves(encoding_A)):
        raise ValueError("encodings: have no gradient; differentiate by parameters, weights, images or soft labels")
    asked = {"images": _asked(images), "labels": _asked(labels)}
    weights_A, encoding_A, images, labels = jax.tree.map(
        lambda leaf: leaf.value, (weights_A, encoding_A, images, labels)
    )
    _check(space, images, labels)

    def one(pair: tuple[WeightArrays, dict[str, Array]]) -> tuple[tuple[Array, Array], tuple[WeightArrays, Any]]:
        weights, encoding = pair

        def loss(weights: WeightArrays, chosen: dict[str, Array]) -> tuple[Array, Array]:
            data = {"images": images, "labels": labels} | chosen
            return _evaluate(space, weights, encoding, data["images"], data["labels"], layers)

        chosen = {name: value for name, value in (("images", images), ("labels", labels)) if asked[name]}
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(weights, chosen)

    found, (grads_A, data_A) = jax.lax.map(one, (weights_A, encoding_A))
    return found, _Gradients(grads_A, data_A.get("images"), data_A.get("labels"))


def _asked(primal: Any) -> bool:
    """Whether an array is differentiated by; integers never are."""
    return bool(primal.perturbed) and jnp.issubdtype(primal.value.dtype, jnp.floating)


def _evaluate_backward(
    space: SearchSpace[Any], layers: Layers, grads: _Gradients, cotangents: tuple[Any, Any]
) -> tuple[WeightArrays, None, Array | None, Array | None]:
    loss_A = cotangents[0]
    if isinstance(loss_A, jax.custom_derivatives.SymbolicZero):  # the accuracy alone was used
        loss_A = jnp.zeros(loss_A.shape, loss_A.dtype)
    scaled = jax.tree.map(lambda g: g * loss_A.reshape(-1, *[1] * (g.ndim - 1)), grads.weights_A)
    images, labels = (None if g is None else jnp.tensordot(loss_A, g, 1) for g in (grads.images_A, grads.labels_A))
    return scaled, None, images, labels


evaluate_weights.defvjp(_evaluate_forward, _evaluate_backward, symbolic_zeros=True)
