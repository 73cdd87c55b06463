"""NWOT against a slow plain reference."""

import jax
import numpy as np
import pytest

from architectures.layers import Layers
from architectures.layout import initialise, occupancy
from architectures.spaces import NASBench201
from eval.nwot import nwot

SPACE = NASBench201(channels=2, stages=2, input_shape=(6, 6, 1))


def test_equals_a_plain_count_of_agreeing_units(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).standard_normal((5, 6, 6, 1)).astype(np.float32)
    cell = SPACE.from_string("|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    variants = {name: filled.variant for name, filled in occupancy(SPACE.layout, SPACE.graph(cell)).items()}
    weights = initialise(SPACE.layout, jax.random.key(3), variants)
    seen: list[np.ndarray] = []

    def watched(x: jax.Array) -> jax.Array:
        seen.append(np.asarray(x))
        return jax.numpy.maximum(x, 0)

    monkeypatch.setattr(jax.nn, "relu", watched)
    SPACE.forward_static(weights, cell, images, Layers())
    monkeypatch.undo()
    kernel = np.zeros((5, 5))
    for x in seen:
        on = x.reshape(5, -1) > 0
        for i in range(5):
            for j in range(5):
                kernel[i, j] += (on[i] == on[j]).sum()
    expected = np.log(abs(np.linalg.det(kernel)))
    np.testing.assert_allclose(nwot(SPACE, [cell], images, seeds=[3]), [expected], rtol=1e-5)


def test_seeds_are_averaged() -> None:
    images = np.random.default_rng(0).standard_normal((5, 6, 6, 1)).astype(np.float32)
    cells = [SPACE.sample(0), SPACE.sample(1)]
    both = nwot(SPACE, cells, images, seeds=[0, 1])
    apart = [nwot(SPACE, cells, images, seeds=[seed]) for seed in (0, 1)]
    np.testing.assert_allclose(both, np.mean(apart, 0), rtol=1e-6)
    assert not np.allclose(apart[0], apart[1])
