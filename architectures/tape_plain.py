"""Tapes as somebody would write the networks by hand: true widths, real groups, ordinary layers.

The reference that the executor is held against, the program of one architecture alone, and, as a function of its
parameters, a model like any user's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.layers import BATCH_NORM_EPSILON, DIMENSIONS, Layers, same_padding
from architectures.tape import NORM_GROUPS, Tape, Unit
from architectures.tape_ops import ACTIVATE
from architectures.window import depthwise, max_pool_3x3

Tree = Mapping[str, Any]


def forward(tape: Tape, tree: Tree, images: Array, layers: Layers) -> Array:
    """Logits [B, classes] of images [B, H, W, I] with the parameters of a nested dictionary.

    With `Layers(gradient="plain")`, every layer is one primitive of JAX (grouped convolutions, window reductions), as
    models usually have it; with "canonical", what is fastest on a CPU.
    """
    main: Array | None = None
    side: Array | None = None
    features = images
    for index, units in enumerate(tape.sections):
        if index == tape.entry:
            main = _unit(tape.stem, tree, images, layers)
        if main is None:
            continue
        entries = run_units(units, tree, [main, side], layers)
        if index == tape.exit:
            features = _known(entries[tape.final])
            break
        main, side = (
            None if unit is None else _unit(unit, tree, _known(entries[unit.source]), layers)
            for unit in tape.downs[index]
        )
    x = features.mean((1, 2)) if tape.head == "average" else features.reshape(len(features), -1)
    return x @ tree["head"]["kernel"][0, 0] + tree["head"]["bias"]


def run_units(units: Sequence[Unit], tree: Tree, entries: list[Array | None], layers: Layers) -> list[Array | None]:
    """All entries of a section. Channels that are laid side by side one by one are concatenated at once."""
    parts: dict[int, list[Array]] = {}  # entry -> the arrays that it is the concatenation of
    reads = readers(units)
    for number, unit in enumerate(units, start=2):
        y = _unit(unit, tree, _known(entries[unit.source]), layers)
        if unit.add is not None and unit.offset == 0:
            y = _known(entries[unit.add]) + y
        elif unit.add is not None:
            chained = unit.add in parts and reads[unit.add] == 1
            parts[number] = [*(parts[unit.add] if chained else [_known(entries[unit.add])]), y]
            y = jnp.concatenate(parts[number], -1)
        entries.append(y)
    return entries


def readers(units: Sequence[Unit]) -> Counter[int]:
    """How often each entry is read within its section."""
    return Counter(entry for unit in units for entry in (unit.source, unit.add) if entry is not None)


def _known(entry: Array | None) -> Array:
    if entry is None:
        raise ValueError("tape: a unit reads an entry that nothing was written to")
    return entry


def _unit(unit: Unit, tree: Tree, x: Array, layers: Layers) -> Array:
    own: Any = tree
    for key in unit.name.split("/"):
        own = own.get(key, {})
    x = x[..., : unit.inputs]
    if unit.norm != "none":
        x = _normalised(unit.norm, own["norm"], x, layers)
    y = _op(unit, own, ACTIVATE[unit.activation](x), layers)
    return y + own["bias"] if unit.bias else y


def _normalised(norm: str, own: Tree, x: Array, layers: Layers) -> Array:
    if norm == "batch" and (layers.gradient != "plain" or layers.statistics_rows or layers.batch_axis):
        return layers.batch_norm(x, own["scale"], own["bias"])
    wide = x.astype(jnp.float32)

    def mean_of(x: Array) -> Array:
        if norm == "batch":
            return x.mean((0, 1, 2))
        if norm == "layer":
            return x.mean(-1, keepdims=True)
        each = x.shape[-1] // NORM_GROUPS
        means_BG = x.reshape(len(x), -1, NORM_GROUPS, each).mean((1, 3))
        return jnp.repeat(means_BG, each, -1)[:, None, None]

    centred = wide - mean_of(wide)
    normal = centred * lax.rsqrt(mean_of(jnp.square(centred)) + BATCH_NORM_EPSILON)
    return (normal * own["scale"] + own["bias"]).astype(x.dtype)


def _op(unit: Unit, own: Tree, x: Array, layers: Layers) -> Array:
    if unit.kind == "skip":
        return x
    if unit.kind == "dense":
        return x @ own["kernel"][0, 0]
    if unit.kind in ("conv", "depthwise"):
        return _convolution(unit, own["kernel"], x, layers)
    if unit.kind in ("max_pool", "avg_pool"):
        return _pool(unit, x, layers)
    if unit.kind == "attention":
        return _attention(unit, own, x)
    if unit.kind == "token_mix":
        tokens = x.reshape(len(x), -1, x.shape[-1]).swapaxes(1, 2)
        hidden = jax.nn.gelu(_dense(own["in"], tokens))
        return _dense(own["out"], hidden).swapaxes(1, 2).reshape(x.shape)
    if unit.kind == "squeeze_excite":
        hidden = jax.nn.relu(_dense(own["squeeze"], x.mean((1, 2))))
        return x * jax.nn.sigmoid(_dense(own["excite"], hidden))[:, None, None]
    return x + own["embedding"].reshape(x.shape[1:])


def _dense(own: Tree, x: Array) -> Array:
    return x @ own["kernel"][0, 0] + own["bias"]


def _convolution(unit: Unit, kernel: Array, x: Array, layers: Layers) -> Array:
    groups = unit.inputs if unit.kind == "depthwise" else unit.groups
    if layers.gradient == "plain":
        return lax.conv_general_dilated(
            x,
            kernel,
            (unit.stride,) * 2,
            [same_padding(size, unit.kernel, unit.stride, unit.dilation) for size in x.shape[1:3]],
            rhs_dilation=(unit.dilation,) * 2,
            dimension_numbers=DIMENSIONS,
            feature_group_count=groups,
        )
    if unit.kind == "depthwise":
        return depthwise(x, kernel[:, :, 0], unit.stride, unit.dilation)
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    convolved = [layers.conv(own, weights, unit.stride, unit.dilation) for own, weights in parts]
    return convolved[0] if groups == 1 else jnp.concatenate(convolved, -1)


def _pool(unit: Unit, x: Array, layers: Layers) -> Array:
    """Maxima and averages over 3x3 neighbours; averages at stride 2 over 2x2 blocks. Padding is not counted."""
    if layers.gradient != "plain":
        if unit.kind == "max_pool":
            return max_pool_3x3(x, unit.stride)
        return layers.avg_pool_2x2(x) if unit.stride == 2 else layers.avg_pool_3x3(x)
    window, strides = (1, unit.kernel, unit.kernel, 1), (1, unit.stride, unit.stride, 1)
    pads = ((0, 0), *(same_padding(size, unit.kernel, unit.stride, 1) for size in x.shape[1:3]), (0, 0))
    if unit.kind == "max_pool":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)
    counts = lax.reduce_window(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, lax.add, window, strides, pads)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, pads) / counts


def _attention(unit: Unit, own: Tree, x: Array) -> Array:
    tokens = x.reshape(len(x), -1, x.shape[-1])

    def heads(name: str) -> Array:
        y = _dense(own[name], tokens)
        return y.reshape(*y.shape[:2], unit.heads, -1).swapaxes(1, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = (query * query.shape[-1] ** -0.5) @ key.swapaxes(2, 3)
    read = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(x.dtype) @ value
    return _dense(own["out"], read.swapaxes(1, 2).reshape(tokens.shape)).reshape(x.shape)
