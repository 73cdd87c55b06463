"""The interface of a search space."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import math
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.executor import Around, Observe
from architectures.graph import ArchGraph
from architectures.layers import Layers
from architectures.layout import Layout, WeightArrays, Weights

Architecture = TypeVar("Architecture", bound=Hashable)

# Fixed-shape integer arrays that make an architecture data for the executor.
Encoding = dict[str, NDArray[np.int32]]


class Cost(NamedTuple):
    """What an architecture costs: scalar parameters, and multiply-accumulate operations for one input."""

    parameters: int
    macs: int


def later(default: Any) -> Any:
    """A field of a space that came after checkpoints and tables of it had been written.

    At its default, `settings` leaves it out: descriptions of spaces that do without it, and hashes of them, stay what
    they were.
    """
    return dataclasses.field(default=default, metadata={"later": True})


class SearchSpace(abc.ABC, Generic[Architecture]):
    """A set of architectures that share one weight layout and one compiled executor.

    Implementations are frozen dataclasses (hashable: they are static arguments of compiled functions). Architectures
    are hashable values.
    """

    name: ClassVar[str]
    input_shape: tuple[int, int, int]  # height, width, channels
    classes: int

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of architectures in the space, isomorphic ones counted apart."""

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """The slot layout of the weights of any architecture."""

    @property
    @abc.abstractmethod
    def block_count(self) -> int:
        """Number of blocks, one after the other, that make up every network: what `forward` counts for `around`."""

    @property
    @abc.abstractmethod
    def op_names(self) -> tuple[str, ...]:
        """Every op name that a graph of this space can hold."""

    @property
    @abc.abstractmethod
    def schedule(self) -> tuple[int, int]:
        """(steps, most nodes in one step) that no graph of this space exceeds: the shape that graphs are padded to."""

    @abc.abstractmethod
    def sample(self, seed: int | np.random.Generator) -> Architecture:
        """A random architecture as training draws them: uniform, unless the space says otherwise."""

    @abc.abstractmethod
    def mutate(self, architecture: Architecture, seed: int | np.random.Generator) -> Architecture:
        """A random neighbour."""

    @abc.abstractmethod
    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every architecture that differs in one choice."""

    @abc.abstractmethod
    def to_string(self, architecture: Architecture) -> str:
        """The architecture as text."""

    @abc.abstractmethod
    def from_string(self, text: str) -> Architecture:
        """Reads `to_string`'s text; ValueError naming the part that is wrong."""

    @abc.abstractmethod
    def canonical(self, architecture: Architecture) -> str:
        """The same text for isomorphic architectures: the key of an isomorphism class."""

    @abc.abstractmethod
    def connected(self, architecture: Architecture) -> bool:
        """Whether the output depends on the input."""

    @abc.abstractmethod
    def graph(self, architecture: Architecture) -> ArchGraph:
        """The computational graph with its parameter table."""

    @abc.abstractmethod
    def encode(self, architecture: Architecture) -> Encoding:
        """The architecture as data for `forward`."""

    @abc.abstractmethod
    def forward(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Logits [B, classes] and summed observations of images [B, H, W, C]: the executor, traceable, one program.

        `observe` is called on the input of every ReLU, `around` in the place of every block; give one of them.
        """

    @abc.abstractmethod
    def forward_static(self, arrays: WeightArrays, architecture: Architecture, images: Array, layers: Layers) -> Array:
        """Logits by a plain program for one architecture: the reference of `forward`."""

    def forward_exits(
        self, arrays: WeightArrays, encoding: Encoding | dict[str, Array], images: Array, layers: Layers
    ) -> tuple[Array, ...]:
        """Logits [B, classes] of every exit, those of `forward` last; only these where networks have one end."""
        return (self.forward(arrays, encoding, images, layers)[0],)

    def forward_exits_static(
        self, arrays: WeightArrays, architecture: Architecture, images: Array, layers: Layers
    ) -> tuple[Array, ...]:
        """Logits of every exit by a plain program for one architecture: the reference of `forward_exits`."""
        return (self.forward_static(arrays, architecture, images, layers),)

    def apply(self, weights: Weights, architecture: Architecture, images: Array) -> Array:
        """Logits [B, classes] of normalised images [B, H, W, C], compiled once for all architectures of the space.

        Raises:
            ValueError: text instead of an architecture, images of another shape or of pixels, weights of another space.
        """
        self._check_call(weights, architecture, images)
        return _apply(self, weights.arrays, self.encode(architecture), images)

    def apply_exits(self, weights: Weights, architecture: Architecture, images: Array) -> tuple[Array, ...]:
        """Logits [B, classes] of every exit, the earliest first, those of `apply` last; compiled once as well.

        Raises as `apply` does.
        """
        self._check_call(weights, architecture, images)
        return _apply_exits(self, weights.arrays, self.encode(architecture), images)

    def _check_call(self, weights: Weights, architecture: Architecture, images: Array) -> None:
        """ValueError for text, images of another shape or of pixels, weights of another space."""
        check_no_text(architecture)
        self.check_images(images)
        if weights.space != self:
            raise ValueError(f"weights: made for {weights.space}, not for {self}")

    def check_images(self, images: Array) -> None:
        """ValueError for images of another shape, or of pixels."""
        if tuple(images.shape[1:]) != self.input_shape:
            sizes = ", ".join(map(str, self.input_shape))
            raise ValueError(f"images: shape {images.shape}, this space takes [B, {sizes}]")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images: {images.dtype}, this space takes normalised float32; "
                "use hypernetwork.preprocessing.normalise for uint8 pixels"
            )

    def cost(self, architecture: Architecture) -> Cost:
        """Parameters and multiply-accumulates."""
        check_no_text(architecture)
        graph = self.graph(architecture)
        return Cost(graph.parameter_count, graph.macs)

    def held_out(self, architecture: Architecture, share: float, seed: int = 0) -> bool:
        """Whether the architecture's isomorphism class belongs to the held-out share of the space.

        A hash of the class decides, so no enumeration is needed and isomorphic architectures never fall apart.
        """
        return self._hash(architecture, seed) < share * 2**64

    def _hash(self, architecture: Architecture, seed: int) -> int:
        digest = hashlib.sha256(f"{seed}:{self._split_key(architecture)}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def _split_key(self, architecture: Architecture) -> str:
        """What `held_out` hashes, the same for isomorphic architectures. Trained checkpoints rely on it: it may be
        coarser than `canonical`, but is not to change with it."""
        return self.canonical(architecture)

    def describe(self) -> str:
        """One line for people: name, size, what it is built for."""
        power = f"{self.size:,}" if self.size < 10**9 else f"about 10^{math.log10(self.size):.1f}"
        return f"{self.name}: {power} architectures, input {self.input_shape}, {self.classes} classes"


def check_no_text(architecture: Any) -> None:
    """ValueError for text in the place of an architecture."""
    if isinstance(architecture, str):
        raise ValueError(f"architecture {architecture!r}: is text; read it with space.from_string first")


@functools.partial(jax.jit, static_argnums=0)
def _apply(space: SearchSpace[Any], arrays: WeightArrays, encoding: dict[str, Array], images: Array) -> Array:
    return space.forward(arrays, encoding, images, Layers())[0]


@functools.partial(jax.jit, static_argnums=0)
def _apply_exits(
    space: SearchSpace[Any], arrays: WeightArrays, encoding: dict[str, Array], images: Array
) -> tuple[Array, ...]:
    return space.forward_exits(arrays, encoding, images, Layers())
