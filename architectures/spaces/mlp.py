"""Multi-layer perceptrons: the targets of published continual-learning settings, and all their widths and depths.

Layers are padded to the widest; units that an architecture lacks are zero, so that whatever its slots hold beyond its
own leaves is never read.

Shape letters: B batch, I inputs, W widest layer, L hidden layers at most.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from architectures.checks import at_least
from architectures.executor import Around, Observe
from architectures.graph import ArchGraph, GraphBuilder, Place
from architectures.layers import Layers
from architectures.layout import Layout, LeafGroup, WeightArrays
from architectures.ops import Leaf
from architectures.spaces.base import Encoding, SearchSpace, check_no_text
from architectures.switch import cut


@dataclasses.dataclass(frozen=True)
class MLP:
    """One architecture: the width of each hidden layer. Prints as 100-100."""

    widths: tuple[int, ...]

    def __str__(self) -> str:
        return "-".join(map(str, self.widths))


@dataclasses.dataclass(frozen=True)
class MLPSpace(SearchSpace[MLP]):
    """Multi-layer perceptrons on flattened images: linear layers with biases, ReLU between them.

    Attributes:
        input_shape: height, width and channels of an image.
        classes: outputs, of all heads together.
        widths: choices for the width of a hidden layer, ascending.
        depths: choices for the number of hidden layers, ascending.

    Raises:
        ValueError: a field out of range.
    """

    name: ClassVar[str] = "mlp"

    input_shape: tuple[int, int, int] = (28, 28, 1)
    classes: int = 10
    widths: tuple[int, ...] = (50, 100)
    depths: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        for field in ("widths", "depths", "input_shape"):
            values = getattr(self, field)
            integers = isinstance(values, tuple) and all(type(value) is int for value in values)
            if not integers or not values or min(values) < 1:
                raise ValueError(f"MLPSpace.{field}={values!r}: must be a tuple of positive ints")
        for field in ("widths", "depths"):
            if list(getattr(self, field)) != sorted(set(getattr(self, field))):
                raise ValueError(f"MLPSpace.{field}={getattr(self, field)}: must ascend, each once")
        if len(self.input_shape) != 3:
            raise ValueError(f"MLPSpace.input_shape={self.input_shape}: give (height, width, channels)")
        at_least(self, classes=1)

    @property
    def inputs(self) -> int:
        """Number of values of an image."""
        return int(np.prod(self.input_shape))

    @property
    def size(self) -> int:
        """Number of architectures."""
        return sum(len(self.widths) ** depth for depth in self.depths)

    @functools.cached_property
    def layout(self) -> Layout:
        """The first layer; all later ones in one group; the classifier."""
        groups = {
            "first/kernel": self._group("first/kernel", 1, [self._kernel(self.inputs, w) for w in self.widths]),
            "first/bias": self._group("first/bias", 1, [Leaf("bias", (w,)) for w in self.widths]),
        }
        if self.depths[-1] > 1:
            kernels = [self._kernel(*pair) for pair in self._pairs]
            slots = self.depths[-1] - 1
            groups["hidden/kernel"] = self._group("hidden/kernel", slots, kernels)
            groups["hidden/bias"] = self._group("hidden/bias", slots, [Leaf("bias", (w,)) for w in self.widths])
        heads = [Leaf("head_kernel", (w, self.classes)) for w in self.widths]
        groups["classifier/kernel"] = self._group("classifier/kernel", 1, heads)
        groups["classifier/bias"] = self._group("classifier/bias", 1, [Leaf("head_bias", (self.classes,))])
        return groups

    @functools.cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer that is not the first, the largest last."""
        return [(inputs, outputs) for inputs in self.widths for outputs in self.widths]

    @staticmethod
    def _kernel(inputs: int, outputs: int) -> Leaf:
        return Leaf("kernel", (1, 1, inputs, outputs))

    @staticmethod
    def _group(name: str, slots: int, variants: list[Leaf]) -> LeafGroup:
        """Narrower layers are cut out of the widest."""
        return LeafGroup(name, slots, tuple(variants), sliced=len(variants) > 1)

    @property
    def block_count(self) -> int:
        """Hidden layers of the deepest network."""
        return self.depths[-1]

    @property
    def op_names(self) -> tuple[str, ...]:
        """The input, hidden layers with their ReLU, the classifier."""
        return ("input", "dense_relu", "linear")

    @property
    def schedule(self) -> tuple[int, int]:
        """A chain."""
        return self.depths[-1] + 2, 1

    def sample(self, seed: int | np.random.Generator) -> MLP:
        """A uniformly random architecture."""
        rng = np.random.default_rng(seed)
        counts = np.array([len(self.widths) ** depth for depth in self.depths], np.float64)
        depth = self.depths[int(rng.choice(len(counts), p=counts / counts.sum()))]
        return MLP(tuple(int(width) for width in rng.choice(self.widths, depth)))

    def mutate(self, architecture: MLP, seed: int | np.random.Generator) -> MLP:
        """A random neighbour."""
        others = list(self.neighbours(architecture))
        if not others:
            raise ValueError("MLPSpace: a space of one architecture has nothing to mutate")
        return others[int(np.random.default_rng(seed).integers(len(others)))]

    def neighbours(self, architecture: MLP) -> Iterator[MLP]:
        """Another width of one layer, or the next smaller or larger depth by its last layers."""
        self._check(architecture)
        own = architecture.widths
        for index, width in enumerate(own):
            yield from (MLP((*own[:index], other, *own[index + 1 :])) for other in self.widths if other != width)
        place = self.depths.index(len(own))
        if place > 0:
            yield MLP(own[: self.depths[place - 1]])
        if place + 1 < len(self.depths):
            more = self.depths[place + 1] - len(own)
            yield from (MLP(own + added) for added in itertools.product(self.widths, repeat=more))

    def to_string(self, architecture: MLP) -> str:
        """100-100."""
        return str(architecture)

    def from_string(self, text: str) -> MLP:
        """Reads `to_string`'s text; ValueError naming what is wrong."""
        parts = text.strip().split("-")
        if not all(re.fullmatch("[1-9][0-9]*", part) for part in parts):  # int() would read 5_0 and +50 too
            raise ValueError(f"architecture {text!r}: give the width of every hidden layer, as in 100-100")
        architecture = MLP(tuple(map(int, parts)))
        self._check(architecture)
        return architecture

    def canonical(self, architecture: MLP) -> str:
        """The text: no two are isomorphic."""
        self._check(architecture)
        return str(architecture)

    def connected(self, architecture: MLP) -> bool:
        """Always."""
        self._check(architecture)
        return True

    def graph(self, architecture: MLP) -> ArchGraph:
        """A chain: input, hidden layers, classifier."""
        self._check(architecture)
        builder = GraphBuilder()
        node = builder.node("input", [], channels_in=self.inputs, channels_out=self.inputs)
        sizes = (self.inputs, *architecture.widths)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            position = (index + 1) / (self.depths[-1] + 1)
            node = builder.node("dense_relu", [node], channels_in=inputs, channels_out=outputs, position=position)
            leaves = {"kernel": self._kernel(inputs, outputs), "bias": Leaf("bias", (outputs,))}
            self._own(builder, node, f"layer{index}", *self._slot(index), leaves)
        node = builder.node("linear", [node], channels_in=sizes[-1], channels_out=self.classes, position=1.0)
        leaves = {"kernel": Leaf("head_kernel", (sizes[-1], self.classes)), "bias": Leaf("head_bias", (self.classes,))}
        self._own(builder, node, "classifier", "classifier", 0, leaves)
        return builder.build()

    @staticmethod
    def _slot(index: int) -> tuple[str, int]:
        """Group and slot of a hidden layer."""
        return ("first", 0) if index == 0 else ("hidden", index - 1)

    def _own(self, builder: GraphBuilder, node: int, path: str, part: str, slot: int, leaves: dict[str, Leaf]) -> None:
        for name, leaf in leaves.items():
            group = self.layout[f"{part}/{name}"]
            builder.parameter((path, name), node, leaf, Place(group.name, slot, group.variants.index(leaf)))

    def encode(self, architecture: MLP) -> Encoding:
        """{"width": [L] int32}, 0 for a layer that is absent."""
        self._check(architecture)
        width_L = np.zeros(self.depths[-1], np.int32)
        width_L[: len(architecture.widths)] = architecture.widths
        return {"width": width_L}

    def _check(self, architecture: MLP) -> None:
        check_no_text(architecture)
        if len(architecture.widths) not in self.depths:
            raise ValueError(
                f"architecture {architecture}: {len(architecture.widths)} hidden layers; MLPSpace.depths={self.depths}"
            )
        for width in architecture.widths:
            if width not in self.widths:
                raise ValueError(f"architecture {architecture}: width {width}; MLPSpace.widths={self.widths}")

    def forward(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Logits and summed observations; a unit or layer that is absent is not observed. Blocks are hidden layers.

        Raises:
            ValueError: observation in a space of several widths, whose absent units would be seen as units at zero.
        """
        if (observe is not None or around is not None) and len(self.widths) > 1:
            raise ValueError(f"MLPSpace.widths={self.widths}: units are observed at one width only; use widths=(...,)")
        width_L = jnp.asarray(encoding["width"])
        total: Array | float = 0.0
        x = images.reshape(len(images), -1)
        for index in range(self.depths[-1]):
            part, slot = self._slot(index)
            present = width_L[index] > 0
            unit_W = jnp.arange(self.widths[-1]) < width_L[index]
            kernel, bias = arrays[f"{part}/kernel"][slot, 0, 0], arrays[f"{part}/bias"][slot]

            def run(x: Array, kernel: Array = kernel, bias: Array = bias, unit_W: Array = unit_W) -> Array:
                return jnp.where(unit_W, jax.nn.relu(x @ kernel + bias), 0.0)

            seen: Array | None = None
            if around is not None:
                after, seen = around(index, run, x)
            else:
                after = run(x)
            if observe is not None:
                seen = observe((x @ kernel + bias)[:, None, None])
            if seen is not None:
                total = total + jnp.where(present, seen, jnp.zeros_like(seen))
            x = after if index == 0 else jnp.where(present, after, x)
        return x @ arrays["classifier/kernel"][0] + arrays["classifier/bias"][0], total

    def forward_static(self, arrays: WeightArrays, architecture: MLP, images: Array, layers: Layers) -> Array:
        """Logits by a plain program for this architecture alone."""
        x = images.reshape(len(images), -1)
        for row in self.graph(architecture).parameters:
            assert row.place is not None
            leaf = cut(arrays[row.place.group][row.place.slot], row.leaf.shape)
            if row.leaf.role in ("kernel", "head_kernel"):
                x = (jax.nn.relu(x) if row.node > 1 else x) @ leaf.reshape(leaf.shape[-2:])
            else:
                x = x + leaf
        return x
