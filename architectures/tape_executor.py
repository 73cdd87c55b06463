"""Whole networks by the executor of tapes: stem, sections with what leads from one to the next, head.

Which stem, which way down, which head: each is a switch, as a section's ops are (`architectures.tape_section`).

Shape letters: B batch, H height, W width, I channels of an image, C most channels of a section.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from architectures.bank_weights import spread_groups
from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.switch import cut
from architectures.tape import HEADS
from architectures.tape_encode import COUNTED, FIELDS
from architectures.tape_layout import TapeShape
from architectures.tape_ops import switch
from architectures.tape_section import Code, SectionPlan, padded, run_section
from architectures.window import depthwise, max_pool_3x3


def forward(
    shape: TapeShape, arrays: WeightArrays, encoding: Mapping[str, Any], images: Array, layers: Layers
) -> Array:
    """Logits [B, classes] of images [B, H, W, I]."""
    code = {name: jnp.asarray(array) for name, array in encoding.items()}
    starts = _stem(shape, arrays, code["stem"], images, layers)
    names = (*FIELDS, *(f"slot_{kind}" for kind in COUNTED), "slot_position")
    finals = []
    main = side = jnp.zeros_like(starts[0])
    for section, channels in enumerate(shape.channels):
        sizes = (channels, shape.narrow[section], shape.spatial[section])
        plan = SectionPlan(shape.ops[section], shape.prepares, *sizes, layers)
        own = {name: code[name][section][: shape.units[section]] for name in names}
        own |= {name: code[name][section] for name in ("count", "out")}
        to_main, to_side, final = run_section(
            plan, padded(arrays, code, section, channels), own, main + starts[section], side
        )
        finals.append(final)
        if section + 1 < len(shape.channels):
            down = {name: code[f"down_{name}"][section] for name in ("op", "inputs", "outputs", "groups", "bias")}
            main, side = _down(shape, section, arrays, down, to_main, to_side, layers)
    return _head(shape, arrays, code["head"], finals)


def _stem(shape: TapeShape, arrays: WeightArrays, code_4: Array, images: Array, layers: Layers) -> list[Array]:
    """[B, H, W, C] for each section: the image's first features where the stem leads, zero elsewhere."""
    op, entry, outputs, bias_used = (code_4[index] for index in range(4))
    kernel, bias = arrays["stem/kernel"][0], arrays["stem/bias"][0]
    mask = (jnp.arange(len(bias)) < outputs).astype(images.dtype)

    def stem(name: str, kernel: Array, images: Array) -> tuple[Array, ...]:
        strides = {"conv": 1, "half": 2, "patch": int(name[-1])}
        size, stride = int(name[-1]), strides[name[:-1]]
        section = {1: 0, 2: 1, 4: 2}[stride]
        return tuple(
            _fitted(layers.conv(images, cut(kernel, (size, size, *kernel.shape[2:])), stride), channels)
            if index == section
            else jnp.zeros_like(images, shape=(len(images), shape.sizes[index], shape.sizes[index], channels))
            for index, channels in enumerate(shape.channels)
        )

    starts = switch(tuple(functools.partial(stem, name) for name in shape.stems), op, kernel, images)
    shift = bias * bias_used.astype(bias.dtype)
    return [
        (start + _fitted(shift, start.shape[-1]))
        * _fitted(mask, start.shape[-1])
        * (entry == index).astype(start.dtype)
        for index, start in enumerate(starts)
    ]


def _fitted(x: Array, channels: int) -> Array:
    """x with its last axis cut or padded to `channels`."""
    x = x[..., :channels]
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, channels - x.shape[-1]),))


def _down(
    shape: TapeShape, section: int, arrays: WeightArrays, code: Code, main: Array, side: Array, layers: Layers
) -> tuple[Array, Array]:
    """Main and side input of the next section, zero where nothing leads there."""
    size, channels = shape.sizes[section + 1], shape.channels[section + 1]
    names = ("conv", "depthwise", "bias", "side", "side_bias")
    own = {name: arrays[key][0] for name in names if (key := f"down{section}/{name}") in arrays}

    def run(name: str, leaves: dict[str, Array], groups: Array, inputs: Array, outputs: Array, x: Array) -> Array:
        if name == "none":
            return jnp.zeros_like(x, shape=(len(x), size, size, channels))
        if name == "max_pool":
            y = max_pool_3x3(x, 2)
        elif name == "avg_pool":
            y = layers.avg_pool_2x2(x)
        elif name.startswith("depthwise"):
            kernel, width = leaves["depthwise"], int(name[-1])
            y = depthwise(x, cut(kernel, (width, width, *kernel.shape[2:]))[:, :, 0], 2)
        elif name == "conv1":
            y = layers.conv(x, leaves["side"], 2)
        else:
            width = int(name[-1])
            kernel = spread_groups(leaves["conv"], inputs, outputs, groups)
            y = layers.conv(x, cut(kernel, (width, width, *kernel.shape[2:])), 2)
        return _fitted(y, channels)

    def finished(x: Array, index: int, names: tuple[str, ...], bias: Array | None) -> Array:
        branches = tuple(functools.partial(run, name) for name in ("none", *names))
        y = switch(
            branches, code["op"][index], own, code["groups"][index], code["inputs"][index], code["outputs"][index], x
        )
        if bias is not None:
            y = y + bias * code["bias"][index].astype(bias.dtype)
        return y * (jnp.arange(channels) < code["outputs"][index]).astype(y.dtype)

    return finished(main, 0, shape.mains, own.get("bias")), finished(side, 1, shape.sides, own.get("side_bias"))


def _head(shape: TapeShape, arrays: WeightArrays, code_2: Array, finals: list[Array]) -> Array:
    """Logits, from the section at which the network ends."""
    kernel, bias = arrays["head/kernel"][0, 0, 0], arrays["head/bias"][0]
    features = code_2[1]

    def average(index: int, kernel: Array, features: Array, *finals: Array) -> Array:
        x = finals[index].mean((1, 2))
        return x @ kernel[: x.shape[-1]]

    def flatten(index: int, kernel: Array, features: Array, *finals: Array) -> Array:
        """Row p * features + c of the tight kernel belongs to pixel p, channel c."""
        x = finals[index]
        pixel, channel = jnp.arange(shape.pixels(index))[:, None], jnp.arange(x.shape[-1])
        rows = jnp.where((channel < features)[:, None], kernel_rows(kernel, pixel * features + channel), 0)
        return jnp.einsum("bpc,pco->bo", x.reshape(len(x), -1, x.shape[-1]), rows)

    def kernel_rows(kernel: Array, index: Array) -> Array:
        return kernel[jnp.minimum(index, len(kernel) - 1)]

    branches = []
    for head in HEADS:
        for index in range(len(shape.sizes)):
            run = flatten if head == "flatten" and shape.has_tokens(index) else average
            branches.append(functools.partial(run, index))
    return switch(tuple(branches), code_2[0], kernel, features, *finals) + bias
