"""The space of DARTS (Liu et al. 2019), on which GHN (Zhang et al. 2019) was measured too: two cells, stacked."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from architectures.checks import at_least
from architectures.spaces.darts_cells import fullest, lower, stage_channels, widest
from architectures.spaces.darts_text import INPUTS, OPS, PUBLISHED, DartsCell, Edge, Genotype, canonical_cell, parse
from architectures.spaces.tape_space import TapeSpace
from architectures.tape import STEP, Tape
from architectures.tape_layout import TapeShape, room_for

MOST_NODES = 6  # for whose cells all orders of nodes are tried, to know isomorphic ones


@dataclasses.dataclass(frozen=True)
class DARTS(TapeSpace[Genotype]):
    """Networks of stacked cells (Liu et al. 2019, section 2.1): a normal cell, and one that begins a stage.

    A cell reads the outputs of the two cells before it, each through ReLU, a 1x1 convolution and batch normalisation.
    Each of its nodes is the sum of two ops on different earlier states; its output is all nodes side by side. The
    network: a 3x3 convolution with batch normalisation, `cells` normal cells; in every further stage, at half the
    resolution and twice the channels, a reduction cell and `cells` normal ones; global average pooling and a dense
    layer.

    What differs from DARTS: there, the ops of a reduction cell that read an input of the cell have stride 2, and what
    reads over a change of resolution after that is a convolution of stride 2. Here both inputs of the reduction cell
    are halved first, by averages of 2x2 pixels, and its ops all have stride 1. There are no auxiliary heads and no
    drop-path.

    Zhang et al. (stacked GHN for architectural motifs) run one graph network for each cell of such a
    network, which passes its node embeddings to that of the next, and share their parameters. Here the whole
    network is one graph: the states of nodes go from cell to cell along its edges in one sweep, all cells of a kind
    have one genotype, and all nodes share the hypernetwork's parameters.

    Attributes:
        input_shape: height, width and channels of an image.
        classes: outputs of the classifier.
        channels: of a node in the first stage; a multiple of 4.
        cells: normal cells in every stage.
        stages: resolutions.
        nodes: of a cell, inputs not counted; DARTS has 4.

    Raises:
        ValueError: a field out of range.
    """

    name: ClassVar[str] = "darts"

    input_shape: tuple[int, int, int] = (14, 14, 1)
    classes: int = 10
    channels: int = 8
    cells: int = 1
    stages: int = 3
    nodes: int = 4

    def __post_init__(self) -> None:
        at_least(self, classes=1, channels=1, cells=1, stages=1, nodes=1)
        if self.channels % STEP:
            raise ValueError(f"DARTS.channels={self.channels}: must be a multiple of {STEP}")
        if self.nodes > MOST_NODES:
            raise ValueError(f"DARTS.nodes={self.nodes}: at most {MOST_NODES}")
        shape = self.input_shape
        if len(shape) != 3 or min(shape) < 1 or shape[0] != shape[1]:
            raise ValueError(f"DARTS.input_shape={shape}: give (height, width, channels) of square images")

    @functools.cached_property
    def shape(self) -> TapeShape:
        """What all tapes fit into."""
        units, slots = room_for(self.tape(fullest(self.nodes)))
        channels = widest(self.channels, self.nodes, self.stages)
        return TapeShape(
            sizes=self.sizes,
            channels=channels,
            narrow=channels,
            spatial=stage_channels(self.channels, self.stages),
            image=self.input_shape[2],
            classes=self.classes,
            units=units,
            slots=slots,
            kernels=(3, 5),
            dilations=(1, 2),
            tokens=0,
            mixing=0,
            stems=("conv3",),
            mains=("avg_pool",),
            sides=("avg_pool",),
            beside=True,
            prepares=(("none", False), ("batch", False)),
        )

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Pixels along an axis in each stage."""
        return tuple(-(-self.input_shape[0] // 2**stage) for stage in range(self.stages))

    @property
    def size(self) -> int:
        """Genotypes: for each of a cell's nodes, two of the states before it and two ops; two cells."""
        pairs = math.prod(math.comb(INPUTS + node, 2) for node in range(self.nodes))
        return (pairs * len(OPS) ** (2 * self.nodes)) ** 2

    @functools.cached_property
    def schedule(self) -> tuple[int, int]:
        """One node a step, in the order of the tape."""
        return self.graph(fullest(self.nodes)).nodes, 1

    def tape(self, architecture: Genotype) -> Tape:
        """The network as the executor runs it."""
        return lower(architecture, self.channels, self.cells, self.sizes, self.input_shape[2])

    # ---------------------------------------------------------------------------------------------------- sampling

    def sample(self, seed: int | np.random.Generator) -> Genotype:
        """A uniformly random genotype."""
        rng = np.random.default_rng(seed)
        return Genotype(self._random_cell(rng), self._random_cell(rng))

    def _random_cell(self, rng: np.random.Generator) -> DartsCell:
        nodes = []
        for node in range(self.nodes):
            sources = rng.choice(INPUTS + node, 2, replace=False)
            nodes.append(tuple(Edge(list(OPS)[rng.integers(len(OPS))], int(source)) for source in sources))
        return tuple(nodes)

    def models(self) -> dict[str, Genotype]:
        """Published cells of so many nodes, by name; training never draws them."""
        known = {name: parse(text) for name, text in PUBLISHED.items()}
        return {name: genotype for name, genotype in known.items() if len(genotype.normal) == self.nodes}

    def mutate(self, architecture: Genotype, seed: int | np.random.Generator) -> Genotype:
        """A random one of `neighbours`."""
        others = list(self.neighbours(architecture))
        return others[np.random.default_rng(seed).integers(len(others))]

    def neighbours(self, architecture: Genotype) -> Iterator[Genotype]:
        """Every genotype with another op, or another state read, on one edge of one cell."""
        self._check(architecture)
        for other in _cell_variations(architecture.normal):
            yield Genotype(other, architecture.reduce)
        for other in _cell_variations(architecture.reduce):
            yield Genotype(architecture.normal, other)

    # ------------------------------------------------------------------------------------------- text and identity

    def to_string(self, architecture: Genotype) -> str:
        """One line; see `architectures.spaces.darts_text`."""
        return str(architecture)

    def from_string(self, text: str) -> Genotype:
        """Reads `to_string`'s text or DARTS' own form; ValueError naming the part that is wrong."""
        genotype = parse(text)
        self._check(genotype)
        return genotype

    def canonical(self, architecture: Genotype) -> str:
        """The text with the nodes of each cell in one order; the following layers know none."""
        self._check(architecture)
        return str(Genotype(*map(canonical_cell, architecture.cells)))

    def _fault(self, architecture: Genotype) -> str | None:
        nodes = len(architecture.normal)
        return f"cells of {nodes} nodes; this space has {self.nodes}" if nodes != self.nodes else None


def _cell_variations(cell: DartsCell) -> Iterator[DartsCell]:
    for index, node in enumerate(cell):
        for own, kept in (node, node[::-1]):
            others = [Edge(op, own.source) for op in OPS if op != own.op]
            states = set(range(INPUTS + index)) - {own.source, kept.source}
            others += [Edge(own.op, state) for state in sorted(states)]
            yield from ((*cell[:index], (other, kept), *cell[index + 1 :]) for other in others)
