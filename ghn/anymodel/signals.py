"""What weights make of a signal: samples of every channel, followed through a graph.

Predicted kernels are no independent draws: they are tiles, which answer coherently to the means that rectified signals
have, and they may pass channels on as they are (`ghn.direct`), so that what meets in a sum is alike. Followed by its
strength alone, a signal would be underestimated by a factor in every layer.

A signal is an [S, C] array: S samples (of examples and places together) of C channels. Places of one image are not told
apart: what a kernel reads beside its centre are other samples.

Shape letters: S samples, C channels, I inputs, O outputs, T channels of a tile, K kernel positions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from architectures.ops import Leaf
from ghn.direct import passed_on, share
from ghn.noise import block_signs, copied_columns

Signal = NDArray[np.floating[Any]]

SAMPLES = 32
POOL = 8_191  # channels that are drawn, a prime
FEW = 8  # channels below this may stand for more that are not told apart
EPSILON = 1e-6  # that normalisations add to a variance
NOTHING: Signal = np.zeros((SAMPLES, 1), np.float32)
ONES: Signal = np.ones((SAMPLES, 1), np.float32)


def drawn(channels: int, offset: int) -> Signal:
    """[S, C] normal values, of mean 0 and variance 1 in every channel; nodes of other offsets have others."""
    start = offset % POOL
    return fitted(_pool()[:, start : start + min(channels, POOL)], channels)


def signs(channels: int, offset: int) -> Signal:
    """[C] of -1 and 1."""
    return np.sign(drawn(channels, offset)[0])


@functools.cache
def _pool() -> Signal:
    """[S, 2 x POOL], repeated once, so that no read has to wrap around."""
    values = np.random.default_rng(2).standard_normal((SAMPLES, POOL), np.float32)
    return np.tile(standardised(values), (1, 2))


def strength(signal: Signal) -> float:
    """The mean square."""
    flat = signal.reshape(-1)
    return float(flat @ flat) / flat.size


def elsewhere(signal: Signal) -> Signal:
    """The same channels at another place, or another time."""
    return np.roll(signal, 1, axis=0)


def fitted(signal: Signal, channels: int) -> Signal:
    """For as many channels: other samples of the same ones, where they do not suffice."""
    have = signal.shape[1]
    if have >= channels:
        return signal[:, :channels]
    channel = np.arange(channels)
    sample = np.arange(SAMPLES)[:, None]
    return np.asarray(signal[(sample + channel // have) % SAMPLES, channel % have])


def answered(
    signal: Signal, leaf: Leaf, tile: Signal, noise: float, direct: float, groups: int, offset: int = 0
) -> Signal:
    """What a kernel makes of a signal: noise of its own for every weight, a tile that is repeated over it, and what is
    passed on as it is.

    Args:
        signal: of the inputs.
        leaf: the kernel (kh, kw, I, O); of groups, I are the inputs of one.
        tile: [kh', kw', T, T], repeated over larger kernels.
        noise: factor of the noise.
        direct: what is passed on, as the root mean square that it alone has.
        groups: of the convolution.
        offset: of the node's draws.
    """
    kh, kw, inputs, outputs = leaf.shape
    signal = fitted(signal, inputs * groups)
    size = tile.shape[-1]
    if tile.shape[:2] != (kh, kw):
        tile = tile[np.ix_(np.arange(kh) % len(tile), np.arange(kw) % tile.shape[1])]
    tile_KTT = tile.reshape(kh * kw, size, size)
    if groups == 1:
        answer = _answered(signal, tile_KTT, outputs, kh // 2 * kw + kw // 2)
    else:
        answer = _answered_in_groups(signal, tile_KTT, groups, inputs, outputs, kh // 2 * kw + kw // 2)
    if noise:
        answer += drawn(outputs, offset) * np.float32(noise * math.sqrt(kh * kw * inputs * strength(signal)))
    if direct:
        rows, columns = passed_on(inputs, outputs)
        rows = rows + inputs * (columns // max(outputs // groups, 1) % groups)
        factor = np.float32(direct * math.sqrt(leaf.fan_in) * share(inputs, outputs))
        for first in range(0, len(rows), outputs):  # each output at most once
            part = slice(first, first + outputs)
            answer[:, columns[part]] += factor * signal[:, rows[part]]
    return answer


def _answered(signal: Signal, tile_KTT: Signal, outputs: int, centre: int) -> Signal:
    inputs, size = signal.shape[1], tile_KTT.shape[-1]
    blocks, copies = -(-inputs // size), -(-outputs // size)
    if blocks == 1:
        tile_KTT = tile_KTT[:, :inputs]
    if copies == 1:
        tile_KTT = tile_KTT[:, :, :outputs]
    count, high, wide = tile_KTT.shape
    if blocks > 1 or copies > 1:
        if inputs % high:
            signal = np.pad(signal, ((0, 0), (0, blocks * high - inputs)))
        signal = _block_signs(blocks, copies).T @ signal.reshape(SAMPLES, blocks, high)
    each = signal.reshape(SAMPLES * copies, high) @ tile_KTT.transpose(1, 0, 2).reshape(high, count * wide)
    answer = _over_positions(each.reshape(SAMPLES, copies, count, wide).transpose(2, 0, 1, 3), centre)
    answer = answer.reshape(SAMPLES, copies * wide)
    return answer if copies == 1 else answer[:, _copied(size, outputs)]


@functools.cache
def _copied(size: int, outputs: int) -> NDArray[np.int64]:
    """[O] where each output stands among all columns of all copies of a tile."""
    return np.asarray(np.arange(outputs) // size * size + copied_columns(size, outputs))


def _answered_in_groups(
    signal: Signal, tile_KTT: Signal, groups: int, inputs: int, outputs: int, centre: int
) -> Signal:
    size = tile_KTT.shape[-1]
    of_group = np.arange(outputs) // max(outputs // groups, 1) % groups
    signal_SOI = signal.reshape(SAMPLES, groups, inputs)[:, of_group]
    tile_KOI = tile_KTT[:, np.arange(inputs)[None, :] % size, copied_columns(size, outputs)[:, None]]
    return _over_positions(np.einsum("soi,koi->kso", signal_SOI, tile_KOI), centre)


def _over_positions(answer_KS: Signal, centre: int) -> Signal:
    """[S, ...] the sum over a kernel's positions, each of which reads samples of its own."""
    if len(answer_KS) == 1:
        return answer_KS[0]
    total = np.array(answer_KS[centre])
    for position, answer in enumerate(answer_KS):
        if position != centre:
            shift = (position - centre) % SAMPLES
            total[shift:] += answer[: SAMPLES - shift]
            total[:shift] += answer[SAMPLES - shift :]
    return total


