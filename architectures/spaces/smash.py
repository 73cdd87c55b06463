"""SMASH's space of memory-bank networks (Brock et al., ICLR 2018)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from architectures.bank_executor import BlockPlan
from architectures.bank_weights import BankShape, BlockChoices, read_rows
from architectures.checks import at_least
from architectures.executor import Around, Observe
from architectures.graph import ArchGraph
from architectures.layers import Layers
from architectures.layout import Layout, WeightArrays
from architectures.spaces import bank_layout, bank_plain
from architectures.spaces.bank_sampling import BankChoices
from architectures.spaces.banks import BankNetwork, Block, Conv, canonical, filled, parse
from architectures.spaces.base import Encoding, SearchSpace, check_no_text


@dataclasses.dataclass(frozen=True)
class SMASH(SearchSpace[BankNetwork]):
    """Memory-bank networks: `blocks` resolutions, each with its own number of banks, channels and layers.

    Stem (3x3), blocks with a 1x1 convolution and 2x2 average pooling between them, at the end a 1x1 convolution of all
    banks to `features`, ReLU, global average pooling, linear classifier. As in the original, a hypernetwork generates
    the 1x1 convolutions and the classifier, while the other convolutions are shared by all architectures and sliced;
    `generate_all` generates those too.

    Attributes:
        input_shape: height, width and channels of an image.
        classes: outputs of the classifier.
        blocks: number of resolutions.
        channels: choices for the channels of a bank in the first block, times `widening` from block to block.
        widening: see there.
        banks: choices for the number of banks of a block.
        layers: choices for the number of layers of a block.
        units: choices for the units of a layer, in multiples of the channels of a bank.
        kernels, dilations, groups: choices for a convolution.
        features: channels before the classifier.
        generate_all: a hypernetwork generates all convolutions.

    Raises:
        ValueError: a field out of range.
    """

    name: ClassVar[str] = "smash"

    input_shape: tuple[int, int, int] = (14, 14, 1)
    classes: int = 10
    blocks: int = 3
    channels: tuple[int, ...] = (2, 4)
    widening: int = 2
    banks: tuple[int, ...] = (1, 2, 3, 4)
    layers: tuple[int, ...] = (1, 2, 3)
    units: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    dilations: tuple[int, ...] = (1, 2)
    groups: tuple[int, ...] = (1, 2)
    features: int = 32
    generate_all: bool = False

    def __post_init__(self) -> None:
        at_least(self, classes=1, blocks=1, widening=1, features=1)
        for field in ("channels", "banks", "layers", "units", "kernels", "dilations", "groups"):
            choices = getattr(self, field)
            if not choices or list(choices) != sorted(set(choices)) or choices[0] < 1:
                raise ValueError(f"SMASH.{field}={choices}: give choices of at least 1 in ascending order, each once")
        if any(channels % groups for channels in self.channels for groups in self.groups):
            raise ValueError(f"SMASH.groups={self.groups}: each must divide every one of channels={self.channels}")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"SMASH.kernels={self.kernels}: must be odd")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1 or self.input_shape[0] != self.input_shape[1]:
            raise ValueError(f"SMASH.input_shape={self.input_shape}: give (height, width, channels) of square images")

    # ----------------------------------------------------------------------------------------------------- choices

    @functools.cached_property
    def convs(self) -> tuple[Conv, ...]:
        """Every choice of convolution."""
        return tuple(Conv(k, d, g) for k in self.kernels for d in self.dilations for g in self.groups)

    @functools.cached_property
    def kinds(self) -> tuple[tuple[int, int], ...]:
        """(kernel, dilation) of every branch of the executor's switch; groups are data."""
        return tuple((k, d) for k in self.kernels for d in self.dilations)

    def widths(self, block: int) -> tuple[int, ...]:
        """Choices for the channels of a bank in a block."""
        return tuple(channels * self.widening**block for channels in self.channels)

    def shape(self, block: int) -> BankShape:
        """Padded sizes of a block."""
        channels = self.widths(block)[-1]
        return BankShape(self.banks[-1], channels, channels * self.units[-1])

    def resolution(self, block: int) -> int:
        """Height and width of a block's banks in pixels."""
        return -(-self.input_shape[0] // 2**block)

    @functools.cached_property
    def size(self) -> int:
        """Number of networks: reads are non-empty subsets of the banks that hold something, writes of all banks."""
        paths = len(self.convs) * (len(self.convs) + 1)
        layer = len(self.units) * paths * (1 + paths)
        block = 0
        for banks in self.banks:
            counts = {1: 1}  # banks that hold something -> number of networks so far
            for depth in range(1, self.layers[-1] + 1):
                following: dict[int, int] = {}
                for held, count in counts.items():
                    for new in range(banks - held + 1):
                        writes = math.comb(banks - held, new) * 2**held - (new == 0)
                        more = count * layer * (2**held - 1) * writes
                        following[held + new] = following.get(held + new, 0) + more
                counts = following
                if depth in self.layers:
                    block += len(self.channels) * sum(counts.values())
        return int(block**self.blocks)

    # ---------------------------------------------------------------------------------------------------- sampling

    @functools.cached_property
    def choices(self) -> BankChoices:
        """What may be chosen, block by block."""
        widths = tuple(self.widths(index) for index in range(self.blocks))
        return BankChoices(self.banks, widths, self.layers, self.units, self.convs)

    def sample(self, seed: int | np.random.Generator) -> BankNetwork:
        """Every choice uniformly, in the order of the text."""
        return self.choices.sample(np.random.default_rng(seed))

    def perturb(
        self, architecture: BankNetwork, seed: int | np.random.Generator, probability: float = 0.05
    ) -> BankNetwork:
        """SMASH's perturbation: every single choice is drawn again with this probability (its section 4 uses 0.05).

        A layer that then reads banks that hold nothing reads those that do, or draws its reads again.
        """
        return self.choices.perturb(architecture, np.random.default_rng(seed), probability)

    def mutate(self, architecture: BankNetwork, seed: int | np.random.Generator) -> BankNetwork:
        """A random one of `neighbours`."""
        every = list(self.neighbours(architecture))
        return every[int(np.random.default_rng(seed).integers(len(every)))]

    def neighbours(self, architecture: BankNetwork) -> Iterator[BankNetwork]:
        """Every network that differs in one choice, each once.

        A choice is a bank in a read or write pattern, the units, a convolution (set, removed, exchanged), the banks or
        channels of a block, one layer less or the last one twice.
        """
        for index, block in enumerate(architecture.blocks):
            for other in dict.fromkeys(self.choices.block_neighbours(block, index)):
                if self._fault(other, index) is None and other != block:
                    yield BankNetwork((*architecture.blocks[:index], other, *architecture.blocks[index + 1 :]))

    # ------------------------------------------------------------------------------------------- text and identity

    def to_string(self, architecture: BankNetwork) -> str:
        """Blocks, layers and choices as `architectures.spaces.banks` writes them."""
        return str(architecture)

    def from_string(self, text: str) -> BankNetwork:
        """Reads `to_string`'s text; ValueError naming the block, the layer and the choice."""
        network = parse(text)
        self._check(network)
        return network

    def canonical(self, architecture: BankNetwork) -> str:
        """Banks renumbered and paths ordered so that equivalent networks agree."""
        self._check(architecture)
        return canonical(architecture)

    def connected(self, architecture: BankNetwork) -> bool:
        """Always: the first bank, which holds a block's input, is read at the block's end."""
        self._check(architecture)
        return True

    def _check(self, network: BankNetwork) -> None:
        check_no_text(network)
        if len(network.blocks) != self.blocks:
            raise ValueError(f"architecture {network}: {len(network.blocks)} blocks, this space has {self.blocks}")
        for index, block in enumerate(network.blocks):
            fault = self._fault(block, index)
            if fault:
                raise ValueError(f"architecture {network}: block {index}: {fault}")

    def _fault(self, block: Block, index: int) -> str | None:
        """What is wrong with a block, if anything."""
        if block.banks not in self.banks:
            return f"{block.banks} banks; choices: {self.banks}"
        if block.channels not in self.widths(index):
            return f"{block.channels} channels; choices: {self.widths(index)}"
        if len(block.layers) not in self.layers:
            return f"{len(block.layers)} layers; choices: {self.layers}"
        for row, (layer, held) in enumerate(zip(block.layers, filled(block), strict=False)):
            units = tuple(block.channels * multiple for multiple in self.units)
            for word, banks in (("reads", layer.read), ("writes", layer.write)):
                if not banks or sorted(set(banks)) != list(banks) or banks[-1] >= block.banks:
                    return f"layer {row} {word} {banks}; give banks below {block.banks}, ascending, each once"
            if not set(layer.read) <= held:
                return f"layer {row} reads bank {min(set(layer.read) - held)}, which holds nothing yet"
            if layer.units not in units:
                return f"layer {row} has {layer.units} units; choices: {units}"
            if len(layer.paths) not in (1, 2):
                return f"layer {row} has {len(layer.paths)} paths; give one or two"
            for conv in (conv for path in layer.paths for conv in path.convolutions):
                if conv not in self.convs:
                    return f"layer {row}: unknown convolution {conv}; choices: {', '.join(map(str, self.convs))}"
        return None

    # ------------------------------------------------------------------------------------------------ graph and run

    @functools.cached_property
    def layout(self) -> Layout:
        """Stem, for every block its layers and the 1x1 convolution that leaves it, classifier."""
        return bank_layout.layout(self)

    @property
    def block_count(self) -> int:
        """Stem and blocks, each with what leads to the next."""
        return 1 + self.blocks

    @property
    def op_names(self) -> tuple[str, ...]:
        """Kinds of node."""
        return bank_layout.OPS

    @functools.cached_property
    def schedule(self) -> tuple[int, int]:
        """Four steps a layer and two a block beside input, stem, pooling and classifier; the two paths side by side."""
        return bank_layout.steps(self), 2

    def graph(self, architecture: BankNetwork) -> ArchGraph:
        """One node a convolution; a sum for what a layer writes, which every later reader of those banks reads."""
        self._check(architecture)
        return dataclasses.replace(bank_layout.graph(self, architecture), encoding=self.encode(architecture))

    def encode(self, architecture: BankNetwork) -> Encoding:
        """{field of BlockChoices: [blocks, ...] int32}."""
        self._check(architecture)
        rows = [self._encode_block(block) for block in architecture.blocks]
        return {name: np.stack([row[name] for row in rows]).astype(np.int32) for name in BlockChoices._fields}

    def _encode_block(self, block: Block) -> dict[str, np.ndarray]:
        most, banks = self.layers[-1], self.banks[-1]
        code = {
            "banks": np.array(block.banks),
            "channels": np.array(block.channels),
            **{name: np.zeros(most, int) for name in ("active", "units")},
            **{name: np.zeros((most, banks), int) for name in ("read", "write")},
            **{name: np.zeros((most, 2), int) for name in ("inner", "outer")},
            **{name: np.ones((most, 2), int) for name in ("inner_groups", "outer_groups")},
        }
        code["units"][:] = block.channels  # of layers that do not exist: nothing reads it, but groups divide it
        for row, layer in enumerate(block.layers):
            code["active"][row], code["units"][row] = 1, layer.units
            code["read"][row, list(layer.read)] = 1
            code["write"][row, list(layer.write)] = 1
            for column, path in enumerate(layer.paths):
                for name, conv in (("inner", path.inner), ("outer", path.outer)):
                    if conv is not None:
                        code[name][row, column] = 1 + self.kinds.index((conv.kernel, conv.dilation))
                        code[f"{name}_groups"][row, column] = conv.groups
        return code

    def forward(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Logits and summed observations, by the executor."""
        total: Array | float = 0.0

        def block(index: int, x: Array) -> Array:
            nonlocal total
            choices = BlockChoices(**{name: jnp.asarray(value[index]) for name, value in encoding.items()})
            plan = BlockPlan(self.shape(index), self.kinds, layers)
            banks, observed = plan.run(bank_layout.part(arrays, f"block{index}"), choices, x, observe)
            total = total + observed
            return banks

        logits, seen = self._skeleton(arrays, encoding, images, layers, block, observe, around)
        return logits, total + seen

    def forward_padded(self, arrays: WeightArrays, architecture: BankNetwork, images: Array, layers: Layers) -> Array:
        """Logits by a static program for this architecture in the executor's padded widths: what its switches and
        scans are timed against."""
        encoding = self.encode(architecture)

        def block(index: int, x: Array) -> Array:
            choices = BlockChoices(**{name: value[index] for name, value in encoding.items()})
            plan = BlockPlan(self.shape(index), self.kinds, layers)
            depth = len(architecture.blocks[index].layers)
            return plan.run_static(bank_layout.part(arrays, f"block{index}"), choices, depth, x)

        return self._skeleton(arrays, encoding, images, layers, block)[0]

    def _skeleton(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        block: bank_plain.RunBlock,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Stem, blocks with what leads from one to the next, head."""
        total: Array | float = 0.0

        def begin(images: Array) -> Array:
            stem = bank_layout.only(arrays, "stem")
            mask_N = jnp.arange(self.shape(0).channels) < encoding["channels"][0]
            x = layers.conv(images, stem["kernel"])
            return layers.batch_norm(x, stem["scale"] * mask_N, stem["bias"] * mask_N)

        def advance(index: int, x: Array) -> Array:
            banks = block(index, x)
            leave = bank_layout.only(arrays, f"leave{index}")
            in_use_K = jnp.arange(self.banks[-1]) < encoding["banks"][index]
            dtype = leave["kernel"].dtype
            rows_RR = read_rows(in_use_K.astype(jnp.int32), encoding["channels"][index], self.shape(index), dtype)
            last = index + 1 == self.blocks
            width = self.features if last else encoding["channels"][index + 1]
            mask = jnp.arange(leave["scale"].shape[0]) < width
            x = layers.batch_norm(
                banks @ (rows_RR @ leave["kernel"][0, 0]), leave["scale"] * mask, leave["bias"] * mask
            )
            return x if last else layers.avg_pool_2x2(x)

        x = images
        parts: list[Callable[[Array], Array]] = [begin, *(functools.partial(advance, i) for i in range(self.blocks))]
        for number, run in enumerate(parts):
            if around is None:
                x = run(x)
            else:
                x, seen = around(number, run, x)
                total = total + seen
        classifier = bank_layout.only(arrays, "classifier")
        logits = jax.nn.relu(x).mean((1, 2)) @ classifier["kernel"] + classifier["bias"]
        return logits, total if observe is None else total + observe(x)

    def forward_static(self, arrays: WeightArrays, architecture: BankNetwork, images: Array, layers: Layers) -> Array:
        """Logits by a plain program in the architecture's own widths."""
        return bank_plain.forward(self, arrays, architecture, images, layers)
