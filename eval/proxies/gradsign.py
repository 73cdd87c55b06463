"""GradSign: whether images pull weights the same way (Zhang & Jia 2022).

score = sum over the weights of convolutions and linear layers of |sum over images of sign(dL_i/dw)|, L_i the
cross-entropy of image i alone, normalised by its own statistics. Higher is better. It costs one backward pass an image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy


def gradsign(network: Network) -> Array:
    """The score; images run one after the other, which keeps their gradients apart at the memory of one."""

    def add(total: list[Array], image: tuple[Array, Array]) -> tuple[list[Array], None]:
        x, label = image
        gradient = jax.grad(network.loss)(network.weights, x[None], label[None])
        return [t + jnp.sign(g) for t, g in zip(total, network.kernels(gradient), strict=True)], None

    nothing = [jnp.zeros_like(kernel) for kernel in network.kernels(network.weights)]
    signs, _ = jax.lax.scan(add, nothing, (network.images, network.labels))
    return jnp.stack([jnp.abs(total).sum() for total in signs]).sum()


GRADSIGN = Proxy(gradsign, lambda total, _: float(total), initialisations=1, images=32)
