"""Running statistics of batch normalisation from a few batches: what a hypernetwork does not predict."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from ghn.anymodel.modules import bound, called, explained_call

COLLECTION = "batch_stats"
NUDGE = 1024.0  # by which statistics are moved, in units of their size, to see what a step keeps of them
EVEN = 1e-5  # most that the momentum may differ from channel to channel of an average
FORGETFUL = 0.01  # least momentum of an average
UNBOUND = re.compile(r"unbound axis name:? '?(\w+)")  # in JAX's NameError

Array = NDArray[Any]
Run = Callable[..., list[Array]]  # from statistics, a leaf each, and inputs to statistics after one step of training


def calibrate(model: Any, variables: Any, batches: Iterable[Any], **apply_kwargs: Any) -> Any:
    """Fills running means and variances with those of all batches together.

    In training mode every normalisation takes the statistics of its batch and mixes them into the running ones by a
    momentum that differs between models. The first batch is run on statistics that were moved, which tells the
    momentum; from then on each batch's own statistics are read off. Variances are pooled: their mean plus the variance
    of the means. What is no average of that kind (the vectors of spectral normalisation, counters) gets the value that
    it has after these steps; what no batch enters stays.

    Args:
        model: a Linen or an NNX module.
        variables: of a Linen module, with "batch_stats"; None for NNX, whose module holds its own.
        batches: inputs of the model; a tuple is passed as several arguments. They count by their first axis.
        apply_kwargs: further arguments of the call; `method=`, and for Linen `rngs=`, as in `ghn.predict`. Flags for
            training are set where they are missing.

    Returns:
        The variables (Linen) or a copy of the module in evaluation mode (NNX) with new statistics.

    Raises:
        ValueError: no batch, or nothing to calibrate; statistics that no batch enters, or that are not finite.
        TypeError: neither a Linen nor an NNX module.
    """
    if isinstance(model, nn.Module):
        if not variables or COLLECTION not in variables:
            raise ValueError(
                f"variables: no {COLLECTION!r} collection; {type(model).__name__} has nothing to calibrate"
            )
        _, arguments, _ = bound(called(model, apply_kwargs), (), apply_kwargs, training=True)
        rngs = {"dropout": jax.random.key(0), **(arguments.pop("rngs", None) or {})}

        others = {name: values for name, values in variables.items() if name != COLLECTION}

        @_on_one_device
        def run(others: Any, statistics: Any, *inputs: Any) -> Any:
            given = {**others, COLLECTION: statistics}
            return model.apply(given, *inputs, mutable=[COLLECTION], rngs=rngs, **arguments)[1][COLLECTION]

        def step(*given: Any) -> Any:
            return explained_call(lambda: run(others, *given), model)

        return {**variables, COLLECTION: _calibrated(step, variables[COLLECTION], batches)}
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: {type(model).__name__} is neither a Linen nor an NNX module")
    definition, statistics, *(rest,) = nnx.split(model, nnx.BatchStat, ...)
    if not jax.tree.leaves(statistics):
        raise ValueError(f"model: {type(model).__name__} has no running statistics to calibrate")
    call = called(model, apply_kwargs)
    _, arguments, _ = bound(call, (), apply_kwargs, training=True)
    arguments.pop("method", None)

    @_on_one_device
    def run_nnx(rest: Any, statistics: Any, *inputs: Any) -> Any:  # all state is traced: training changes more of it
        module: Any = nnx.merge(definition, statistics, rest)
        module.train()
        call(module, *inputs, **arguments)
        return nnx.state(module, nnx.BatchStat)

    found = _calibrated(functools.partial(run_nnx, rest), statistics, batches)
    calibrated: Any = nnx.merge(definition, found, rest)
    calibrated.eval()
    return calibrated


def _on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled; where it reduces over a named axis of devices (`axis_name=` of a normalisation), which
    nobody has bound here, that axis has one device, which sees the whole batch."""
    axes: list[str] = []

    @jax.jit
    def bound_to_axes(*given: Any) -> Any:
        run = function
        for name in axes:
            run = jax.vmap(run, in_axes=None, out_axes=None, axis_name=name, axis_size=1)
        return run(*given)

    def call(*given: Any) -> Any:
        while True:
            try:
                return bound_to_axes(*given)
            except NameError as error:
                unbound = UNBOUND.search(str(error))
                if unbound is None or unbound[1] in axes:
                    raise
                axes.append(unbound[1])

    return call


