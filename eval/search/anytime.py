"""Anytime networks: accuracy against FLOPs when a network may answer early (GHN, Zhang et al. 2019, section 5.3).

Every stage of a cell network ends in an exit. One hypernetwork generates the network; the classifiers of the exits are
not generated but fitted in closed form (ridge regression of the classes on pooled activations of training images), so
that a hypernetwork that was trained with one exit serves all. GHN generates the exits too.

Shape letters: B images, C channels, K classes, X exits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import CellSpace, SearchSpace
from architectures.spaces.skeleton import block_number
from eval.search.scorers import fingerprint, refuse, scorer_id
from ghn import Hypernetwork
from train.data import Splits

Floats = NDArray[np.float64]
PENALTY = 1.0  # of the ridge regression, on standardised activations and per image
BUDGETS = 20  # of FLOPs, at which a curve is read


class Exit(NamedTuple):
    """One exit: operations until its answer, two a multiply-accumulate, and its accuracy as a share of 1."""

    flops: int
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Budgets:
    """FLOPs at which curves of a space are read: logarithmically between the cheapest exit and the whole network."""

    flops: tuple[float, ...]
    chance: float  # accuracy where no exit is affordable

    def value(self, exits: Sequence[Exit]) -> float:
        """Mean over budgets of the best accuracy that is affordable: the area under the anytime curve."""
        affordable = [[own.accuracy for own in exits if own.flops <= budget] for budget in self.flops]
        return float(np.mean([max(accuracies, default=self.chance) for accuracies in affordable]))


def exit_flops(space: CellSpace, architecture: Any) -> list[int]:
    """FLOPs until the answer of every exit, its own classifier included."""
    graph = space.graph(architecture)
    size = graph.attributes["size"]
    spent = [0] * space.stages
    for row in graph.parameters:
        name = row.path[0]
        if row.leaf.role == "kernel":
            stage = 0 if name == "stem" else int(name.removeprefix("stage").removeprefix("reduction"))
            spent[stage] += int(np.prod(row.leaf.shape) * size[row.node] ** 2)
    heads = [space.channels * 2**stage * space.classes for stage in range(space.stages)]
    return [2 * int(body + head) for body, head in zip(np.cumsum(spent), heads, strict=True)]


def budgets_of(space: CellSpace, draws: int = 128) -> Budgets:
    """From random connected cells, the same ones always."""
    rng = np.random.default_rng(0)
    cells = [cell for cell in (space.sample(rng) for _ in range(draws)) if space.connected(cell)]
    flops = [exit_flops(space, cell) for cell in cells]
    low, high = min(own[0] for own in flops), max(own[-1] for own in flops)
    return Budgets(tuple(np.geomspace(low, high, BUDGETS).tolist()), 1 / space.classes)


class Anytime:
    """Curves of architectures, with one compilation."""

    def __init__(self, hypernetwork: Hypernetwork, splits: Splits, images: int = 500) -> None:
        """Compiles nothing yet.

        Args:
            hypernetwork: generates the weights.
            splits: exits are fitted on the first images of `train` and judged on those of `score`.
            images: of either.

        Raises:
            ValueError: a space whose networks have no stages.
        """
        space: SearchSpace[Any] = hypernetwork.space
        if not isinstance(space, CellSpace):
            raise ValueError(f"anytime: exits are the ends of a cell network's stages; {space.name} has none")
        self._hypernetwork, self._space = hypernetwork, space
        self._parts = [(split.images[:images], split.labels[:images]) for split in (splits.train, splits.score)]

    def __call__(self, architecture: Any) -> list[Exit]:
        """FLOPs and accuracy of every exit, the earliest first."""
        space = self._space
        arrays = self._hypernetwork(space.graph(architecture)).arrays
        encoding = space.encode(architecture)
        seen = [np.asarray(_pooled(space, arrays, encoding, x), np.float64) for x, _ in self._parts]
        found = []
        for place, flops in enumerate(exit_flops(space, architecture)):
            width = space.channels * 2**place
            train_BC, score_BC = (own[place, :, :width] for own in seen)
            classify = fit_exit(train_BC, self._parts[0][1], space.classes)
            found.append(Exit(flops, float((classify(score_BC).argmax(-1) == self._parts[1][1]).mean())))
        return found


def fit_exit(features_BC: Floats, labels_B: NDArray[np.integer[Any]], classes: int) -> Callable[[Floats], Floats]:
    """Ridge regression of one-hot classes on standardised features: a function to scores [B, K]."""
    mean_C, deviation_C = features_BC.mean(0), features_BC.std(0)
    deviation_C = np.where(deviation_C > 0, deviation_C, 1.0)
    z_BC = (features_BC - mean_C) / deviation_C
    target_BK = np.eye(classes)[labels_B]
    scatter_CC = z_BC.T @ z_BC + PENALTY * np.eye(z_BC.shape[1])
    kernel_CK = np.linalg.solve(scatter_CC, z_BC.T @ (target_BK - target_BK.mean(0)))
    return lambda other_BC: (other_BC - mean_C) / deviation_C @ kernel_CK + target_BK.mean(0)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(space: CellSpace, arrays: WeightArrays, encoding: dict[str, Array], images: Array) -> Array:
    """[X, B, C] means over pixels of what is positive in the standardised output of every stage."""
    widest = space.channels * 2 ** (space.stages - 1)
    last = jnp.array([block_number(space.cells, stage) + space.cells - 1 for stage in range(space.stages)])

    def around(number: Array | int, run: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
        y = run(x)
        channels = y.shape[-1]
        standard = Layers().batch_norm(y, jnp.ones(channels), jnp.zeros(channels))
        pooled = jnp.pad(jax.nn.relu(standard).mean((1, 2)), ((0, 0), (0, widest - channels)))
        return y, jnp.where((last == number)[:, None, None], pooled, 0.0)

    return jnp.asarray(space.forward(arrays, encoding, images, Layers(), around=around)[1])


class AnytimeScorer:
    """The area under the anytime curve: a search by it finds networks that are good at every budget."""

    unit, chunk = "mean accuracy over FLOPs budgets, share of 1", 1

    def __init__(self, hypernetwork: Hypernetwork, splits: Splits, images: int = 500) -> None:
        """See `Anytime`."""
        self._curve = Anytime(hypernetwork, splits, images)
        assert isinstance(hypernetwork.space, CellSpace)
        self._budgets = budgets_of(hypernetwork.space)
        known = fingerprint(hypernetwork)
        self.id = scorer_id("anytime", hypernetwork=known, images=images, data=dict(splits.provenance))

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, "anytime")
        return [self._budgets.value(self.exits(architecture)) for architecture in architectures]

    def exits(self, architecture: Any) -> list[Exit]:
        """What the score is made of."""
        return self._curve(architecture)
