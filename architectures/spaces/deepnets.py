"""A space as wide as real image classifiers: convolutional, attentional and mixing networks of varied width and depth.

In the manner of DeepNets-1M (Knyazev et al. 2021, section 3), made anew: every network is a tape, which one compiled
program runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from architectures.checks import at_least
from architectures.spaces import deepnets_models
from architectures.spaces.base import later
from architectures.spaces.deepnets_blocks import entry_of, lower
from architectures.spaces.deepnets_sampling import CONV_KINDS, DRAWN_NORMS, SPLITS, Split, draw
from architectures.spaces.deepnets_size import lower_bound
from architectures.spaces.deepnets_text import (
    BRANCHES,
    DOWNS,
    OPTIONS,
    STEMS,
    Block,
    DeepNet,
    Stage,
    parse,
)
from architectures.spaces.tape_space import TapeSpace, misfit
from architectures.tape import ACTIVATIONS, HEADS, NORMS, STEP, Norm, Tape
from architectures.tape_layout import TapeShape

TRIES = 1000  # draws of a split before the space is found too small for it


@dataclasses.dataclass(frozen=True)
class DeepNets(TapeSpace[DeepNet]):
    """Image classifiers of `len(widths)` resolutions, each half as fine as the one before.

    A network enters at the resolution that its stem leads to, has a stage at each one from there on, and leaves at one
    of the last two. Defaults are sizes that two CPU cores train on.

    Attributes:
        input_shape: height, width and channels of an image.
        classes: outputs of the classifier.
        widths: largest width of a stage at each resolution in training; the smallest is half of it.
        channels: most channels of any layer there (expansions, concatenations, the split "wide").
        blocks: most blocks of a network in training.
        blocks_deep: the same of the split "deep".
        units: most units of a tape at each resolution (a block has 2 to 7).
        kernels: of convolutions.
        tokens: attention, token mixers and flattening heads are found where there are at most so many pixels.
        convs, larges, denses, depthwises, norms, attentions, mixers, excited: slots at each resolution for 3x3
            convolutions, larger ones, 1x1 ones and dense layers, depthwise ones, normalisations, attention, token
            mixers, squeeze-and-excite.
        nodes: most nodes of a graph.
        kinds: of blocks that training draws and moves lead to, for a family of convolutional networks; none: all,
            attention and mixers too. The others remain in the space, as text.
        norm_kinds: the same of normalisations.

    Raises:
        ValueError: a field out of range.
    """

    name: ClassVar[str] = "deepnets"

    input_shape: tuple[int, int, int] = (14, 14, 1)
    classes: int = 10
    widths: tuple[int, ...] = (16, 32, 48)
    channels: tuple[int, ...] = (24, 48, 64)
    blocks: int = 10
    blocks_deep: int = 16
    units: tuple[int, ...] = (16, 24, 28)
    kernels: tuple[int, ...] = (3, 5, 7)
    tokens: int = 64
    convs: int = 10
    larges: int = 2
    denses: int = 16
    depthwises: int = 6
    norms: int = 24
    attentions: int = 5
    mixers: int = 4
    excited: int = 4
    nodes: int = 128
    kinds: tuple[str, ...] = later(())
    norm_kinds: tuple[Norm, ...] = later(())

    def __post_init__(self) -> None:
        count = len(self.widths)
        for field in ("widths", "channels", "units"):
            values = getattr(self, field)
            if not isinstance(values, tuple) or len(values) != count or not count or min(values) < 1:
                raise ValueError(f"DeepNets.{field}={values!r}: a positive int for each of the {count} resolutions")
        for field in ("widths", "channels"):
            values = getattr(self, field)
            if any(value % STEP for value in values) or list(values) != sorted(values):
                raise ValueError(f"DeepNets.{field}={values}: multiples of {STEP} that do not fall")
        if any(width > most for width, most in zip(self.widths, self.channels, strict=True)):
            raise ValueError(f"DeepNets.channels={self.channels}: must be at least widths={self.widths}")
        if (
            not self.kernels
            or self.kernels[0] != 3
            or not set(self.kernels) <= {3, 5, 7}
            or list(self.kernels) != sorted(set(self.kernels))
        ):
            raise ValueError(f"DeepNets.kernels={self.kernels}: 3, and of 5 and 7 what you like, ascending")
        if not 2 <= self.blocks < self.blocks_deep:
            raise ValueError(f"DeepNets.blocks={self.blocks}: at least 2, and less than blocks_deep={self.blocks_deep}")
        shape = self.input_shape
        if len(shape) != 3 or min(shape) < 1 or shape[0] != shape[1]:
            raise ValueError(f"DeepNets.input_shape={shape}: give (height, width, channels) of square images")
        at_least(
            self,
            classes=1,
            convs=1,
            larges=1,
            denses=1,
            depthwises=1,
            norms=1,
            attentions=1,
            mixers=1,
            excited=1,
            nodes=1,
        )
        for field, known in (("kinds", CONV_KINDS), ("norm_kinds", tuple(DRAWN_NORMS))):
            if not set(getattr(self, field)) <= set(known):
                raise ValueError(f"DeepNets.{field}={getattr(self, field)}: of {', '.join(known)}")

    # ----------------------------------------------------------------------------------------------------- choices

    @functools.cached_property
    def shape(self) -> TapeShape:
        """What all tapes fit into."""
        slots = {
            "conv": self.convs,
            "large": self.larges,
            "dense": self.denses,
            "depthwise": self.depthwises,
            "bias": self.denses,
            "norm": self.norms,
            "attention": self.attentions,
            "token_mix": self.mixers,
            "squeeze_excite": self.excited,
        }
        return TapeShape(
            sizes=self.sizes,
            channels=self.channels,
            narrow=self.widths,
            spatial=self.channels,
            image=self.input_shape[2],
            classes=self.classes,
            units=self.units,
            slots=tuple(slots.items()),
            kernels=self.kernels,
            dilations=(1, 2),
            tokens=self.tokens,
            mixing=2,
            stems=self.stems,
            mains=("conv3", "conv2", "max_pool", "avg_pool", *(f"depthwise{kernel}" for kernel in self.kernels)),
            sides=("conv1", "avg_pool"),
        )

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Pixels along an axis at each resolution."""
        return tuple(-(-self.input_shape[0] // 2**index) for index in range(len(self.widths)))

    @functools.cached_property
    def stems(self) -> tuple[str, ...]:
        """Stems that lead to one of the resolutions with one of the kernels."""
        return tuple(
            stem
            for stem in STEMS
            if entry_of(stem) < len(self.widths) and (stem.startswith("patch") or int(stem[-1]) in self.kernels)
        )

    def choices(self, kind: str, letter: str, width: int) -> list[int]:
        """Values of a block's option at a width, the likeliest first."""
        if letter == "k":
            return list(self.kernels)
        if letter == "h":
            return [heads for heads in (4, 2, 1) if width % heads == 0]
        values = {"d": [1, 2], "g": [1, 2, 4], "e": [2, 1, 3, 4], "n": [2, 3], "w": [8, 4]}[letter]
        if letter == "g":
            inner = max(width // 2 // STEP, 1) * STEP if kind == "bottle" else width
            return [groups for groups in values if inner % (groups * STEP) == 0]
        return [1, 2] if kind == "mix" else values

    def has_branch(self, branch: str) -> bool:
        """Whether the space has a branch's kernel."""
        return not branch[-1].isdigit() or int(branch[-1]) in (1, *self.kernels)

    @functools.cached_property
    def size(self) -> int:
        """A bound from below, before units and slots of whole networks are counted: networks of the split "id" with
        conv stems, a stage at every resolution, blocks that fit by themselves, and branches in one form of each kind;
        those with other branches are more by orders of magnitude."""
        return lower_bound(self)

    @property
    def schedule(self) -> tuple[int, int]:
        """One node a step, in the order of the tape."""
        return self.nodes, 1

    # ---------------------------------------------------------------------------------------------------- sampling

    def sample(self, seed: int | np.random.Generator) -> DeepNet:
        """A random network of the training distribution; not uniform: people's designs are likelier."""
        return self.sample_split("id", seed)

    def sample_split(self, split: Split, seed: int | np.random.Generator) -> DeepNet:
        """A random network of a split: "id", or outside of what `sample` draws: "wide" (wider stages), "deep" (more
        blocks), "dense" (dense cells and many branches only), "norm-free".

        Raises:
            ValueError: an unknown split, or none of its networks fits into the space's slots.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: use one of {', '.join(SPLITS)}")
        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            network = draw(self, rng, split)
            if self._fault(network) is None:
                return network
        raise ValueError(f"DeepNets: no network of split {split!r} fits; give the space more units and slots")

    def models(self) -> dict[str, DeepNet]:
        """Networks made by hand after well-known ones, at this space's widths and depths; training never draws them."""
        return {name: network for name, network in deepnets_models.models(self).items() if self._fault(network) is None}

    def mutate(self, architecture: DeepNet, seed: int | np.random.Generator) -> DeepNet:
        """A random one of `neighbours`."""
        rng = np.random.default_rng(seed)
        others = list(self._variations(architecture))
        for index in rng.permutation(len(others)):
            if self._fault(others[index]) is None and others[index] != architecture:
                return others[index]
        raise ValueError(f"architecture {architecture}: the space has no other network that differs in one choice")

    def neighbours(self, architecture: DeepNet) -> Iterator[DeepNet]:
        """Every network that differs in one choice and fits: the stem among those that lead to the same resolution,
        norm, activation, head; a stage's width or way down; one block's kind (with its usual options) or option, a
        branch less or more, a block less, a block twice."""
        seen = {architecture}
        for other in self._variations(architecture):
            if other not in seen and self._fault(other) is None:
                seen.add(other)
                yield other

    def _variations(self, network: DeepNet) -> Iterator[DeepNet]:
        replace = dataclasses.replace
        entry = entry_of(network.stem)
        yield from (replace(network, stem=stem) for stem in self.stems if entry_of(stem) == entry)
        yield from (replace(network, norm=norm) for norm in self.norm_kinds or NORMS if norm != "none")
        yield from (replace(network, activation=activation) for activation in ACTIVATIONS[1:])
        yield from (replace(network, head=head) for head in HEADS)
        for index, stage in enumerate(network.stages):
            for other in self._stage_variations(stage, entry + index):
                yield replace(network, stages=(*network.stages[:index], other, *network.stages[index + 1 :]))

    def _stage_variations(self, stage: Stage, section: int) -> Iterator[Stage]:
        replace = dataclasses.replace
        if stage.down is not None:
            yield from (replace(stage, down=down) for down in DOWNS)
        for width in (stage.width - STEP, stage.width + STEP):
            if 0 < width <= self.widths[section]:
                yield replace(stage, width=width)
        for index, block in enumerate(stage.blocks):
            before, after = stage.blocks[:index], stage.blocks[index + 1 :]
            yield replace(stage, blocks=before + after)
            yield replace(stage, blocks=(*before, block, block, *after))
            for kind in self.kinds or OPTIONS:
                if kind not in ("sum", "cat", "pos", block.kind):
                    yield replace(stage, blocks=(*before, Block(kind), *after))
            for position, (letter, _) in enumerate(block.options):
                for value in self.choices(block.kind, letter, stage.width):
                    options = (*block.options[:position], (letter, value), *block.options[position + 1 :])
                    yield replace(stage, blocks=(*before, replace(block, options=options), *after))
            if block.kind == "mb":
                yield replace(stage, blocks=(*before, replace(block, excited=not block.excited), *after))
            for branches in _one_branch_apart(block.branches) if block.branches else ():
                yield replace(stage, blocks=(*before, replace(block, branches=branches), *after))

    # ------------------------------------------------------------------------------------------- text and identity

    def to_string(self, architecture: DeepNet) -> str:
        """One line; see `architectures.spaces.deepnets_text`."""
        return str(architecture)

    def from_string(self, text: str) -> DeepNet:
        """Reads `to_string`'s text; ValueError naming the part that is wrong."""
        network = parse(text)
        self._check(network)
        return network

    def canonical(self, architecture: DeepNet) -> str:
        """The text with the branches of sums in one order. Side by side they have an order of their own: the last has
        the channels that remain, and groups of later layers see which are neighbours."""
        return self._ordered_text(architecture, ("sum",))

    def _split_key(self, architecture: DeepNet) -> str:
        """The text with all branches in one order: networks that differ in nothing else are never held out apart."""
        return self._ordered_text(architecture, ("sum", "cat"))

    def _ordered_text(self, architecture: DeepNet, kinds: tuple[str, ...]) -> str:
        self._check(architecture)
        stages = tuple(
            dataclasses.replace(stage, blocks=tuple(_ordered(block, kinds) for block in stage.blocks))
            for stage in architecture.stages
        )
        return str(dataclasses.replace(architecture, stages=stages))

    def _fault(self, architecture: DeepNet) -> str | None:
        return _fault(self, architecture)

    # ------------------------------------------------------------------------------------------------ graph and run

    def tape(self, architecture: DeepNet) -> Tape:
        """The network as the executor runs it."""
        return lower(architecture, self.sizes, self.input_shape[2])


@functools.lru_cache(maxsize=10_000)
def _fault(space: DeepNets, network: DeepNet) -> str | None:
    if network.stem not in space.stems:
        return f"stem {network.stem!r}; this space has {', '.join(space.stems)}"
    if not network.stages or (network.stages[0].down is not None) or any(s.down is None for s in network.stages[1:]):
        return "the first stage has a width, every later one a way down and a width"
    for index, stage in enumerate(network.stages):
        if stage.width % STEP or stage.width < STEP:
            return f"stage {index}: width {stage.width} is no multiple of {STEP}"
        for block, letter, value in ((b, letter, value) for b in stage.blocks for letter, value in b.options):
            choices = space.choices(block.kind, letter, stage.width)
            if value not in choices:
                return f"stage {index}: {block}: {letter}={value}; choices {choices}"
    return misfit(space, network, space.nodes)


def _ordered(block: Block, kinds: tuple[str, ...]) -> Block:
    if block.kind not in kinds:
        return block
    return dataclasses.replace(block, branches=tuple(sorted(block.branches)))


def _one_branch_apart(branches: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The branches without one of them, or with one that is not there, before the first that BRANCHES lists later;
    the others stay in their places."""
    places = [BRANCHES.index(branch) for branch in branches]
    for place, branch in enumerate(BRANCHES):
        if place not in places:
            at = next((row for row, other in enumerate(places) if other > place), len(places))
            yield (*branches[:at], branch, *branches[at:])
        elif len(branches) > 1:
            yield from (branches[:row] + branches[row + 1 :] for row, other in enumerate(places) if other == place)
