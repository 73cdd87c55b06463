"""Decoders and scaling in the form of GHN-2 (Knyazev et al. 2021, section 3.1 and appendix B) and GHN-3 (2023).

A node's state becomes a hidden vector for every position of a K x K kernel, and each of those a T x T tile of channels.
Smaller tensors are the tile's front, larger ones repeat it. GHN-2 computes the whole tile and then cuts it; here the
layers' weights are cut first, so that nothing is computed which no tensor needs (exact).

Classifiers are read off the tile of a 1 x 1 kernel, so both decoders share its weights; so do all 1-D tensors.
Sizes relate as in GHN-2, where hidden = 4 D: hidden, 2 hidden, T T for kernels and hidden / 2, 2 T for 1-D tensors.

Shape letters: S slots, D state width, H hidden units, K kernel positions along an axis, T channels of the tile along an
axis, I inputs, O outputs.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.layout import LeafGroup
from architectures.ops import Leaf, Role
from ghn.config import GHNConfig
from ghn.decoder import Decoder, wrap


class ReferenceKernelDecoder(Decoder):
    """Kernels (kh, kw, I, O): D to K x K x H, ReLU, H to 2 H, ReLU, 2 H to T x T.

    A smaller kernel is the front of the K x K positions (GHN-2) or, with `centre`, their centre (GHN-3).
    """

    def __init__(
        self, width: int, hidden: int, tile: int, kernel_tile: int, centre: bool = False, *, rngs: nnx.Rngs
    ) -> None:
        self.kernel_tile, self.tile, self.centre = kernel_tile, tile, centre
        self.positions = nnx.Linear(width, kernel_tile * kernel_tile * hidden, rngs=rngs)
        self.mix = nnx.Linear(hidden, 2 * hidden, rngs=rngs)
        self.channels = nnx.Linear(2 * hidden, tile * tile, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """The states: already the first layer depends on the size of the kernel."""
        return states_SD

    def emit(self, hidden_SD: Array, shape: tuple[int, ...]) -> Array:
        """[S, kh, kw, I, O]."""
        decoded = self.tile_of(hidden_SD, *shape)
        for axis, size in enumerate(shape, start=1):
            decoded = wrap(decoded, axis, size)
        return decoded

    def tile_of(self, states_SD: Array, kh: int, kw: int, inputs: int, outputs: int) -> Array:
        """[S, min(kh, K), min(kw, K), min(I, T), min(O, T)]: the part of the tile that this shape needs."""
        size, tile = self.kernel_tile, self.tile
        rows, columns = self._window(kh), self._window(kw)
        positions_DKKH = self.positions.kernel.get_value().reshape(-1, size, size, self.mix.in_features)
        bias_KKH = _bias(self.positions).reshape(size, size, -1)
        hidden = jnp.einsum("sd,dklh->sklh", states_SD, positions_DKKH[:, rows, columns]) + bias_KKH[rows, columns]
        hidden = jax.nn.relu(self.mix(jax.nn.relu(hidden)))
        channels_HIO = self.channels.kernel.get_value().reshape(-1, tile, tile)[:, :inputs, :outputs]
        return jnp.tensordot(hidden, channels_HIO, 1) + _bias(self.channels).reshape(tile, tile)[:inputs, :outputs]

    def _window(self, size: int) -> slice:
        """Which of the K positions a kernel of this size uses."""
        size = min(size, self.kernel_tile)
        start = self.kernel_tile // 2 - size // 2 if self.centre else 0
        return slice(start, start + size)


class ReferenceHeadDecoder(Decoder):
    """Classifiers (I, O): a node's 1 x 1 tile, ReLU, then a map from its T outputs to the classes."""

    def __init__(self, kernels: ReferenceKernelDecoder, classes: int, *, rngs: nnx.Rngs) -> None:
        self.kernels = kernels
        self.classes = nnx.Linear(kernels.tile, classes, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, T, classes]."""
        tile = self.kernels.tile
        return self.classes(jax.nn.relu(self.kernels.tile_of(states_SD, 1, 1, tile, tile)[:, 0, 0]))

    def emit(self, hidden_STO: Array, shape: tuple[int, ...]) -> Array:
        """[S, I, O]."""
        return wrap(wrap(hidden_STO, 1, shape[0]), 2, shape[1])


class VectorTile(nnx.Module):
    """What all 1-D decoders share: D to H / 2, ReLU, to 2 x T."""

    def __init__(self, width: int, hidden: int, tile: int, *, rngs: nnx.Rngs) -> None:
        self.tile = tile
        self.hidden = nnx.Linear(width, max(hidden // 2, 1), rngs=rngs)
        self.output = nnx.Linear(max(hidden // 2, 1), 2 * tile, rngs=rngs)

    def row(self, states_SD: Array, row: int) -> Array:
        """[S, T]: row 0 is for gains, row 1 for biases."""
        part = slice(row * self.tile, (row + 1) * self.tile)
        hidden = jax.nn.relu(self.hidden(states_SD))
        return hidden @ self.output.kernel.get_value()[:, part] + _bias(self.output)[part]


class ReferenceVectorDecoder(Decoder):
    """Gains (row 0) or biases (row 1) of normalisations and layers (O,)."""

    def __init__(self, vectors: VectorTile, row: int) -> None:
        self.vectors, self.row = vectors, row

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, T]."""
        return self.vectors.row(states_SD, self.row)

    def emit(self, hidden_ST: Array, shape: tuple[int, ...]) -> Array:
        """[S, O]."""
        return wrap(hidden_ST, 1, shape[0])


