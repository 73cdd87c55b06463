"""SWAP: how many patterns a network's ReLU units show over a few images (Peng et al. 2024).

The pattern of a unit says for each of B = 16 images whether the unit is on; score = number of distinct patterns, the
mean of 32 initialisations. Regularised: times exp(-(P - mu)^2 / sigma), P the parameter count in thousands.
The authors fit mu and sigma to the models that they want; here mu is the largest network that a candidate is compared
with and sigma = mu^2, which favours large networks mildly, from a factor of .37 to 1. No labels. Higher is better.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy, Size

IMAGES = 16  # 2^16 possible patterns are counted


def distinct_patterns(network: Network) -> Array:
    """Number of distinct patterns over at most 16 images."""
    images = len(network.images)
    if images > IMAGES:
        raise ValueError(f"images: SWAP counts the patterns of at most {IMAGES}, got {images}")

    def seen(x: Array) -> Array:
        on_BU = (x.reshape(images, -1) > 0).astype(jnp.int32)
        code_U = (on_BU << jnp.arange(images)[:, None]).sum(0)
        return jnp.zeros(2**images, jnp.int32).at[code_U].add(1)

    return (network.over_relus(seen) > 0).sum()


def regularisation(size: Size, mu: float | None = None, sigma: float | None = None) -> float:
    """exp(-(P - mu)^2 / sigma) with P and mu in thousands of parameters; by default mu is the largest network's."""
    mu = size.largest / 1000 if mu is None else mu
    sigma = mu**2 if sigma is None else sigma
    return math.exp(-((size.parameters / 1000 - mu) ** 2) / sigma)


SWAP = Proxy(distinct_patterns, lambda count, _: float(count), initialisations=32, images=IMAGES)
SWAP_REGULARISED = Proxy(
    distinct_patterns, lambda count, size: float(count) * regularisation(size), initialisations=32, images=IMAGES
)
