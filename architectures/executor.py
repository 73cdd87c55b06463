"""The compile-once executor: runs any cell of a space under one compilation, with the architecture as data.

A cell is a program over a memory bank of activations (SMASH, Brock et al. 2018, section 3.1): every step reads one
entry, applies one op and adds the result to another entry. The op is a switch. The steps of a cell are unrolled (a scan
over them copies the bank's entries: 2.3 times slower on CPU at 8 channels, for 3 seconds less of compilation), the
cells of a stage are scanned.

Do not `vmap` over architectures: a batched switch computes every branch. Map over them in sequence (`lax.map`), and
`vmap` over anything that keeps the op indices the same, such as seeds.

Shape letters: B batch, H height, W width, C channels, E steps (edges) of a cell, L cells of a stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures import switch
from architectures.layers import Layers
from architectures.ops import Op
from architectures.switch import run_op

Observe = Callable[[Array], Array]  # [B, H, W, C] input of a ReLU -> an array that is summed over ReLUs
# (number of the block, the block, its input) -> its output and an array that is summed over blocks
Around = Callable[[Array | int, Callable[[Array], Array], Array], tuple[Array, Array]]


class Plan(NamedTuple):
    """What is fixed at compilation.

    Attributes:
        ops: the candidates.
        wiring: (read, write) entries of the bank for every step, in topological order; entry 0 is the cell's input,
            the last its output.
        cells: number of stacked cells L.
        layers: how layers are computed.
    """

    ops: tuple[Op, ...]
    wiring: tuple[tuple[int, int], ...]
    cells: int
    layers: Layers

    def bank(self, x: Array) -> list[Array | None]:
        """An empty bank with x in its first entry."""
        return [x] + [None] * max(write for _, write in self.wiring)

    def stack(self, slots: Mapping[str, Array]) -> dict[str, Array]:
        """Leaf name -> [L * E, ...] as [L, E, ...]."""
        return {name: array.reshape(self.cells, len(self.wiring), *array.shape[1:]) for name, array in slots.items()}


def nothing_observed(x: Array, observe: Observe | None, around: Around | None) -> Array | float:
    """The sum of observations before the first (0.0 where nothing observes)."""
    if around is not None:
        seen = jax.eval_shape(lambda x: around(0, lambda x: x, x)[1], x)
    elif observe is not None:
        seen = jax.eval_shape(observe, x)
    else:
        return 0.0
    return jnp.zeros(seen.shape, seen.dtype)


def run_stage(
    plan: Plan,
    op_E: Array,
    slots: Mapping[str, Array],
    x: Array,
    observe: Observe | None = None,
    around: Around | None = None,
    first: int = 0,
) -> tuple[Array, Array | float]:
    """Runs the stacked cells of a stage.

    Args:
        plan: what is fixed at compilation.
        op_E: [E] int32, index into `plan.ops` for every step (the architecture).
        slots: leaf name -> [L * E, ...], cells in order, steps within a cell in order.
        x: [B, H, W, C].
        observe: summed over the inputs of all ops that rectify theirs (for activation-pattern proxies).
        around: runs every cell in its place, and is summed over cells (for proxies that look at whole blocks); give
            this or `observe`.
        first: number of the first cell, for `around`.

    Returns:
        The output [B, H, W, C] and the sum of observations (0.0 without any).
    """

    def cell(
        carry: tuple[Array, Array | float], row: tuple[Array, Array, dict[str, Array]]
    ) -> tuple[tuple[Array, Array | float], None]:
        (x, total), (number, op_E, slot_E) = carry, row
        if observe is not None:
            return watch_cell(plan, op_E, slot_E, x, observe, total), None
        if around is None:
            return (run_cell(plan, op_E, slot_E, x), total), None
        x, seen = around(number, lambda x: run_cell(plan, op_E, slot_E, x), x)
        return (x, total + seen), None

    # Ops are a row of every cell: were they the same to the loop, JAX's gradient would take what depends on them alone
    # out of it, above all the zeros that are saved for ops without a linear part, and copy them in again.
    ops_LE = jnp.broadcast_to(op_E, (plan.cells, len(plan.wiring)))
    rows = first + jnp.arange(plan.cells), ops_LE, plan.stack(slots)
    return lax.scan(cell, (x, nothing_observed(x, observe, around)), rows)[0]


# ------------------------------------------------------------------------------------------------------------ one cell


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_cell(plan: Plan, op_E: Array, slot_E: dict[str, Array], x: Array) -> Array:
    """The output of a cell with input x [B, H, W, C] and leaves [E, ...].

    It has a gradient of its own, in which gradients by an entry of the bank are summed inside the switches.
    """
    return _run_cell(plan, op_E, slot_E, x, save=False)[0]


def _run_cell(
    plan: Plan, op_E: Array, slot_E: dict[str, Array], x: Array, save: bool
) -> tuple[Array, tuple[list[Array | None], list[Array]]]:
    """The output; the bank, and what every switch saved."""
    bank, hidden = plan.bank(x), []
    for step, (read, write) in enumerate(plan.wiring):
        slot = _row(slot_E, step)
        bank[write], kept = switch.forward(
            plan.ops, plan.layers, op_E[step], slot, _entry(bank, read), bank[write], save
        )
        hidden.append(kept)
    return _entry(bank, -1), (bank, hidden)


def _run_cell_forward(plan: Plan, op_E: Array, slot_E: dict[str, Array], x: Array) -> tuple[Array, Any]:
    y, (bank, hidden) = _run_cell(plan, op_E, slot_E, x, save=True)
    return y, (op_E, slot_E, [x, *bank[1:-1]], hidden)


def _run_cell_backward(plan: Plan, saved: Any, g: Array) -> tuple[np.ndarray, dict[str, Array], Array]:
    op_E, slot_E, bank, hidden = saved
    grads: list[Array | None] = [None] * len(bank) + [g]
    slots = []
    for step, (read, write) in reversed(list(enumerate(plan.wiring))):
        slot, source = _row(slot_E, step), _entry(bank, read)
        slot_grads, grads[read] = switch.backward(
            plan.ops, plan.layers, op_E[step], slot, source, hidden[step], _entry(grads, write, g), grads[read]
        )
        slots.append(slot_grads)
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows[::-1]), *slots)
    return np.zeros(op_E.shape, jax.dtypes.float0), stacked, _entry(grads, 0, g)


run_cell.defvjp(_run_cell_forward, _run_cell_backward)


def watch_cell(
    plan: Plan, op_E: Array, slot_E: dict[str, Array], x: Array, observe: Observe, total: Array | float
) -> tuple[Array, Array | float]:
    """The output of a cell, and `total` plus what is observed of the inputs of its ops that rectify theirs."""
    rectifies, nothing = jnp.array([op.rectifies for op in plan.ops]), jnp.zeros_like(total)
    bank = plan.bank(x)
    for step, (read, write) in enumerate(plan.wiring):
        source, op = _entry(bank, read), op_E[step]
        total = total + lax.cond(rectifies[op], observe, lambda _: nothing, source)
        bank[write], _ = switch.forward(plan.ops, plan.layers, op, _row(slot_E, step), source, bank[write], save=False)
    return _entry(bank, -1), total


# ----------------------------------------------------------------------------------------------------- plain reference


def run_stage_static(plan: Plan, op_E: Sequence[int], slots: Mapping[str, Array], x: Array) -> Array:
    """The plain reference of `run_stage`: the same cells as ordinary Python, to be compiled for one architecture.

    Edges without an op ("none") are left out, as somebody who writes the network by hand would.
    """
    for cell in range(plan.cells):
        bank = plan.bank(x)
        for step, (read, write) in enumerate(plan.wiring):
            op = plan.ops[int(op_E[step])]
            if op.name != "none":
                slot = {name: array[cell, step] for name, array in plan.stack(slots).items()}
                _add(bank, write, run_op(op, plan.layers, slot, _entry(bank, read)))
        x = _entry(bank, -1)
    return x


def _row(slot_E: Mapping[str, Array], step: int) -> dict[str, Array]:
    return {name: array[step] for name, array in slot_E.items()}


def _entry(bank: Sequence[Array | None], index: int, like: Array | None = None) -> Array:
    """An entry of the bank; one that nothing was written to is zero."""
    entry, like = bank[index], bank[0] if like is None else like
    assert like is not None
    return jnp.zeros_like(like) if entry is None else entry


def _add(bank: list[Array | None], index: int, x: Array) -> None:
    entry = bank[index]
    bank[index] = x if entry is None else entry + x
