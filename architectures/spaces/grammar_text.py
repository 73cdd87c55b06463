"""Derivations of the grammar as values and as text.

A network is one line: what each stage computes, the stages parted by bars. `>` leads from one operation to the next,
`add` and `cat` give their input to each of their branches and sum the results or lay their channels side by side.

    relu > add(conv3 > batch > relu > conv3 > batch, id) > relu | id | add(layer > attn4, id) > layer

`linear` and convolutions write as many channels as the stage is wide; `linear*2` twice, `linear/2` half as many.
Everything else writes what it reads. Values are in normal form: chains lie flat, identities within chains and sums
within sums are gone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

Merge = Literal["add", "cat"]

HALF, ONCE, TWICE = 1, 2, 4  # channels, in halves of a stage's width
SUFFIXES = {"/2": HALF, "": ONCE, "*2": TWICE}
WIDTHS = {HALF: "half", ONCE: "once", TWICE: "twice"}
MOST_NESTED = 32  # brackets within brackets that are read at all

# Operations: the kind of a tape's unit, and its options. Normalisations and activations are part of the next unit.
OPERATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "linear": ("dense", {}),
    **{f"conv{kernel}": ("conv", {"kernel": kernel}) for kernel in (3, 5, 7)},
    **{f"depthwise{kernel}": ("depthwise", {"kernel": kernel}) for kernel in (3, 5, 7)},
    **{name: ("norm", {}) for name in ("batch", "layer", "group")},
    **{name: ("activation", {}) for name in ("relu", "gelu", "silu")},
    "max": ("max_pool", {"kernel": 3}),
    "avg": ("avg_pool", {"kernel": 3}),
    **{f"attn{heads}": ("attention", {"heads": heads}) for heads in (1, 2, 4)},
    **{f"mix{multiple}": ("token_mix", {"hidden": multiple}) for multiple in (1, 2)},  # hidden units in pixels
    "pos": ("position", {}),
    "excite": ("squeeze_excite", {}),
}
RESIZING = ("dense", "conv")  # kinds that may write another number of channels than they read
BIASED = ("dense", "conv", "depthwise")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One operation.

    Attributes:
        name: key of OPERATIONS.
        halves: channels that it writes, in halves of the stage's width; 0 for as many as it reads.
    """

    name: str
    halves: int = 0

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise ValueError(f"operation {self.name!r}: use one of {', '.join(OPERATIONS)}")
        if (self.halves != 0) != (self.kind in RESIZING) or self.halves not in (0, *WIDTHS):
            suffixes = "'', '*2' or '/2'" if self.kind in RESIZING else "nothing"
            raise ValueError(f"operation {self.name!r}: halves={self.halves}; {suffixes} may follow its name")

    @property
    def kind(self) -> str:
        """Of the unit."""
        return OPERATIONS[self.name][0]

    def __str__(self) -> str:
        return self.name + next((suffix for suffix, halves in SUFFIXES.items() if halves == self.halves), "")


@dataclasses.dataclass(frozen=True)
class Branch:
    """Branches of one input: their sum, or their channels side by side. What is merged the same way lies flat."""

    merge: Merge
    parts: tuple[Chain, ...]

    def __post_init__(self) -> None:
        if self.merge not in get_args(Merge):
            raise ValueError(f"merge {self.merge!r}: use one of {', '.join(get_args(Merge))}")
        flat: list[Chain] = []
        for part in self.parts:
            only = part[0] if len(part) == 1 else None
            flat += only.parts if isinstance(only, Branch) and only.merge == self.merge else [part]
        if len(flat) < 2:
            raise ValueError(f"{self.merge}({', '.join(map(text_of, flat))}): give two branches at least")
        object.__setattr__(self, "parts", tuple(flat))

    def __str__(self) -> str:
        return f"{self.merge}({', '.join(map(text_of, self.parts))})"


Item: TypeAlias = Leaf | Branch
Chain: TypeAlias = tuple[Item, ...]  # one after the other; empty: identity


