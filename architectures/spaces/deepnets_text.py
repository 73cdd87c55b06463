"""Image classifiers of the DeepNets space as values and as text.

A network is written in one line: its stem, norm and activation, its stages, its head, parted by bars.

    conv3 batch relu | 16 basic-k3 basic-k3 | block>32 mb-k5-e2-se | max>48 pos attn-h4 mlp-e2 | average

A stage is a width and blocks; from the second on, it begins with how the resolution is halved. `-k5` is a kernel, `-d2`
a dilation, `-g2` groups, `-e2` an expansion, `-h4` heads, `-n3` layers, `-w8` the growth of a dense cell, `-se`
squeeze-and-excite; branches follow a colon (`sum:conv3+sep5+max+skip`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

from architectures.tape import Activation, Head, Norm

STEMS = ("conv3", "conv5", "conv7", "half3", "half5", "half7", "patch2", "patch4")
DOWNS = ("conv3", "conv2", "max", "avg", "block")
BRANCHES = ("skip", "conv1", "conv3", "conv5", "dil3", "sep3", "sep5", "max", "avg")

# What may follow each kind of block, and the value that is meant where it does not.
OPTIONS: dict[str, dict[str, int]] = {
    "plain": {"k": 3, "d": 1, "g": 1},
    "sep": {"k": 3, "d": 1},
    "basic": {"k": 3},
    "pre": {"k": 3},
    "bottle": {"k": 3, "g": 1},
    "mb": {"k": 3, "e": 2},
    "next": {"k": 7, "e": 2},
    "attn": {"h": 4},
    "mlp": {"e": 2},
    "mix": {"e": 1},
    "pool": {},
    "dense": {"k": 3, "n": 2, "w": 8},
    "sum": {},
    "cat": {},
    "pos": {},
}
STRIDED_KINDS = ("basic", "bottle", "mb")  # whose first block of a stage may halve the resolution itself


@dataclasses.dataclass(frozen=True)
class Block:
    """A block; see OPTIONS for what its kinds have.

    Attributes:
        kind: key of OPTIONS.
        options: (letter, value) in the order of OPTIONS, all that the kind has.
        excited: with squeeze-and-excite (kind "mb").
        branches: of BRANCHES (kinds "sum" and "cat").
    """

    kind: str
    options: tuple[tuple[str, int], ...] = ()
    excited: bool = False
    branches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in OPTIONS:
            raise ValueError(f"block {self.kind!r}: use one of {', '.join(OPTIONS)}")
        given, known = dict(self.options), OPTIONS[self.kind]
        letters = [letter for letter, _ in self.options]
        if len(given) < len(letters):
            twice = next(letter for letter in letters if letters.count(letter) > 1)
            raise ValueError(f"block {self.kind!r}: option {twice!r} is given {letters.count(twice)} times")
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"block {self.kind!r}: no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
        object.__setattr__(
            self, "options", tuple((letter, given.get(letter, value)) for letter, value in known.items())
        )
        if self.excited and self.kind != "mb":
            raise ValueError(f"block {self.kind!r}: only 'mb' has squeeze-and-excite")
        if bool(self.branches) != (self.kind in ("sum", "cat")):
            raise ValueError(f"block {self.kind!r}: branches belong to 'sum' and 'cat', as in sum:conv3+skip")
        for branch in self.branches:
            if branch not in BRANCHES:
                raise ValueError(f"block {self.kind!r}: branch {branch!r}; use {', '.join(BRANCHES)}")

    def __getitem__(self, letter: str) -> int:
        return dict(self.options)[letter]

    def __str__(self) -> str:
        text = self.kind + "".join(f"-{letter}{value}" for letter, value in self.options)
        return text + ("-se" if self.excited else "") + (":" + "+".join(self.branches) if self.branches else "")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one resolution: how it is reached (None for the first), channels, blocks."""

    down: str | None
    width: int
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        start = str(self.width) if self.down is None else f"{self.down}>{self.width}"
        return " ".join((start, *map(str, self.blocks)))


@dataclasses.dataclass(frozen=True)
class DeepNet:
    """One architecture."""

    stem: str
    norm: Norm
    activation: Activation
    stages: tuple[Stage, ...]
    head: Head = "average"

    @property
    def depth(self) -> int:
        """Number of blocks (positions are none)."""
        return sum(block.kind != "pos" for stage in self.stages for block in stage.blocks)

    def __str__(self) -> str:
        return " | ".join((f"{self.stem} {self.norm} {self.activation}", *map(str, self.stages), self.head))


def parse(text: str) -> DeepNet:
    """Reads the text of a network; ValueError naming the part that is wrong."""
    parts = [part.strip() for part in text.strip().split("|")]
    if len(parts) < 3:
        raise ValueError(f"architecture {text!r}: give stem, stages and head, as in {EXAMPLE}")
    words = parts[0].split()
    if len(words) != 3:
        raise ValueError(
            f"architecture {text!r}: {parts[0]!r} must be a stem, a norm and an activation, as in {EXAMPLE}"
        )
    _one_of(text, "stem", words[0], STEMS)
    _one_of(text, "norm", words[1], get_args(Norm))
    _one_of(text, "activation", words[2], get_args(Activation))
    _one_of(text, "head", parts[-1], get_args(Head))
    stages = tuple(_stage(text, index, part) for index, part in enumerate(parts[1:-1]))
    return DeepNet(words[0], words[1], words[2], stages, parts[-1])  # type: ignore[arg-type]


EXAMPLE = "'conv3 batch relu | 16 basic-k3 | max>32 mb-k5-e2-se | average'"


def _one_of(text: str, what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"architecture {text!r}: {what} {value!r}; use one of {', '.join(choices)}")


def _stage(text: str, index: int, part: str) -> Stage:
    start, *words = part.split() or [""]
    match = re.fullmatch(r"(?:(\w+)>)?(\d+)", start)
    if match is None or (match[1] is None) != (index == 0):
        form = "16" if index == 0 else "max>32"
        raise ValueError(f"architecture {text!r}: stage {index} begins with {start!r}; write {form!r}")
    if match[1] is not None:
        _one_of(text, f"stage {index}, way down", match[1], DOWNS)
    try:
        blocks = tuple(_block(word) for word in words)
    except ValueError as error:
        raise ValueError(f"architecture {text!r}: stage {index}: {error}") from error
    return Stage(match[1], int(match[2]), blocks)


def _block(word: str) -> Block:
    first, _, branches = word.partition(":")
    kind, *rest = first.split("-")
    options = []
    for item in rest:
        match = re.fullmatch(r"([a-z])(\d+)", item)
        if match is None and item != "se":
            raise ValueError(f"block {word!r}: cannot read {item!r}; options are a letter and a number, or 'se'")
        if match is not None:
            options.append((match[1], int(match[2])))
    if rest.count("se") > 1:
        raise ValueError(f"block {word!r}: 'se' is given {rest.count('se')} times")
    return Block(kind, tuple(options), "se" in rest, tuple(branches.split("+")) if branches else ())
