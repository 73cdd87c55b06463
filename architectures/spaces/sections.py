"""The tape of one resolution while it is written, unit by unit; what the spaces of tapes have in common.

A value on the way is an entry of the tape with a normalisation and an activation that are still due: whoever reads it
does them. Where several read it, it is settled first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from architectures.tape import Activation, Norm, Unit


@dataclasses.dataclass(frozen=True)
class Value:
    """An entry with so many channels, what is still to be done to it, and whether it has been activated already."""

    entry: int
    channels: int
    norm: Norm = "none"
    activation: Activation = "none"
    active: bool = False

    @property
    def due(self) -> bool:
        """Whether anything is."""
        return (self.norm, self.activation) != ("none", "none")


class Section:
    """The units of one resolution of `size` pixels along an axis, in a network of one normalisation and activation."""

    def __init__(self, index: int, size: int, norm: Norm, activation: Activation) -> None:
        self.norm, self.activation, self.pixels = norm, activation, size**2
        self.units: list[Unit] = []
        self.name = f"stage{index}"

    def unit(self, name: str, x: Value, kind: Any, outputs: int | None = None, **sizes: Any) -> Value:
        """One more unit, which reads `x`; returns its entry, with nothing due. It has a bias where no normalisation
        follows, which `bias` says."""
        outputs = x.channels if outputs is None else outputs
        path = f"{self.name}/{name}"
        self.units.append(Unit(path, x.entry, kind, x.channels, outputs, x.norm, x.activation, **sizes))
        return Value(len(self.units) + 1, outputs)

    def conv(self, name: str, x: Value, outputs: int | None = None, kernel: int = 1, **sizes: Any) -> Value:
        """A convolution whose normalisation and activation are due; with a bias if there is no normalisation."""
        sizes.setdefault("bias", self.norm == "none")
        y = self.unit(name, x, "conv", outputs, kernel=kernel, **sizes)
        return dataclasses.replace(y, norm=self.norm, activation=self.activation)

    def depthwise(self, name: str, x: Value, kernel: int, **sizes: Any) -> Value:
        """The same, depthwise."""
        sizes.setdefault("bias", self.norm == "none")
        y = self.unit(name, x, "depthwise", kernel=kernel, **sizes)
        return dataclasses.replace(y, norm=self.norm, activation=self.activation)

    def separable(self, name: str, x: Value, outputs: int, kernel: int, dilation: int = 1) -> Value:
        """A depthwise convolution and right after it a 1x1 one, whose normalisation and activation are due."""
        h = self.unit(f"{name}/depthwise", x, "depthwise", kernel=kernel, dilation=dilation)
        return self.conv(f"{name}/pointwise", h, outputs)

    def settled(self, x: Value, name: str) -> Value:
        """x with nothing due."""
        if not x.due:
            return x
        return dataclasses.replace(self.unit(name, x, "skip"), active=x.activation != "none")

    def activated(self, x: Value) -> Value:
        """x with the activation due."""
        return dataclasses.replace(x, activation=self.activation)

    def added(self, name: str, x: Value, to: Value | None) -> Value:
        """x, normalised if that is due, plus a settled value if there is one."""
        add = None if to is None else to.entry
        return self.unit(name, dataclasses.replace(x, activation="none"), "skip", add=add)

    def concatenated(self, name: str, values: Sequence[Value]) -> Value:
        """Settled values side by side."""
        held = values[0]
        for index, value in enumerate(values[1:], start=1):
            y = self.unit(f"{name}{index}", value, "skip", add=held.entry, offset=held.channels)
            held = Value(y.entry, held.channels + value.channels)
        return held

    def ready(self, x: Value) -> Value:
        """A settled value as a block reads it that normalises and activates first; nothing is activated twice."""
        twice = x.active and self.norm == "none"
        return dataclasses.replace(x, norm=self.norm, activation="none" if twice else self.activation)

    def tokens(self, x: Value) -> Value:
        """The same for blocks of transformers: layer normalisation, unless the network has none at all."""
        return dataclasses.replace(x, norm="none" if self.norm == "none" else "layer")
