"""The open hypernetwork in JAX: a base for every op instead of one for every slot of a space.

    weights = scale * size(node state) * unit_rms(noise_gain[op] * noise + base[op] + delta(node state)),

to which `GHNConfig.direct` adds what is passed on as it is (`ghn.direct`). The size starts at 1 (a classifier behind
global pooling needs larger weights than any initialiser gives); base and delta are tiles, cut to smaller leaves and
repeated with signs to larger ones. What it learns on a space therefore holds for any model: `OpenNetwork` trains on a
space, `ghn.anymodel` predicts on the host, and a test holds the two to each other.

Shape letters: N nodes, D state width, S slots of a group, K kernel positions along an axis, I inputs, O outputs, H
hidden units of a decoder, T channels of a tile.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.graph import ArchGraph
from architectures.layout import Layout, LeafGroup, WeightArrays, initial_mean
from architectures.ops import Leaf
from architectures.spaces import SearchSpace
from architectures.trace import OPS
from ghn.config import GHNConfig
from ghn.decoder import HeadDecoder, KernelDecoder, VectorDecoder, wrap
from ghn.features import PADDING_OP, GraphInputs, NodeEncoder, centred, constant_norm
from ghn.noise import BANK, block_signs, copied_columns, leaf_offsets, noise_bank
from ghn.parts import make_propagation

KERNEL_OPS = ("conv", "conv_transpose", "dense", "embedding")
EMBEDDING_SCALE = 0.02  # of positions, whose models start them so
VECTORS = ("scale", "bias")
LARGEST = 3.0  # logarithm of the largest size
DIRECT = 0.7  # at the start, what a kernel passes on as it is, beside 1: a third of its mean square
START = 0.2  # size of a base at the start: kernels are normalised, so that it only sets how fast Adam turns them


class OpenGHN(nnx.Module):
    """The learned parts."""

    def __init__(self, config: GHNConfig, vocabulary: tuple[str, ...], *, rngs: nnx.Rngs) -> None:
        sizes = (config.width, config.hidden, config.tile)
        self.config = config
        self.kernel_ops = KERNEL_OPS
        self.encoder = NodeEncoder(len(vocabulary), config.width, config.encoding, rngs=rngs)
        self.propagation = make_propagation(config, rngs=rngs)
        self.kernel = KernelDecoder(*sizes, config.kernel_tile, START * config.delta_scale, rngs=rngs)
        self.embedding = HeadDecoder(*sizes, START * config.delta_scale, rngs=rngs)
        self.scale = VectorDecoder(*sizes, config.delta_scale**2, rngs=rngs)
        self.bias = VectorDecoder(*sizes, config.delta_scale**3, rngs=rngs)
        self.base = nnx.Dict(
            {
                name: nnx.Param(
                    START * jax.random.normal(rngs.params(), (*_extent(name, config), config.tile, config.tile))
                )
                for name in KERNEL_OPS
            }
        )
        self.size = nnx.Linear(config.width, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)
        # Small: where every network has fresh random weights, nothing that they share can learn from them.
        self.noise = nnx.Param(jnp.full(len(KERNEL_OPS), START * config.delta_scale, jnp.float32))
        if config.direct:
            zeros, start = nnx.initializers.zeros, nnx.initializers.constant(DIRECT)
            self.direct = nnx.Linear(config.width, 1, kernel_init=zeros, bias_init=start, rngs=rngs)

    def states(
        self,
        op_N: Array | NDArray[np.int32],
        features_NF: Array | NDArray[np.float32],
        distances_NN: Array | NDArray[np.uint8],
        schedule: tuple[int, int],
    ) -> Array:
        """[N, D] what the decoders read: of constant norm (MIP), relative to the graph's mean."""
        present_N = jnp.asarray(op_N) != PADDING_OP
        states_ND = self.encoder(op_N, features_NF, np.zeros(0, np.float32))
        states_ND = self.propagation(states_ND, distances_NN, schedule, present_N)
        states_ND = centred(states_ND, present_N) if self.config.centred else states_ND
        return constant_norm(states_ND) if self.config.encoding == "mip" else states_ND


def _extent(name: str, config: GHNConfig) -> tuple[int, int]:
    """Kernel positions of an op's base."""
    return (config.kernel_tile,) * 2 if name.startswith("conv") else (1, 1)


