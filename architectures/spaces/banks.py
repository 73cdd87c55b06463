"""SMASH's view of a network: memory banks that every layer reads from and adds to (Brock et al. 2018, section 3.1).

A network is a row of blocks, one for each resolution. A block has banks of equally many channels; its first bank holds
the block's input, the others start at zero. A layer concatenates the banks that it reads, applies a 1x1 convolution to
a number of units, then up to four convolutions in two parallel paths, and adds their sum to every bank that it writes:

    read -> 1x1 -+-> inner a (optional) -> outer a ----------------+-> + -> write
                 +-> inner b (optional) -> outer b (path optional) -+

At the end of a block all of its banks are read at once.

Text: blocks joined by "/", layers within a block by ";". A block starts with banks x channels, a layer reads, writes,
units and its paths: `3x4[0>1,2:8:k3d1g1~k5d2g2|k3d1g1;...]`. Within a path "~" joins inner and outer.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

LAYER = re.compile(r"(\d+(?:,\d+)*)>(\d+(?:,\d+)*):(\d+):([^|:]+)(?:\|([^|:]+))?")
BLOCK = re.compile(r"(\d+)x(\d+)\[(.*)\]")
CONV = re.compile(r"k(\d+)d(\d+)g(\d+)")


@dataclasses.dataclass(frozen=True, order=True)
class Conv:
    """A choice of convolution: kernel size, dilation, groups."""

    kernel: int
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        return f"k{self.kernel}d{self.dilation}g{self.groups}"


@dataclasses.dataclass(frozen=True, order=True)
class Path:
    """One of a layer's parallel paths: an outer convolution, and perhaps an inner one before it."""

    outer: Conv
    inner: Conv | None = None

    def __str__(self) -> str:
        return f"{self.inner}~{self.outer}" if self.inner else str(self.outer)

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        """In the order of computation."""
        return (self.inner, self.outer) if self.inner else (self.outer,)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: the banks that it reads and writes (ascending), units after its 1x1 convolution, one or two paths."""

    read: tuple[int, ...]
    write: tuple[int, ...]
    units: int
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        read, write = (",".join(map(str, banks)) for banks in (self.read, self.write))
        return f"{read}>{write}:{self.units}:{'|'.join(map(str, self.paths))}"


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers at one resolution over `banks` banks of `channels` channels."""

    banks: int
    channels: int
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        return f"{self.banks}x{self.channels}[{';'.join(map(str, self.layers))}]"


@dataclasses.dataclass(frozen=True)
class BankNetwork:
    """One architecture of SMASH's space."""

    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return "/".join(map(str, self.blocks))


def parse(text: str) -> BankNetwork:
    """Reads a network's text.

    Raises:
        ValueError: naming the block, the layer and what cannot be read.
    """
    return BankNetwork(tuple(_block(part, index) for index, part in enumerate(text.strip().split("/"))))


def _block(text: str, index: int) -> Block:
    found = BLOCK.fullmatch(text)
    if not found:
        raise ValueError(f"architecture: cannot read block {index}, {text!r}; example: 2x4[0>1:4:k3d1g1]")
    layers = []
    for number, part in enumerate(found[3].split(";")):
        match = LAYER.fullmatch(part)
        if not match:
            raise ValueError(
                f"architecture: cannot read layer {number} of block {index}, {part!r}; example: 0,1>1:4:k3d1g1~k5d1g1"
            )
        read, write = (tuple(int(bank) for bank in banks.split(",")) for banks in match.group(1, 2))
        paths = tuple(_path(path, f"layer {number} of block {index}") for path in match.group(4, 5) if path)
        layers.append(Layer(read, write, int(match[3]), paths))
    return Block(int(found[1]), int(found[2]), tuple(layers))


def _path(text: str, where: str) -> Path:
    convs = []
    for part in text.split("~"):
        match = CONV.fullmatch(part)
        if not match:
            raise ValueError(f"architecture: cannot read the convolution {part!r} in {where}; example: k3d1g1")
        convs.append(Conv(*map(int, match.groups())))
    if len(convs) > 2:
        raise ValueError(f"architecture: {text!r} in {where}: a path has one or two convolutions")
    return Path(convs[-1], convs[0] if len(convs) == 2 else None)


def filled(block: Block) -> list[frozenset[int]]:
    """The banks that hold something before each layer, and after the last."""
    states = [frozenset({0})]
    for layer in block.layers:
        states.append(states[-1] | set(layer.write))
    return states


def canonical(network: BankNetwork) -> str:
    """The same text for networks that differ in the numbering of banks or the order of paths alone.

    The first bank of a block keeps its number, because it holds the block's input.
    """
    return "/".join(min(str(_renumbered(block, order)) for order in _orders(block.banks)) for block in network.blocks)


def _orders(banks: int) -> list[tuple[int, ...]]:
    return [(0, *rest) for rest in itertools.permutations(range(1, banks))]


def _renumbered(block: Block, order: tuple[int, ...]) -> Block:
    def renumber(banks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(order[bank] for bank in banks))

    layers = tuple(
        Layer(renumber(layer.read), renumber(layer.write), layer.units, tuple(sorted(layer.paths, key=str)))
        for layer in block.layers
    )
    return Block(block.banks, block.channels, layers)


def resnet_block(channels: int, layers: int, units: int | None = None, conv: Conv | None = None) -> Block:
    """Residual layers on one bank (He et al. 2016): x <- x + conv(relu(bn(1x1(x))))."""
    path = (Path(conv or Conv(3)),)
    return Block(1, channels, (Layer((0,), (0,), units or channels, path),) * layers)


def densenet_block(growth: int, layers: int, units: int | None = None, conv: Conv | None = None) -> Block:
    """Densely connected layers (Huang et al. 2017): each reads all before it and fills a bank of its own."""
    path = (Path(conv or Conv(3)),)
    rows = (Layer(tuple(range(index + 1)), (index + 1,), units or growth, path) for index in range(layers))
    return Block(layers + 1, growth, tuple(rows))


def fractal_block(channels: int, columns: int, conv: Conv | None = None) -> Block:
    """Fractal expansion (Larsson et al. 2017): f_1(x) = layer(x), f_{c+1}(x) = f_c(f_c(x)) + layer(x).

    Joins are sums (the original's means, but for a factor that the next normalisation removes).
    """
    path = (Path(conv or Conv(3)),)
    layers: list[Layer] = []
    banks = 1

    def fresh() -> int:
        nonlocal banks
        banks += 1
        return banks - 1

    def expand(source: int, target: int, columns: int) -> None:
        if columns > 1:
            middle = fresh()
            expand(source, middle, columns - 1)
            expand(middle, target, columns - 1)
        layers.append(Layer((source,), (target,), channels, path))

    expand(0, fresh(), columns)
    return Block(banks, channels, tuple(layers))