@dataclasses.dataclass(frozen=True)
class Derivation:
    """One architecture: what each stage computes."""

    stages: tuple[Chain, ...]

    def __str__(self) -> str:
        return " | ".join(map(text_of, self.stages))


def text_of(chain: Chain) -> str:
    """A chain as text."""
    return " > ".join(map(str, chain)) or "id"


def leaves_of(chain: Chain) -> int:
    """Operations of a chain; a branch without any counts as one."""
    return sum(sum(max(leaves_of(part), 1) for part in item.parts) if isinstance(item, Branch) else 1 for item in chain)


def depth_of(chain: Chain) -> int:
    """How deep branches lie within branches; 0 without any."""
    return max((1 + max(map(depth_of, item.parts)) for item in chain if isinstance(item, Branch)), default=0)


def ordered(chain: Chain) -> Chain:
    """The same with the branches of sums in the order of their text; channels side by side have an order of their
    own, which heads and groups of later operations see."""
    return tuple(_ordered(item) if isinstance(item, Branch) else item for item in chain)


def _ordered(branch: Branch) -> Branch:
    parts = [ordered(part) for part in branch.parts]
    return Branch(branch.merge, tuple(sorted(parts, key=text_of) if branch.merge == "add" else parts))


# ----------------------------------------------------------------------------------------------------------- reading


def parse(text: str) -> Derivation:
    """Reads the text of a network; ValueError naming the part that is wrong."""
    stages = []
    for index, part in enumerate(text.split("|")):
        try:
            stages.append(_Reader(part).whole())
        except ValueError as error:
            raise ValueError(f"architecture {text!r}: stage {index}: {error}") from error
    return Derivation(tuple(stages))


class _Reader:
    """Reads one chain, word by word."""

    def __init__(self, text: str) -> None:
        self._words: Iterator[str] = iter(re.findall(r"[a-z]+\d*(?:[*/]\d+)?|\S", text))
        self._word = next(self._words, "")

    def whole(self) -> Chain:
        """The chain that is the whole text."""
        chain = self._chain(0)
        if self._word:
            raise ValueError(f"{self._word!r} after {text_of(chain)!r}; go on with '>', or '|' for the next stage")
        return chain

    def _taken(self) -> str:
        word, self._word = self._word, next(self._words, "")
        return word

    def _chain(self, depth: int) -> Chain:
        items = self._item(depth)
        while self._word == ">":
            self._taken()
            items += self._item(depth)
        return items

    def _item(self, depth: int) -> Chain:
        word = self._taken()
        if word == "id":
            return ()
        if word in get_args(Merge):
            return (self._branch(word, depth + 1),)  # type: ignore[arg-type]
        name, sign, number = re.fullmatch(r"([^*/]*)([*/]?)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
        if not name.isalnum():
            where = f"{word!r} stands" if word else "the text ends"
            raise ValueError(f"{where} where an operation is due; write 'id' for none")
        if name not in OPERATIONS:
            raise ValueError(f"operation {word!r}: use id, add(...), cat(...) or one of {', '.join(OPERATIONS)}")
        resizing = OPERATIONS[name][0] in RESIZING
        if sign + number not in (SUFFIXES if resizing else ("",)):
            suffixes = f"{name}, {name}*2 and {name}/2" if resizing else f"{name}, which writes what it reads"
            raise ValueError(f"operation {word!r}: there are only {suffixes}")
        return (Leaf(name, SUFFIXES[sign + number] if resizing else 0),)

    def _branch(self, merge: Merge, depth: int) -> Branch:
        if depth > MOST_NESTED:
            raise ValueError(f"brackets lie more than {MOST_NESTED} deep")
        if self._taken() != "(":
            raise ValueError(f"{merge!r} without its branches; write {merge}(..., ...)")
        parts = [self._chain(depth)]
        while self._word == ",":
            self._taken()
            parts.append(self._chain(depth))
        if self._taken() != ")":
            raise ValueError(f"'{merge}(' is not closed after {text_of(parts[-1])!r}")
        return Branch(merge, tuple(parts))
