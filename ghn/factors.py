"""Decoders of low rank: a kernel as the product of two factors, which are much smaller than it.

    delta[a, b, i, o] = sum_r left[a, b, i, r] * right[o, r] / sqrt(R)

"lowrank" reads the factors off tiles, which wider layers repeat with signs. "coordinate" computes every row of a factor
from Fourier features of its index, so that layers of up to 4,096 channels and kernels of any extent get values of their
own, without copies: what the Universal Hypernetwork does for single weights (every value from its coordinates), at the
cost of the factors alone. Features repeat after 4,096 indices: in wider layers (graphs admit 8,192 inputs and 65,536
outputs), channels that lie so far apart have the same values.

Shape letters: S slots, D state width, H hidden units, R rank, K kernel positions along an axis, T channels of a tile, I
inputs, O outputs, F frequencies.
"""

from __future__ import annotations

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.ops import Role
from ghn.decoder import Decoder, VectorDecoder, copy_signs, wrap

FREQUENCIES = 12  # F: 2^12 indices are told apart, then features repeat; checkpoints have weights for so many
VECTOR_ROLES: tuple[Role, ...] = ("scale", "bias", "head_bias")


class LowRankDecoder(Decoder):
    """Kernels (kh, kw, I, O) and heads (I, O) from two tiles of factors."""

    def __init__(
        self, width: int, hidden: int, tile: int, kernel_tile: int, rank: int, scale: float = 1.0, *, rngs: nnx.Rngs
    ) -> None:
        self.tile = tile
        self.hidden = nnx.Linear(width, hidden, rngs=rngs)
        spread, right = hidden**-0.5, scale * (hidden * rank) ** -0.5
        left_shape = (hidden, kernel_tile, kernel_tile, tile, rank)
        self.left = nnx.Param(spread * jax.random.normal(rngs.params(), left_shape))
        self.right = nnx.Param(right * jax.random.normal(rngs.params(), (hidden, tile, rank)))

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, H]."""
        return jax.nn.leaky_relu(self.hidden(states_SD))

    def emit(self, hidden_SH: Array, shape: tuple[int, ...]) -> Array:
        """[S, *shape]."""
        kh, kw, inputs, outputs = (1,) * (4 - len(shape)) + tuple(shape)
        left, right = cast(Array, self.left.get_value()), cast(Array, self.right.get_value())
        left = wrap(wrap(left, 1, kh, centre=True), 2, kw, centre=True)
        left = left[:, :, :, : min(inputs, self.tile)]
        right = right[:, : min(outputs, self.tile)]
        decoded = _product(jnp.tensordot(hidden_SH, left, 1), jnp.tensordot(hidden_SH, right, 1))
        if max(inputs, outputs) > self.tile:
            decoded = wrap(wrap(decoded, 3, inputs), 4, outputs)
            decoded = decoded * copy_signs(decoded.shape[1:], self.tile)
        return decoded.reshape(-1, *shape)


class CoordinateDecoder(Decoder):
    """The same with factors computed row by row from the row's coordinates and the node's state."""

    def __init__(self, width: int, hidden: int, rank: int, scale: float = 1.0, *, rngs: nnx.Rngs) -> None:
        self.left, self.right = (CoordinateNetwork(width, hidden, axes, rngs=rngs) for axes in (3, 1))
        self.left_out = nnx.Linear(hidden, rank, rngs=rngs)
        small = nnx.initializers.variance_scaling(scale**2 / rank, "fan_in", "normal")
        self.right_out = nnx.Linear(hidden, rank, kernel_init=small, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, 2, H]: what the state gives to either factor."""
        return jnp.stack([self.left.state(states_SD), self.right.state(states_SD)], 1)

    def emit(self, hidden_S2H: Array, shape: tuple[int, ...]) -> Array:
        """[S, *shape]."""
        kh, kw, inputs, outputs = (1,) * (4 - len(shape)) + tuple(shape)
        left = self.left_out(self.left.at(hidden_S2H[:, 0], (_centred(kh), _centred(kw), np.arange(inputs))))
        right = self.right_out(self.right.at(hidden_S2H[:, 1], (np.arange(outputs),)))
        return _product(left, right).reshape(-1, *shape)


