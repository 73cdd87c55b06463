"""Which hypernetwork predicts for a graph; what one of a space does: it recognises its networks in traced models."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from architectures.graph import ArchGraph, Parameter
from architectures.spaces import Cell, SearchSpace
from architectures.spaces.recognise import NotRecognisedError, recognise
from architectures.switch import cut
from ghn.anymodel.blocks import empty_arrays
from ghn.anymodel.decisions import Decision, neutral, refuse_fallbacks, rows_by_leaf
from ghn.anymodel.hypernetwork import OpenHypernetwork
from ghn.anymodel.initialiser import Initialiser
from ghn.anymodel.prediction import Leaves, make_report, predict_leaves
from ghn.api import Hypernetwork
from ghn.checkpoint import load

Found = tuple[Cell, dict[int, Parameter]] | NotRecognisedError  # the architecture and the slots of its rows, or why not


def predict_graph(
    hypernetwork: OpenHypernetwork | Hypernetwork | None,
    graph: ArchGraph,
    leaves: Sequence[Any],
    initialiser: Initialiser,
    strict: bool,
    read_from: ArchGraph | None = None,
) -> Leaves:
    """All leaves of a traced model.

    Args:
        hypernetwork: that predicts; None takes one of the package's: for networks of its space the one that knows
            them ("demo"), for all others the open one ("default"). The report names it.
        graph: of the model.
        leaves: arrays or shapes, in the order of `graph`'s parameters.
        initialiser: of the model.
        strict: raise where a leaf is not predicted.
        read_from: another graph to read the weights from.

    Raises:
        ValueError: `strict`, and a leaf is not predicted; or `read_from` cannot stand in for `graph`.
    """
    start = time.process_time()
    found: Found | None = None
    if hypernetwork is None:
        of_space: Hypernetwork = packaged("demo")
        found = _find(of_space.space, graph)
        hypernetwork = packaged("default") if isinstance(found, NotRecognisedError) else of_space
    if isinstance(hypernetwork, OpenHypernetwork):
        choosing = time.process_time() - start
        predicted = predict_leaves(hypernetwork, graph, leaves, initialiser, strict, read_from)
    else:
        found = found or _find(hypernetwork.space, graph)
        choosing = time.process_time() - start
        predicted = _predict_space(hypernetwork, found, graph, leaves, initialiser, strict, read_from)
    predicted.seconds["hypernetwork"] += choosing
    return predicted


@functools.cache
def packaged(name: str) -> Any:
    """A trained hypernetwork inside the package."""
    return load(name)


def _find(space: SearchSpace[Any], graph: ArchGraph) -> Found:
    """Which network of the space a graph is, or why it is none."""
    try:
        return recognise(space, graph)
    except NotRecognisedError as error:
        return error


def _predict_space(
    hypernetwork: Hypernetwork,
    found: Found,
    graph: ArchGraph,
    leaves: Sequence[Any],
    initialiser: Initialiser,
    strict: bool,
    read_from: ArchGraph | None,
) -> Leaves:
    """As `predict_graph`, by a hypernetwork of a space, in which the model has been `found` or has not."""
    start = time.process_time()
    space = hypernetwork.space
    pairs: dict[int, Parameter] = {}
    arrays: dict[str, Any] = {}
    if isinstance(found, NotRecognisedError):
        if read_from is not None:
            raise found
        why, misfit = f"no network of {space.name}", f"; the model is none of its networks ({found})"
    else:
        why, misfit = "the hypernetwork emits nothing here", ""
        architecture, pairs = found
        read = space.graph(architecture) if read_from is None else _graph_in_space(hypernetwork, read_from)
        arrays = {name: np.asarray(array) for name, array in hypernetwork(read).arrays.items()}
    after = time.process_time()
    numbers = {id(row): number for number, row in enumerate(graph.parameters)}
    rows = rows_by_leaf(graph, leaves)
    decisions = [
        [Decision(numbers[id(row)] in pairs, "" if numbers[id(row)] in pairs else why) for row in own] for own in rows
    ]
    if strict:
        refuse_fallbacks(rows, decisions)
    values = initialiser.values([i for i, own in enumerate(decisions) if not all(d.predicted for d in own)])
    results = empty_arrays(leaves)
    for i, (out, own) in enumerate(zip(results, rows, strict=True)):
        for row in own:
            target = pairs.get(numbers[id(row)])
            part = out[row.part] if row.part else out
            if target is None:
                part[...] = values[i][row.part] if i in values else neutral(graph, row)
                continue
            assert target.place is not None
            slot = cut(arrays[target.place.group][target.place.slot], target.leaf.shape)
            ordered = part if row.axes is None else part.transpose(np.argsort(row.axes))
            ordered[...] = slot.reshape(ordered.shape)
    about = f"hypernetwork of {space.describe()}; {hypernetwork.step:,} training steps{misfit}"
    report = make_report(graph, leaves, rows, decisions, set(values), about)
    return Leaves(results, report, {"hypernetwork": after - start, "emission": time.process_time() - after})


def _graph_in_space(hypernetwork: Hypernetwork, graph: ArchGraph) -> ArchGraph:
    """A graph as the space draws it: it is one already, or is recognised."""
    if all(row.place is not None for row in graph.parameters):
        return graph
    return hypernetwork.space.graph(recognise(hypernetwork.space, graph)[0])
