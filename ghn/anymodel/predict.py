"""`predict` and `predict_params`: all weights of a model that nobody here has seen, in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from architectures.graph import ArchGraph
from architectures.trace.api import as_arrays, graph_of_jaxpr, trace_jaxpr
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.initialiser import ArrayInitialiser, Initialiser
from ghn.anymodel.modules import adapt
from ghn.anymodel.prediction import as_jax
from ghn.anymodel.recognised import predict_graph
from ghn.anymodel.report import Report
from ghn.api import Hypernetwork

AnyHypernetwork = OpenHypernetwork | Hypernetwork


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted weights of a model.

    Attributes:
        params: the model's own pytree: structure, shapes, dtypes, boxes and shardings are as it has them.
        report: a row for every leaf; print it.
        graph: that the weights were read from.
        variables: for Linen, all collections, to be passed to `apply`; otherwise None.
        model: for NNX, a copy of the module with the weights; otherwise None.
        seconds: of CPU time: "trace" (JAX's own part), "graph", "hypernetwork", "emission".
    """

    params: Any
    report: Report
    graph: ArchGraph
    variables: Any = None
    model: Any = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of cycles rests: a trace is hundreds of thousands of objects that all stay, and going through
    them again and again takes a third of a large model's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collector()
def predict(
    model: Any,
    *inputs: Any,
    hypernetwork: AnyHypernetwork | None = None,
    rng: jax.Array | None = None,
    strict: bool = False,
    graph: ArchGraph | None = None,
    **apply_kwargs: Any,
) -> Prediction:
    """All weights of a Linen or NNX module.

    Args:
        model: the module; an NNX module may be abstract (`nnx.eval_shape`).
        inputs: what it is called with: arrays or `jax.ShapeDtypeStruct`s.
        hypernetwork: that predicts; None takes one of the package's: "demo" for networks of its
            space, "default" for all others.
        rng: key for leaves that come from a Linen module's initialiser.
        strict: raise where a leaf is not predicted.
        graph: read the weights from this graph instead of the model's own (a control: it should cost accuracy).
        apply_kwargs: further arguments of the call, of which arrays are inputs too; `method=` for another function than
            `__call__`, and for Linen `rngs=` for the random streams that it draws from. Flags for training are set to
            evaluation where they are missing.

    Raises:
        TraceError: the model cannot be traced; names the line.
        TypeError: neither a Linen nor an NNX module, or an argument of its call is missing.
        ValueError: `strict`, and a leaf is not predicted.
    """
    adapted = adapt(model, inputs, rng, apply_kwargs)
    prediction = _predict(
        adapted.apply,
        adapted.params,
        adapted.state,
        adapted.inputs,
        adapted.initialiser,
        hypernetwork,
        strict,
        graph,
    )
    variables, module = adapted.finish(prediction.params)
    report = dataclasses.replace(prediction.report, notes=(*prediction.report.notes, *adapted.notes))
    return dataclasses.replace(prediction, variables=variables, model=module, report=report)


@_without_collector()
def predict_params(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    hypernetwork: AnyHypernetwork | None = None,
    strict: bool = False,
    state: Any = None,
    graph: ArchGraph | None = None,
) -> Prediction:
    """All weights of a function `apply(params, *inputs)`, whatever framework it comes from.

    Args:
        apply: a pure function, in evaluation mode.
        params: pytree of arrays, which serve as the model's initialiser, or of `jax.ShapeDtypeStruct`s. Leaves come
            back in their dtypes as JAX has them: without `jax_enable_x64` float64 is float32.
        inputs: arrays or `jax.ShapeDtypeStruct`s.
        hypernetwork: that predicts; None takes one of the package's: "demo" for networks of its
            space, "default" for all others.
        strict: raise where a leaf is not predicted.
        state: what is neither parameter nor data (running statistics, masks); `apply` then is `apply(params, state,
            *inputs)`.
        graph: read the weights from this graph instead of the model's own.

    Raises:
        TraceError: `apply` cannot be traced; names the line.
        TypeError: a leaf that is no array, or a random key among the parameters.
        ValueError: `strict`, and a leaf is not predicted.
    """
    params, state, inputs = as_arrays(params, "params"), as_arrays(state, "state"), as_arrays(inputs)
    initialiser = ArrayInitialiser(jax.tree.leaves(params))
    return _predict(apply, params, state, inputs, initialiser, hypernetwork, strict, graph)


def _predict(
    apply: Callable[..., Any],
    params: Any,
    state: Any,
    inputs: tuple[Any, ...],
    initialiser: Initialiser,
    hypernetwork: AnyHypernetwork | None,
    strict: bool,
    graph: ArchGraph | None,
) -> Prediction:
    start = time.process_time()
    jaxpr = trace_jaxpr(apply, params, *inputs, state=state)
    traced = time.process_time()
    own = graph_of_jaxpr(jaxpr, params, inputs, state)
    seconds = {"trace": traced - start, "graph": time.process_time() - traced}
    flat, structure = jax.tree.flatten(params)
    leaves = predict_graph(hypernetwork, own, flat, initialiser, strict, graph)
    before = time.process_time()
    arrays = as_jax(leaves.arrays, flat)
    seconds |= leaves.seconds
    seconds["emission"] += time.process_time() - before
    return Prediction(jax.tree.unflatten(structure, arrays), leaves.report, own, seconds=seconds)
