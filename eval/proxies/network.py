"""A network at initialisation as proxies see it: one of a space, run by the executor, so that one program fits all.

Shape letters: B images, S slots of a leaf group.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any

import jax
import optax
from jax import Array

from architectures.executor import Around, Observe
from architectures.layers import Layers
from architectures.layout import WeightArrays, initialise
from architectures.spaces import SearchSpace

WEIGHT_ROLES = ("kernel", "head_kernel")


class Network(abc.ABC):
    """A network with random weights and the images that it is judged on; lives inside one traced program.

    Attributes:
        weights: a pytree.
        images: [B, H, W, C] float, normalised.
        labels: [B] int.
        key: PRNG key for proxies that draw.
    """

    def __init__(self, weights: Any, images: Array, labels: Array, key: Array) -> None:
        self.weights, self.images, self.labels, self.key = weights, images, labels, key

    @property
    @abc.abstractmethod
    def block_count(self) -> int:
        """Number of blocks that follow on each other."""

    @abc.abstractmethod
    def logits(self, weights: Any, images: Array) -> Array:
        """[B, classes], normalised by batch statistics."""

    @abc.abstractmethod
    def unnormalised(self, weights: Any, images: Array) -> Array:
        """[B, classes] with every batch normalisation replaced by the identity."""

    @abc.abstractmethod
    def over_relus(self, observe: Observe) -> Array:
        """The sum of `observe(x)` over the inputs x [B, ...] of all ReLUs."""

    @abc.abstractmethod
    def over_blocks(self, around: Around) -> Array:
        """The sum of what `around` observes of the blocks."""

    @abc.abstractmethod
    def kernels(self, tree: Any) -> list[Array]:
        """The leaves of a tree like `weights` that belong to convolutions and linear layers, each [S, ...]: S of one
        shape side by side. Normalisation and biases are no part of any proxy here."""

    def loss(self, weights: Any, images: Array, labels: Array) -> Array:
        """Mean cross-entropy in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(weights, images), labels).mean()

    @functools.cached_property
    def gradients(self) -> list[Array]:
        """Of the loss on all images, by `kernels`; computed once for all proxies of a program."""
        return self.kernels(jax.grad(self.loss)(self.weights, self.images, self.labels))


@dataclasses.dataclass(frozen=True)
class Unnormalised(Layers):
    """Layers without batch normalisation."""

    def batch_norm(self, x_BHWC: Array, scale_C: Array, bias_C: Array) -> Array:
        """The identity."""
        return x_BHWC


class SpaceNetwork(Network):
    """A network of a space with ordinary random weights (He et al. 2015); the architecture is data."""

    def __init__(
        self,
        space: SearchSpace[Any],
        encoding: dict[str, Array],
        variants: dict[str, Array],
        images: Array,
        labels: Array,
        key: Array,
    ) -> None:
        super().__init__(initialise(space.layout, key, variants), images, labels, jax.random.fold_in(key, 1))
        self._space, self._encoding = space, encoding

    @property
    def block_count(self) -> int:
        """That of the space."""
        return self._space.block_count

    def logits(self, weights: WeightArrays, images: Array) -> Array:
        """By the executor."""
        return self._space.forward(weights, self._encoding, images, Layers())[0]

    def unnormalised(self, weights: WeightArrays, images: Array) -> Array:
        """By the executor, with other layers."""
        return self._space.forward(weights, self._encoding, images, Unnormalised())[0]

    def over_relus(self, observe: Observe) -> Array:
        """By the executor's observation."""
        return jax.numpy.asarray(
            self._space.forward(self.weights, self._encoding, self.images, Layers(), observe=observe)[1]
        )

    def over_blocks(self, around: Around) -> Array:
        """By the executor's observation."""
        return jax.numpy.asarray(
            self._space.forward(self.weights, self._encoding, self.images, Layers(), around=around)[1]
        )

    def kernels(self, tree: WeightArrays) -> list[Array]:
        """Slots that the architecture does not use have gradients of zero."""
        return [tree[name] for name, group in self._space.layout.items() if group.role in WEIGHT_ROLES]
