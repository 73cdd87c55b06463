"""Proxies of many architectures: one compiled program for all of a space, as many initialisations as asked for.

Shape letters: A architectures, B images.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.layout import occupancy
from architectures.spaces import SearchSpace
from eval.proxies.az_nas import PARTS, aggregate
from eval.proxies.network import Network, SpaceNetwork
from eval.proxies.proxy import Measure, Proxy, Size
from eval.proxies.registry import AZ_NAS, PROXIES, proxy_names
from eval.proxies.traced import TracedModel, TracedNetwork

REFERENCE_DRAWS = 256  # random architectures whose largest is what regularised SWAP compares with

# (measures, key, images, labels) -> what each measured; compiled by the caller
Program = Callable[[tuple[Measure, ...], Array, NDArray[np.float32], NDArray[np.int32]], Any]


def score(
    space: SearchSpace[Any],
    architectures: Sequence[Any],
    images: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    proxies: Sequence[str] | None = None,
    initialisations: int | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Scores [A] by proxy; higher is always better. A value that is not finite is NaN: count them (`missing`).

    Args:
        space: of the architectures.
        architectures: A of them.
        images: [B, H, W, C] float32, normalised. A proxy takes as many of the first as it is defined for.
        labels: [B] int; only proxies that use the loss look at them.
        proxies: names from PROXIES; all when None. "az_nas" ranks the given architectures among each other.
        initialisations: of every proxy; each proxy's own number when None.
        seed: of the first initialisation; the others follow on it.

    Raises:
        ValueError: an unknown proxy, or fewer than one initialisation or than two images.
    """
    rows = list(iterate(space, architectures, images, labels, proxies, initialisations, seed))
    names = proxy_names(proxies)
    columns = {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]} if rows else {}
    return with_aggregate(columns, names)


def with_aggregate(columns: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The columns that were asked for, AZ-NAS's aggregation of its four parts among them."""
    full = dict(columns)
    if AZ_NAS in names and full:
        full[AZ_NAS] = aggregate([full[name] for name in PARTS])
    return {name: full[name] for name in names if name in full}


def iterate(
    space: SearchSpace[Any],
    architectures: Sequence[Any],
    images: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    proxies: Sequence[str] | None = None,
    initialisations: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """The same, one architecture after the other: a row of scores each, with the parts of "az_nas" in its place."""
    chosen = {name: PROXIES[name] for name in parts_of(proxy_names(proxies))}
    images, labels = _checked(images, labels)
    largest = _largest(space)
    for architecture in architectures:
        graph = space.graph(architecture)
        encoding = space.encode(architecture)
        variants = {name: filled.variant for name, filled in occupancy(space.layout, graph).items()}

        def program(measures: tuple[Measure, ...], key: Array, *data: Any) -> Any:
            return _space_program(space, measures, encoding, variants, key, *data)  # noqa: B023

        size = Size(graph.parameter_count, graph.macs, largest)
        yield _row(chosen, program, size, images, labels, initialisations, seed)


def score_model(
    model: TracedModel,
    images: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    proxies: Sequence[str] | None = None,
    initialisations: int | None = None,
    seed: int = 0,
    largest: int | None = None,
) -> dict[str, float]:
    """Scores of one model by proxy; see `score`. Without `proxies`, all but "az_nas", which needs several candidates.

    `largest` is the parameter count of the largest model that it will be compared with (for regularised SWAP).
    """
    names = list(PROXIES) if proxies is None else proxy_names(proxies)
    if AZ_NAS in names:
        raise ValueError(f"proxies: {AZ_NAS!r} ranks candidates among each other; ask for {', '.join(PARTS)}")
    images, labels = _checked(images, labels)

    def program(measures: tuple[Measure, ...], key: Array, *data: Any) -> Any:
        return _model_program(model, measures, key, *data)

    size = model.size(jax.numpy.asarray(images), largest)
    return _row({name: PROXIES[name] for name in names}, program, size, images, labels, initialisations, seed)


def missing(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, int]:
    """How many values of each column are NaN."""
    return {name: int(np.isnan(column).sum()) for name, column in columns.items()}


def parts_of(names: Sequence[str]) -> list[str]:
    """The proxies that have to be computed for these names."""
    return list(dict.fromkeys(part for name in names for part in (PARTS if name == AZ_NAS else (name,))))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _space_program(
    space: SearchSpace[Any],
    measures: tuple[Measure, ...],
    encoding: dict[str, Array],
    variants: dict[str, Array],
    key: Array,
    images: Array,
    labels: Array,
) -> tuple[Any, ...]:
    network: Network = SpaceNetwork(space, encoding, variants, images, labels, key)
    return tuple(measure(network) for measure in measures)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _model_program(
    model: TracedModel, measures: tuple[Measure, ...], key: Array, images: Array, labels: Array
) -> tuple[Any, ...]:
    network: Network = TracedNetwork(model, images, labels, key)
    return tuple(measure(network) for measure in measures)


def _row(
    proxies: Mapping[str, Proxy],
    program: Program,
    size: Size,
    images: NDArray[np.float32],
    labels: NDArray[np.int32],
    initialisations: int | None,
    seed: int,
) -> dict[str, float]:
    """One architecture's scores. Proxies of one batch and one number of initialisations are one program."""
    groups: dict[tuple[int, int, bool], list[str]] = {}
    for name, proxy in proxies.items():
        count = proxy.initialisations if initialisations is None else initialisations
        if count < 1:
            raise ValueError(f"initialisations={count}: at least one is needed")
        groups.setdefault((count, min(proxy.images, len(images)), proxy.float64), []).append(name)
    row: dict[str, float] = {}
    for (count, batch, double), names in groups.items():
        own = [proxies[name] for name in names]
        measures = tuple(dict.fromkeys(proxy.measure for proxy in own))
        values = np.zeros((count, len(own)))
        for draw in range(count):
            with jax.enable_x64(True) if double else contextlib.nullcontext():
                key = jax.random.key(seed + draw)
                measured = program(measures, key, images[:batch], labels[:batch])
            arrays = dict(zip(measures, jax.tree.map(lambda a: np.asarray(a, np.float64), measured), strict=True))
            values[draw] = [proxy.sign * proxy.finish(arrays[proxy.measure], size) for proxy in own]
        means = np.where(np.isfinite(values).all(0), values.mean(0), np.nan)
        row |= dict(zip(names, means.tolist(), strict=True))
    return {name: row[name] for name in proxies}


def _checked(
    images: NDArray[np.float32], labels: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    if len(images) < 2 or len(labels) != len(images):
        raise ValueError(f"images: {len(images)} with {len(labels)} labels; give at least 2, each with its label")
    return np.asarray(images, np.float32), np.asarray(labels, np.int32)


@functools.cache
def _largest(space: SearchSpace[Any]) -> int:
    """Parameters of the largest of some random architectures, the same ones always."""
    rng = np.random.default_rng(0)
    return max(space.cost(space.sample(rng)).parameters for _ in range(REFERENCE_DRAWS))
