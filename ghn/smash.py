"""SMASH's own hypernetwork: convolutional over the encoding of memory banks (Brock et al. 2018, section 3.2).

The baseline of graph hypernetworks on SMASH's space. It generates the 1x1 convolutions that read banks; all other
leaves are learned and shared by all architectures.

Shape letters: G rows of the code (every layer of every block, and the end of each block), K banks, F features of the
code, R rows of a kernel (banks times channels of a bank).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from architectures.bank_weights import read_rows
from architectures.layout import LeafGroup, WeightArrays
from architectures.spaces import SMASH, SearchSpace
from ghn.config import GHNConfig
from ghn.features import GraphInputs
from ghn.hypernetwork import GHN, learned_base


class SMASHNet(GHN):
    """A densely connected convolutional network over [layers, banks], whose every position emits the part of a read
    kernel that its bank enters.

    Kernels are brought to unit root mean square before they are scaled, as in the original, which divides generated
    tensors by their norm. `config.width` is the growth of a layer, `config.layers` their number.
    """

    def __init__(self, config: GHNConfig, space: SearchSpace[object], *, rngs: nnx.Rngs) -> None:
        if not isinstance(space, SMASH):
            raise ValueError(f"GHNConfig.network='smash': reads memory banks, which {space.name} has not; use 'graph'")
        self.config, self.space = config, space
        based = {name: group for name, group in space.layout.items() if self.has_base(group)}
        self.base = learned_base(based, rngs)
        if config.delta:
            features = _code_size(space) + config.noise
            convolutions = []
            for _ in range(config.layers):
                convolutions.append(nnx.Conv(features, config.width, (3, 3), rngs=rngs))
                features += config.width
            self.convolutions = nnx.List(convolutions)
            spread = nnx.initializers.variance_scaling(
                config.delta_scale**2 if config.residual else 1.0, "fan_in", "truncated_normal"
            )

            def head(group: str) -> nnx.Linear:
                rows, outputs = space.layout[group].shape[2:]
                return nnx.Linear(features, rows // space.banks[-1] * outputs, kernel_init=spread, rngs=rngs)

            self.reads = nnx.List([head(f"block{index}/read/kernel") for index in range(space.blocks)])
            self.leaves = nnx.List([head(f"leave{index}/kernel") for index in range(space.blocks)])

    def has_base(self, group: LeafGroup) -> bool:
        """Of read kernels only with `residual`; all others are learned directly."""
        return self.config.residual or not _reads_banks(group)

    def node_states(self, inputs: GraphInputs) -> Array:
        """[G, K, F + layers * growth] features of every layer and bank."""
        assert isinstance(self.space, SMASH)
        x_GKF = _code(self.space, inputs)
        if self.config.noise:
            noise = jnp.broadcast_to(inputs.noise, (*x_GKF.shape[:2], self.config.noise))
            x_GKF = jnp.concatenate([x_GKF, noise], -1)
        for convolution in self.convolutions:
            x_GKF = jnp.concatenate([x_GKF, jax.nn.leaky_relu(convolution(x_GKF))], -1)
        return x_GKF

    def deltas(self, inputs: GraphInputs, states_ND: Array) -> WeightArrays:
        """Read kernels [S, 1, 1, R, U], tight: rows of banks that are not read are left out."""
        space, code = self.space, inputs.encoding
        assert isinstance(space, SMASH)
        per_block = states_ND.reshape(space.blocks, space.layers[-1] + 1, space.banks[-1], -1)
        result: dict[str, Array] = {}
        for index in range(space.blocks):
            shape = space.shape(index)
            in_use_K = (jnp.arange(shape.banks) < code["banks"][index]).astype(jnp.int32)
            parts = [
                (f"block{index}/read/kernel", self.reads[index], per_block[index, :-1], code["read"][index]),
                (f"leave{index}/kernel", self.leaves[index], per_block[index, -1:], in_use_K[None]),
            ]
            for name, head, states_SKD, read_SK in parts:
                group = space.layout[name]
                padded_SRU = head(states_SKD).reshape(group.slots, *group.shape[2:])
                rows_SRR = jax.vmap(read_rows, (0, None, None))(
                    jnp.asarray(read_SK), jnp.asarray(code["channels"][index]), shape
                )
                tight_SRU = rows_SRR.swapaxes(1, 2) @ padded_SRU
                result[name] = tight_SRU.reshape(group.slots, *group.shape)
        return result


def _reads_banks(group: LeafGroup) -> bool:
    return group.name.endswith("/read/kernel") or (group.name.startswith("leave") and group.role == "kernel")


def _code_size(space: SMASH) -> int:
    return 7 + space.blocks + 4 * (len(space.kinds) + 2)


def _code(space: SMASH, inputs: GraphInputs) -> Array:
    """[G, K, F] the architecture as SMASH encodes it: read and write pattern, block, units, dilation and kernel (as one
    choice), groups, which convolutions are active."""
    code = {name: jnp.asarray(array) for name, array in inputs.encoding.items()}
    blocks, layers, banks = code["read"].shape

    def ended(array: Array) -> Array:  # one more row, for the end of the block
        return jnp.pad(array, ((0, 0), (0, 1)) + ((0, 0),) * (array.ndim - 2))

    def per_layer(array: Array) -> Array:  # [blocks, layers, ...] -> [blocks, layers + 1, banks, features]
        flat = ended(array).reshape(blocks, layers + 1, 1, -1)
        return jnp.broadcast_to(flat, (*flat.shape[:2], banks, flat.shape[3])).astype(jnp.float32)

    def per_block(array: Array) -> Array:  # [blocks, features]
        flat = array.reshape(blocks, 1, 1, -1)
        return jnp.broadcast_to(flat, (blocks, layers + 1, banks, flat.shape[3])).astype(jnp.float32)

    in_use = jnp.arange(banks) < code["banks"][:, None]
    reads = jnp.concatenate([code["read"], in_use.astype(jnp.int32)[:, None]], 1)
    largest = jnp.array([space.shape(index).channels for index in range(blocks)])
    units = code["units"] / (largest * space.units[-1])[:, None]
    channels = code["channels"] / largest
    parts = [
        reads[..., None].astype(jnp.float32),
        ended(code["write"])[..., None].astype(jnp.float32),
        per_layer(code["active"]),
        per_layer(units * code["active"]),
        per_block(channels),
        per_block(code["banks"] / banks),
        per_block(jnp.eye(blocks)),
        jnp.broadcast_to((jnp.arange(layers + 1) == layers)[None, :, None, None], (blocks, layers + 1, banks, 1)),
    ]
    for name in ("inner", "outer"):
        chosen = jax.nn.one_hot(code[name], len(space.kinds) + 1)
        parts += [per_layer(chosen), per_layer(jnp.log2(code[f"{name}_groups"]))]
    return jnp.concatenate(parts, -1).reshape(blocks * (layers + 1), banks, -1)
