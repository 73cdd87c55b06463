"""Flax modules, Linen and NNX, as pure functions `apply(params, state, *inputs)`: one adapter each.

Models are traced in evaluation mode. Linen modules are told so by an argument of their call, whose usual names are in
EVALUATION; NNX modules by `Module.eval`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.dtypes import canonicalize_dtype

from architectures.trace.api import abstract, as_arrays, explained, paths_of
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
        inputs: arrays or shapes; flags among them are in `apply`.
        params: pytree of arrays or shapes, in the framework's own structure.
        state: other collections, arrays or shapes; None for none.
        initialiser: of `params`.
        finish: from predicted params to (variables or None, module or None).
        notes: for the report.
    """

    apply: Callable[..., Any]
    inputs: tuple[Any, ...]
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
        return _nnx(model, inputs, arguments)
    raise TypeError(
        f"model: {type(model).__name__} is neither a Linen nor an NNX module; for Haiku, Equinox and functions use "
        "ghn.predict_params(apply, params, *inputs)"
    )


def called(model: Any, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The function, of the module first, that `arguments` choose by `method=`; `__call__` where they choose none.

    Raises:
        TypeError: the module has no such method.
    """
    method = arguments.get("method") or "__call__"
    if not isinstance(method, str):
        return cast(Callable[..., Any], method)
    for kind in type(model).__mro__:  # getattr would find the `__call__` of the class's own class
        if method in vars(kind):
            return cast(Callable[..., Any], vars(kind)[method])
    other = "pass method='name' of one that it has" if method == "__call__" else "check method="
    raise TypeError(f"model: {type(model).__name__} has no {method!r}; {other}")


def bound(
    call: Callable[..., Any], inputs: tuple[Any, ...], arguments: Mapping[str, Any], training: bool
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """What a module's function is called with: inputs, keyword arguments, and which flags were added to these.

    Flags and texts at the end of the inputs become keyword arguments: they are no data. The flags that the signature
    has for training or evaluation are set where they are missing.
    """
    try:
        names = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return inputs, dict(arguments), []
    positional = [
        name
        for name, parameter in names.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ][1:]
    given = dict(arguments)
    while inputs and len(inputs) <= len(positional) and isinstance(inputs[-1], bool | str):
        if len(inputs) == 1 and isinstance(inputs[0], str):
            break  # a text alone is a mistake, which is told where inputs are read
        given[positional[len(inputs) - 1]] = inputs[-1]
        inputs = inputs[:-1]
    taken = {*positional[: len(inputs)], *given}
    flags = {name: value != training for name, value in EVALUATION.items() if name in names and name not in taken}
    return inputs, {**flags, **given}, [f"{name}={value}" for name, value in flags.items()]


def with_named(inputs: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """The inputs, and behind them the arrays among the keyword arguments, which leave these; and their names. They are
    data like the others: closed over, they would be constants of the model."""
    names = tuple(name for name, value in arguments.items() if _is_data(value))
    return (*inputs, *(arguments.pop(name) for name in names)), names


def _is_data(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        return bool(parts) and all(map(_is_data, parts))
    return isinstance(value, jax.ShapeDtypeStruct) or (isinstance(value, jax.Array | np.ndarray) and value.ndim > 0)


def _by_name(inputs: tuple[Any, ...], names: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional inputs, and those that have names."""
    first = len(inputs) - len(names)
    return inputs[:first], dict(zip(names, inputs[first:], strict=True))


def _linen(model: nn.Module, inputs: tuple[Any, ...], rng: jax.Array, arguments: Mapping[str, Any]) -> Adapted:
    call = called(model, arguments)
    inputs, arguments, flags = bound(call, inputs, arguments, training=False)
    streams = arguments.pop("rngs", None)
    inputs, names = with_named(inputs, arguments)
    inputs = as_arrays(inputs)

    def initialise(rng: jax.Array, *inputs: Any) -> Any:
        keys = rng if streams is None else {"params": rng, **streams}
        positional, named = _by_name(inputs, names)
        return dict(model.init(keys, *positional, **named, **arguments))

    jaxpr, shapes = explained_call(
        lambda: explained(lambda: jax.make_jaxpr(initialise, return_shape=True)(rng, *abstract(inputs))), model
    )
    if "params" not in shapes:
        raise ValueError(f"model: {type(model).__name__} has no parameters; there is nothing to predict")
    state_shapes = {name: value for name, value in shapes.items() if name != "params"}
    indices = jax.tree.unflatten(jax.tree.structure(shapes), range(len(jaxpr.out_avals)))

    def run() -> list[Any]:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, canonicalize_dtype(x.dtype)), abstract(inputs))
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

    def apply(params: Any, state: Any, *inputs: Any) -> Any:
        positional, named = _by_name(inputs, names)
        variables = {"params": params, **state}
        call = functools.partial(model.apply, variables, *positional, rngs=streams, **named, **arguments)
        try:
            return explained_call(call, model)
        except flax.errors.ModifyScopeVariableError:  # it writes to its state in evaluation too; that is dropped
            return explained_call(lambda: call(mutable=[*state])[0], model)

    first = jax.tree.leaves(indices["params"])
    own = _Offset(everything, first)
    notes = tuple(f"{flag} passed to trace in evaluation mode" for flag in flags)
    if "batch_stats" in state_shapes:
        notes += ("running statistics are initial ones: fill them with ghn.calibrate(model, variables, batches)",)
    return Adapted(apply, inputs, shapes["params"], state_shapes, own, finish, notes)


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


def explained_call(run: Callable[[], Any], model: Any) -> Any:
    """Names the argument or the random stream that a call wants and did not get."""
    try:
        return run()
    except TypeError as error:
        if "missing" in str(error) and "argument" in str(error):
            raise TypeError(
                f"{type(model).__name__}: {error}; pass it to ghn.predict by keyword (a training flag: its value in "
                "evaluation mode)"
            ) from error
        raise
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            f"{type(model).__name__}: {error}. Pass rngs={{name: key}} with the random streams that it draws from"
        ) from error


def _nnx(model: nnx.Module, inputs: tuple[Any, ...], arguments: Mapping[str, Any]) -> Adapted:
    definition, params, *(state,) = nnx.split(model, nnx.Param, ...)
    call = called(model, arguments)
    inputs, arguments, flags = bound(call, inputs, arguments, training=False)
    arguments.pop("method", None)
    inputs, names = with_named(inputs, arguments)

    def apply(params: Any, state: Any, *inputs: Any) -> Any:
        module: Any = nnx.merge(definition, params, state)
        module.eval()
        positional, named = _by_name(inputs, names)
        return explained_call(lambda: call(module, *positional, **named, **arguments), model)

    def finish(params: Any) -> tuple[Any, Any]:
        return None, nnx.merge(definition, params, state)

    notes = tuple(f"{flag} passed to trace in evaluation mode" for flag in flags)
    if jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
        notes += ("running statistics are the model's own: fill them with ghn.calibrate(result.model, None, batches)",)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    if shapes := [path for path, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]:
        named = ", ".join("/".join(path) for path in paths_of(shapes))
        notes += (f"state without values stays so: {named}; make the model itself, not its shapes, to have them",)
    initialiser = ArrayInitialiser(jax.tree.leaves(params))
    return Adapted(apply, as_arrays(inputs), params, state, initialiser, finish, notes)
