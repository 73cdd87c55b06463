"""A switch over ops whose backward pass is a switch too.

Differentiating `lax.switch` would store the residuals of every branch. Here nothing is saved but inputs and the output
of the chosen op's linear part, and the backward pass is a second `lax.switch`, over each branch's own gradient. Sums
are taken inside the branches, where they cost no pass over memory of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.layers import Layers
from architectures.ops import NONE, Op

SlotWeights = Mapping[str, Array]


def cut_slices(have: tuple[int, ...], want: tuple[int, ...]) -> tuple[slice, ...]:
    """Where a leaf of shape `want` lies in a slot of shape `have`.

    The first two axes of a rank-4 array are kernel positions and are cut at the centre; all others at the front.
    """
    starts = [
        (outer - inner) // 2 if len(want) == 4 and axis < 2 else 0
        for axis, (outer, inner) in enumerate(zip(have, want, strict=True))
    ]
    return tuple(slice(start, start + inner) for start, inner in zip(starts, want, strict=True))


def cut(array: Array, shape: tuple[int, ...]) -> Array:
    """The part of a slot's array that a smaller leaf uses (`cut_slices`)."""
    return array[cut_slices(array.shape, shape)]


def op_weights(op: Op, slot: SlotWeights, channels: int) -> dict[str, Array]:
    """The leaves of `op` cut out of a slot's arrays."""
    return {name: cut(slot[name], leaf.shape) for name, leaf in op.leaves(channels).items()}


def run_op(op: Op, layers: Layers, slot: SlotWeights, x: Array) -> Array:
    """Applies one op with its leaves from `slot`."""
    weights = op_weights(op, slot, x.shape[-1])
    return op.apply(weights, x if op.linear is None else op.linear(weights, x, layers), layers)


def _hidden_like(ops: Sequence[Op], layers: Layers, slot: SlotWeights, x: Array) -> jax.ShapeDtypeStruct:
    """Shape and type of what the linear parts of all ops give."""
    for op in ops:
        if op.linear is not None:
            linear = op.linear
            hidden = jax.eval_shape(lambda w, x: linear(w, x, layers), op_weights(op, slot, x.shape[-1]), x)  # noqa: B023
            return jax.ShapeDtypeStruct(hidden.shape, hidden.dtype)
    return jax.ShapeDtypeStruct((), x.dtype)


def forward(
    ops: Sequence[Op], layers: Layers, index: Array, slot: SlotWeights, x: Array, total: Array | None, save: bool
) -> tuple[Array, Array]:
    """`total` (None: zero) plus the output of `ops[index]`, and what `backward` needs of it.

    One compiled program for every index.

    Args:
        ops: the candidates.
        layers: how they compute their layers.
        index: int32.
        slot: leaf name -> array, out of which an op cuts its own.
        x: [B, H, W, C].
        total: [B, H, W, C].
        save: whether there will be a backward pass.

    Returns:
        The sum, and with `save` the output of the op's linear part (zeros where there is none).
    """
    like = _hidden_like(ops, layers, slot, x) if save else jax.ShapeDtypeStruct((), x.dtype)

    def nothing() -> Array:  # made in the branch: as an operand of the switch it would be written whichever is taken
        return jnp.zeros_like(x, dtype=like.dtype, shape=like.shape)  # varies over devices as x does

    def branch(op: Op, slot: SlotWeights, x: Array, total: Array | None) -> tuple[Array, Array]:
        weights = op_weights(op, slot, x.shape[-1])
        hidden = x if op.linear is None else op.linear(weights, x, layers)
        kept = hidden if save and op.linear is not None else nothing()
        if op.name == NONE.name and total is not None:
            return total, kept
        y = op.apply(weights, hidden, layers)
        return (y if total is None else total + y), kept

    return lax.switch(index, [functools.partial(branch, op) for op in ops], dict(slot), x, total)


def backward(
    ops: Sequence[Op],
    layers: Layers,
    index: Array,
    slot: SlotWeights,
    x: Array,
    hidden: Array,
    g: Array,
    total: Array | None,
) -> tuple[dict[str, Array], Array]:
    """Gradients of (g * output).sum() by the slot's arrays and, added to `total`, by x, from what `forward` saved."""

    def branch(
        op: Op, slot: dict[str, Array], x: Array, hidden: Array, g: Array, total: Array | None
    ) -> tuple[dict[str, Array], Array]:
        def finish(slot: dict[str, Array], hidden: Array) -> Array:
            return op.apply(op_weights(op, slot, x.shape[-1]), hidden, layers)

        def linear(slot: dict[str, Array], x: Array) -> Array:
            assert op.linear is not None
            return op.linear(op_weights(op, slot, x.shape[-1]), x, layers)

        if op.name == NONE.name and total is not None:
            return jax.tree.map(jnp.zeros_like, slot), total
        slot_grads, g = jax.vjp(finish, slot, x if op.linear is None else hidden)[1](g)
        if op.linear is not None:
            slot_of_linear, g = jax.vjp(linear, slot, x)[1](g)
            slot_grads = jax.tree.map(jnp.add, slot_grads, slot_of_linear)
        return slot_grads, (g if total is None else total + g)

    return lax.switch(index, [functools.partial(branch, op) for op in ops], dict(slot), x, hidden, g, total)
