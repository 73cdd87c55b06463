"""SynFlow: how much weight the paths through a network carry (Tanaka et al. 2020; as a score, Abdelfattah et al. 2021).

All weights are replaced by their absolute values, batch normalisation by the identity, the image by ones:
score = log sum over weights of |w * dR/dw|, R the sum of the outputs. The sum grows with depth beyond the range of
single precision: it is computed in double precision. The logarithm changes no rank of a single initialisation and keeps
one from drowning the others in their mean. No data, no labels. Higher is better.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy


def synflow(network: Network) -> Array:
    """The sum over `network`'s weights, before the logarithm."""
    weights = jax.tree.map(jnp.abs, network.weights)
    ones = jnp.ones((1, *network.images.shape[1:]), jnp.float64)
    gradients = jax.grad(lambda weights: network.unnormalised(weights, ones).sum())(weights)
    pairs = zip(network.kernels(weights), network.kernels(gradients), strict=True)
    return jnp.stack([jnp.abs(w * g).sum() for w, g in pairs]).sum()


def logarithm(total: Array) -> float:
    """Of a positive number; nan of others."""
    return float(np.log(total)) if total > 0 else float("nan")


SYNFLOW = Proxy(synflow, lambda total, _: logarithm(total), images=1, float64=True)
