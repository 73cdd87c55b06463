"""The compile-once executor of memory-bank networks (SMASH, Brock et al. 2018): one loop and one bank a resolution.

Everything that differs between architectures is data (`architectures.bank_weights`): reading is one 1x1 convolution
over all banks, writing adds a layer's output to the banks that a mask names, each of a layer's convolutions is a switch
over kernel sizes and dilations, and the loop runs as often as there are layers.

A block has its own gradient, so that a layer keeps what is expensive (the outputs of its convolutions, before
normalisation) and nothing else; JAX's gradient of the same loop keeps every input of every op, filled with zeros where
an architecture lacks the op, and takes 1.5 times as long.

Shape letters: B batch, H height, W width, L layers, K banks, N channels of a bank, U units, C channels of an image,
R rows of a bank's concatenation (K * N).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.bank_weights import BankShape, BlockChoices, Slots, Spread, spread
from architectures.executor import Observe
from architectures.layers import Layers
from architectures.switch import cut

Convolution = Callable[[Array, Array], Array]  # (kernel as it lies in its slot, input) -> output, not normalised
Convolve = Callable[[Sequence[Convolution], Array, Array, Array], Array]  # (candidates, index, kernel, input) -> output
Finish = Callable[[Layers, Array, Array, Array, Array], Array]  # (layers, index, convolved, scale, bias) -> output


class Linear(NamedTuple):
    """What the convolutions of one layer give, before normalisation: all that its gradient needs beside the banks."""

    read: Array  # [B, H, W, U]
    inner: tuple[Array, Array]  # of both paths, [B, H, W, U]; a path's input where it has no first convolution
    outer: tuple[Array, Array]  # [B, H, W, N]; zero where there is no path


def convolve(candidates: Sequence[Convolution], index: Array, kernel: Array, x: Array) -> Array:
    """The output of the candidate that `index` names."""
    return lax.switch(index, candidates, kernel, x)


def convolve_gradient(
    candidates: Sequence[Convolution], index: Array, kernel: Array, x: Array, g: Array
) -> tuple[Array, Array]:
    """Gradients of (g * output).sum() by kernel and input: a switch over each candidate's own gradient."""

    def gradient(candidate: Convolution, kernel: Array, x: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(candidate, kernel, x)[1](g)

    return lax.switch(index, [functools.partial(gradient, candidate) for candidate in candidates], kernel, x, g)


def finish(layers: Layers, index: Array, convolved: Array, scale: Array, bias: Array) -> Array:
    """Batch normalisation, where there was a convolution."""
    return jnp.where(index > 0, layers.batch_norm(convolved, scale, bias), convolved)


class BlockPlan(NamedTuple):
    """What is fixed at compilation: padded sizes, the candidates (kernel, dilation), how layers are computed."""

    shape: BankShape
    kinds: tuple[tuple[int, int], ...]
    layers: Layers

    def run(
        self, slots: Slots, choices: BlockChoices, x: Array, observe: Observe | None = None
    ) -> tuple[Array, Array | float]:
        """Runs a block.

        Args:
            slots: leaf name -> its slots, tight.
            choices: the architecture; its layers that exist come first.
            x: [B, H, W, N] the block's input, zero beyond its channels.
            observe: summed over the inputs of all ReLUs. There is no gradient with it.

        Returns:
            All banks side by side, [B, H, W, R], and the sum of observations (0.0 without `observe`).
        """
        weights = spread(slots, choices, self.shape)
        if observe is None:
            return _run(self, weights, choices, x), 0.0
        seen = jax.eval_shape(observe, x)

        def layer(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            banks, total = state
            chosen, leaves = _row((_rows(choices), weights), index)
            y, linear = self.layer(chosen, leaves, banks)
            units = self.units(linear.read, leaves["read"]["scale"], leaves["read"]["bias"])
            for path in range(2):
                (first, last), own = self.path(chosen, leaves, path)
                hidden = finish(self.layers, first, linear.inner[path], own["inner"]["scale"], own["inner"]["bias"])
                for index_of_op, rectified in ((first, units), (last, hidden)):
                    total += lax.cond(index_of_op > 0, observe, lambda x: jnp.zeros(seen.shape, seen.dtype), rectified)
            return self.write(banks, chosen.write, y), total

        start = self.opened(x), jnp.zeros(seen.shape, seen.dtype)
        return lax.fori_loop(0, choices.active.sum(), layer, start)

    def run_static(self, slots: Slots, choices: BlockChoices, layers: int, x: Array) -> Array:
        """The same padded arithmetic as ordinary Python for one architecture: the reference of `run`'s speed.

        `choices` are NumPy values of which the first `layers` rows exist.
        """

        def only(candidates: Sequence[Convolution], index: Array, kernel: Array, x: Array) -> Array:
            return candidates[int(index)](kernel, x)

        def finish_known(layers: Layers, index: Array, convolved: Array, scale: Array, bias: Array) -> Array:
            return layers.batch_norm(convolved, scale, bias) if int(index) else convolved

        weights, banks = spread(slots, choices, self.shape), self.opened(x)
        for index in range(layers):
            chosen, leaves = _row((_rows(choices), weights), index)
            banks = self.write(banks, chosen.write, self.layer(chosen, leaves, banks, only, finish_known)[0])
        return banks

    def opened(self, x: Array) -> Array:
        """[B, H, W, R] banks of which the first holds x."""
        return jnp.pad(x, ((0, 0),) * 3 + ((0, (self.shape.banks - 1) * self.shape.channels),))

    def write(self, banks: Array, write_K: Array, y: Array) -> Array:
        """Adds y [B, H, W, N] to the banks that are written."""
        return (self.parted(banks) + jnp.asarray(write_K, y.dtype)[:, None] * y[..., None, :]).reshape(banks.shape)

    def parted(self, banks: Array) -> Array:
        """[B, H, W, R] as [B, H, W, K, N]."""
        return banks.reshape(*banks.shape[:-1], self.shape.banks, self.shape.channels)

    @property
    def inner(self) -> tuple[Convolution, ...]:
        """What may come first in a path: nothing at all, or a convolution of each (kernel, dilation)."""
        return (lambda kernel, x: x, *self._convolutions())

    @property
    def outer(self) -> tuple[Convolution, ...]:
        """What may end a path: no path, or a convolution of each (kernel, dilation) to a bank's channels."""
        nothing: Convolution = lambda kernel, x: jnp.zeros_like(x, shape=(*x.shape[:-1], kernel.shape[-1]))  # noqa: E731
        return (nothing, *self._convolutions())

    def _convolutions(self) -> list[Convolution]:
        """ReLU and convolution of each (kernel, dilation)."""

        def convolution(size: int, dilation: int, kernel: Array, x: Array) -> Array:
            own = cut(kernel, (size, size, *kernel.shape[2:]))
            return self.layers.conv(jax.nn.relu(x), own, dilation=dilation)

        return [functools.partial(convolution, *kind) for kind in self.kinds]

    # ----------------------------------------------------------------------------------------------------- one layer

    def layer(
        self, chosen: BlockChoices, leaves: Spread, banks: Array, convolve: Convolve = convolve, finish: Finish = finish
    ) -> tuple[Array, Linear]:
        """What a layer adds to the banks that it writes, [B, H, W, N], and what its convolutions give."""
        read = banks @ leaves["read"]["kernel"]
        units = self.units(read, leaves["read"]["scale"], leaves["read"]["bias"])
        inner, outer, ended = [], [], []
        for path in range(2):
            (first, last), own = self.path(chosen, leaves, path)
            inner.append(convolve(self.inner, first, own["inner"]["kernel"], units))
            hidden = finish(self.layers, first, inner[path], own["inner"]["scale"], own["inner"]["bias"])
            outer.append(convolve(self.outer, last, own["outer"]["kernel"], hidden))
            ended.append(finish(self.layers, last, outer[path], own["outer"]["scale"], own["outer"]["bias"]))
        return ended[0] + ended[1], Linear(read, (inner[0], inner[1]), (outer[0], outer[1]))

    def layer_gradient(
        self, chosen: BlockChoices, leaves: Spread, banks: Array, linear: Linear, g_banks: Array
    ) -> tuple[Spread, Array]:
        """Gradients by the leaves and by the banks before a layer, from that by the banks after it."""
        g = (self.parted(g_banks) * jnp.asarray(chosen.write, g_banks.dtype)[:, None]).sum(-2)
        units, pull = jax.vjp(self.units, linear.read, leaves["read"]["scale"], leaves["read"]["bias"])
        (g_0, g_units_0), (g_1, g_units_1) = (
            self.path_gradient(*self.path(chosen, leaves, path), units, linear.inner[path], linear.outer[path], g)
            for path in range(2)
        )
        g_read, g_scale, g_bias = pull(g_units_0 + g_units_1)
        g_kernel = jnp.einsum("bhwr,bhwu->ru", banks, g_read)
        paths = jax.tree.map(lambda *paths: jnp.stack(paths), g_0, g_1)
        g_leaves = {"read": {"kernel": g_kernel, "scale": g_scale, "bias": g_bias}, **paths}
        return g_leaves, g_banks + g_read @ leaves["read"]["kernel"].T

    def path_gradient(
        self, choice: tuple[Array, Array], leaves: Spread, units: Array, inner: Array, outer: Array, g: Array
    ) -> tuple[Spread, Array]:
        """The same of one path: gradients by its leaves and by `units`, its input."""
        first, last = choice

        def finished(part: str, index: Array, convolved: Array) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
            own = leaves[part]
            return jax.vjp(functools.partial(finish, self.layers, index), convolved, own["scale"], own["bias"])

        hidden, pull_hidden = finished("inner", first, inner)
        _, pull_ended = finished("outer", last, outer)
        g, scale, bias = pull_ended(g)
        kernel, g = convolve_gradient(self.outer, last, leaves["outer"]["kernel"], hidden, g)
        g_outer = {"kernel": kernel, "scale": scale, "bias": bias}
        g, scale, bias = pull_hidden(g)
        kernel, g = convolve_gradient(self.inner, first, leaves["inner"]["kernel"], units, g)
        return {"inner": {"kernel": kernel, "scale": scale, "bias": bias}, "outer": g_outer}, g

    @property
    def units(self) -> Callable[[Array, Array, Array], Array]:
        """What both paths of a layer take, of (what its 1x1 convolution gives, scale, bias)."""
        return self.layers.batch_norm

    @staticmethod
    def path(chosen: BlockChoices, leaves: Spread, path: int) -> tuple[tuple[Array, Array], Spread]:
        """A path's two choices and its leaves."""
        return (chosen.inner[path], chosen.outer[path]), _row({part: leaves[part] for part in ("inner", "outer")}, path)


# ------------------------------------------------------------------------------------------------------- all layers


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(plan: BlockPlan, weights: Spread, choices: BlockChoices, x: Array) -> Array:
    """All banks [B, H, W, R] after a block's layers."""

    def layer(index: Array, banks: Array) -> Array:
        chosen, leaves = _row((_rows(choices), weights), index)
        return plan.write(banks, chosen.write, plan.layer(chosen, leaves, banks)[0])

    return lax.fori_loop(0, choices.active.sum(), layer, plan.opened(x))


def _run_forward(plan: BlockPlan, weights: Spread, choices: BlockChoices, x: Array) -> tuple[Array, Any]:
    banks = plan.opened(x)
    chosen, leaves = _row((_rows(choices), weights), 0)
    kept = jax.eval_shape(lambda banks: (banks, plan.layer(chosen, leaves, banks)[1]), banks)
    most = len(choices.active)

    def layer(index: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        banks, kept = state
        chosen, leaves = _row((_rows(choices), weights), index)
        y, linear = plan.layer(chosen, leaves, banks)
        return plan.write(banks, chosen.write, y), _with_row(kept, index, (banks, linear))

    store = jax.tree.map(lambda a: jnp.zeros_like(x, a.dtype, (most, *a.shape)), kept)  # varies over devices as x does
    banks, kept = lax.fori_loop(0, choices.active.sum(), layer, (banks, store))
    return banks, (weights, choices, kept)


def _run_backward(plan: BlockPlan, saved: Any, g_banks: Array) -> tuple[Spread, None, Array]:
    weights, choices, kept = saved
    depth = choices.active.sum()

    def layer(done: Array, state: tuple[Array, Spread]) -> tuple[Array, Spread]:
        g_banks, g_weights = state
        index = depth - 1 - done
        chosen, leaves, (banks, linear) = _row((_rows(choices), weights, kept), index)
        g_leaves, g_banks = plan.layer_gradient(chosen, leaves, banks, linear, g_banks)
        return g_banks, _with_row(g_weights, index, g_leaves)

    start = g_banks, jax.tree.map(jnp.zeros_like, weights)
    g_banks, g_weights = lax.fori_loop(0, depth, layer, start)
    return g_weights, None, g_banks[..., : plan.shape.channels]


_run.defvjp(_run_forward, _run_backward)


def _rows(choices: BlockChoices) -> BlockChoices:
    """Only what differs between layers."""
    return choices._replace(banks=choices.active, channels=choices.active)


def _row(tree: Any, index: Array | int) -> Any:
    return jax.tree.map(lambda array: array[index], tree)


def _with_row(tree: Any, index: Array, row: Any) -> Any:
    return jax.tree.map(lambda array, own: array.at[index].set(own), tree, row)
