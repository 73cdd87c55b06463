"""Tapes as integer arrays of one shape: what makes a network data for the executor.

Shape letters: R sections, U units of a section at most, S slots of a kind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from architectures.tape import ACTIVATIONS, HEADS, SMOOTH, Tape, Unit
from architectures.tape_layout import Allocated, TapeShape, allocate, op_name

COUNTED = ("conv", "large", "dense", "depthwise", "bias", "norm", "attention", "token_mix", "squeeze_excite")
SPREAD = ("conv", "large", "dense")  # kernels that are laid into square ones
FIELDS = ("op", "prepare", "activation", "source", "add", "offset", "inputs", "outputs", "heads", "hidden", "bias_used")


def encode(tape: Tape, shape: TapeShape) -> dict[str, NDArray[np.int32]]:
    """A tape as integer arrays.

    Units: {field of FIELDS, slot_<kind>: [R, U]}, count [R], out [R, 3] (entries that the main and the side unit to the
    next section read, and that the head reads). Kernels: <kind>_<"inputs", "outputs", "groups", "offset">: [R, S];
    norms: norm_width [R, S]. Then the strided units and the head.
    """
    plan, sections = allocate(tape, shape), len(shape.sizes)
    rows = (sections, max(shape.units))
    code = {name: np.zeros(rows, np.int32) for name in FIELDS}
    code |= {f"slot_{kind}": np.full(rows, shape.count(kind), np.int32) for kind in COUNTED}
    code["slot_position"] = np.ones(rows, np.int32)
    code |= {
        f"{kind}_{name}": np.zeros((sections, shape.count(kind)), np.int32)
        for kind in SPREAD
        for name in ("inputs", "outputs", "offset")
    }
    code |= {f"{kind}_groups": np.ones((sections, shape.count(kind)), np.int32) for kind in SPREAD}
    code["norm_width"] = np.zeros((sections, shape.count("norm")), np.int32)
    code["count"] = np.array([len(units) for units in tape.sections], np.int32)
    code["out"] = np.zeros((sections, 3), np.int32)
    code["out"][tape.exit, 2] = tape.final
    for section, units in enumerate(plan.sections):
        for row, allocated in enumerate(units):
            _encode_unit(code, allocated, section, row, shape)
    for section, pair in enumerate(tape.downs):
        for index, unit in enumerate(pair):
            if unit is not None:
                code["out"][section, index] = unit.source
    code |= {
        "down_op": np.array(
            [[_down_op(unit, index, shape) for index, unit in enumerate(pair)] for pair in tape.downs], np.int32
        ).reshape(-1, 2),
        "down_outputs": np.array(
            [[0 if unit is None else unit.outputs for unit in pair] for pair in tape.downs], np.int32
        ).reshape(-1, 2),
        "down_inputs": np.array(
            [[0 if unit is None else unit.inputs for unit in pair] for pair in tape.downs], np.int32
        ).reshape(-1, 2),
        "down_groups": np.array(
            [[1 if unit is None else unit.groups for unit in pair] for pair in tape.downs], np.int32
        ).reshape(-1, 2),
        "down_bias": np.array(
            [[unit is not None and unit.bias for unit in pair] for pair in tape.downs], np.int32
        ).reshape(-1, 2),
        "stem": np.array(
            [shape.stems.index(_stem_op(tape.stem)), tape.entry, tape.stem.outputs, tape.stem.bias], np.int32
        ),
        "head": np.array([HEADS.index(tape.head) * sections + tape.exit, tape.features], np.int32),
    }
    return code


def _encode_unit(
    code: dict[str, NDArray[np.int32]], allocated: Allocated, section: int, row: int, shape: TapeShape
) -> None:
    unit, slots = allocated.unit, allocated.slots
    values = {
        "op": shape.ops[section].index(op_name(unit, shape, section)),
        "prepare": shape.prepares.index((unit.norm, unit.activation in SMOOTH)),
        "activation": ACTIVATIONS.index(unit.activation),
        "source": unit.source,
        "add": -1 if unit.add is None else unit.add,
        "offset": unit.offset,
        "inputs": unit.inputs,
        "outputs": unit.outputs,
        "heads": unit.heads,
        "hidden": unit.hidden,
        "bias_used": "bias" in slots,
    }
    for name, value in values.items():
        code[name][section, row] = value
    for kind, slot in slots.items():
        code[f"slot_{kind}"][section, row] = slot
        if kind in SPREAD:
            for name in ("inputs", "outputs", "groups", "offset"):
                code[f"{kind}_{name}"][section, slot] = getattr(unit, name)
        elif kind == "norm":
            code["norm_width"][section, slot] = unit.inputs


def _stem_op(unit: Unit) -> str:
    if unit.stride == 1:
        return f"conv{unit.kernel}"
    return f"half{unit.kernel}" if unit.kernel > 2 and unit.stride == 2 else f"patch{unit.kernel}"


def _down_op(unit: Unit | None, index: int, shape: TapeShape) -> int:
    """0: nothing leads there."""
    if unit is None:
        return 0
    names = shape.mains if index == 0 else shape.sides
    return 1 + names.index(unit.kind if unit.kind.endswith("pool") else f"{unit.kind}{unit.kernel}")