class CoordinateVectorDecoder(Decoder):
    """1-D tensors (O,), value by value from its index."""

    def __init__(self, width: int, hidden: int, scale: float = 1.0, *, rngs: nnx.Rngs) -> None:
        self.network = CoordinateNetwork(width, hidden, 1, rngs=rngs)
        spread = nnx.initializers.variance_scaling(scale**2, "fan_in", "normal")
        self.output = nnx.Linear(hidden, 1, kernel_init=spread, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, H]."""
        return self.network.state(states_SD)

    def emit(self, hidden_SH: Array, shape: tuple[int, ...]) -> Array:
        """[S, O]."""
        return self.output(self.network.at(hidden_SH, (np.arange(shape[0]),)))[..., 0]


class CoordinateNetwork(nnx.Module):
    """(state, coordinates) -> hidden units; what is linear in a coordinate is computed for each coordinate alone."""

    def __init__(self, width: int, hidden: int, axes: int, *, rngs: nnx.Rngs) -> None:
        self.axes = axes
        self.state = nnx.Linear(width, hidden, rngs=rngs)
        self.place = nnx.Linear(axes * 2 * FREQUENCIES, hidden, use_bias=False, rngs=rngs)
        self.mix = nnx.Linear(hidden, hidden, rngs=rngs)

    def at(self, hidden_SH: Array, coordinates: tuple[NDArray[np.int64], ...]) -> Array:
        """[S, n1, n2, ..., H] for the grid of these coordinates, from what `state` gave."""
        parts = jnp.split(self.place.kernel.get_value(), self.axes)
        total = hidden_SH.reshape(len(hidden_SH), *[1] * self.axes, -1)
        for axis, (indices, part) in enumerate(zip(coordinates, parts, strict=True)):
            shape = [len(indices) if index == axis else 1 for index in range(self.axes)]
            total = total + (_features(tuple(indices.tolist())) @ part).reshape(1, *shape, -1)
        return jax.nn.leaky_relu(self.mix(jax.nn.leaky_relu(total)))


@functools.cache
def _features(indices: tuple[int, ...]) -> NDArray[np.float32]:
    """[n, 2 F]: cosines and sines of periods 2, 4, 8, ..., of constant norm (as MIP asks of what is encoded)."""
    angles = np.pi * np.array(indices)[:, None] / 2.0 ** np.arange(FREQUENCIES)
    return np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def _centred(size: int) -> NDArray[np.int64]:
    """Kernel positions from the centre, where smaller kernels lie."""
    return np.arange(size) - size // 2


def _product(left: Array, right_SOR: Array) -> Array:
    """[S, kh, kw, I, O] of factors [S, kh, kw, I, R] and [S, O, R]."""
    return jnp.einsum("sabir,sor->sabio", left, right_SOR)


def factor_decoders(
    kind: str,
    sizes: tuple[int, int, int],
    kernel_tile: int,
    rank: int,
    matrices: float,
    vectors: float,
    *,
    rngs: nnx.Rngs,
) -> dict[Role, Decoder]:
    """A decoder for each role.

    Args:
        kind: "lowrank" or "coordinate".
        sizes: D, H, T.
        kernel_tile: K.
        rank: R.
        matrices: scale of kernels and heads at the start.
        vectors: the same of 1-D tensors.
        rngs: of the initial parameters.
    """
    width, hidden, _ = sizes
    if kind == "lowrank":
        return {
            "kernel": LowRankDecoder(*sizes, kernel_tile, rank, matrices, rngs=rngs),
            "head_kernel": LowRankDecoder(*sizes, 1, rank, matrices, rngs=rngs),
            **{role: VectorDecoder(*sizes, vectors, rngs=rngs) for role in VECTOR_ROLES},
        }
    return {
        "kernel": CoordinateDecoder(width, hidden, rank, matrices, rngs=rngs),
        "head_kernel": CoordinateDecoder(width, hidden, rank, matrices, rngs=rngs),
        **{role: CoordinateVectorDecoder(width, hidden, vectors, rngs=rngs) for role in VECTOR_ROLES},
    }
