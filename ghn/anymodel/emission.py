"""From tiles to leaves, on the host and piece by piece: a leaf is written once, in cache-sized chunks.

Shape letters: I inputs, O outputs, T channels of a tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.graph import Parameter
from ghn.direct import passed_on, share
from ghn.noise import BANK, block_signs, copied_columns, noise_bank

Array = NDArray[Any]
Floats = NDArray[np.float32]

CHUNK = 1 << 15  # values written at a time: 128 kB, within a core's second-level cache


def write_matrix(
    out: Array, row: Parameter, tile: Floats, noise: float, direct: float, scale: float, offset: int
) -> None:
    """Fills a leaf (or a part of it) with scale * (noise * bank + tile + what is passed on).

    Args:
        out: in the user's layout and dtype.
        row: of the parameter table; a kernel or an embedding.
        tile: [kh', kw', T, T] (an embedding: [1, 1, T, T]), kernel positions being those that the tile has.
        noise: factor of the bank.
        direct: what is passed on as it is, as the root mean square that it alone has.
        scale: of all.
        offset: where in the bank to start.
    """
    *positions, inputs, outputs = row.leaf.shape
    amount = direct * scale * math.sqrt(row.leaf.fan_in) * share(inputs, outputs)
    tiles = tile.reshape(-1, *tile.shape[2:]) * np.float32(scale)
    kinds = _positions(row, tile.shape[:2])
    signs, start = _signs(tile.shape[-1], inputs, outputs), offset
    for number, (index, matrix) in enumerate(zip(kinds, _matrices(out, row), strict=True)):
        _write(matrix, tiles[index], signs, np.float32(noise * scale), start % BANK)
        if amount and number % math.prod(positions) == _centre(positions):
            rows, columns = passed_on(inputs, outputs)
            matrix[np.unravel_index(rows * outputs + columns, matrix.shape)] += np.asarray(amount, matrix.dtype)
        start += inputs * outputs


def _centre(positions: Sequence[int]) -> int:
    """Number of a kernel's middle position."""
    kh, kw = positions
    return kh // 2 * kw + kw // 2


def _positions(row: Parameter, have: tuple[int, int]) -> Iterator[int]:
    """Which position of the tile each [I, O] matrix of a leaf takes; larger kernels repeat the tile's positions."""
    kh, kw = row.leaf.shape[:2] if row.leaf.role == "kernel" else (1, 1)
    for _ in range(row.copies):
        for i, j in itertools.product(range(kh), range(kw)):
            yield (i % have[0]) * have[1] + j % have[1]


def _matrices(out: Array, row: Parameter) -> Iterator[Array]:
    """Every [inputs..., outputs...] matrix of a leaf as a view, in canonical order of copies and positions."""
    ordered = out if row.axes is None else out.transpose(np.argsort(row.axes))
    kh, kw = row.leaf.shape[:2] if row.leaf.role == "kernel" else (1, 1)
    leading, size = 0, 1
    while size < row.copies * kh * kw:
        size *= ordered.shape[leading]
        leading += 1
    for index in itertools.product(*(range(n) for n in ordered.shape[:leading])):
        yield ordered[index]


def _signs(size: int, inputs: int, outputs: int) -> Floats:
    """[I / T, O] of -1 and 1: for every copy of a tile downwards, and all channels across."""
    table, downwards, across = block_signs(), -(-inputs // size), -(-outputs // size)
    copies = table[np.ix_(np.arange(downwards) % len(table), np.arange(across) % len(table))]
    return np.repeat(copies, size, axis=1)[:, :outputs]


def _write(matrix: Array, tile: Floats, signs: Floats, noise: np.float32, start: int) -> None:
    """One [I, O] matrix, in chunks of one or several copies of the tile, or of rows of one."""
    outputs = signs.shape[1]
    inputs = matrix.size // outputs
    size = min(len(tile), inputs)
    try:
        target = matrix.reshape(inputs, outputs, copy=False)
    except ValueError:  # its axes do not lie in order: through a copy of it
        target = np.empty((inputs, outputs), np.float32)
    wide = tile[:size, :outputs]  # [T, O]
    if outputs > len(tile):
        wide = np.take(tile[:size], copied_columns(len(tile), outputs), axis=1, mode="clip")  # clip: unchecked
    blocks, rows = min(len(signs), max(1, CHUNK // (size * outputs))), min(size, max(1, CHUNK // outputs))
    direct = target.dtype == np.float32 and target.flags.c_contiguous
    scratch = None if direct else np.empty((blocks * rows, outputs), np.float32)
    signed = np.empty((blocks, rows, outputs), np.float32)
    bank = noise_bank()
    for first, row in itertools.product(range(0, len(signs), blocks), range(0, size, rows)):
        part, block = wide[row : row + rows], signs[first : first + blocks, None]
        top = first * size + row
        chunk = target[top : top + len(block) * len(part)]  # several blocks, or rows of one
        if not len(chunk):
            break
        goal = chunk if scratch is None else scratch[: len(chunk)]
        own = np.multiply(part, block, out=signed[: len(block), : len(part)]).reshape(-1, outputs)
        np.multiply(_bank_rows(bank, (start + top * outputs) % BANK, chunk.shape), noise, out=goal)
        np.add(goal, own[: len(chunk)], out=goal)
        if scratch is not None:
            chunk[...] = goal
    if not np.may_share_memory(target, matrix):
        matrix[...] = target.reshape(matrix.shape)


def _bank_rows(bank: Floats, start: int, shape: tuple[int, ...]) -> Floats:
    """[rows, O] of the bank from `start` on."""
    size = shape[0] * shape[1]
    if start + size > len(bank):  # only rows longer than LONGEST
        return np.take(bank, (start + np.arange(size)) % BANK).reshape(shape)
    return bank[start : start + size].reshape(shape)


def write_vector(out: Array, vector_T: Floats, mean: float) -> None:
    """Fills a 1-D leaf with mean + vector, repeated to its length."""
    flat = np.resize(vector_T, out.size) + np.float32(mean)
    out[...] = flat.reshape(out.shape)
