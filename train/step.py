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
        labels: [B] int32, or [B, classes] float32: a distribution for every image.
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
    after its forward pass, so that memory does not grow with A.
    """
    return jax.lax.map(lambda pair: _evaluate(space, pair[0], pair[1], images, labels, layers), (weights_A, encoding_A))


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


def _evaluate_forward(
    space: SearchSpace[Any],
    weights_A: WeightArrays,
    encoding_A: dict[str, Array],
    images: Array,
    labels: Array,
    layers: Layers,
) -> tuple[tuple[Array, Array], WeightArrays]:
    def one(pair: tuple[WeightArrays, dict[str, Array]]) -> tuple[tuple[Array, Array], WeightArrays]:
        weights, encoding = pair
        return jax.value_and_grad(lambda w: _evaluate(space, w, encoding, images, labels, layers), has_aux=True)(
            weights
        )

    return jax.lax.map(one, (weights_A, encoding_A))


def _evaluate_backward(
    space: SearchSpace[Any], layers: Layers, grads_A: WeightArrays, cotangents: tuple[Array, Array]
) -> tuple[WeightArrays, None, None, None]:
    loss_A = cotangents[0]
    scaled = jax.tree.map(lambda g: g * loss_A.reshape(-1, *[1] * (g.ndim - 1)), grads_A)
    return scaled, None, None, None


evaluate_weights.defvjp(_evaluate_forward, _evaluate_backward)
