"""What the spaces whose networks are tapes have in common: one executor, graphs as tracing sees them."""

from __future__ import annotations

import abc
import functools

from jax import Array

from architectures import tape_executor, tape_graph, tape_plain
from architectures.executor import Around, Observe
from architectures.graph import ArchGraph
from architectures.layers import Layers
from architectures.layout import Layout, WeightArrays, Weights
from architectures.spaces.base import Architecture, Encoding, SearchSpace, check_no_text
from architectures.tape import Tape
from architectures.tape_encode import encode
from architectures.tape_layout import TapeShape


class TapeSpace(SearchSpace[Architecture]):
    """A space that says what its tapes fit into and which tape a network is; all else follows from the tape."""

    @property
    @abc.abstractmethod
    def shape(self) -> TapeShape:
        """What all tapes fit into."""

    @abc.abstractmethod
    def tape(self, architecture: Architecture) -> Tape:
        """The network as the executor runs it."""

    @abc.abstractmethod
    def models(self) -> dict[str, Architecture]:
        """Networks made by hand or published, by name; training never draws them."""

    @abc.abstractmethod
    def _fault(self, architecture: Architecture) -> str | None:
        """What is wrong with a network, if anything."""

    def _check(self, architecture: Architecture) -> None:
        """ValueError saying what is wrong with a network, if anything."""
        check_no_text(architecture)
        fault = self._fault(architecture)
        if fault is not None:
            raise ValueError(f"architecture {architecture}: {fault}")

    @property
    def layout(self) -> Layout:
        """Stem, each resolution's leaves by kind, what leads to the next, head."""
        return self.shape.layout

    @property
    def block_count(self) -> int:
        """Resolutions."""
        return len(self.shape.sizes)

    @property
    def op_names(self) -> tuple[str, ...]:
        """Those of traced models that occur here."""
        return tape_graph.OPS

    def held_out(self, architecture: Architecture, share: float, seed: int = 0) -> bool:
        """As in every space; and those of `models` are always held out."""
        return self._split_key(architecture) in self._by_hand or super().held_out(architecture, share, seed)

    @functools.cached_property
    def _by_hand(self) -> frozenset[str]:
        return frozenset(self._split_key(network) for network in self.models().values())

    def connected(self, architecture: Architecture) -> bool:
        """Always."""
        self._check(architecture)
        return True

    def graph(self, architecture: Architecture) -> ArchGraph:
        """The graph that tracing `forward_static` gives, with places in the layout."""
        self._check(architecture)
        return tape_graph.graph(self.tape(architecture), self.shape)

    def encode(self, architecture: Architecture) -> Encoding:
        """The tape as integers; see `architectures.tape_encode.encode`."""
        self._check(architecture)
        return encode(self.tape(architecture), self.shape)

    def forward(
        self,
        arrays: WeightArrays,
        encoding: Encoding | dict[str, Array],
        images: Array,
        layers: Layers,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> tuple[Array, Array | float]:
        """Logits, by the executor.

        Raises:
            ValueError: observation: padded channels would be seen too. Score `forward_static` as a traced model.
        """
        if observe is not None or around is not None:
            raise ValueError(
                f"{type(self).__name__}: the executor's channels are padded and cannot be observed; "
                "score the network as a model of its own (eval.proxies.score_model)"
            )
        return tape_executor.forward(self.shape, arrays, encoding, images, layers), 0.0

    def forward_static(self, arrays: WeightArrays, architecture: Architecture, images: Array, layers: Layers) -> Array:
        """Logits by a plain program in the network's own widths."""
        tree = Weights(arrays, self).as_pytree(architecture)
        return tape_plain.forward(self.tape(architecture), tree, images, layers)


def misfit(space: TapeSpace[Architecture], network: Architecture, most: int) -> str | None:
    """What keeps the tape of a network, or its graph of `most` nodes at most, out of a space, if anything."""
    try:
        graph = tape_graph.graph(space.tape(network), space.shape)
    except ValueError as error:
        return str(error)
    return f"{graph.nodes} nodes; this space has room for {most}" if graph.nodes > most else None
