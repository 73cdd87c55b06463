"""NWOT: how differently images switch a network's ReLUs (Mellor et al. 2021).

score = log |det K|, K_ij = number of ReLU units on which images i and j agree. No labels. Higher is better.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from eval.proxies.proxy import Proxy


def agreement(x: Array) -> Array:
    """[B, B] number of units of x [B, ...] on which two images are both on or both off."""
    on = (x.reshape(len(x), -1) > 0).astype(jnp.float32)
    return on @ on.T + (1 - on) @ (1 - on).T


NWOT = Proxy(
    lambda network: network.over_relus(agreement), lambda kernel, _: float(np.linalg.slogdet(kernel)[1]), images=128
)
