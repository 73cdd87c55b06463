"""Flax modules, Linen and NNX, as pure functions `apply(params, state, *inputs)`: one adapter each.

Models are traced in evaluation mode. Linen modules are told so by an argument of their call, whose usual names are in
EVALUATION; NNX modules by `Module.eval`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from architectures.trace.api import abstract, explained
from ghn.anymodel.initialiser import ArrayInitialiser, Initialiser, TracedInitialiser

EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "is_train": False,
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
}


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A module as tracing and prediction want it.

    Attributes:
        apply: `apply(params, state, *inputs)`.
        params: pytree of arrays or shapes, in the framework's own structure.
        state: other collections, arrays or shapes; None for none.
        initialiser: of `params`.
        finish: from predicted params to (variables or None, module or None).
        notes: for the report.
    """

    apply: Callable[..., Any]
    params: Any
    state: Any
    initialiser: Initialiser
    finish: Callable[[Any], tuple[Any, Any]]
    notes: tuple[str, ...]


def adapt(model: Any, inputs: tuple[Any, ...], rng: jax.Array | None, arguments: Mapping[str, Any]) -> Adapted:
    """The adapter of a module's framework.

    Raises:
        TypeError: neither a Linen nor an NNX module.
    """
    if isinstance(model, nn.Module):
        return _linen(model, inputs, jax.random.key(0) if rng is None else rng, arguments)
    if isinstance(model, nnx.Module):
        return _nnx(model, arguments)
    raise TypeError(
        f"model: {type(model).__name__} is neither a Linen nor an NNX module; for Haiku, Equinox and functions use "
        "ghn.predict_params(apply, params, *inputs)"
    )


def in_mode(call: Callable[..., Any], arguments: Mapping[str, Any], training: bool) -> tuple[dict[str, Any], list[str]]:
    """The keyword arguments of a call with the flags that its signature has for training or evaluation added."""
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return dict(arguments), []
    flags = {
        name: value != training for name, value in EVALUATION.items() if name in parameters and name not in arguments
    }
    return {**flags, **arguments}, [f"{name}={value}" for name, value in flags.items()]


def _linen(model: nn.Module, inputs: tuple[Any, ...], rng: jax.Array, arguments: Mapping[str, Any]) -> Adapted:
    method = arguments.get("method") or "__call__"
    call = getattr(type(model), method) if isinstance(method, str) else method
    arguments, flags = in_mode(call, arguments, training=False)

    def initialise(rng: jax.Array, *inputs: Any) -> Any:
        return dict(model.init(rng, *inputs, **arguments))

    jaxpr, shapes = _explained_flags(
        lambda: explained(lambda: jax.make_jaxpr(initialise, return_shape=True)(rng, *abstract(inputs))), model, call
    )
    if "params" not in shapes:
        raise ValueError(f"model: {type(model).__name__} has no parameters; there is nothing to predict")
    state_shapes = {name: value for name, value in shapes.items() if name != "params"}
    indices = jax.tree.unflatten(jax.tree.structure(shapes), range(len(jaxpr.out_avals)))

    def run() -> list[Any]:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract(inputs))
        return jax.tree.leaves(initialise(rng, *zeros))

    seed = (
        int(np.asarray(jax.random.key_data(rng)).astype(np.uint64).sum())
        if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
        else int(np.asarray(rng).astype(np.uint64).sum())
    )
    everything = TracedInitialiser(jaxpr, run, seed)

    def finish(params: Any) -> tuple[Any, Any]:
        state = {name: indices[name] for name in state_shapes}
        return {"params": params, **_filled(state, state_shapes, everything)}, None

    first = jax.tree.leaves(indices["params"])
    own = _Offset(everything, first)
    notes = tuple(f"{flag} passed to trace in evaluation mode" for flag in flags)
    if "batch_stats" in state_shapes:
        notes += ("running statistics are initial ones: fill them with ghn.calibrate(model, variables, batches)",)
    return Adapted(
        lambda params, state, *inputs: model.apply({"params": params, **state}, *inputs, **arguments),
        shapes["params"],
        state_shapes,
        own,
        finish,
        notes,
    )


@dataclasses.dataclass(frozen=True)
class _Offset:
    """An initialiser of some of another's leaves."""

    whole: TracedInitialiser
    indices: list[int]

    def moments(self, index: int) -> Any:
        return self.whole.moments(self.indices[index])

    def values(self, indices: Any) -> Mapping[int, np.ndarray]:
        found = self.whole.values([self.indices[index] for index in indices])
        return {index: found[self.indices[index]] for index in indices}


def _filled(indices: Any, shapes: Any, initialiser: TracedInitialiser) -> Any:
    """Initial values of other collections: constants at once, the rest by running the initialiser."""
    flat, structure = jax.tree.flatten(shapes)
    places = jax.tree.leaves(indices)
    moments = [initialiser.moments(place) for place in places]
    computed = initialiser.values([p for p, m in zip(places, moments, strict=True) if m is None or m.deviation != 0])
    arrays = [
        computed[place] if place in computed else np.full(leaf.shape, moment.mean if moment else 0, leaf.dtype)
        for place, moment, leaf in zip(places, moments, flat, strict=True)
    ]
    return jax.tree.unflatten(structure, jax.device_put(arrays))


def _explained_flags(traced: Callable[[], Any], model: Any, call: Callable[..., Any]) -> Any:
    """Names the flag that a call wants and did not get."""
    try:
        return traced()
    except TypeError as error:
        if "missing" in str(error) and "argument" in str(error):
            raise TypeError(
                f"{type(model).__name__}: {error}; pass it to ghn.predict by keyword (a training flag: its value in "
                "evaluation mode)"
            ) from error
        raise


def _nnx(model: nnx.Module, arguments: Mapping[str, Any]) -> Adapted:
    definition, params, *(state,) = nnx.split(model, nnx.Param, ...)
    call = type(model).__call__
    arguments, flags = in_mode(call, arguments, training=False)

    def apply(params: Any, state: Any, *inputs: Any) -> Any:
        module: Any = nnx.merge(definition, params, state)
        module.eval()
        return _explained_flags(lambda: module(*inputs, **arguments), model, call)

    def finish(params: Any) -> tuple[Any, Any]:
        return None, nnx.merge(definition, params, state)

    notes = tuple(f"{flag} passed to trace in evaluation mode" for flag in flags)
    if jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        notes += ("running statistics are the model's own: fill them with ghn.calibrate(result.model, None, batches)",)
    return Adapted(apply, params, state, ArrayInitialiser(jax.tree.leaves(params)), finish, notes)
