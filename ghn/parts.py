"""The parts of a hypernetwork that a configuration names: one place that knows every alternative."""

from __future__ import annotations

from flax import nnx

from architectures.ops import Role
from ghn.chunks import chunk_decoders
from ghn.conditioning import condition_width
from ghn.config import GHNConfig
from ghn.decoder import Decoder, HeadDecoder, KernelDecoder, VectorDecoder
from ghn.factors import factor_decoders
from ghn.features import NodeEncoder
from ghn.propagation import GatedGNN, LayerRNN, NoPropagation, Propagation
from ghn.reference import reference_decoders
from ghn.shape_encoder import ShapeEncoder
from ghn.transformer import GraphTransformer


def make_encoder(config: GHNConfig, ops: int, classes: int, *, rngs: nnx.Rngs) -> NodeEncoder | ShapeEncoder:
    """What makes the first node states, for a vocabulary of `ops` ops."""
    if config.encoding == "ghn2":
        return ShapeEncoder(ops, config.width, config.kernel_tile, classes, rngs=rngs)
    return NodeEncoder(ops, config.width, config.encoding, condition_width(config), rngs=rngs)


def make_propagation(config: GHNConfig, *, rngs: nnx.Rngs) -> Propagation:
    """How node states learn of the graph."""
    if config.propagation == "none":
        return NoPropagation()
    if config.propagation == "rnn":
        return LayerRNN(config.width, rngs=rngs)
    if config.propagation == "transformer":
        return GraphTransformer(config.width, config.layers, config.heads, rngs=rngs)
    return GatedGNN(config.width, config.message_width, config.message_relu, rngs=rngs)


def make_decoders(config: GHNConfig, classes: int, *, rngs: nnx.Rngs) -> dict[Role, Decoder]:
    """A decoder for each role of a leaf."""
    if config.decoder in ("ghn2", "ghn3"):
        return reference_decoders(config, classes, rngs=rngs)
    sizes = (config.width, config.hidden, config.tile)
    matrices = config.delta_scale if config.residual else 1.0
    vectors = config.delta_scale  # beside the initialiser's constant, with or without a learned base
    if config.decoder == "chunks":
        return chunk_decoders(*sizes, matrices, vectors, config.growth, rngs=rngs)
    if config.decoder in ("lowrank", "coordinate"):
        return factor_decoders(config.decoder, sizes, config.kernel_tile, config.rank, matrices, vectors, rngs=rngs)
    return {
        "kernel": KernelDecoder(*sizes, config.kernel_tile, matrices, rngs=rngs),
        "head_kernel": HeadDecoder(*sizes, matrices, rngs=rngs),
        "scale": VectorDecoder(*sizes, vectors, rngs=rngs),
        "bias": VectorDecoder(*sizes, vectors, rngs=rngs),
        "head_bias": VectorDecoder(*sizes, vectors, rngs=rngs),
    }
