"""What else than the mean loss of a step's architectures can be minimised, in the place of `train.step.loss_fn`.

Shape letters: A architectures of a meta-batch, S slots of a group.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from architectures.layers import Layers
from architectures.layout import LeafGroup, initial_mean, initial_scale
from ghn.api import Parameters
from ghn.features import GraphInputs
from train import step
from train.step import Batch, Definition

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
