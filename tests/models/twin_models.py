"""The same small network with batch normalisation in Linen and in NNX."""

from __future__ import annotations

import flax.linen as nn
import jax
from flax import nnx


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3), name="stem")(x)))
        x = x + nn.Conv(8, (3, 3), name="inner")(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class NNXNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(8, 5, rngs=rngs)
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.inner = nnx.Conv(8, 8, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        return self.head((x + self.inner(x)).mean((1, 2)))
