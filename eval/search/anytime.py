"""Anytime networks: accuracy against FLOPs when a network may answer early (GHN, Zhang et al. 2019, section 5.3).

Every stage of a cell network ends in an exit. A hypernetwork that was trained on a space with `exits` generates them
with the rest of the network, as in GHN: one hypernetwork for all exits. With any other, the exits (the last one too)
are fitted in closed form: ridge regression of the classes on pooled activations of training images.

Shape letters: B images, C channels, K classes, X exits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.layers import Layers
from architectures.layout import WeightArrays, Weights
from architectures.spaces import CellSpace, SearchSpace
from architectures.spaces.skeleton import block_number
from eval.search.scorers import fingerprint, refuse, scorer_id
from ghn import Hypernetwork
from train.data import Splits

Floats = NDArray[np.float64]
ExitSource = Literal["generated", "fitted"]
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
    """FLOPs until the answer of every exit, its own classifier included and those of earlier exits left out."""
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
    """Curves of architectures, with one compilation.

    Attributes:
        source: of the exits' classifiers.
    """

    def __init__(
        self, hypernetwork: Hypernetwork, splits: Splits, images: int = 500, source: ExitSource | None = None
    ) -> None:
        """Compiles nothing yet.

        Args:
            hypernetwork: generates the weights.
            splits: exits are judged on the first images of `score`; those that are fitted, on the first of `train`.
            images: of either.
            source: of the exits' classifiers; None: generated where the hypernetwork generates early exits.

        Raises:
            ValueError: a space whose networks have no stages; generated exits of a hypernetwork that has none.
        """
        space: SearchSpace[Any] = hypernetwork.space
        if not isinstance(space, CellSpace):
            raise ValueError(f"anytime: exits are the ends of a cell network's stages; {space.name} has none")
        if source == "generated" and not space.exits:
            raise ValueError(
                "anytime: source='generated', but this hypernetwork generates no early exits; train one that does with "
                "ghn-train ghn --space.exits, or leave the source out"
            )
        self.source: ExitSource = source or ("generated" if space.exits else "fitted")
        self._hypernetwork, self._space = hypernetwork, space
        self._parts = [(split.images[:images], split.labels[:images]) for split in (splits.train, splits.score)]

    def __call__(self, architecture: Any) -> list[Exit]:
        """FLOPs and accuracy of every exit, the earliest first."""
        weights = self._hypernetwork(self._space.graph(architecture))
        answers = (self._generated if self.source == "generated" else self._fitted)(weights, architecture)
        labels = self._parts[1][1]
        accuracies = [float((np.asarray(scores_BK).argmax(-1) == labels).mean()) for scores_BK in answers]
        flops = exit_flops(self._space, architecture)
        return [Exit(*pair) for pair in zip(flops, accuracies, strict=True)]

    def _generated(self, weights: Weights, architecture: Any) -> Sequence[Array]:
        """[B, K] of every exit on score images."""
        return self._space.apply_exits(weights, architecture, jnp.asarray(self._parts[1][0]))

    def _fitted(self, weights: Weights, architecture: Any) -> Sequence[Floats]:
        """[B, K] of every exit on score images, by classifiers that are fitted on training images."""
        space, labels = self._space, self._parts[0][1]
        encoding = space.encode(architecture)
        seen = [np.asarray(_pooled(space, weights.arrays, encoding, x), np.float64) for x, _ in self._parts]
        widths = [space.channels * 2**stage for stage in range(space.stages)]
        pairs = [[own[stage, :, :width] for own in seen] for stage, width in enumerate(widths)]
        return [fit_exit(train_BC, labels, space.classes)(score_BC) for train_BC, score_BC in pairs]


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
    """The area under the anytime curve: a search by it finds networks that are good at every budget.

    Attributes:
        curve: what the score is made of.
    """

    unit, chunk = "mean accuracy over FLOPs budgets, share of 1", 1

    def __init__(self, hypernetwork: Hypernetwork, splits: Splits, images: int = 500) -> None:
        """See `Anytime`."""
        self.curve = Anytime(hypernetwork, splits, images)
        assert isinstance(hypernetwork.space, CellSpace)
        self._budgets = budgets_of(hypernetwork.space)
        known = fingerprint(hypernetwork)  # of its space too, and so of where the exits come from
        self.id = scorer_id("anytime", hypernetwork=known, images=images, data=dict(splits.provenance))

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """See `SearchScorer`."""
        refuse(fidelity, "anytime")
        return [self._budgets.value(self.curve(architecture)) for architecture in architectures]
