"""grad_norm: the sum over layers of the gradient's norm (Abdelfattah et al. 2021).

score = sum over convolutions and linear layers of ||dL/dW||_2, L the cross-entropy of one mini-batch. Higher is better.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy


def grad_norm(network: Network) -> Array:
    """The sum of norms of `network`'s layers."""
    norms = [jnp.sqrt(jnp.square(g).sum(tuple(range(1, g.ndim)))).sum() for g in network.gradients]
    return jnp.stack(norms).sum()


GRAD_NORM = Proxy(grad_norm, lambda total, _: float(total))
