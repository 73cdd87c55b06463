"""SNIP: how much the loss depends on each weight being there (Lee et al. 2019; as a score, Abdelfattah et al. 2021).

score = sum over the weights of convolutions and linear layers of |w * dL/dw|, L the cross-entropy of one mini-batch.
Higher is better.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy


def snip(network: Network) -> Array:
    """The sum of sensitivities of `network`'s weights."""
    pairs = zip(network.kernels(network.weights), network.gradients, strict=True)
    return jnp.stack([jnp.abs(w * g).sum() for w, g in pairs]).sum()


SNIP = Proxy(snip, lambda total, _: float(total))
