"""A section of a tape (one resolution) by the compile-once executor: a loop in which every unit is a switch over ops.

Everything that differs between architectures is data: which entry a unit reads, its op, the widths, how many units
there are. The loop keeps nothing but the entries: a unit's input is prepared (normalised, activated) again on the way
back, which is cheap, and its op is linear in most cases, so that it is not computed again.

Shape letters: B batch, H height, W width, C most channels of a section, U units at most, S slots of a kind.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.bank_weights import spread_groups
from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.tape import MAIN, SIDE, Norm
from architectures.tape_encode import SPREAD
from architectures.tape_ops import Extents, make_op, prepares, switch

Code = Mapping[str, Array]
Slots = dict[str, Array]  # kind of leaf -> [S, ...] padded

# Leaf of a slot, in the executor's form -> the kind that it is counted under.
KINDS = {
    "conv": "conv",
    "large": "large",
    "dense": "dense",
    "depthwise": "depthwise",
    "bias": "bias",
    "norm_scale": "norm",
    "norm_bias": "norm",
    "attention": "attention",
    "attention_bias": "attention",
    "mix_in": "token_mix",
    "mix_in_bias": "token_mix",
    "mix_out": "token_mix",
    "mix_out_bias": "token_mix",
    "squeeze": "squeeze_excite",
    "squeeze_bias": "squeeze_excite",
    "excite": "squeeze_excite",
    "excite_bias": "squeeze_excite",
    "position": "position",
}


class SectionPlan(NamedTuple):
    """What is fixed at compilation: names of the ops, ways to prepare an input, channels, those of the
    cheaper convolutions, those of pools and depthwise convolutions, layers."""

    ops: tuple[str, ...]
    prepares: tuple[tuple[Norm, bool], ...]
    channels: int
    narrow: int
    spatial: int
    layers: Layers


# ---------------------------------------------------------------------------------------------------------- weights


def padded(arrays: WeightArrays, code: Code, section: int, channels: int) -> Slots:
    """The leaves of a section, from the tight form in which they lie in their slots to the executor's: square kernels
    whose outputs begin at the unit's offset, groups as blocks, zero beyond the real channels."""
    prefix = f"r{section}/"
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    slots: Slots = {}
    for kind in SPREAD:
        if kind in own:
            inputs, outputs, groups, offset = (
                code[f"{kind}_{name}"][section] for name in ("inputs", "outputs", "groups", "offset")
            )
            kernel = jax.vmap(spread_groups)(own[kind], inputs, outputs, groups)
            slots[kind] = jax.vmap(_moved)(kernel, offset)
    slots["dense"] = slots["dense"][:, 0, 0]
    slots["depthwise"] = own["depthwise"][:, :, :, 0]
    mask = (jnp.arange(channels) < code["norm_width"][section][:, None]).astype(own["norm_scale"].dtype)
    slots |= {name: own[name] * mask for name in ("norm_scale", "norm_bias")}
    if "bias" in own:
        slots["bias"] = own["bias"]
    for name in ("squeeze", "excite", "mix_in", "mix_out"):
        if name in own:
            slots[name] = own[name][:, 0, 0]
            slots[f"{name}_bias"] = own[f"{name}_bias"]
    if "attention" in own:
        slots["attention"] = own["attention"].reshape(-1, 4, channels, channels)
        slots["attention_bias"] = own["attention_bias"].reshape(-1, 4, channels)
        slots["position"] = own["position"]
    return slots


def _moved(kernel: Array, offset: Array) -> Array:
    """A kernel [..., O] with its outputs moved up by `offset`."""
    columns = jnp.arange(kernel.shape[-1])
    return kernel @ (columns[:, None] + offset == columns).astype(kernel.dtype)


# ---------------------------------------------------------------------------------------------------------- one unit


class Choice(NamedTuple):
    """One unit: int32 scalars."""

    op: Array
    prepare: Array
    activation: Array
    source: Array
    add: Array
    offset: Array
    inputs: Array
    outputs: Array
    heads: Array
    hidden: Array
    bias_used: Array


def _prepare(plan: SectionPlan, choice: Choice, scale: Array, bias: Array, x: Array) -> Array:
    return switch(
        prepares(plan.prepares, plan.layers), choice.prepare, scale, bias, choice.inputs, choice.activation, x
    )


def _extents(choice: Choice) -> Extents:
    return Extents(choice.inputs, choice.outputs, choice.heads, choice.hidden, choice.offset)


def _run_op(plan: SectionPlan, choice: Choice, leaves: Slots, x: Array) -> Array:
    branches = [make_op(name, plan.narrow, plan.spatial, plan.layers) for name in plan.ops]
    return lax.switch(choice.op, branches, leaves, _extents(choice), x)


def _op_gradient(plan: SectionPlan, choice: Choice, leaves: Slots, x: Array, g: Array) -> tuple[Slots, Array]:
    """Gradients of (g * op).sum() by leaves and input: a switch over each op's own."""

    def gradient(name: str, leaves: Slots, extents: Extents, x: Array, g: Array) -> tuple[Slots, Array]:
        op = make_op(name, plan.narrow, plan.spatial, plan.layers)
        return jax.vjp(lambda leaves, x: op(leaves, extents, x), leaves, x)[1](g)

    branches = [functools.partial(gradient, name) for name in plan.ops]
    return lax.switch(choice.op, branches, leaves, _extents(choice), x, g)


def _window(choice: Choice, channels: int, dtype: Any) -> Array:
    """[C] of 0 and 1: the channels that a unit writes."""
    column = jnp.arange(channels)
    return ((column >= choice.offset) & (column < choice.offset + choice.outputs)).astype(dtype)


