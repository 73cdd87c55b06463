"""What predicted weights make of a signal: mean and variance of every channel, followed through a graph.

Predicted kernels are no independent draws: they are tiles, and tiles answer coherently to the means that rectified
signals have. Followed by its strength alone, a signal would be underestimated by a factor in every layer.

Shape letters: C channels, I inputs, O outputs, T channels of a tile, K kernel positions, B copies of a tile.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from architectures.ops import Leaf
from ghn.direct import passed_on, share
from ghn.noise import block_signs, copied_columns

Floats = NDArray[np.floating[Any]]


class Signal(NamedTuple):
    """[C] mean and variance of each channel, over examples and places."""

    mean: Floats
    variance: Floats

    @property
    def strength(self) -> float:
        """The mean square."""
        return (float(self.mean @ self.mean) + float(self.variance.sum())) / len(self.mean)

    def times(self, factor: float | Floats) -> Signal:
        """Multiplied, channel by channel."""
        return Signal(self.mean * factor, self.variance * np.square(factor))

    def fitted(self, channels: int) -> Signal:
        """For as many channels: repeated if it was flattened, or the same everywhere."""
        have = len(self.mean)
        if have == channels:
            return self
        if channels % have == 0:
            return Signal(*(np.tile(part, channels // have) for part in self))
        return Signal(*(np.full(channels, part.mean(), np.float32) for part in self))


EPSILON = 1e-6  # that normalisations add to a variance
UNIT = Signal(np.zeros(1, np.float32), np.ones(1, np.float32))
NOTHING = Signal(np.zeros(1, np.float32), np.zeros(1, np.float32))


def answered(signal: Signal, leaf: Leaf, tile: Floats, noise: float, direct: float, groups: int) -> Signal:
    """What a kernel makes of a signal: noise of its own for every weight, a tile that is repeated over it, and what is
    passed on as it is.

    Args:
        signal: of the inputs.
        leaf: the kernel (kh, kw, I, O); of groups, I are the inputs of one.
        tile: [kh', kw', T, T], repeated over larger kernels.
        noise: factor of the noise.
        direct: what is passed on, as the root mean square that it alone has.
        groups: of the convolution.
    """
    kh, kw, inputs, outputs = leaf.shape
    mean_I, variance_I = signal.fitted(inputs * groups)
    together, squares = _over_positions(tile, kh, kw)
    noisy = kh * kw * noise**2
    if direct:
        passed = _passed_on(mean_I, variance_I, direct * math.sqrt(leaf.fan_in), groups, outputs)
        return summed([answered(signal, leaf, tile, noise, 0.0, groups), passed])
    if groups > 1:
        return _answered_in_groups(mean_I, variance_I, together, squares, noisy, groups, outputs)
    size = tile.shape[-1]
    mean_BT, variance_BT = (_in_blocks(part, size) for part in (mean_I, variance_I))
    copies = -(-outputs // size)
    signs = _signs(len(mean_BT), copies)
    columns = copied_columns(size, outputs)
    mean_O = ((signs.T @ mean_BT) @ together)[np.arange(outputs) // size, columns]
    spread = inputs * noisy * signal.strength
    variance_T = variance_BT.sum(0) @ squares + np.float32(spread)
    return Signal(mean_O, variance_T[columns])


def _passed_on(mean_I: Floats, variance_I: Floats, amount: float, groups: int, outputs: int) -> Signal:
    """What each output takes of an input as it is."""
    each = len(mean_I) // groups
    rows, columns = passed_on(each, outputs)
    rows = rows + each * (columns // max(outputs // groups, 1) % groups)
    factor = np.float32(amount * share(each, outputs))
    mean_O, variance_O = np.zeros(outputs, np.float32), np.zeros(outputs, np.float32)
    np.add.at(mean_O, columns, factor * mean_I[rows])
    np.add.at(variance_O, columns, factor**2 * variance_I[rows])
    return Signal(mean_O, variance_O)


def _answered_in_groups(
    mean_I: Floats,
    variance_I: Floats,
    together: Floats,
    squares: Floats,
    noisy: float,
    groups: int,
    outputs: int,
) -> Signal:
    each, size = len(mean_I) // groups, len(together)
    i, o = np.arange(each) % size, copied_columns(size, outputs)
    of_group = np.arange(outputs) // max(outputs // groups, 1) % groups
    mean_IO, variance_IO = (part.reshape(groups, each)[of_group].T for part in (mean_I, variance_I))
    mean_O = (mean_IO * together[np.ix_(i, o)]).sum(0)
    spread = noisy * (variance_IO + np.square(mean_IO)).sum(0)
    return Signal(mean_O, ((variance_IO * squares[np.ix_(i, o)]).sum(0) + spread).astype(np.float32))


def _over_positions(tile: Floats, kh: int, kw: int) -> tuple[Floats, Floats]:
    """[T, T] sum over a kernel's positions, and sum of squares."""
    rows, columns = (np.resize(np.arange(have), size) for have, size in zip(tile.shape, (kh, kw), strict=False))
    if (kh, kw) != tile.shape[:2]:
        tile = tile[np.ix_(rows, columns)]
    flat = tile.reshape(-1, *tile.shape[2:])
    return flat.sum(0), np.einsum("kio,kio->io", flat, flat)


