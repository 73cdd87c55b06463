"""The optimiser of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from ghn.api import Parameters
from train.config import OptimizerConfig

SMALL = 2**17  # elements; a copy of a larger leaf into a vector and back costs more than an update of its own


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, Adam or SGD, decoupled weight decay, warm-up and cosine over `steps` steps.

    It works on one flat vector: a hypernetwork has many small leaves, and an update of each on its own takes twice as
    long.
    """
    warmup = min(config.warmup, max(steps // 10, 1))
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    direction = optax.scale_by_adam() if config.name == "adam" else optax.trace(config.momentum)
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip),
        direction,
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
        *([parameter_average(config.ema)] if config.ema else []),
    )
    return optax.flatten(chain)


class AverageState(NamedTuple):
    """Of `parameter_average`."""

    average: Any
    updates: Array  # int32, so far


def parameter_average(decay: float) -> optax.GradientTransformation:
    """Leaves updates as they are and keeps the exponential moving average of the parameters that they lead to.

    The n-th decay is min(decay, n / (9 + n)), so that the average soon forgets the initial parameters. To stand last.
    """

    def init(parameters: Any) -> AverageState:
        return AverageState(parameters, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: AverageState, parameters: Any = None) -> tuple[Any, AverageState]:
        own = jnp.minimum(decay, (1 + state.updates) / (10 + state.updates))
        after = optax.apply_updates(parameters, updates)
        average = jax.tree.map(lambda old, new: own * old + (1 - own) * new, state.average, after)
        return updates, AverageState(average, state.updates + 1)

    return optax.GradientTransformation(init, update)


def averaged(parameters: Parameters, optimizer_state: Any) -> Parameters:
    """The moving average of the parameters, in their form; of an optimiser with `OptimizerConfig.ema`."""
    flat = optax.tree_utils.tree_get(optimizer_state, "average")
    result: Parameters = jax.jit(lambda parameters, flat: ravel_pytree(parameters)[1](flat))(parameters, flat)
    return result


def flatten_small(inner: optax.GradientTransformation, most: int = SMALL) -> optax.GradientTransformation:
    """`inner` on one vector of all leaves of at most `most` elements, and on each larger leaf as it is.

    For transformations that treat every element alike: results are those of `inner` by itself.
    """

    def pack(tree: Any) -> tuple[Array, list[Array]]:
        leaves = jax.tree.leaves(tree)
        small = [leaf.ravel() for leaf in leaves if leaf.size <= most]
        return jnp.concatenate([jnp.zeros(0), *small]), [leaf for leaf in leaves if leaf.size > most]

    def unpack(packed: tuple[Array, list[Array]], like: Any) -> Any:
        leaves, structure = jax.tree.flatten(like)
        vector, large, start = packed[0], iter(packed[1]), 0
        found = []
        for leaf in leaves:
            if leaf.size > most:
                found.append(next(large))
            else:
                found.append(vector[start : start + leaf.size].reshape(leaf.shape))
                start += leaf.size
        return jax.tree.unflatten(structure, found)

    def init(params: Any) -> Any:
        return inner.init(pack(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        packed, state = inner.update(pack(updates), state, None if params is None else pack(params))
        return unpack(packed, updates), state

    return optax.GradientTransformation(init, update)
