"""NWOT: a network's score from its activation pattern at initialisation (Mellor et al. 2021).

score = log |det K|, K_ij = number of ReLU units on which samples i and j agree, on one mini-batch of B = 128 samples,
averaged over random initialisations. Higher is better. No labels, no training.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.layers import Layers
from architectures.layout import initialise, occupancy
from architectures.spaces import SearchSpace


def agreement(x: Array) -> Array:
    """[B, B] number of units of x [B, ...] on which two samples are both on or both off."""
    on = (x.reshape(len(x), -1) > 0).astype(jnp.float32)
    return on @ on.T + (1 - on) @ (1 - on).T


def nwot(
    space: SearchSpace[Any], architectures: Sequence[Any], images: NDArray[np.float32], seeds: Sequence[int] = (0, 1, 2)
) -> NDArray[np.float64]:
    """[A] scores, averaged over initialisations.

    Args:
        space: the architectures' space.
        architectures: A of them.
        images: [B, H, W, C] float32, normalised; the paper uses B = 128.
        seeds: one initialisation each.
    """
    return np.array(
        [np.mean([_nwot(space, architecture, images, seed) for seed in seeds]) for architecture in architectures]
    )


def _nwot(space: SearchSpace[Any], architecture: Any, images: NDArray[np.float32], seed: int) -> float:
    variants = {name: filled.variant for name, filled in occupancy(space.layout, space.graph(architecture)).items()}
    kernel = _kernel(space, space.encode(architecture), variants, images, np.int32(seed))
    return float(np.linalg.slogdet(np.asarray(kernel, np.float64))[1])


@functools.partial(jax.jit, static_argnums=0)
def _kernel(
    space: SearchSpace[Any], encoding: dict[str, Array], variants: dict[str, Array], images: Array, seed: Array
) -> Array:
    weights = initialise(space.layout, jax.random.key(seed), variants)
    return jnp.asarray(space.forward(weights, encoding, images, Layers(), agreement)[1])