def _in_blocks(part_I: Floats, size: int) -> Floats:
    """[B, T], filled up with zeros."""
    blocks = -(-len(part_I) // size)
    padded = np.zeros(blocks * size, np.float32)
    padded[: len(part_I)] = part_I
    return padded.reshape(blocks, size)


def _signs(rows: int, columns: int) -> Floats:
    signs = block_signs()
    if rows <= len(signs) and columns <= len(signs):
        return signs[:rows, :columns]
    return signs[np.ix_(np.arange(rows) % len(signs), np.arange(columns) % len(signs))]


def rectified(signal: Signal, softness: float = 0.0) -> Signal:
    """After an activation x Phi(x / sqrt(softness)), of normal variables: a ReLU at 0, GELU at 1, near SiLU at 2.9.

    Means are exact; of squares, the part that is small beside the softness is halved twice instead of once.
    """
    variance = np.maximum(signal.variance, 1e-30)
    wide = np.sqrt(variance + np.float32(softness))
    ratio = np.clip(signal.mean / wide, -8, 8)
    below = _normal_cdf(ratio)
    density = np.exp(-0.5 * ratio**2) * np.float32((2 * math.pi) ** -0.5)
    mean = signal.mean * below + variance / wide * density
    whole = np.square(signal.mean) + variance
    sharp = whole * below + signal.mean * np.sqrt(variance) * density
    square = sharp if softness == 0 else (whole * sharp + softness * whole / 4) / (whole + softness)
    return Signal(mean, np.maximum(square - np.square(mean), 0))


def _normal_cdf(x: Floats) -> Floats:
    """By its logistic approximation (Page 1977), to 2e-4."""
    steep = x * np.float32(1.595769) * (1 + np.float32(0.044715) * x * x)
    return np.asarray(1 / (1 + np.exp(-steep)), np.float32)


def normalised(signal: Signal) -> Signal:
    """After a normalisation over channels: strength 1 around a mean of 0, but where there is nothing to normalise."""
    middle = signal.mean.mean()
    centred = Signal(signal.mean - middle, signal.variance)
    return centred.times(1 / math.sqrt(centred.strength + EPSILON))


def summed(signals: Sequence[Signal]) -> Signal:
    """A sum of signals, independent of each other but for their means."""
    channels = max(len(signal.mean) for signal in signals)
    parts = [signal.fitted(channels) for signal in signals]
    return Signal(sum(p.mean for p in parts), sum(p.variance for p in parts))  # type: ignore[arg-type]


def multiplied(signals: Sequence[Signal]) -> Signal:
    """A product of independent signals."""
    channels = max(len(signal.mean) for signal in signals)
    parts = [signal.fitted(channels) for signal in signals]
    mean = math.prod((part.mean for part in parts), start=np.float32(1))
    square = math.prod((np.square(part.mean) + part.variance for part in parts), start=np.float32(1))
    return Signal(mean, np.maximum(square - np.square(mean), 0))  # type: ignore[arg-type]


def joined(signals: Sequence[Signal]) -> Signal:
    """Channels side by side."""
    return Signal(*(np.concatenate(parts) for parts in zip(*signals, strict=True)))


def squashed(signal: Signal) -> Signal:
    """After a tanh: no stronger than 1."""
    return signal.times(1 / math.sqrt(1 + signal.strength))


def entering(op: str, ops: Sequence[str], sources: Sequence[Signal], fewer: float) -> Signal:
    """What a node makes of its inputs before its own weights.

    Args:
        op: of the node.
        ops: of the nodes that it reads.
        sources: their signals.
        fewer: how many places of the first of them become one.
    """
    if not sources or op in SOURCES:
        return UNIT
    if op in JOINING:
        return JOINING[op](sources)
    if op == "attend":  # a mean of what is not the attention
        return next((source for source, name in zip(sources, ops, strict=True) if name != "softmax"), sources[0])
    if op in ("avg_pool", "global_avg_pool"):
        return Signal(sources[0].mean, sources[0].variance / np.float32(max(fewer, 1.0)))
    if op == "aggregate":  # what neighbours have in common adds up
        return sources[0].times(max(fewer, 1.0))
    return ALONE.get(op, _same)(sources[0])


def _same(signal: Signal) -> Signal:
    return signal


def _halves(signal: Signal) -> Signal:
    return Signal(np.full_like(signal.mean, 0.5), np.zeros_like(signal.mean))


def _ones(signal: Signal) -> Signal:
    return Signal(np.ones(1, np.float32), np.zeros(1, np.float32))


SOURCES = frozenset(("input", "embedding", "constant"))  # their output is a table's, whatever they read
JOINING: dict[str, Callable[[Sequence[Signal]], Signal]] = {
    "sum": summed,
    "concat": joined,
    **dict.fromkeys(("product", "matmul", "query_key", "gate"), multiplied),
}
ALONE: dict[str, Callable[[Signal], Signal]] = {
    "relu": rectified,
    "gelu": functools.partial(rectified, softness=1.0),
    "silu": functools.partial(rectified, softness=2.9),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "normalise"), normalised),
    "tanh": squashed,
    "sigmoid": _halves,
    "softmax": _ones,
}
