"""jacov: how differently a network answers to different images (Mellor et al. 2020, the first version of NASWOT).

J_i = the gradient of the summed logits of the mini-batch by image i; with l the eigenvalues of the correlation matrix
of the J_i [B, B],
score = - sum_i [log(l_i + k) + 1 / (l_i + k)], k = 1e-5.
No labels. Higher is better.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from eval.proxies.network import Network
from eval.proxies.proxy import Proxy

K = 1e-5


def input_gradients(network: Network) -> Array:
    """[B, pixels] gradient of the summed logits by every image."""
    gradients = jax.grad(lambda images: network.logits(network.weights, images).sum())(network.images)
    return gradients.reshape(len(gradients), -1)


def eigenvalue_score(correlation_BB: NDArray[np.float64]) -> float:
    """- sum of log(l + k) + 1 / (l + k) over the eigenvalues l of a correlation matrix; nan where it is not finite."""
    if not np.isfinite(correlation_BB).all():
        return float("nan")
    shifted = np.maximum(np.linalg.eigvalsh(correlation_BB), 0) + K  # rounding makes those that are zero negative
    return float(-np.sum(np.log(shifted) + 1 / shifted))


def correlations(rows_BD: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, B] correlations between rows; nan for rows that are constant."""
    centred = rows_BD - rows_BD.mean(1, keepdims=True)
    norms_B = np.sqrt(np.square(centred).sum(1))
    covariance_BB = centred @ centred.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(covariance_BB / norms_B[:, None] / norms_B)


JACOV = Proxy(input_gradients, lambda rows, _: eigenvalue_score(correlations(rows)))
