"""Proxies of any model that is a function of its parameters and images: no space, no executor, one compilation each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from architectures.executor import Around, Observe
from eval.proxies.network import Network
from eval.proxies.proxy import Size
from eval.proxies.record import BLOCK, equations, is_block, is_relu, macs, watch

Apply = Callable[[Any, Array], Array]


@dataclasses.dataclass(frozen=True)
class TracedModel:
    """A model.

    Attributes:
        init: PRNG key -> pytree of parameters; leaves of two axes and more count as weights.
        apply: (parameters, images [B, ...]) -> logits [B, classes]. Proxies that look at blocks (AZ-NAS, hidden
            covariance) need their outputs marked: `x = jax.ad_checkpoint.checkpoint_name(x, "block")`.
        unnormalised: the same without normalisation layers, for synflow; not needed where `apply` has none.
    """

    init: Callable[[Array], Any]
    apply: Apply
    unnormalised: Apply | None = None

    def size(self, images: Array, largest: int | None = None) -> Size:
        """Parameters and multiply-accumulates for one of `images`; `largest` by default is the model itself."""
        parameters = jax.eval_shape(self.init, jax.random.key(0))
        count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
        jaxpr = jax.make_jaxpr(self.apply)(parameters, images[:1]).jaxpr
        return Size(count, macs(jaxpr), count if largest is None else largest)


class TracedNetwork(Network):
    """One initialisation of a model."""

    def __init__(self, model: TracedModel, images: Array, labels: Array, key: Array) -> None:
        weights = model.init(key)
        if jax.config.read("jax_enable_x64"):
            weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), weights)
        super().__init__(weights, images, labels, jax.random.fold_in(key, 1))
        self._model = model

    @property
    def block_count(self) -> int:
        """Blocks that the model marks."""
        jaxpr = jax.make_jaxpr(self._model.apply)(self.weights, self.images).jaxpr
        count = sum(times for equation, times in equations(jaxpr) if is_block(equation))
        if count < 2:
            raise ValueError(
                f"apply: {count} blocks marked, at least 2 are needed; mark the output of each with "
                f"jax.ad_checkpoint.checkpoint_name(x, {BLOCK!r})"
            )
        return count

    def logits(self, weights: Any, images: Array) -> Array:
        """Of the model."""
        return self._model.apply(weights, images)

    def unnormalised(self, weights: Any, images: Array) -> Array:
        """Of the model without normalisation; ValueError where that is missing."""
        if self._model.unnormalised is not None:
            return self._model.unnormalised(weights, images)
        jaxpr = jax.make_jaxpr(self._model.apply)(weights, images).jaxpr
        if any(equation.primitive.name == "rsqrt" for equation, _ in equations(jaxpr)):
            raise ValueError("unnormalised: apply seems to normalise (its trace holds an rsqrt); give the same without")
        return self._model.apply(weights, images)

    def over_relus(self, observe: Observe) -> Array:
        """By a run of the trace; ValueError where it holds no ReLU."""
        seen: list[Array] = []

        def show(operands: Sequence[Any], equation_input: int, value: Array) -> Array:
            seen.append(observe(operands[equation_input]))
            return value

        def first(operands: Sequence[Any], value: Array) -> Array:
            zero = next(place for place, operand in enumerate(operands) if jnp.ndim(operand) == 0)
            return show(operands, 1 - zero, value)

        watch(self._model.apply, is_relu, first, self.weights, self.images)
        if not seen:
            raise ValueError("apply: no ReLU in its trace; this proxy is defined by them")
        return jnp.asarray(sum(seen[1:], seen[0]))

    def over_blocks(self, around: Around) -> Array:
        """By a run of the trace for every block, from the output of the one before to its own.

        What a block reads besides is taken as constant; the first block runs from the images.
        """
        outputs: list[Array] = []

        def keep(operands: Sequence[Any], value: Array) -> Array:
            outputs.append(value)
            return value

        watch(self._model.apply, is_block, keep, self.weights, self.images)
        total: Array | None = None
        for number in range(self.block_count):
            start = self.images if number == 0 else outputs[number - 1]
            _, seen = around(number, lambda x, number=number: self._from_block(number, x), start)  # type: ignore[misc]
            total = seen if total is None else total + seen
        assert total is not None
        return total

    def _from_block(self, number: int, x: Array) -> Array:
        """The output of block `number`, with x in the place of the output of the one before (or of the images)."""
        outputs: list[Array] = []

        def replace(operands: Sequence[Any], value: Array) -> Array:
            outputs.append(value)
            return x if len(outputs) == number else value

        watch(self._model.apply, is_block, replace, self.weights, x if number == 0 else self.images)
        return outputs[number]

    def kernels(self, tree: Any) -> list[Array]:
        """Leaves of at least two axes, one slot each."""
        return [leaf[None] for leaf in jax.tree.leaves(tree) if leaf.ndim >= 2]
