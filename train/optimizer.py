"""The optimiser of a run."""

from __future__ import annotations

import optax

from train.config import OptimizerConfig


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
    )
    return optax.flatten(chain)
