"""The weights of a memory-bank network in the padded form that its executor computes with.

Kernels lie tight in their slots (as the user has them). Everything that differs between architectures is data here:
rows of a reading 1x1 convolution for banks that are not read are zero, groups are block-diagonal kernels, channels that
a narrower layer lacks have scale and bias zero.

Shape letters: L layers, K banks, N channels of a bank, U units, R rows of a bank's concatenation (K * N).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Slots = Mapping[str, Array]
Spread = dict[str, dict[str, Array]]  # "read", "inner" or "outer" -> leaf -> padded arrays


class BankShape(NamedTuple):
    """The padded sizes of one block: what every architecture of the space fits into."""

    banks: int  # K
    channels: int  # N of a bank
    units: int  # U after a layer's 1x1 convolution


class BlockChoices(NamedTuple):
    """One block as data.

    Attributes:
        banks, channels: scalars, those in use.
        active: [L] whether the layer exists.
        read, write: [L, K] of 0 and 1.
        units: [L].
        inner, outer: [L, 2] index into `inner_ops` and `outer_ops` for both paths.
        inner_groups, outer_groups: [L, 2].
    """

    banks: Array
    channels: Array
    active: Array
    read: Array
    write: Array
    units: Array
    inner: Array
    outer: Array
    inner_groups: Array
    outer_groups: Array


def read_rows(read_K: Array, channels: Array, shape: BankShape, dtype: jnp.dtype | type = jnp.float32) -> Array:
    """[R, R] of 0 and 1: row k * N + c of the padded concatenation takes row (banks read before k) * channels + c of
    the tight one, if bank k is read and has a channel c."""
    bank, channel = jnp.divmod(jnp.arange(shape.banks * shape.channels), shape.channels)
    before_K = jnp.cumsum(read_K) - read_K
    tight = before_K[bank] * channels + channel
    used = (read_K[bank] > 0) & (channel < channels)
    return jax.nn.one_hot(jnp.where(used, tight, -1), len(bank), dtype=dtype)


def spread_groups(kernel: Array, inputs: Array, outputs: Array, groups: Array) -> Array:
    """The block-diagonal kernel [kh, kw, I, O] of a grouped one that lies tight in its slot, as [kh, kw, i / g, o]."""
    each, most = inputs // groups, kernel.shape[2]
    row, column = jnp.arange(most), jnp.arange(kernel.shape[3])
    chosen_II = jax.nn.one_hot(row % each, most, dtype=kernel.dtype)
    block_IO = (row[:, None] // each == column[None] // (outputs // groups)) & (row[:, None] < inputs)
    return jnp.einsum("ir,hwro->hwio", chosen_II, kernel) * block_IO


def spread(slots: Slots, choices: BlockChoices, shape: BankShape) -> dict[str, dict[str, Array]]:
    """All leaves of a block in padded form, [L, ...] (convolutions: [L, 2 paths, ...]); what an architecture does not
    use is zero."""

    def narrowed(part: str, width_L: Array) -> dict[str, Array]:
        scale = slots[f"{part}/scale"]
        mask = (jnp.arange(scale.shape[-1]) < width_L[:, None]).astype(scale.dtype)
        return {"scale": scale * mask, "bias": slots[f"{part}/bias"] * mask}

    layers = len(choices.active)
    tight = slots["read/kernel"][:, 0, 0]
    rows_LRR = jax.vmap(lambda read_K: read_rows(read_K, choices.channels, shape, tight.dtype))(choices.read)
    channels_L = jnp.broadcast_to(choices.channels, (layers,))
    read = {"kernel": rows_LRR @ tight, **narrowed("read", choices.units)}

    def convolutions(part: str, groups_L2: Array, outputs_L: Array) -> dict[str, Array]:
        twice = jnp.repeat(outputs_L, 2)
        kernel = jax.vmap(spread_groups)(
            slots[f"{part}/kernel"], jnp.repeat(choices.units, 2), twice, groups_L2.reshape(-1)
        )
        flat = {"kernel": kernel, **narrowed(part, twice)}
        return {name: array.reshape(layers, 2, *array.shape[1:]) for name, array in flat.items()}

    return {
        "read": read,
        "inner": convolutions("inner", choices.inner_groups, choices.units),
        "outer": convolutions("outer", choices.outer_groups, channels_L),
    }