def _bias(choice: Choice, bias: Array) -> Array:
    """[C] a unit's bias at its channels; zero where it has none."""
    return _moved(bias, choice.offset) * _window(choice, len(bias), bias.dtype) * choice.bias_used.astype(bias.dtype)


# ----------------------------------------------------------------------------------------------------------- section


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_section(plan: SectionPlan, slots: Slots, code: Code, main: Array, side: Array) -> tuple[Array, Array, Array]:
    """Runs the units of a section.

    Args:
        plan: what is fixed at compilation.
        slots: padded leaves by kind.
        code: the section's rows of the encoding.
        main: [B, H, W, C] the first entry, before the first unit.
        side: the second.

    Returns:
        The entries that `code["out"]` names.
    """
    return _run(plan, slots, code, main, side)[0]


def _run(
    plan: SectionPlan, slots: Slots, code: Code, main: Array, side: Array
) -> tuple[tuple[Array, Array, Array], Array]:
    most = code["op"].shape[0]
    entries = jnp.zeros_like(main, shape=(most + 2, *main.shape))  # varies over devices as `main` does
    entries = entries.at[0].set(main).at[1].set(side)

    def unit(index: Array, entries: Array) -> Array:
        choice, leaves = _choice(code, index), _leaves(slots, code, index)
        # Read before anything is written: XLA would copy all entries for a fusion that reads one and writes another.
        source, added = lax.optimization_barrier((entries[choice.source], entries[jnp.maximum(choice.add, 0)]))
        x = _prepare(plan, choice, leaves["norm_scale"], leaves["norm_bias"], source)
        y = _run_op(plan, choice, leaves, x)
        if "bias" in leaves:
            y = y + _bias(choice, leaves["bias"])
        y = y * _window(choice, plan.channels, y.dtype)
        y = y + jnp.where(choice.add >= 0, added, 0)
        return lax.dynamic_update_index_in_dim(entries, y, index + 2, 0)

    entries = lax.fori_loop(0, code["count"], unit, entries)
    main, side, final = (entries[code["out"][index]] for index in range(3))
    return (main, side, final), entries


def _run_forward(plan: SectionPlan, slots: Slots, code: Code, main: Array, side: Array) -> tuple[Any, Any]:
    out, entries = _run(plan, slots, code, main, side)
    return out, (slots, code, entries)


def _run_backward(plan: SectionPlan, saved: Any, g_out: tuple[Array, Array, Array]) -> tuple[Any, ...]:
    slots, code, entries = saved
    g_entries = jnp.zeros_like(entries)
    for index, g in enumerate(g_out):
        where = code["out"][index]  # no scatter: slow on a CPU
        g_entries = lax.dynamic_update_index_in_dim(g_entries, g_entries[where] + g, where, 0)
    # One slot more than there are: units without a leaf of a kind write its gradient there.
    g_slots = {name: jnp.zeros_like(array, shape=(len(array) + 1, *array.shape[1:])) for name, array in slots.items()}

    def unit(done: Array, state: tuple[Array, Slots]) -> tuple[Array, Slots]:
        g_entries, g_slots = state
        index = code["count"] - 1 - done
        choice, leaves = _choice(code, index), _leaves(slots, code, index)
        added = jnp.maximum(choice.add, 0)
        g_unit, g_source, g_added = _fetched(choice, g_entries, (index + 2, choice.source, added))
        g = g_unit * _window(choice, plan.channels, g_unit.dtype)
        g_C = g.sum((0, 1, 2))
        x, pull = jax.vjp(
            functools.partial(_prepare, plan, choice), leaves["norm_scale"], leaves["norm_bias"], entries[choice.source]
        )
        g_leaves, g = _op_gradient(plan, choice, leaves, x, g)
        g_scale, g_shift, g = pull(g)
        g_leaves |= {"norm_scale": g_scale, "norm_bias": g_shift}
        if "bias" in leaves:
            g_leaves["bias"] = jax.vjp(functools.partial(_bias, choice), leaves["bias"])[1](g_C)[0]
        g_source = g_source + g
        g_added = jnp.where(added == choice.source, g_source, g_added) + jnp.where(choice.add >= 0, g_unit, 0)
        g_entries = lax.dynamic_update_index_in_dim(g_entries, g_source, choice.source, 0)
        g_entries = lax.dynamic_update_index_in_dim(g_entries, g_added, added, 0)
        g_slots = {
            name: lax.dynamic_update_index_in_dim(array, g_leaves[name], code[f"slot_{KINDS[name]}"][index], 0)
            for name, array in g_slots.items()
        }
        return g_entries, g_slots

    g_entries, g_slots = lax.fori_loop(0, code["count"], unit, (g_entries, g_slots))
    return {name: array[:-1] for name, array in g_slots.items()}, None, g_entries[MAIN], g_entries[SIDE]


run_section.defvjp(_run_forward, _run_backward)


def _fetched(choice: Choice, entries: Array, indices: tuple[Array, ...]) -> tuple[Array, ...]:
    """Entries, read before any is written: inside a conditional (always taken), which XLA neither fuses nor repeats.

    Where a read may come after a write, XLA copies all entries, every turn.
    """

    def read(entries: Array) -> tuple[Array, ...]:
        return tuple(entries[index] for index in indices)

    def zeros(entries: Array) -> tuple[Array, ...]:
        return tuple(jnp.zeros_like(entries[0]) for _ in indices)

    return lax.cond(choice.op >= 0, read, zeros, entries)


def _choice(code: Code, index: Array) -> Choice:
    return Choice(*(code[name][index] for name in Choice._fields))


def _leaves(slots: Slots, code: Code, index: Array) -> Slots:
    """The leaves of a unit; for kinds that it lacks, the last slot's."""
    return {
        name: array[jnp.minimum(code[f"slot_{KINDS[name]}"][index], len(array) - 1)] for name, array in slots.items()
    }
