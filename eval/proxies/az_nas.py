"""AZ-NAS: four scores of a network's blocks from one pass, and their aggregation (Lee & Ham 2024).

With f_l [B, H, W, C] the output of block l = 1..L (the stem counts as a block):

- expressivity: sum over l of the entropy of the spectrum, -sum_c p_c log(p_c + 1e-8), where p are the eigenvalues of
  the covariance of f_l over images and pixels, divided by their sum;
- progressivity: the least increase of that entropy from one block to the next;
- trainability: mean over l > 1 of 2 - s - 1 / (s + 1e-6), where s is the largest singular value of
  the mean over images and pixels of v_in v_out^T, v_out random signs at the output of block l and v_in = J^T v_out what
  reaches its input (of a finer image, 2x2 pixels side by side). A block that is the identity has no value;
- complexity: FLOPs.

Higher is better for all. Aggregated over A candidates: sum over the four of log(rank / A), rank A being the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from eval.proxies.flops import FLOPS
from eval.proxies.network import Network
from eval.proxies.proxy import Proxy

PARTS = ("az_expressivity", "az_progressivity", "az_trainability", "az_complexity")


def block_table(network: Network) -> Array:
    """[L, 2] entropy and trainability of every block (the first has no trainability: 0)."""

    def around(number: Array | int, run: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
        y, pull = jax.vjp(run, x)
        trainable = jnp.zeros(())
        if not (isinstance(number, int) and number == 0):
            signs = jax.random.rademacher(jax.random.fold_in(network.key, number), y.shape, y.dtype)
            trainable = trainability(pull(signs)[0], signs)
        row = jnp.stack([entropy(y), trainable])
        return y, jnp.where(jnp.arange(network.block_count)[:, None] == number, row, 0.0)

    return network.over_blocks(around)


def entropy(y: Array) -> Array:
    """Of the spectrum of y's covariance between channels."""
    rows = y.reshape(-1, y.shape[-1])
    rows = rows - rows.mean(0)
    spectrum = jnp.linalg.eigvalsh(rows.T @ rows / len(rows))
    share = jnp.maximum(spectrum, 0) / spectrum.sum()  # rounding makes those that are zero negative
    return -(share * jnp.log(share + 1e-8)).sum()


def trainability(into: Array, out: Array) -> Array:
    """2 - s - 1 / (s + 1e-6) for gradients at the input and the output of a block; -inf for the identity."""
    if into.shape == out.shape:
        identity = (into == out).all()
    else:
        identity, into = jnp.zeros((), bool), unshuffle(into, out.shape[1])
    mean = into.reshape(-1, into.shape[-1]).T @ out.reshape(-1, out.shape[-1]) / (out.size // out.shape[-1])
    largest = jnp.linalg.svd(mean, compute_uv=False).max()
    return jnp.where(identity, -jnp.inf, 2 - largest - 1 / (largest + 1e-6))


def unshuffle(x: Array, size: int) -> Array:
    """x [B, H, W, C] with squares of pixels side by side as channels, [B, size, size, C * (H / size)^2]."""
    factor = -(-x.shape[1] // size)
    short = factor * size - x.shape[1]  # an odd size lacks pixels: zeros
    x = jnp.pad(x, ((0, 0), (0, short), (0, short), (0, 0)))
    squares = x.reshape(len(x), size, factor, size, factor, -1).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(len(x), size, size, -1)


EXPRESSIVITY = Proxy(block_table, lambda table, _: float(table[:, 0].sum()))
PROGRESSIVITY = Proxy(block_table, lambda table, _: float(np.diff(table[:, 0]).min()))
TRAINABILITY = Proxy(block_table, lambda table, _: float(table[1:, 1].mean()))
COMPLEXITY = FLOPS


def aggregate(columns: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """[A] sum over scores [A] of log(rank / A), rank A being the best; a value that is missing ranks last."""
    values = [np.asarray(column, np.float64) for column in columns]
    ranks = [stats.rankdata(np.where(np.isfinite(column), column, -np.inf)) for column in values]
    return np.asarray(np.sum(np.log(np.stack(ranks) / len(ranks[0])), axis=0))
