"""Decoders: from the state of a node to a weight tensor of any shape, by tile and slice (GHN-2, section 3.1).

A decoder predicts one tile; smaller tensors are cut out of it before anything is multiplied, larger ones repeat it.
Copies of the tile carry a fixed pattern of signs, because a repeated tile alone would make identical channels (64
copies of one block in ResNet-18's widest layer).

All decoders start with values of order `scale`; the parametrisation scales them to the layer. They work in two stages:
`hidden_units`, taken at once for all leaves of a role, and `emit`, shape by shape.

Shape letters: S slots, D state width, H hidden units, K kernel positions along an axis, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


@functools.cache
def copy_signs(shape: tuple[int, ...], tile: int) -> np.ndarray:
    """[..., I, O] fixed signs: 1 within the first copy of a tile, seeded random signs in all others."""
    signs = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32) * 2 - 1
    signs[..., :tile, :tile] = 1
    return signs


def wrap(array: Array, axis: int, size: int, centre: bool = False) -> Array:
    """The first (or central) `size` entries along an axis; repeated from the start where there are fewer."""
    have = array.shape[axis]
    if size <= have:
        start = (have - size) // 2 if centre else 0
        return jax.lax.slice_in_dim(array, start, start + size, axis=axis)
    return jnp.take(array, np.arange(size) % have, axis=axis)


class Decoder(nnx.Module):
    """Interface: states [S, D] to tensors [S, *shape]."""

    def __call__(self, states_SD: Array, shape: tuple[int, ...]) -> Array:
        """[S, *shape]."""
        return self.emit(self.hidden_units(states_SD), shape)

    def hidden_units(self, states_SD: Array) -> Array:
        """What does not depend on the shape."""
        raise NotImplementedError

    def emit(self, hidden: Array, shape: tuple[int, ...]) -> Array:
        """Tensors [S, *shape] from the hidden units of their slots."""
        raise NotImplementedError


class KernelDecoder(Decoder):
    """Kernels (kh, kw, I, O): a hidden vector for every kernel position, then a tile of channels for each."""

    def __init__(
        self, width: int, hidden: int, tile: int, kernel_tile: int, scale: float = 1.0, *, rngs: nnx.Rngs
    ) -> None:
        self.kernel_tile, self.tile = kernel_tile, tile
        self.positions = nnx.Linear(width, kernel_tile * kernel_tile * hidden, rngs=rngs)
        self.mix = nnx.Linear(hidden, hidden, rngs=rngs)
        self.channels = nnx.Param(scale * hidden**-0.5 * jax.random.normal(rngs.params(), (hidden, tile, tile)))

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, K, K, H] of the tile's kernel positions."""
        hidden = self.positions(states_SD).reshape(len(states_SD), self.kernel_tile, self.kernel_tile, -1)
        return jax.nn.leaky_relu(self.mix(jax.nn.leaky_relu(hidden)))

    def emit(self, hidden_SKKH: Array, shape: tuple[int, ...]) -> Array:
        """[S, kh, kw, I, O]."""
        kh, kw, inputs, outputs = shape
        hidden = wrap(wrap(hidden_SKKH, 1, kh, centre=True), 2, kw, centre=True)
        return _channels(cast(Array, self.channels.get_value()), hidden, inputs, outputs, self.tile)


class HeadDecoder(Decoder):
    """Linear heads (I, O)."""

    def __init__(self, width: int, hidden: int, tile: int, scale: float = 1.0, *, rngs: nnx.Rngs) -> None:
        self.tile = tile
        self.hidden = nnx.Linear(width, hidden, rngs=rngs)
        self.channels = nnx.Param(scale * hidden**-0.5 * jax.random.normal(rngs.params(), (hidden, tile, tile)))

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, H]."""
        return jax.nn.leaky_relu(self.hidden(states_SD))

    def emit(self, hidden_SH: Array, shape: tuple[int, ...]) -> Array:
        """[S, I, O]."""
        inputs, outputs = shape
        return _channels(cast(Array, self.channels.get_value()), hidden_SH, inputs, outputs, self.tile)


def _channels(channels_HIO: Array, hidden: Array, inputs: int, outputs: int, tile: int) -> Array:
    """Contracts hidden [..., H] with the tile that fits; returns [..., I, O]."""
    used = wrap(wrap(channels_HIO, 1, min(inputs, tile)), 2, min(outputs, tile))
    decoded = jnp.tensordot(hidden, used, 1)
    if max(inputs, outputs) <= tile:
        return decoded
    repeated = wrap(wrap(decoded, decoded.ndim - 2, inputs), decoded.ndim - 1, outputs)
    return repeated * copy_signs(repeated.shape[1:], tile)


class VectorDecoder(Decoder):
    """1-D tensors (O,): normalisation scales, biases."""

    def __init__(self, width: int, hidden: int, tile: int, scale: float = 1.0, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(width, hidden, rngs=rngs)
        spread = nnx.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")
        self.output = nnx.Linear(hidden, tile, kernel_init=spread, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, O of the tile]: the longest vector that is decoded without repetition."""
        return self.output(jax.nn.leaky_relu(self.hidden(states_SD)))

    def emit(self, hidden_SO: Array, shape: tuple[int, ...]) -> Array:
        """[S, O]."""
        return wrap(hidden_SO, 1, shape[0])
