"""Memory-bank networks as somebody would write one by hand: lists of banks, true widths, real groups.

The reference that the executor is held against, and the program of one architecture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.spaces.banks import BankNetwork, Block, Conv, Layer

if TYPE_CHECKING:
    from architectures.spaces.smash import SMASH

RunBlock = Callable[[int, Array], Array]


def forward(space: SMASH, arrays: WeightArrays, network: BankNetwork, images: Array, layers: Layers) -> Array:
    """Logits [B, classes] of images [B, H, W, C]."""
    tree = Weights(arrays, space).as_pytree(network)
    x = _normalised(tree["stem"], layers.conv(images, tree["stem"]["kernel"]), layers)
    for index, block in enumerate(network.blocks):
        banks = run_block(block, tree.get(f"block{index}", {}), x, layers)
        leave = tree[f"leave{index}"]
        x = _normalised(leave, layers.conv(jnp.concatenate(banks, -1), leave["kernel"]), layers)
        if index + 1 < len(network.blocks):
            x = layers.avg_pool_2x2(x)
    return jax.nn.relu(x).mean((1, 2)) @ tree["classifier"]["kernel"] + tree["classifier"]["bias"]


def run_block(block: Block, tree: dict[str, Any], x: Array, layers: Layers) -> list[Array]:
    """All banks after the layers of a block whose first bank held x."""
    banks: list[Array | None] = [x, *[None] * (block.banks - 1)]
    for row, layer in enumerate(block.layers):
        y = _layer(layer, tree[f"layer{row}"], [banks[bank] for bank in layer.read], layers)
        for bank in layer.write:
            held = banks[bank]
            banks[bank] = y if held is None else held + y
    return [jnp.zeros_like(x) if bank is None else bank for bank in banks]


def _layer(layer: Layer, tree: dict[str, Any], read: list[Array | None], layers: Layers) -> Array:
    held = [bank for bank in read if bank is not None]
    units = _normalised(tree["read"], layers.conv(jnp.concatenate(held, -1), tree["read"]["kernel"]), layers)
    ends = []
    for column, path in enumerate(layer.paths):
        x, own = units, tree[f"path{column}"]
        for name, conv in (("inner", path.inner), ("outer", path.outer)):
            if conv is not None:
                x = _normalised(own[name], _grouped(conv, own[name]["kernel"], jax.nn.relu(x), layers), layers)
        ends.append(x)
    return sum(ends[1:], ends[0])


def _grouped(conv: Conv, kernel: Array, x: Array, layers: Layers) -> Array:
    parts = zip(jnp.split(x, conv.groups, -1), jnp.split(kernel, conv.groups, -1), strict=True)
    return jnp.concatenate([layers.conv(own, weights, dilation=conv.dilation) for own, weights in parts], -1)


def _normalised(weights: dict[str, Array], x: Array, layers: Layers) -> Array:
    return layers.batch_norm(x, weights["scale"], weights["bias"])