class OpenNetwork(OpenGHN):
    """The same, emitting the weights of a space whose graphs are in the vocabulary of traced models.

    With `delta=False`, weights depend on the op alone.
    """

    def __init__(self, config: GHNConfig, space: SearchSpace[Any], *, rngs: nnx.Rngs) -> None:
        unknown = sorted(set(space.op_names) - set(OPS))
        if unknown:
            raise ValueError(
                f"GHNConfig.network='open': op {unknown[0]!r} of the space {space.name} is not in the vocabulary of "
                "traced models; use network='graph'"
            )
        super().__init__(config, OPS, rngs=rngs)
        self.space = space

    def __call__(self, inputs: GraphInputs) -> WeightArrays:
        """Weights in the slot layout of the space: group name -> [S, *shape]."""
        states_ND = self.states(inputs.op_N, inputs.features_NF, inputs.distances_NN, self.space.schedule)
        return {name: self._leaves(group, inputs, states_ND) for name, group in self.space.layout.items()}

    def _leaves(self, group: LeafGroup, inputs: GraphInputs, states_ND: Array) -> Array:
        """[S, *shape] of one group."""
        owner_S, variant_S = inputs.owner[group.name], inputs.variant[group.name]
        states_SD = states_ND[owner_S]
        if group.role in VECTORS:
            vectors_SO = cast(VectorDecoder, getattr(self, group.role))(states_SD, group.shape)
            return initial_mean(group.variants[0]) + (vectors_SO if self.config.delta else 0.0 * vectors_SO)
        shape = (1, 1, *group.shape) if group.role == "embedding" else group.shape
        extent_S4 = jnp.asarray(np.array([_extent4(leaf) for leaf in group.variants], np.int32))[variant_S]
        dense_S = jnp.asarray(inputs.op_N)[owner_S] == 1 + OPS.index("dense")
        looked_up = group.role == "embedding"
        tiles, gain_S = self._tiles(states_SD, shape, dense_S, looked_up)
        if self.config.normalise:
            used = group.extents(variant_S).reshape(group.slots, *shape)[..., : tiles.shape[3], : tiles.shape[4]]
            mean_square_S = (jnp.square(tiles) * used).sum((1, 2, 3, 4)) / used.sum((1, 2, 3, 4))
            rms_S = jnp.sqrt(jnp.square(gain_S) + mean_square_S)
            tiles, gain_S = tiles / _wide(rms_S), gain_S / rms_S
        sizes_S = jnp.exp(LARGEST * jnp.tanh(self.size(states_SD)[:, 0] / LARGEST)) if self.config.delta else 1.0
        noise = _bank_values(jnp.asarray(inputs.offsets[group.name]), extent_S4, shape)
        scales = jnp.asarray(np.array([_scale(leaf) for leaf in group.variants], np.float32))[variant_S]
        weights = _wide(gain_S) * noise + _spread(tiles, shape[2], shape[3])
        if self.config.direct and not looked_up:
            direct_S = self.direct(states_SD if self.config.delta else 0 * states_SD)[:, 0]
            passed_SIO = (direct_S / scales)[:, None, None] * _passed_on(extent_S4, shape)
            weights = weights.at[:, shape[0] // 2, shape[1] // 2].add(passed_SIO)
            if self.config.normalise:
                weights = weights / _wide(jnp.sqrt(1 + jnp.square(direct_S)))
        return (_wide(scales * sizes_S) * weights).reshape(group.slots, *group.shape)

    def _tiles(self, states_SD: Array, shape: tuple[int, ...], dense_S: Array, looked_up: bool) -> tuple[Array, Array]:
        """[S, kh, kw, min(I, T), min(O, T)] base and delta, and [S] the gain of the noise."""
        size = self.config.tile
        cut = (min(shape[2], size), min(shape[3], size))
        ids = [KERNEL_OPS.index(name) for name in ("conv", "dense", "embedding")]
        gains = self.noise.get_value()[np.array(ids)]
        if looked_up:
            delta = self.embedding(states_SD, cut)[:, None, None]
            base = self._base("embedding", shape)[None]
            gain_S = jnp.broadcast_to(gains[2], len(states_SD))
        else:
            delta = _kernel_tiles(self.kernel, states_SD, shape[0], shape[1], cut)
            conv, dense = self._base("conv", shape), self._base("dense", shape)
            base = jnp.where(_wide(dense_S), dense[None], conv[None])
            gain_S = jnp.where(dense_S, gains[1], gains[0])
        return (base + delta if self.config.delta else jnp.broadcast_to(base, delta.shape)), gain_S

    def _base(self, op: str, shape: tuple[int, ...]) -> Array:
        """[kh, kw, min(I, T), min(O, T)], kernel positions from the centre; a dense layer's serves for all."""
        base, size = self.base[op].get_value(), self.config.tile
        base = base[:, :, : min(shape[2], size), : min(shape[3], size)]
        return wrap(wrap(base, 0, shape[0], centre=True), 1, shape[1], centre=True)


def offsets_by_slot(layout: Layout, graph: ArchGraph) -> dict[str, NDArray[np.int32]]:
    """Group -> [S] where in the bank of noise each slot's leaf starts (0 where the slot is empty)."""
    offsets = {name: np.zeros(group.slots, np.int32) for name, group in layout.items()}
    for row, offset in zip(graph.parameters, leaf_offsets(graph, graph.parameters), strict=True):
        assert row.place is not None
        offsets[row.place.group][row.place.slot] = offset
    return offsets


def _kernel_tiles(decoder: KernelDecoder, states_SD: Array, kh: int, kw: int, cut: tuple[int, int]) -> Array:
    """[S, kh, kw, *cut]: the decoder's hidden units at the positions that are used, then their channels."""
    size, slots = decoder.kernel_tile, len(states_SD)
    bias = cast(nnx.Param[Array], decoder.positions.bias).get_value()
    per_position = [
        wrap(wrap(x.reshape(-1, size, size, x.shape[-1] // size**2), 1, kh, centre=True), 2, kw, centre=True)
        for x in (decoder.positions.kernel.get_value(), bias[None])
    ]
    hidden = jnp.tensordot(states_SD, per_position[0], 1) + per_position[1]
    hidden = jax.nn.leaky_relu(decoder.mix(jax.nn.leaky_relu(hidden)))
    channels = decoder.channels.get_value()[:, : cut[0], : cut[1]]
    return jnp.tensordot(hidden, channels, 1).reshape(slots, kh, kw, *cut)


def _extent4(leaf: Leaf) -> tuple[int, ...]:
    """(kh, kw, I, O)."""
    return (1,) * (4 - len(leaf.shape)) + tuple(leaf.shape)


def _scale(leaf: Leaf) -> float:
    """Root mean square of a leaf where no initialiser is known: LeCun's, as of models in Flax."""
    return EMBEDDING_SCALE if leaf.role == "embedding" else float(leaf.fan_in) ** -0.5


def _wide(x_S: Array) -> Array:
    return x_S.reshape(-1, 1, 1, 1, 1)


def _positions(extent_S: Array, size: int) -> Array:
    """[S, size] index of a slot's positions along a kernel's axis within the leaf, which lies at the slot's centre."""
    return jnp.arange(size) - ((size - extent_S) // 2)[:, None]


def _passed_on(extent_S4: Array, shape: tuple[int, ...]) -> Array:
    """[S, I, O] `ghn.direct`'s entries of every slot's leaf, which are 0 outside of it like its other weights."""
    inputs_S, outputs_S = extent_S4[:, 2, None, None], extent_S4[:, 3, None, None]
    row, column = jnp.arange(shape[2])[:, None], jnp.arange(shape[3])
    taken = jnp.where(outputs_S >= inputs_S, column % inputs_S == row, row % outputs_S == column)
    return taken * jnp.sqrt(jnp.minimum(1.0, outputs_S / inputs_S))


def _spread(tiles: Array, inputs: int, outputs: int) -> Array:
    """[S, kh, kw, I, O] tiles repeated to the slot's size, the copies turned and with signs."""
    rows, columns = tiles.shape[3:]
    if (rows, columns) == (inputs, outputs):
        return tiles
    i, o = np.arange(inputs), np.arange(outputs)
    signs = block_signs()
    pattern = signs[np.ix_((i // rows) % len(signs), (o // columns) % len(signs))]
    return jnp.take(wrap(tiles, 3, inputs), copied_columns(columns, outputs), axis=4) * pattern


def _bank_values(offset_S: Array, extent_S4: Array, shape: tuple[int, ...]) -> Array:
    """[S, *shape] of the fixed noise: leaf after leaf in canonical layout from its offset on."""
    a_S, b_S = _positions(extent_S4[:, 0], shape[0]), _positions(extent_S4[:, 1], shape[1])
    kw_S, inputs_S, outputs_S = extent_S4[:, 1], extent_S4[:, 2], extent_S4[:, 3]
    matrix = a_S[:, :, None] * kw_S[:, None, None] + b_S[:, None, :]
    row = matrix[..., None] * inputs_S[:, None, None, None] + jnp.arange(shape[2])
    start = offset_S[:, None, None, None] + row * outputs_S[:, None, None, None]
    index = (start[..., None] + jnp.arange(shape[3])) % BANK
    return jnp.asarray(noise_bank()[:BANK])[index]