def _calibrated(step: Callable[..., Any], like: Any, batches: Iterable[Any]) -> Any:
    """Statistics of all batches in the structure of `like`; `step(statistics, *inputs)` returns updated ones.

    Half precision is too coarse for a momentum of .99: statistics are float32 on the way.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path) for path, _ in flat]
    dtypes = [leaf.dtype for _, leaf in flat]

    def run(leaves: Sequence[Array], *inputs: Any) -> list[Array]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(step(jax.tree.unflatten(structure, leaves), *inputs))]

    now = [np.asarray(leaf, np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for _, leaf in flat]
    momenta: list[float | None] = []
    own: list[list[Array]] = []  # of each batch, the statistics that are averages
    rows: list[int] = []  # of each batch
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        momenta = momenta or _momenta(run, now, inputs, names)
        rows.append(next((len(leaf) for leaf in jax.tree.leaves(inputs) if np.ndim(leaf)), 1))
        empty = [np.zeros_like(leaf) if kept is not None else leaf for leaf, kept in zip(now, momenta, strict=True)]
        now = run(empty, *inputs)
        own.append([leaf / (1 - (kept or 0.0)) for leaf, kept in zip(now, momenta, strict=True)])
    if not own:
        raise ValueError("batches: none given; one batch is enough for rough statistics, 10 for good ones")
    pooled = [
        leaf if kept is None else _pooled(names, index, own, rows)
        for index, (leaf, kept) in enumerate(zip(now, momenta, strict=True))
    ]
    for name, leaf in zip(names, pooled, strict=True):
        if not np.all(np.isfinite(leaf)):
            raise ValueError(f"batches: {name} is not finite; look at the inputs and at what comes before it")
    if flat and all(np.array_equal(old, new) for (_, old), new in zip(flat, pooled, strict=True)):
        raise ValueError(
            "model: no batch enters any running statistics; give the call the flag that makes it train "
            "(use_running_average=False in normalisations)"
        )
    return jax.tree.unflatten(structure, [jnp.asarray(x, dtype) for x, dtype in zip(pooled, dtypes, strict=True)])


def _momenta(run: Run, now: Sequence[Array], inputs: tuple[Any, ...], names: Sequence[str]) -> list[float | None]:
    """What a step leaves of the old value of each leaf; None for what is no average.

    All are moved at once first. A leaf that others follow (a vector of spectral normalisation) spoils what is measured
    behind it: then the suspicious ones are moved one by one.
    """
    before = run(now, *inputs)
    sizes = [
        NUDGE * max(1.0, *(float(np.abs(part).max(initial=0.0)) for part in pair))
        for pair in zip(now, before, strict=True)
    ]
    floating = [index for index, leaf in enumerate(now) if np.issubdtype(leaf.dtype, np.floating)]

    def measured(moved: Sequence[int]) -> tuple[dict[int, float | None], bool]:
        """Momenta of the leaves that were moved, and whether all others stayed."""
        shifted = [leaf + np.float32(sizes[i]) if i in moved else leaf for i, leaf in enumerate(now)]
        after = run(shifted, *inputs)
        stayed = all(np.allclose(after[i], before[i], rtol=1e-3) for i in floating if i not in moved)
        return {i: _even((after[i] - before[i]) / sizes[i]) for i in moved}, stayed

    found, _ = measured(floating)
    for index in [index for index, kept in found.items() if kept is None]:
        alone, stayed = measured([index])
        found[index] = alone[index] if stayed else None
    averages: dict[int, float] = {}
    for index, kept in found.items():
        named = "'mean'" in names[index] or "'var'" in names[index]  # then it may as well have no memory at all
        if kept is not None and (named or kept >= FORGETFUL) and kept < 1 - EVEN:
            averages[index] = max(kept, 0.0)
    return [averages.get(index) for index in range(len(now))]


def _even(ratio: Array) -> float | None:
    """The number that all elements have; None where they differ, or where it is no momentum."""
    if not ratio.size or not np.all(np.isfinite(ratio)):
        return None
    middle = float(np.median(ratio))
    return middle if np.ptp(ratio) <= EVEN and -EVEN <= middle <= 1 + EVEN else None


def _pooled(names: Sequence[str], index: int, batches: Sequence[Sequence[Array]], rows: Sequence[int]) -> Array:
    """The mean over batches by their sizes; of a variance, plus the variance of the means."""

    def mean(values: Sequence[Array]) -> Array:
        return np.asarray(np.average(np.asarray(values, np.float64), axis=0, weights=rows))

    own, partner = [batch[index] for batch in batches], names[index].replace("'var'", "'mean'")
    if partner == names[index] or partner not in names:
        return mean(own)
    means = [batch[names.index(partner)] for batch in batches]
    return mean(own) + mean([np.square(one - mean(means)) for one in means])
