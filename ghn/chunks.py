"""Decoding in chunks: a tensor of any shape from one small tile network that is told which tile of it to make.

A hypernetwork whose last layer emits a whole tensor is larger than its target. Here a tensor is cut into tiles of equal
size, and one network emits each from the node's state and the tile's place (von Oswald et al. 2020, section 2.3, whose
chunk embeddings are learned). A place is a fixed random code of constant norm for each of its coordinates: kernel
position, row of tiles, column of tiles. So there is a code for every place of every shape, also of tensors that were
never emitted, and no two tiles are copies.

Shape letters: S slots, D state width, H hidden units, K kernel positions (kh * kw), R rows and C columns of tiles, Q
all tiles of a tensor, U inputs and outputs of a tile, P size of a coordinate's code, I inputs, O outputs.
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
from ghn.decoder import Decoder

CODE = 16  # P
AXES = 3  # coordinates of a tile: kernel position, row, column
STATE_FREQUENCY, PLACE_FREQUENCY = 2.0, 3.0  # standard deviations of what the sine is taken of, at the start


@functools.cache
def place_codes(axis: int, count: int) -> NDArray[np.float32]:
    """[count, P] fixed codes of the first places along an axis, each of norm sqrt(P); more places never change them."""
    codes = np.random.default_rng(axis).standard_normal((count, CODE))
    return (codes / np.sqrt(np.mean(codes**2, -1, keepdims=True))).astype(np.float32)


class TileNetwork(nnx.Module):
    """(state, place) -> tile: Fourier features of both, and a linear output, for matrices and for vectors.

    The features of two tiles, or of one tile for two tasks, are nearly orthogonal from the start. With rectified units
    most of them is common to all tiles, so that what one tile learns spills into all others.
    """

    def __init__(self, width: int, hidden: int, tile: int, matrices: float, vectors: float, *, rngs: nnx.Rngs) -> None:
        self.tile = tile
        self.state = nnx.Linear(width, hidden, kernel_init=_spread(STATE_FREQUENCY), rngs=rngs)
        self.place = nnx.Linear(AXES * CODE, hidden, use_bias=False, kernel_init=_spread(PLACE_FREQUENCY), rngs=rngs)
        self.matrix = nnx.Param(matrices * hidden**-0.5 * jax.random.normal(rngs.params(), (hidden, tile, tile)))
        self.vector = nnx.Param(vectors * hidden**-0.5 * jax.random.normal(rngs.params(), (hidden, tile)))

    def matrices(self, states_SD: Array, positions: int, inputs: int, outputs: int) -> Array:
        """[S, K, I, O]."""
        rows, columns = -(-inputs // self.tile), -(-outputs // self.tile)
        hidden_SKRCH = self._hidden(states_SD, positions, rows, columns)
        # one product of two matrices, tiles first: in the order that an einsum takes, gradients are transposed
        matrix_HT = cast(Array, self.matrix.get_value()).reshape(hidden_SKRCH.shape[-1], -1)
        tiles_SKRCUU = (hidden_SKRCH @ matrix_HT).reshape(*hidden_SKRCH.shape[:-1], self.tile, self.tile)
        whole = tiles_SKRCUU.swapaxes(3, 4).reshape(len(states_SD), positions, rows * self.tile, columns * self.tile)
        return whole[:, :, :inputs, :outputs]

    def vectors(self, states_SD: Array, size: int) -> Array:
        """[S, O]."""
        hidden_SCH = self._hidden(states_SD, 1, 1, -(-size // self.tile))[:, 0, 0]
        return (hidden_SCH @ cast(Array, self.vector.get_value())).reshape(len(states_SD), -1)[:, :size]

    def _hidden(self, states_SD: Array, *counts: int) -> Array:
        """[S, K, R, C, H] of unit mean square; what is linear in a coordinate is computed for each coordinate alone."""
        parts = jnp.split(self.place.kernel.get_value(), AXES)
        places: Array = jnp.zeros(())
        for axis, (count, part) in enumerate(zip(counts, parts, strict=True)):
            shape = [count if index == axis else 1 for index in range(AXES)]
            places = places + (place_codes(axis, count) @ part).reshape(*shape, -1)
        return jnp.sqrt(2.0) * jnp.sin(self.state(states_SD)[:, None, None, None] + places)


def _spread(frequency: float) -> nnx.Initializer:
    return nnx.initializers.variance_scaling(frequency**2, "fan_in", "normal")


class ChunkDecoder(Decoder):
    """Tensors of one role; all roles share the tile networks, whose outputs are added (one, and what grew later)."""

    def __init__(self, role: Role, networks: nnx.List[TileNetwork]) -> None:
        self.role, self.networks = role, networks

    def hidden_units(self, states_SD: Array) -> Array:
        """The states: already the first layer depends on the shape."""
        return states_SD

    def emit(self, hidden_SD: Array, shape: tuple[int, ...]) -> Array:
        """[S, *shape]."""
        if self.role in ("kernel", "head_kernel"):
            positions = shape[0] * shape[1] if self.role == "kernel" else 1
            parts = [network.matrices(hidden_SD, positions, *shape[-2:]) for network in self.networks]
        else:
            parts = [network.vectors(hidden_SD, *shape) for network in self.networks]
        return functools.reduce(jnp.add, parts).reshape(-1, *shape)


def chunk_decoders(
    width: int,
    hidden: int,
    tile: int,
    matrices: float,
    vectors: float,
    growth: tuple[int, ...] = (),
    *,
    rngs: nnx.Rngs,
) -> dict[Role, Decoder]:
    """A decoder for each role.

    Args:
        width: D.
        hidden: H of the first tile network.
        tile: U.
        matrices: scale of kernels and heads at the start.
        vectors: the same of 1-D tensors.
        growth: H of tile networks that were added later; their output starts at zero.
        rngs: of the initial parameters.
    """
    networks = nnx.List([TileNetwork(width, hidden, tile, matrices, vectors, rngs=rngs)])
    networks.extend(TileNetwork(width, more, tile, 0.0, 0.0, rngs=rngs) for more in growth)
    roles: tuple[Role, ...] = ("kernel", "head_kernel", "scale", "bias", "head_bias")
    return {role: ChunkDecoder(role, networks) for role in roles}
