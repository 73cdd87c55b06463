"""From a derivation of the grammar to its tape.

The skeleton is fixed: a 3x3 convolution reads the image, one of stride 2 leads to the next resolution, a batch
normalisation follows either, and global average pooling and the classifier read what the last stage writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from architectures.spaces.grammar_text import BIASED, OPERATIONS, Branch, Chain, Derivation, Leaf
from architectures.spaces.sections import Section, Value
from architectures.tape import MAIN, Tape, Unit
from architectures.tape_layout import squeezed


def lower(derivation: Derivation, widths: Sequence[int], sizes: Sequence[int], image: int) -> Tape:
    """The tape of a derivation whose stages have so many channels and pixels along an axis, for images of `image`
    channels."""
    sections = [Section(index, sizes[index], "batch", "none") for index in range(len(widths))]
    downs: list[tuple[Unit | None, Unit | None]] = []
    x = Value(MAIN, widths[0])
    for section, chain, width in zip(sections, derivation.stages, widths, strict=True):
        if section is not sections[0]:
            downs.append((Unit(f"{section.name}/down", x.entry, "conv", x.channels, width, kernel=3, stride=2), None))
        stage = _Stage(section, width)
        x = section.settled(stage.chain("", chain, section.ready(Value(MAIN, width))), "end")
    stem = Unit("stem", 0, "conv", image, widths[0], kernel=3)
    units = tuple(tuple(section.units) for section in sections)
    return Tape(stem, 0, units, tuple(downs), len(widths) - 1, x.entry, x.channels, "average")


class _Stage:
    """Writes the units of a stage. Parameters are named by their place: 0-add/1/2-conv3 is the third operation of the
    second branch of the sum with which the stage begins."""

    def __init__(self, section: Section, width: int) -> None:
        self._section, self._width = section, width

    def chain(self, path: str, chain: Chain, x: Value) -> Value:
        """One item after the other. A batch normalisation takes away the bias of what comes right before it."""
        for index, item in enumerate(chain):
            if isinstance(item, Branch):
                x = self._branch(f"{path}{index}-{item.merge}", item, x)
            else:
                x = self._leaf(f"{path}{index}-{item.name}", item, x, chain[index + 1 : index + 2] != (Leaf("batch"),))
        return x

    def _leaf(self, name: str, leaf: Leaf, x: Value, bias: bool) -> Value:
        """A unit; or, of normalisations and activations, what is due before the next one."""
        kind, options = OPERATIONS[leaf.name]
        if kind == "norm":
            settled = self._section.settled(x, f"{name}-before")
            return dataclasses.replace(settled, norm=leaf.name)  # type: ignore[arg-type]
        if kind == "activation":
            x = x if x.activation == "none" else self._section.settled(x, f"{name}-before")
            return dataclasses.replace(x, activation=leaf.name)  # type: ignore[arg-type]
        outputs = leaf.halves * self._width // 2 or x.channels
        hidden = {"token_mix": self._section.pixels * options.get("hidden", 0), "squeeze_excite": squeezed(x.channels)}
        sizes = {**options, **({"hidden": hidden[kind]} if kind in hidden else {})}
        return self._section.unit(name, x, kind, outputs, bias=bias and kind in BIASED, **sizes)

    def _branch(self, name: str, branch: Branch, x: Value) -> Value:
        x = self._section.settled(x, f"{name}-start")
        parts = [(index, part) for index, part in enumerate(branch.parts)]
        if branch.merge == "add":
            parts.sort(key=lambda pair: bool(pair[1]))  # the identity first: it is there already
        total: Value | None = None
        for index, part in parts:
            y = self.chain(f"{name}/{index}/", part, x)
            if total is None:
                total = self._section.settled(y, f"{name}/{index}-end")
            elif branch.merge == "add":
                total = self._added(f"{name}/{index}-end", y, total)
            else:
                total = self._beside(y, total)
        assert total is not None
        return total

    def _added(self, name: str, y: Value, total: Value) -> Value:
        """The sum with what a branch has just written: by its last unit, or by one more."""
        last = self._section.units[-1]
        if y.due or last.add is not None:
            return self._section.unit(name, y, "skip", add=total.entry)
        self._section.units[-1] = dataclasses.replace(last, add=total.entry)
        return y

    def _beside(self, y: Value, total: Value) -> Value:
        """The channels that a branch's last unit has just written, beside the others."""
        last = self._section.units[-1]
        self._section.units[-1] = dataclasses.replace(last, add=total.entry, offset=total.channels)
        return Value(y.entry, total.channels + y.channels)
