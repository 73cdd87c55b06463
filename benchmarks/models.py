"""Models that benchmarks predict for (Flax Linen)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax


class ResNet(nn.Module):
    """ResNet (He et al. 2016) for images of 224 x 224 pixels, 1,000 classes.

    Attributes:
        depths: blocks of each stage.
        bottleneck: three convolutions a block instead of two.
        width: channels of the first stage.
    """

    depths: tuple[int, ...]
    bottleneck: bool
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, 1000]."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        conv = functools.partial(nn.Conv, use_bias=False)
        x = nn.relu(norm()(conv(self.width, (7, 7), (2, 2))(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                width, strides = self.width * 2**stage, (2, 2) if stage and not block else (1, 1)
                if self.bottleneck:
                    y = nn.relu(norm()(conv(width, (1, 1))(x)))
                    y = nn.relu(norm()(conv(width, (3, 3), strides)(y)))
                    y = norm()(conv(4 * width, (1, 1))(y))
                else:
                    y = nn.relu(norm()(conv(width, (3, 3), strides)(x)))
                    y = norm()(conv(width, (3, 3))(y))
                if x.shape != y.shape:
                    x = norm()(conv(y.shape[-1], (1, 1), strides)(x))
                x = nn.relu(x + y)
        return nn.Dense(1000)(x.mean((1, 2)))


def resnet18(width: int = 64) -> ResNet:
    """11.7 M parameters at width 64."""
    return ResNet((2, 2, 2, 2), False, width)


def resnet50(width: int = 64) -> ResNet:
    """25.6 M parameters at width 64."""
    return ResNet((3, 4, 6, 3), True, width)


class Chain(nn.Module):
    """Residual blocks of equal width: `blocks` sets the nodes (five a block), `width` the parameters."""

    blocks: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, width]."""
        x = nn.Dense(self.width)(x)
        for _ in range(self.blocks):
            x = x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return x
