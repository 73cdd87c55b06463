"""Configurations of published hypernetworks, for comparison; the default `GHNConfig` is this package's own."""

from __future__ import annotations

from typing import Literal

from ghn.config import GHNConfig

GHN3_SIZES = {"T": (64, 3, 8), "S": (128, 5, 16), "L": (256, 12, 16), "XL": (384, 24, 16)}  # width, layers, heads


def ghn2() -> GHNConfig:
    """GHN-2 for CIFAR-10 (Knyazev et al., "Parameter prediction for unseen deep architectures", NeurIPS 2021).

    Reproduced, and held against GHN-2's own values by the tests: the embeddings of op and shape, the gated sweeps with
    virtual edges, layer norm, the decoders, repetition to shape, scaling and squashing. On a graph drawn as GHN-2 draws
    it, equal weights predict equal parameters.

    Different: graphs are those of this package, where a convolution and its normalisation are one node, every node
    declares its channels, and kernel heights and widths are one size; in a slot that ops of several kernel sizes share,
    a smaller kernel is the slot's centre and not the tile's front; initialisers are Flax's (LeCun normal, zero biases),
    which start kernels at 0.5 of He's size where PyTorch's start them at 0.1.
    """
    return GHNConfig(
        width=32,
        message_width=16,
        hidden=128,
        tile=64,
        kernel_tile=11,
        propagation="gatedgnn",
        message_relu=True,
        layer_norm=True,
        encoding="ghn2",
        decoder="ghn2",
        scaling="ghn2",
        residual=False,
        normalise=False,
    )


def ghn3(size: Literal["T", "S", "L", "XL"] = "T") -> GHNConfig:
    """GHN-3 (Knyazev et al., "Can we scale transformers to predict parameters of diverse ImageNet models?", ICML 2023).

    Reproduced in form: GHN-2's embeddings, the pre-LN graph transformer with distance bias and degree embeddings, layer
    norm, decoders that cut kernels from the tile's centre, scaling and squashing. No published values are held against
    it.

    Different, beside what differs in `ghn2`: no embedding of the distance from the input, a last layer that does not
    start five times smaller, and no penalty on the norm of predicted parameters, which is a matter of training.

    Args:
        size: T, S, L or XL: widths 64 to 384 and 3 to 24 layers, 7 to 650 million parameters.

    Raises:
        ValueError: another size.
    """
    if size not in GHN3_SIZES:
        raise ValueError(f"ghn3: size {size!r}; use one of {', '.join(GHN3_SIZES)}")
    width, layers, heads = GHN3_SIZES[size]
    return GHNConfig(
        width=width,
        hidden=4 * width,
        tile=width,
        kernel_tile=16,
        propagation="transformer",
        layers=layers,
        heads=heads,
        layer_norm=True,
        encoding="ghn2",
        decoder="ghn3",
        scaling="ghn2",
        residual=False,
        normalise=False,
    )