class ReferenceHeadBiasDecoder(Decoder):
    """Biases of classifiers (O,): a layer's bias, ReLU, then a map from T to the classes."""

    def __init__(self, vectors: VectorTile, classes: int, *, rngs: nnx.Rngs) -> None:
        self.vectors = vectors
        self.classes = nnx.Linear(vectors.tile, classes, rngs=rngs)

    def hidden_units(self, states_SD: Array) -> Array:
        """[S, classes]."""
        return self.classes(jax.nn.relu(self.vectors.row(states_SD, 1)))

    def emit(self, hidden_SO: Array, shape: tuple[int, ...]) -> Array:
        """[S, O]."""
        return wrap(hidden_SO, 1, shape[0])


def reference_decoders(config: GHNConfig, classes: int, *, rngs: nnx.Rngs) -> dict[Role, Decoder]:
    """A decoder for each role; `classes` is the number of outputs of the classifier that they are made for."""
    centre = config.decoder == "ghn3"
    kernels = ReferenceKernelDecoder(
        config.width, config.hidden, config.tile, config.kernel_tile, centre=centre, rngs=rngs
    )
    vectors = VectorTile(config.width, config.hidden, config.tile, rngs=rngs)
    return {
        "kernel": kernels,
        "head_kernel": ReferenceHeadDecoder(kernels, classes, rngs=rngs),
        "scale": ReferenceVectorDecoder(vectors, 0),
        "bias": ReferenceVectorDecoder(vectors, 1),
        "head_bias": ReferenceHeadBiasDecoder(vectors, classes, rngs=rngs),
    }


def reference_scale(leaf: Leaf) -> float:
    """What multiplies a kernel or head: sqrt(beta / fan_in), with beta = 2 for what a ReLU follows, as heads are taken
    to be too, and 1 for the separable kernels: those of one input channel a group, and those lower than wide."""
    separable = leaf.role == "kernel" and (leaf.shape[2] == 1 or leaf.shape[0] < leaf.shape[1])
    return float(((1.0 if separable else 2.0) / leaf.fan_in) ** 0.5)


def reference_weights(group: LeafGroup, decoded_S: Array, variant_S: Array | NDArray[np.int32]) -> Array:
    """Weights [S, ...] from what was decoded: kernels and heads scaled by fan-in, gains within (0, 2) and biases within
    (-1, 1); `variant_S` says which leaf of the group fills each slot."""
    if group.role == "scale":
        return 2 * jax.nn.sigmoid(decoded_S / 2)
    if group.role in ("bias", "head_bias"):
        return jnp.tanh(0.2 * decoded_S)
    scale_S = jnp.array([reference_scale(leaf) for leaf in group.variants])[variant_S]
    return scale_S.reshape(-1, *[1] * len(group.shape)) * decoded_S


def _bias(layer: nnx.Linear) -> Array:
    return cast(nnx.Param[Array], layer.bias).get_value()
