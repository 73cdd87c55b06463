"""The entry to tracing: from a function and its parameters to a graph, and what to say where that fails."""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from architectures.graph import ArchGraph
from architectures.trace.build import LeafSpec, build
from architectures.trace.drafts import Drafts
from architectures.trace.interpreter import Interpreter
from architectures.trace.products import made
from architectures.trace.values import Entry, LeafRef, Value

EXPLICIT = jax.sharding.AxisType.Explicit
LIBRARIES = ("jax", "jaxlib", "flax", "haiku", "equinox", "numpy")


class TraceError(ValueError):
    """A function that JAX cannot trace; the message names the line and the reason."""


def trace(apply: Callable[..., Any], params: Any, *inputs: Any, state: Any = None) -> ArchGraph:
    """The computational graph of `apply(params, *inputs)`, or of `apply(params, state, *inputs)`.

    Nothing is computed and no parameter is allocated. Every leaf of `params` ends in one row of the graph's parameter
    table, or in one row for each slice that a scan over layers takes; leaves that are used again add an edge from
    their owner.

    Args:
        apply: a pure function.
        params: pytree of arrays or `jax.ShapeDtypeStruct`s.
        inputs: pytrees of arrays or `jax.ShapeDtypeStruct`s.
        state: what is neither parameter nor data: running statistics, masks, caches; None for none.

    Raises:
        TraceError: `apply` cannot be traced, for instance because it branches on values.
        TypeError: a leaf that is no array, or a random key among the parameters.
        ValueError: no parameters.
    """
    params, state, inputs = as_arrays(params, "params"), as_arrays(state, "state"), as_arrays(inputs)
    jaxpr = trace_jaxpr(apply, params, *inputs, state=state)
    return graph_of_jaxpr(jaxpr, params, inputs, state)


def trace_jaxpr(apply: Callable[..., Any], params: Any, *inputs: Any, state: Any = None) -> Any:
    """JAX's own part of tracing: the closed jaxpr of `apply`."""
    arguments = (abstract(params), *(() if state is None else (abstract(state),)), *abstract(inputs))
    return explained(lambda: jax.make_jaxpr(apply)(*arguments))


def graph_of_jaxpr(jaxpr: Any, params: Any, inputs: Any, state: Any = None) -> ArchGraph:
    """Our own part of tracing: the graph of a jaxpr that `trace_jaxpr` returned for the same arguments."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    if not flat:
        raise ValueError("params: no parameter leaves; there is nothing to predict")
    names = paths_of([path for path, _ in flat])
    leaves = [LeafSpec(name, tuple(leaf.shape), str(leaf.dtype)) for name, (_, leaf) in zip(names, flat, strict=True)]
    drafts = Drafts([leaf.shape for leaf in leaves])
    interpreter = Interpreter(drafts)
    values = [
        Value(leaf.shape, None, {LeafRef(i): Entry(tuple((a,) for a in range(len(leaf.shape))))})
        for i, leaf in enumerate(leaves)
    ]
    remembered = frozenset({"state"})
    values += [Value(tuple(leaf.shape), marks=remembered) for leaf in jax.tree.leaves(state)]
    first = jax.tree.leaves(inputs)
    for leaf in first:
        shape = tuple(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            values.append(Value(shape))
        else:
            channels = shape[-1] if len(shape) > 1 and not jnp.issubdtype(leaf.dtype, jnp.integer) else 1
            values.append(Value(shape, drafts.add("input", [], shape, channels_out=channels)))
    consts = [Value(tuple(jnp.shape(c)), marks=remembered if jnp.ndim(c) else frozenset()) for c in jaxpr.consts]
    outputs = interpreter.run(jaxpr.jaxpr, consts, values)
    ends = [drafts.settle(made(interpreter, value)) for value in outputs if value.is_data or value.leaves]
    batch = next((int(leaf.shape[0]) for leaf in first if len(leaf.shape) > 0), 1)
    return build(drafts, leaves, ends, math.prod([batch]))


def abstract(tree: Any) -> Any:
    """Arrays as `jax.ShapeDtypeStruct`s, with their sharding where types tell it; what is no array stays."""

    def leaf(array: Any) -> Any:
        if isinstance(array, jax.ShapeDtypeStruct) or not hasattr(array, "dtype"):
            return array
        sharding = getattr(array, "sharding", None)
        typed = isinstance(sharding, jax.sharding.NamedSharding) and EXPLICIT in sharding.mesh.axis_types
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding if typed else None)

    return jax.tree.map(leaf, tree)


def as_arrays(tree: Any, name: str = "inputs") -> Any:
    """Python's numbers as arrays; arrays and `jax.ShapeDtypeStruct`s stay.

    Raises:
        TypeError: anything else, named; among "params" also a random key.
    """

    def leaf(path: Any, value: Any) -> Any:
        where = "/".join((name, *_texts(path)))
        if isinstance(value, bool | int | float | complex):
            return np.asarray(value, jnp.result_type(value))
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise TypeError(
                f"{where}: {value!r} is no array; close over it: lambda params, x: apply(params, x, {value!r})"
            )
        if name == "params" and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{where}: a random key is no weight; pass it in state=, for apply(params, state, *inputs)")
        return value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def paths_of(paths: Sequence[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """Paths of a pytree's leaves as text, without the field of a box (such as Flax's `Partitioned`).

    A box is told by its only field, `value`: where that has siblings it is a name like any other.
    """
    ending = [len(path) > 1 and getattr(path[-1], "name", None) == "value" for path in paths]
    below = Counter(path[:depth] for path in paths for depth in range(len(path))) if any(ending) else {}
    return [
        _texts(path[:-1] if ends and below[path[:-1]] == 1 else path) for path, ends in zip(paths, ending, strict=True)
    ]


def _texts(keys: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(next(getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field))) for key in keys
    )


def explained(traced: Callable[[], Any]) -> Any:
    """Runs `traced`; errors of JAX's tracing become a TraceError that names the line."""
    try:
        return traced()
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TraceError(
            f"{_line(error)}: the model needs a value while JAX traces it, so its graph cannot be read "
            f"({type(error).__name__}: {reason}). Write it with jnp.where or jax.lax.cond, or close over what is no "
            "data, such as a flag: functools.partial(apply, train=False)"
        ) from error


def _line(error: BaseException) -> str:
    """The innermost line outside libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _in_library(frame.filename)]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}: {frame.line}"


def _in_library(filename: str) -> bool:
    parts = filename.replace("\\", "/").split("/")
    return any(f"/site-packages/{name}/" in "/".join(parts) for name in LIBRARIES) or filename == __file__
