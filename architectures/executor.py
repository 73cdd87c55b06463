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

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.layers import Layers
from architectures.ops import Op
from architectures.switch import run_op, switch_op

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
    rectifies = jnp.array([op.rectifies for op in plan.ops])
    nothing = nothing_observed(x, observe, around)

    def run(x: Array, slot_E: dict[str, Array], total: Array | float) -> tuple[Array, Array | float]:
        bank = plan.bank(x)
        for step, (read, write) in enumerate(plan.wiring):
            source = _entry(bank, read)
            slot = {name: array[step] for name, array in slot_E.items()}
            if observe is not None:
                total = total + lax.cond(rectifies[op_E[step]], observe, lambda _: nothing, source)
            _add(bank, write, switch_op(plan.ops, plan.layers, op_E[step], slot, source))
        return _entry(bank, -1), total

    def cell(carry: tuple[Array, Array | float], slot_E: dict[str, Array]) -> tuple[tuple[Array, Array | float], None]:
        return run(carry[0], slot_E, carry[1]), None

    def watched_cell(
        carry: tuple[Array, Array | float], row: tuple[Array, dict[str, Array]]
    ) -> tuple[tuple[Array, Array | float], None]:
        assert around is not None
        number, slot_E = row
        x, seen = around(number, lambda x: run(x, slot_E, 0.0)[0], carry[0])
        return (x, carry[1] + seen), None

    if around is None:
        (x, total), _ = lax.scan(cell, (x, nothing), plan.stack(slots), length=plan.cells)
    else:
        numbers = first + jnp.arange(plan.cells)
        (x, total), _ = lax.scan(watched_cell, (x, nothing), (numbers, plan.stack(slots)))
    return x, total


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


def _entry(bank: list[Array | None], index: int) -> Array:
    """An entry of the bank; one that nothing was written to is zero."""
    entry, first = bank[index], bank[0]
    assert first is not None
    return jnp.zeros_like(first) if entry is None else entry


def _add(bank: list[Array | None], index: int, x: Array) -> None:
    entry = bank[index]
    bank[index] = x if entry is None else entry + x