def _block_signs(rows: int, columns: int) -> Signal:
    signs = block_signs()
    if rows <= len(signs) and columns <= len(signs):
        return signs[:rows, :columns]
    return signs[np.ix_(np.arange(rows) % len(signs), np.arange(columns) % len(signs))]


def rectified(signal: Signal) -> Signal:
    """After a ReLU."""
    return np.maximum(signal, 0)


def sigmoid(signal: Signal) -> Signal:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-np.clip(signal, -30, 30))))


def gelu(signal: Signal) -> Signal:
    """x Phi(x), by the logistic approximation of the normal distribution (Page 1977)."""
    return signal * sigmoid(signal * np.float32(1.595769) * (1 + np.float32(0.044715) * signal * signal))


def silu(signal: Signal) -> Signal:
    """x / (1 + exp(-x))."""
    return signal * sigmoid(signal)


def standardised(signal: Signal) -> Signal:
    """Mean 0 and variance 1 in every channel, but where there is nothing to normalise."""
    centred = signal - signal.mean(0)
    return np.asarray(centred / np.sqrt(np.einsum("sc,sc->c", centred, centred) / SAMPLES + np.float32(EPSILON)))


def normalised_alone(signal: Signal) -> Signal:
    """After a normalisation over the channels of each place: strength 1 around a mean of 0 in every sample."""
    if signal.shape[1] < FEW:
        return normalised(signal)
    centred = signal - signal.mean(1, keepdims=True)
    squares = np.einsum("sc,sc->s", centred, centred)[:, None] / np.float32(signal.shape[1])
    return np.asarray(centred / np.sqrt(squares + np.float32(EPSILON)))


def normalised(signal: Signal) -> Signal:
    """After a normalisation over places, too: strength 1 around a mean of 0, where there is anything to normalise."""
    centred = signal - signal.mean()
    return np.asarray(centred / np.float32(math.sqrt(strength(centred) + EPSILON)))


def summed(signals: Sequence[Signal]) -> Signal:
    """A sum, channel by channel."""
    return functools.reduce(np.add, _alike(signals))


def multiplied(signals: Sequence[Signal]) -> Signal:
    """A product, channel by channel."""
    return functools.reduce(np.multiply, _alike(signals))


def joined(signals: Sequence[Signal], channels: int) -> Signal:
    """Side by side: channels, or, where they make more than there are, places, of which each sample is one."""
    if sum(signal.shape[1] for signal in signals) == channels:
        return np.concatenate(signals, axis=1)
    parts = np.stack(_alike(signals))
    sample = np.arange(SAMPLES)
    return np.asarray(parts[sample % len(parts), sample])


def _alike(signals: Sequence[Signal]) -> list[Signal]:
    channels = max(signal.shape[1] for signal in signals)
    return [fitted(signal, channels) for signal in signals]


def averaged(signal: Signal, places: float) -> Signal:
    """The mean over as many places."""
    mean = signal.mean(0)
    return mean + (signal - mean) / np.float32(math.sqrt(max(places, 1.0)))


def entering(op: str, ops: Sequence[str], sources: Sequence[Signal], fewer: float, own: Signal) -> Signal:
    """What a node makes of its inputs before its own weights.

    Args:
        op: of the node.
        ops: of the nodes that it reads.
        sources: their signals.
        fewer: how many places of the first of them become one.
        own: of its channels, what it says where it reads nothing: a table's values, or an input.
    """
    if not sources or op in SOURCES:
        return own
    if op == "concat":
        return joined(sources, own.shape[1])
    if op in JOINING:
        return JOINING[op](sources)
    if op == "attend":  # a mean of what is not the attention
        return next((source for source, name in zip(sources, ops, strict=True) if name != "softmax"), sources[0])
    if op in ("avg_pool", "global_avg_pool"):
        return averaged(sources[0], fewer)
    if op == "aggregate":  # what neighbours have in common adds up
        return sources[0] * np.float32(max(fewer, 1.0))
    return ALONE.get(op, _same)(sources[0])


def _same(signal: Signal) -> Signal:
    return signal


def _ones(signal: Signal) -> Signal:
    return ONES


SOURCES = frozenset(("input", "embedding", "constant"))  # their output is a table's, whatever they read
JOINING: dict[str, Callable[[Sequence[Signal]], Signal]] = {
    "sum": summed,
    **dict.fromkeys(("product", "matmul", "query_key", "gate"), multiplied),
}
ALONE: dict[str, Callable[[Signal], Signal]] = {
    "relu": rectified,
    "gelu": gelu,
    "silu": silu,
    **dict.fromkeys(("layer_norm", "rms_norm"), normalised_alone),
    **dict.fromkeys(("group_norm", "normalise"), normalised),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softmax": _ones,
}
