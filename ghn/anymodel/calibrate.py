"""Running statistics of batch normalisation from a few batches: what a hypernetwork does not predict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from ghn.anymodel.modules import in_mode

COLLECTION = "batch_stats"


def calibrate(model: Any, variables: Any, batches: Iterable[Any], **apply_kwargs: Any) -> Any:
    """Fills running means and variances with those of all batches together.

    In training mode every normalisation takes the statistics of its batch and mixes them into the running ones by a
    momentum that differs between models. The first batch is run on running statistics of 0 and of 1, which tells the
    momentum; from then on each batch's own statistics are read off. Variances are pooled: their mean plus the variance
    of the means.

    Args:
        model: a Linen or an NNX module.
        variables: of a Linen module, with "batch_stats"; None for NNX, whose module holds its own.
        batches: inputs of the model; a tuple is passed as several arguments.
        apply_kwargs: further arguments of the call; flags for training are set where they are missing.

    Returns:
        The variables (Linen) or a copy of the module in evaluation mode (NNX) with new statistics.

    Raises:
        ValueError: no batch, or nothing to calibrate.
        TypeError: neither a Linen nor an NNX module.
    """
    if isinstance(model, nn.Module):
        if not variables or COLLECTION not in variables:
            raise ValueError(
                f"variables: no {COLLECTION!r} collection; {type(model).__name__} has nothing to calibrate"
            )
        arguments, _ = in_mode(type(model).__call__, apply_kwargs, training=True)
        rngs = {"dropout": jax.random.key(0)}

        @jax.jit
        def run(statistics: Any, *inputs: Any) -> Any:
            given = {**variables, COLLECTION: statistics}
            return model.apply(given, *inputs, mutable=[COLLECTION], rngs=rngs, **arguments)[1][COLLECTION]

        return {**variables, COLLECTION: _pooled(run, variables[COLLECTION], batches)}
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: {type(model).__name__} is neither a Linen nor an NNX module")
    definition, statistics, *(rest,) = nnx.split(model, nnx.BatchStat, ...)
    if not jax.tree.leaves(statistics):
        raise ValueError(f"model: {type(model).__name__} has no running statistics to calibrate")
    arguments, _ = in_mode(type(model).__call__, apply_kwargs, training=True)

    @jax.jit
    def run_nnx(statistics: Any, *inputs: Any) -> Any:
        module: Any = nnx.merge(definition, statistics, rest)
        module.train()
        module(*inputs, **arguments)
        return nnx.state(module, nnx.BatchStat)

    calibrated: Any = nnx.merge(definition, _pooled(run_nnx, statistics, batches), rest)
    calibrated.eval()
    return calibrated


def _pooled(run: Any, like: Any, batches: Iterable[Any]) -> Any:
    """Statistics of all batches in the structure of `like`; `run(statistics, *inputs)` returns updated ones."""
    zeros, ones = (jax.tree.map(lambda x, value=value: jnp.full_like(x, value), like) for value in (0, 1))
    keep: Any = None
    rows = []
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        mixed = run(zeros, *inputs)
        if keep is None:  # momentum: what a step leaves of the old value
            keep = jax.tree.map(lambda one, zero: jnp.mean(one - zero), run(ones, *inputs), mixed)
        rows.append(jax.tree.map(lambda zero, momentum: zero / (1 - momentum), mixed, keep))
    if not rows:
        raise ValueError("batches: none given; one batch is enough for rough statistics, 10 for good ones")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    means = jax.tree.map(lambda x: x.mean(0), stacked)
    spread = jax.tree.map(lambda x: x.var(0), stacked)
    paths, structure = jax.tree_util.tree_flatten_with_path(means)
    by_path = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(spread)[0]}
    pooled = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        partner = by_path.get(name.replace("'var'", "'mean'")) if "'var'" in name else None
        pooled.append(leaf if partner is None else leaf + partner)
    return jax.tree.unflatten(structure, pooled)
