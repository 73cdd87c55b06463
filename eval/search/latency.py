"""Measured latency: milliseconds that the compile-once executor takes for one architecture on this machine."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import numpy as np

from architectures.layout import Weights
from architectures.spaces import SearchSpace


class Latency:
    """The median time of `repeats` forward passes over `images` images, divided among them.

    One compilation serves every architecture; the executor runs only the ops that an architecture has. Values differ
    from one measurement to the next, so searches that use them are not repeated to the bit.
    """

    def __init__(self, space: SearchSpace[Any], images: int = 8, repeats: int = 7) -> None:
        """Compiles nothing yet."""
        self._space, self._repeats = space, repeats
        self._images = jax.numpy.ones((images, *space.input_shape))
        arrays = {name: jax.numpy.full((g.slots, *g.shape), 0.01) for name, g in space.layout.items()}
        self._weights = Weights(arrays, space)
        self._warm = False

    def __call__(self, architecture: Any) -> float:
        """Milliseconds for one image."""
        seconds = []
        for _ in range(self._repeats + (not self._warm)):
            start = time.perf_counter()
            jax.block_until_ready(self._space.apply(self._weights, architecture, self._images))
            seconds.append(time.perf_counter() - start)
        self._warm = True
        return 1000 * statistics.median(seconds[-self._repeats :]) / int(np.shape(self._images)[0])
