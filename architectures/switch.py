"""A switch over ops whose backward pass is a switch too.

Differentiating `lax.switch` would store the residuals of every branch. `switch_op` saves only its inputs and the
output of the chosen op's linear part, and its backward pass is a second `lax.switch`, over each branch's own gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.layers import Layers
from architectures.ops import Op

SlotWeights = Mapping[str, Array]
Saved = tuple[Array, dict[str, Array], Array, Array]  # op index, slot, input, output of the linear part


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


def _forward(
    ops: Sequence[Op], layers: Layers, index: Array, slot: SlotWeights, x: Array, save: bool
) -> tuple[Array, Array]:
    """Output of `ops[index]` and, with `save`, that of its linear part (zeros where there is none)."""
    like = _hidden_like(ops, layers, slot, x) if save else jax.ShapeDtypeStruct((), x.dtype)

    def nothing() -> Array:  # made in the branch: as an operand of the switch it would be written whichever is taken
        return jnp.zeros_like(x, dtype=like.dtype, shape=like.shape)  # varies over devices as x does

    def branch(op: Op, slot: SlotWeights, x: Array) -> tuple[Array, Array]:
        weights = op_weights(op, slot, x.shape[-1])
        if op.linear is None:
            return op.apply(weights, x, layers), nothing()
        hidden = op.linear(weights, x, layers)
        return op.apply(weights, hidden, layers), hidden if save else nothing()

    return lax.switch(index, [functools.partial(branch, op) for op in ops], dict(slot), x)


def _backward(
    ops: Sequence[Op], layers: Layers, index: Array, slot: SlotWeights, x: Array, hidden: Array, g: Array
) -> tuple[dict[str, Array], Array]:
    """Gradients of (g * output).sum() by the slot's arrays and by x, from what the forward pass saved."""

    def branch(op: Op, slot: dict[str, Array], x: Array, hidden: Array, g: Array) -> tuple[dict[str, Array], Array]:
        def finish(slot: dict[str, Array], hidden: Array) -> Array:
            return op.apply(op_weights(op, slot, x.shape[-1]), hidden, layers)

        def linear(slot: dict[str, Array], x: Array) -> Array:
            assert op.linear is not None
            return op.linear(op_weights(op, slot, x.shape[-1]), x, layers)

        if op.linear is None:
            return jax.vjp(finish, slot, x)[1](g)
        slot_of_finish, g = jax.vjp(finish, slot, hidden)[1](g)
        slot_of_linear, g = jax.vjp(linear, slot, x)[1](g)
        return jax.tree.map(jnp.add, slot_of_finish, slot_of_linear), g

    return lax.switch(index, [functools.partial(branch, op) for op in ops], dict(slot), x, hidden, g)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def switch_op(ops: tuple[Op, ...], layers: Layers, index: Array, slot: dict[str, Array], x: Array) -> Array:
    """Applies `ops[index]` to x [B, H, W, C] with its leaves from `slot`: one compiled program for every index."""
    return _forward(ops, layers, index, slot, x, save=False)[0]


def _switch_op_forward(
    ops: tuple[Op, ...], layers: Layers, index: Array, slot: dict[str, Array], x: Array
) -> tuple[Array, Saved]:
    y, hidden = _forward(ops, layers, index, slot, x, save=True)
    return y, (index, slot, x, hidden)


def _switch_op_backward(
    ops: tuple[Op, ...], layers: Layers, saved: Saved, g: Array
) -> tuple[np.ndarray, dict[str, Array], Array]:
    return np.zeros((), jax.dtypes.float0), *_backward(ops, layers, *saved, g)


switch_op.defvjp(_switch_op_forward, _switch_op_backward)
