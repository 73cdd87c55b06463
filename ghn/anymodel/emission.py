"""From tiles to leaves, on the host and piece by piece: a leaf is written once, in cache-sized chunks.

The fixed noise is a bank of a prime number of values. A leaf reads it from a place of its own, row after row in
canonical layout, so that rows and columns of one leaf differ (a period of the bank never falls on the same column).

Shape letters: I inputs, O outputs, T channels of a tile.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Parameter

Array = NDArray[Any]
Floats = NDArray[np.float32]

BANK = 1_048_573  # values of the noise, a prime
CHUNK = 1 << 15  # values written at a time: 128 kB, within a core's second-level cache
LONGEST = 1 << 18  # values that are read without wrapping around


@functools.cache
def noise_bank() -> Floats:
    """[BANK + LONGEST] normal noise; the end repeats the start, so that no read has to wrap around."""
    values = np.random.default_rng(0).standard_normal(BANK, np.float32)
    return np.concatenate([values, values[:LONGEST]])


@functools.cache
def block_signs() -> Floats:
    """[1021, 1021] of -1 and 1 for repeated copies of a tile; the first copy is the tile itself."""
    signs = np.random.default_rng(1).integers(0, 2, (1021, 1021)).astype(np.float32) * 2 - 1
    signs[0, 0] = 1
    return signs


def node_colours(graph: ArchGraph) -> list[bytes]:
    """A digest of each node's surroundings: all that leads to it and all that it leads to. Isomorphic graphs have the
    same colours; nodes that nothing tells apart are numbered in their order."""
    names = ("channels_in", "channels_out", "kernel", "stride", "groups", "dilation")
    columns = [graph.attributes[name].tolist() for name in names]
    own = [repr((op, *(column[i] for column in columns))) for i, op in enumerate(graph.ops)]
    reads: list[list[int]] = [[] for _ in own]
    readers: list[list[int]] = [[] for _ in own]
    for source, target in graph.edges.tolist():
        reads[target].append(source)
        readers[source].append(target)
    unordered = frozenset(("sum", "product"))
    before: list[bytes] = []
    for i, text in enumerate(own):
        parts = [before[source] for source in reads[i]]
        before.append(_digest(text.encode(), *(sorted(parts) if graph.ops[i] in unordered else parts)))
    after: list[bytes] = [b""] * len(own)
    for i in reversed(range(len(own))):
        parts = []
        for target in readers[i]:
            place = 0 if graph.ops[target] in unordered else reads[target].index(i)
            parts.append(after[target] + before[target] + bytes([place % 256]))
        after[i] = _digest(own[i].encode(), *sorted(parts))
    seen: dict[bytes, int] = {}
    colours = []
    for one, other in zip(before, after, strict=True):
        both = _digest(one, other)
        seen[both] = seen.get(both, -1) + 1
        colours.append(_digest(both, str(seen[both]).encode()))
    return colours


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=8).digest()


def bank_offset(colour: bytes, role: str, ordinal: int) -> int:
    """Where in the bank a leaf starts: by its node's colour, its role, and its number among the node's leaves of it."""
    return int.from_bytes(_digest(colour, role.encode(), str(ordinal).encode()), "big") % BANK


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that JAX on a CPU takes over without a copy (aligned to 64 bytes)."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def write_matrix(out: Array, row: Parameter, tile: Floats, noise: float, scale: float, offset: int) -> None:
    """Fills a leaf (or a part of it) with scale * (noise * bank + tile).

    Args:
        out: in the user's layout and dtype.
        row: of the parameter table; a kernel or an embedding.
        tile: [kh', kw', T, T] (an embedding: [1, 1, T, T]), kernel positions being those that the tile has.
        noise: factor of the bank.
        scale: of all.
        offset: where in the bank to start.
    """
    *_, inputs, outputs = row.leaf.shape
    tiles = tile.reshape(-1, *tile.shape[2:]) * np.float32(scale)
    kinds = _positions(row, tile.shape[:2])
    start = offset
    for index, matrix in zip(kinds, _matrices(out, row), strict=True):
        _write(matrix, tiles[index], inputs, outputs, np.float32(noise * scale), start % BANK)
        start += inputs * outputs


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


def _write(matrix: Array, tile: Floats, inputs: int, outputs: int, noise: np.float32, start: int) -> None:
    """One [I, O] matrix, in chunks of rows that share a copy of the tile."""
    try:
        target = matrix.reshape(inputs, outputs, copy=False)
    except ValueError:  # its axes do not lie in order: through a copy of it
        target = np.empty((inputs, outputs), np.float32)
    size = tile.shape[0]
    bank, signs = noise_bank(), block_signs()
    columns = np.arange(outputs)
    wide = tile[:, :outputs] if outputs <= size else tile[:, columns % size]  # [T, O]
    copies = (columns // size) % len(signs)
    rows = max(1, min(size, inputs, CHUNK // outputs))
    direct = target.dtype == np.float32 and target.flags.c_contiguous
    scratch = None if direct else np.empty((rows, outputs), np.float32)
    signed = np.empty((rows, outputs), np.float32)
    for first in range(0, inputs, size):
        block = signs[(first // size) % len(signs)][copies]
        for top in range(first, min(first + size, inputs), rows):
            bottom = min(top + rows, first + size, inputs)
            chunk = target[top:bottom] if scratch is None else scratch[: bottom - top]
            own = np.multiply(wide[top - first : bottom - first], block, out=signed[: bottom - top])
            np.multiply(_bank_rows(bank, (start + top * outputs) % BANK, chunk.shape), noise, out=chunk)
            np.add(chunk, own, out=chunk)
            if scratch is not None:
                target[top:bottom] = chunk
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
