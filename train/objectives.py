"""What else than the mean loss of a step's architectures can be minimised, in the place of `train.step.loss_fn`.

Shape letters: A architectures of a meta-batch, B images, P parts of a batch, S slots of a group.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from architectures.layers import Layers
from architectures.layout import LeafGroup, initial_mean, initial_scale
from ghn.api import Parameters
from ghn.features import GraphInputs
from train import step
from train.config import TrainConfig
from train.step import Batch, Definition, Objective

HARD_DRAWS = 3  # architectures of which the hardest is trained on
HARD_STRIDE = 4  # every fourth image tells which it is: the same ones on several devices as on one


def hardest_loss(
    definition: Definition, parameters: Parameters, batch: Batch, layers: Layers = Layers()
) -> tuple[Array, dict[str, Array]]:
    """`loss_fn` on the hardest of every `HARD_DRAWS` architectures of the batch, which is A / `HARD_DRAWS` of them.

    The hardest has the highest loss with the present weights, on a quarter of the images (AttentiveNAS's "WorstUp",
    Wang et al. 2021, by the loss itself in the place of a predictor).
    """
    some = slice(None, None, HARD_STRIDE)
    module = nnx.merge(definition, lax.stop_gradient(parameters))
    weights_A = jax.vmap(module)(batch.graphs)
    loss_A, _ = step.evaluate_weights(
        module.space, weights_A, batch.encodings, batch.images[some], batch.labels[some], layers
    )
    if layers.batch_axis is not None:  # devices that share architectures have to agree
        loss_A = lax.pmean(loss_A, layers.batch_axis)
    hardest = loss_A.reshape(-1, HARD_DRAWS).argmax(-1) + HARD_DRAWS * jnp.arange(len(loss_A) // HARD_DRAWS)
    graphs, encodings = jax.tree.map(lambda leaf: jnp.asarray(leaf)[hardest], (batch.graphs, batch.encodings))
    return step.loss_fn(definition, parameters, batch._replace(graphs=graphs, encodings=encodings), layers)


def path_loss(
    definition: Definition,
    parameters: Parameters,
    batch: Batch,
    layers: Layers = Layers(),
    ahead: int = 4,
    rate: float = 2e-3,
) -> tuple[Array, dict[str, Array]]:
    """The mean loss along a short training from generated weights: for weights that are a good start.

    `ahead` steps of Adam, each on a part of its own of the images, which are P = `ahead` + 1 parts; the last part shows
    what was reached. Generated weights get the mean gradient along the path, as if every step moved with them (first
    order: MAML, Finn et al. 2017, section 5.2; the sum of gradients along the path is Reptile's, Nichol et al. 2018).

    Args:
        definition: the hypernetwork's structure.
        parameters: its parameters.
        batch: architectures and images.
        layers: how the architectures compute their layers.
        ahead: steps of Adam, at least 1.
        rate: their learning rate.

    Returns:
        The loss, and means over architectures: {"loss", "accuracy"} of the generated weights, {"loss_ahead",
        "accuracy_ahead"} after the last step.

    Raises:
        ValueError: images that do not divide into `ahead` + 1 parts.
    """
    if len(batch.images) % (ahead + 1):
        raise ValueError(f"batch: {len(batch.images)} images do not divide into {ahead + 1} parts, ahead={ahead}")
    module = nnx.merge(definition, parameters)
    weights_A = jax.vmap(module)(batch.graphs)
    optimizer = optax.adam(rate)
    start_A = lax.stop_gradient(weights_A)

    def losses(weights_A: Any, images: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
        loss_A, accuracy_A = step.evaluate_weights(module.space, weights_A, batch.encodings, images, labels, layers)
        return loss_A.sum(), (loss_A.mean(), accuracy_A.mean())

    def advance(state: Any, part: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        weights_A, moments, total_A = state
        grads_A, told = jax.grad(losses, has_aux=True)(weights_A, *part)
        if layers.batch_axis is not None:  # devices that share architectures move them alike
            grads_A = lax.pcast(lax.pmean(grads_A, layers.batch_axis), layers.batch_axis, to="varying")
        updates_A, moments = optimizer.update(grads_A, moments)
        return (optax.apply_updates(weights_A, updates_A), moments, jax.tree.map(jnp.add, total_A, grads_A)), told

    nothing = jax.tree.map(jnp.zeros_like, start_A)
    parts_P = jax.tree.map(functools.partial(_parts, count=ahead + 1), (batch.images, batch.labels))
    (_, _, total_A), (loss_P, accuracy_P) = lax.scan(advance, (start_A, optimizer.init(start_A), nothing), parts_P)
    slope = sum(map(jnp.vdot, jax.tree.leaves(weights_A), jax.tree.leaves(total_A))) / len(loss_P) / _count(batch)
    told = {"loss": loss_P[0], "accuracy": accuracy_P[0], "loss_ahead": loss_P[-1], "accuracy_ahead": accuracy_P[-1]}
    return loss_P.mean() + slope - lax.stop_gradient(slope), told


def _parts(array: Array, count: int) -> Array:
    """[B, ...] as [P, B / P, ...], every P-th row in one part: the same ones on several devices as on one."""
    return jnp.moveaxis(jnp.asarray(array).reshape(-1, count, *array.shape[1:]), 1, 0)


def _count(batch: Batch) -> int:
    """A, here."""
    return len(jax.tree.leaves(batch.encodings)[0])


def startup_loss(
    definition: Definition, parameters: Parameters, batch: Batch, layers: Layers = Layers()
) -> tuple[Array, dict[str, Array]]:
    """How far the size of generated weights is from an ordinary initialiser's; nothing is computed with them.

    The mean over groups of leaves of log(root mean square / the initialiser's)^2 for kernels and classifiers, and of
    the mean squared difference from the initialiser's mean for the scales and biases of normalisations. Slots that no
    node or the graph's input owns do not count.
    """
    module = nnx.merge(definition, parameters)

    def distance(inputs: GraphInputs) -> Array:
        weights = module(inputs)
        groups = [group for group in module.space.layout.values() if _known(group)]
        return jnp.stack([_distance(group, weights[group.name], inputs) for group in groups]).mean()

    loss = jax.vmap(distance)(batch.graphs).mean()
    return loss, {"startup_loss": loss}


def _known(group: LeafGroup) -> bool:
    """Whether `architectures.layout` knows how an initialiser starts these leaves."""
    return group.generated and (group.role in ("scale", "bias", "head_bias") or initial_scale(group.variants[0]) > 0)


def _distance(group: LeafGroup, weights_S: Array, inputs: GraphInputs) -> Array:
    variant_S, owned_S = inputs.variant[group.name], jnp.asarray(inputs.owner[group.name]) > 0
    used = group.extents(variant_S)
    axes = tuple(range(1, used.ndim))
    square_S = (jnp.square(weights_S - initial_mean(group.variants[0])) * used).sum(axes) / used.sum(axes)
    scale_S = jnp.array([initial_scale(leaf) for leaf in group.variants])[variant_S]
    kernel = initial_scale(group.variants[0]) > 0
    # Half the logarithm of the mean square: a root would have no gradient where everything is 0.
    apart_S = jnp.square(0.5 * jnp.log(square_S + 1e-12) - jnp.log(scale_S)) if kernel else square_S
    return (apart_S * owned_S).sum() / jnp.maximum(owned_S.sum(), 1)


def objective_of(config: TrainConfig) -> Objective | None:
    """What a run minimises after its start-up phase; None: the mean loss of generated weights."""
    if config.ahead:
        return functools.partial(path_loss, ahead=config.ahead, rate=config.ahead_rate)
    return hardest_loss if config.sampling == "hard" else None
