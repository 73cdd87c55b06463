"""Random draws and changes of memory-bank networks, from the choices that a space has for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from architectures.spaces.banks import BankNetwork, Block, Conv, Layer, Path


@dataclasses.dataclass(frozen=True)
class BankChoices:
    """What may be chosen.

    Attributes:
        banks: numbers of banks of a block.
        widths: channels of a bank, for every block.
        layers: numbers of layers of a block.
        units: of a layer, in multiples of the channels of a bank.
        convs: convolutions.
    """

    banks: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...]
    units: tuple[int, ...]
    convs: tuple[Conv, ...]

    def sample(self, rng: np.random.Generator) -> BankNetwork:
        """Every choice uniformly, in the order of the text."""
        return BankNetwork(tuple(self._sample_block(rng, index) for index in range(len(self.widths))))

    def _sample_block(self, rng: np.random.Generator, index: int) -> Block:
        banks, channels = int(rng.choice(self.banks)), int(rng.choice(self.widths[index]))
        layers: list[Layer] = []
        held = frozenset({0})
        for _ in range(int(rng.choice(self.layers))):
            layers.append(self._sample_layer(rng, banks, channels, held))
            held |= set(layers[-1].write)
        return Block(banks, channels, tuple(layers))

    def _sample_layer(self, rng: np.random.Generator, banks: int, channels: int, held: frozenset[int]) -> Layer:
        read, write = _subset(rng, sorted(held)), _subset(rng, range(banks))
        paths = tuple(self._sample_path(rng) for _ in range(1 + int(rng.integers(2))))
        return Layer(read, write, channels * int(rng.choice(self.units)), paths)

    def _sample_path(self, rng: np.random.Generator) -> Path:
        return Path(self._sample_conv(rng), self._sample_conv(rng) if rng.integers(2) else None)

    def _sample_conv(self, rng: np.random.Generator) -> Conv:
        return self.convs[int(rng.integers(len(self.convs)))]

    def perturb(self, architecture: BankNetwork, rng: np.random.Generator, probability: float) -> BankNetwork:
        """Every single choice drawn again with this probability.

        A layer that then reads banks that hold nothing reads those that do, or draws its reads again.
        """

        def again() -> bool:
            return bool(rng.random() < probability)

        blocks = []
        for index, block in enumerate(architecture.blocks):
            banks = int(rng.choice(self.banks)) if again() else block.banks
            channels = int(rng.choice(self.widths[index])) if again() else block.channels
            depth = int(rng.choice(self.layers)) if again() else len(block.layers)
            layers: list[Layer] = []
            held = frozenset({0})
            for row in range(depth):
                if row < len(block.layers):
                    old = block.layers[row]
                    multiple = old.units // block.channels
                    read = tuple(sorted(held & set(old.read)))
                    write = tuple(bank for bank in old.write if bank < banks)
                    paths = [self._perturb_path(rng, path, probability) for path in old.paths]
                    if again():
                        paths = paths[:1] if len(paths) == 2 else [*paths, self._sample_path(rng)]
                    layer = Layer(
                        _subset(rng, sorted(held)) if again() or not read else read,
                        _subset(rng, range(banks)) if again() or not write else write,
                        channels * (int(rng.choice(self.units)) if again() else multiple),
                        tuple(paths),
                    )
                else:
                    layer = self._sample_layer(rng, banks, channels, held)
                layers.append(layer)
                held |= set(layer.write)
            blocks.append(Block(banks, channels, tuple(layers)))
        return BankNetwork(tuple(blocks))

    def _perturb_path(self, rng: np.random.Generator, path: Path, probability: float) -> Path:
        def conv(old: Conv) -> Conv:
            return self._sample_conv(rng) if rng.random() < probability else old

        inner = None if path.inner is None else conv(path.inner)
        if rng.random() < probability:
            inner = None if inner else self._sample_conv(rng)
        return Path(conv(path.outer), inner)

    def block_neighbours(self, block: Block, index: int) -> Iterator[Block]:
        """Blocks that differ in one choice, some more than once, some that are none of the space."""
        for banks in self.banks:
            yield dataclasses.replace(block, banks=banks)
        for channels in self.widths[index]:
            layers = tuple(
                dataclasses.replace(layer, units=layer.units // block.channels * channels) for layer in block.layers
            )
            yield dataclasses.replace(block, channels=channels, layers=layers)
        for row in range(len(block.layers)):
            yield dataclasses.replace(block, layers=block.layers[:row] + block.layers[row + 1 :])
        yield dataclasses.replace(block, layers=(*block.layers, block.layers[-1]))
        for row, layer in enumerate(block.layers):
            for other in self._layer_neighbours(layer, block):
                yield dataclasses.replace(block, layers=(*block.layers[:row], other, *block.layers[row + 1 :]))

    def _layer_neighbours(self, layer: Layer, block: Block) -> Iterator[Layer]:
        for bank in range(block.banks):
            yield dataclasses.replace(layer, read=tuple(sorted(set(layer.read) ^ {bank})))
            yield dataclasses.replace(layer, write=tuple(sorted(set(layer.write) ^ {bank})))
        for multiple in self.units:
            yield dataclasses.replace(layer, units=multiple * block.channels)
        for row, path in enumerate(layer.paths):
            others = [Path(conv, path.inner) for conv in self.convs]
            others += [Path(path.outer, conv) for conv in (None, *self.convs)]
            for other in others:
                yield dataclasses.replace(layer, paths=(*layer.paths[:row], other, *layer.paths[row + 1 :]))
        if len(layer.paths) == 2:
            yield from (dataclasses.replace(layer, paths=(path,)) for path in layer.paths)
        else:
            yield from (dataclasses.replace(layer, paths=(*layer.paths, Path(conv))) for conv in self.convs)


def _subset(rng: np.random.Generator, banks: range | list[int]) -> tuple[int, ...]:
    """A random non-empty subset, all equally likely."""
    pattern = int(rng.integers(1, 2 ** len(banks)))
    return tuple(bank for position, bank in enumerate(banks) if pattern >> position & 1)
