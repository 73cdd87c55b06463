"""A space of networks that a context-free grammar derives from fundamental operations.

After einspace (Ericsson et al. 2024): operations in sequence, branches that are merged, and leaves from which
convolutional blocks, transformers and mixers can be put together, and what nobody has built yet.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from architectures.spaces.grammar_lower import lower
from architectures.spaces.grammar_moves import Spot, spots, variations
from architectures.spaces.grammar_rules import MEAN_ARITY, Rules
from architectures.spaces.grammar_text import ONCE, Chain, Derivation, ordered, parse
from architectures.spaces.tape_space import TapeSpace, misfit
from architectures.tape import STEP, Tape
from architectures.tape_layout import TapeShape

RESNET = "relu > add(conv3 > batch > relu > conv3 > batch, id) > relu"  # He et al. 2016, figure 2
VIT = "add(layer > attn4, id) > add(layer > linear*2 > gelu > linear, id) > layer"  # Dosovitskiy et al. 2021, figure 1
MIXER = "add(layer > mix1, id) > add(layer > linear*2 > gelu > linear, id) > layer"  # Tolstikhin et al. 2021, figure 1
CONVNEXT = "add(depthwise5 > layer > linear*2 > gelu > linear, id) > layer"  # Liu et al. 2022, figure 4
MOBILENET = "add(linear*2 > batch > relu > depthwise3 > batch > relu > linear > batch, id)"  # Sandler et al. 2018
DENSENET = "cat(id, batch > relu > conv3) > batch > relu > linear"  # Huang et al. 2017
EARLY = "relu > conv3 > batch > relu"  # before tokens: Xiao et al. 2021

TRIES = 1000  # draws before the space is found too small for what is asked of it


@dataclasses.dataclass(frozen=True)
class Grammar(TapeSpace[Derivation]):
    """Image classifiers of `len(widths)` stages, each a derivation of the grammar of `architectures.spaces
    .grammar_rules`, each at half the resolution of the one before. The way in, from stage to stage and out is fixed.

    Attributes:
        input_shape: height, width and channels of an image.
        classes: outputs of the classifier.
        widths: channels of each stage; within it, half and twice as many are in use too.
        depth: how deep branches may lie within branches.
        leaves: most operations of a stage.
        sequence: in a draw, how often an operation is followed by another.
        branching: in a draw, how often there are branches instead of an operation.
        kernels: of convolutions.
        tokens: attention, token mixing and positions are found where there are at most so many pixels.
        units: most units of a tape in a stage.
        convs, larges, denses, depthwises, norms, attentions, mixers, excited: slots of each stage for 3x3 convolutions,
            larger ones, linear layers, depthwise convolutions, normalisations, attention, token mixing,
            squeeze-and-excite; it has one for positions.
        nodes: most nodes of a graph.

    Raises:
        ValueError: a field out of range.
    """

    name: ClassVar[str] = "grammar"

    input_shape: tuple[int, int, int] = (14, 14, 1)
    classes: int = 10
    widths: tuple[int, ...] = (8, 16, 24)
    depth: int = 2
    leaves: int = 16
    sequence: float = 0.55
    branching: float = 0.2
    kernels: tuple[int, ...] = (3, 5)
    tokens: int = 64
    units: int = 20
    convs: int = 6
    larges: int = 2
    denses: int = 8
    depthwises: int = 4
    norms: int = 10
    attentions: int = 3
    mixers: int = 3
    excited: int = 2
    nodes: int = 96

    def __post_init__(self) -> None:
        widths, kernels, shape = self.widths, self.kernels, self.input_shape
        if not isinstance(widths, tuple) or not widths or any(width < 1 or width % (2 * STEP) for width in widths):
            raise ValueError(f"Grammar.widths={widths!r}: a positive multiple of {2 * STEP} for each stage")
        if list(kernels) != sorted({3, *kernels} & {3, 5, 7}):
            raise ValueError(f"Grammar.kernels={kernels}: 3, and of 5 and 7 what you like, ascending")
        if len(shape) != 3 or min(shape) < 1 or shape[0] != shape[1]:
            raise ValueError(f"Grammar.input_shape={shape}: give (height, width, channels) of square images")
        if self.depth < 0:
            raise ValueError(f"Grammar.depth={self.depth}: 0 or more")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and field.name != "depth" and value < 1:
                raise ValueError(f"Grammar.{field.name}={value}: must be at least 1")
            if field.type == "float" and not 0 <= value < 1:
                raise ValueError(f"Grammar.{field.name}={value}: a probability in [0, 1)")
        if self.sequence + MEAN_ARITY * self.branching >= 1:
            raise ValueError(
                f"Grammar.branching={self.branching}: sequence + {MEAN_ARITY:g} * branching, the mean number of chains "
                f"that a chain leads on to, must be below 1, so that derivations end; sequence={self.sequence}"
            )

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Pixels along an axis in each stage."""
        return tuple(-(-self.input_shape[0] // 2**index) for index in range(len(self.widths)))

    @functools.cached_property
    def shape(self) -> TapeShape:
        """What all tapes fit into."""
        slots = {
            "conv": self.convs,
            "large": self.larges,
            "dense": self.denses,
            "depthwise": self.depthwises,
            "bias": self.convs + self.larges + self.denses + self.depthwises,
            "norm": self.norms,
            "attention": self.attentions,
            "token_mix": self.mixers,
            "squeeze_excite": self.excited,
        }
        return TapeShape(
            sizes=self.sizes,
            channels=tuple(2 * width for width in self.widths),
            narrow=self.widths,
            spatial=tuple(2 * width for width in self.widths),
            image=self.input_shape[2],
            classes=self.classes,
            units=(self.units,) * len(self.widths),
            slots=tuple(slots.items()),
            kernels=self.kernels,
            dilations=(1,),
            tokens=self.tokens,
            mixing=2,
            stems=("conv3",),
            mains=("conv3",),
            sides=(),
        )

    @functools.cached_property
    def rules(self) -> tuple[Rules, ...]:
        """The productions of each stage."""
        fields = self.depth, self.leaves, self.sequence, self.branching
        return tuple(Rules(self.kernels, size**2 <= self.tokens, *fields) for size in self.sizes)

    @functools.cached_property
    def size(self) -> int:
        """A bound from above: all derivations within the limits of depth and leaves, exactly; those that need more
        slots, units or nodes than the space has are counted too."""
        return math.prod(rules.count() for rules in self.rules)

    @property
    def schedule(self) -> tuple[int, int]:
        """One node a step, in the order of the tape."""
        return self.nodes, 1

    # ---------------------------------------------------------------------------------------------------- sampling

    def sample(self, seed: int | np.random.Generator) -> Derivation:
        """A random derivation, production by production; not uniform: short ones are likelier, and no stage is the
        identity. Stages that are too long and networks that do not fit are drawn again."""
        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            network = Derivation(tuple(self._stage(rules, rng) for rules in self.rules))
            if self._fault(network) is None:
                return network
        raise ValueError(f"Grammar: none of {TRIES} derivations fits; give the space more units and slots")

    def _stage(self, rules: Rules, rng: np.random.Generator) -> Chain:
        for _ in range(TRIES):
            chain = rules.chain(rng, ONCE, ONCE, self.depth)
            if rules.fault(chain) is None:
                return chain
        raise ValueError(f"Grammar.leaves={self.leaves}: none of {TRIES} derivations is so short; allow more")

    def mutate(self, architecture: Derivation, seed: int | np.random.Generator) -> Derivation:
        """Another derivation of a random subtree, as in einspace's evolution."""
        self._check(architecture)
        rng = np.random.default_rng(seed)
        places = [(index, spot) for index in range(len(self.rules)) for spot in self._spots(architecture, index)]
        for _ in range(TRIES):
            index, spot = places[int(rng.integers(len(places)))]
            drawn = self.rules[index].part(rng, spot.inputs, spot.outputs, spot.depth)
            other = self._with(architecture, index, spot.exchange(drawn))
            if other != architecture and self._fault(other) is None:
                return other
        raise ValueError(f"architecture {architecture}: none of {TRIES} derivations of its parts fits")

    def neighbours(self, architecture: Derivation) -> Iterator[Derivation]:
        """Every network that fits and differs in one choice: an operation another, more, or less; a bridge past an
        item, a branch or a stage; of branches, the other merge, one less, or one of them alone."""
        self._check(architecture)
        seen = {architecture}
        for index, rules in enumerate(self.rules):
            for spot in self._spots(architecture, index):
                for chain in variations(rules, spot):
                    other = self._with(architecture, index, spot.exchange(chain))
                    if other not in seen and self._fault(other) is None:
                        seen.add(other)
                        yield other

    def _spots(self, architecture: Derivation, index: int) -> Iterator[Spot]:
        return spots(self.rules[index], architecture.stages[index], ONCE, self.depth, lambda chain: chain)

    @staticmethod
    def _with(architecture: Derivation, index: int, chain: Chain) -> Derivation:
        return Derivation((*architecture.stages[:index], chain, *architecture.stages[index + 1 :]))

    def models(self) -> dict[str, Derivation]:
        """Networks made of well-known blocks; where there are too many pixels for tokens, transformers and mixers
        convolve."""
        blocks = {
            "resnet": (RESNET, RESNET),
            "mobilenet": (MOBILENET, MOBILENET),
            "densenet": (DENSENET, DENSENET),
            "convnext": (CONVNEXT, CONVNEXT),
            "vit": (f"relu > pos > {VIT}", EARLY),
            "mixer": (MIXER, EARLY),
        }
        networks = {
            name: parse(" | ".join(late if rules.tokens else early for rules in self.rules))
            for name, (late, early) in blocks.items()
        }
        return {name: network for name, network in networks.items() if self._fault(network) is None}

    # ------------------------------------------------------------------------------------------- text and identity

    def to_string(self, architecture: Derivation) -> str:
        """One line; see `architectures.spaces.grammar_text`."""
        return str(architecture)

    def from_string(self, text: str) -> Derivation:
        """Reads `to_string`'s text, and any other way to write the same; ValueError naming the part that is wrong."""
        network = parse(text)
        self._check(network)
        return network

    def canonical(self, architecture: Derivation) -> str:
        """The text with the branches of sums in one order; chains and sums lie flat, and identities are gone, in every
        derivation."""
        self._check(architecture)
        return str(Derivation(tuple(map(ordered, architecture.stages))))

    def _fault(self, architecture: Derivation) -> str | None:
        return _fault(self, architecture)

    def tape(self, architecture: Derivation) -> Tape:
        """The network as the executor runs it."""
        return lower(architecture, self.widths, self.sizes, self.input_shape[2])


@functools.lru_cache(maxsize=10_000)
def _fault(space: Grammar, network: Derivation) -> str | None:
    if len(network.stages) != len(space.widths):
        return f"{len(network.stages)} stages; this space has {len(space.widths)}"
    for index, (rules, chain) in enumerate(zip(space.rules, network.stages, strict=True)):
        fault = rules.fault(chain)
        if fault is not None:
            return f"stage {index}: {fault}"
    return misfit(space, network, space.nodes)
