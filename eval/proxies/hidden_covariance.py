"""Hidden covariance: how differently a network represents different images (Serianni & Kalita 2023).

h_i = the hidden state of image i, here the output of the network's last block, flattened; with l the eigenvalues of the
correlation matrix of the h_i [B, B],
score = - sum_i [log(l_i + k) + 1 / (l_i + k)], k = 1e-5, as for jacov.
It was made for recurrent and attention layers; a model that is traced marks such a layer as its last block. No labels.
Higher is better.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from eval.proxies.jacov import eigenvalue_score
from eval.proxies.network import Network
from eval.proxies.proxy import Proxy


def last_correlations(network: Network) -> Array:
    """[B, B] correlations between the images' outputs of the last block."""

    def around(number: Array | int, run: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
        y = run(x)
        rows = y.reshape(len(y), -1)
        rows = rows - rows.mean(1, keepdims=True)
        rows = rows / jnp.sqrt(jnp.square(rows).sum(1, keepdims=True))
        return y, jnp.where(number == network.block_count - 1, rows @ rows.T, 0.0)

    return network.over_blocks(around)


HIDDEN_COVARIANCE = Proxy(last_correlations, lambda correlations, _: eigenvalue_score(correlations))
