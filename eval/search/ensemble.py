"""One-shot ensembles: architectures whose predictions with generated weights are averaged, chosen to be good together.

After NEAS (Chen et al. 2021, One-shot neural ensemble architecture search by diversity-guided search space shrinking),
with its diversity as a term of a greedy choice.

Shape letters: A architectures, B images, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from ghn import Hypernetwork
from train.data import Dataset

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """How members are chosen."""

    size: int = 5  # members
    diversity: float = 0.1  # weight of the mean disagreement of members, in nats a unit; 0: only the ensemble's loss

    def __post_init__(self) -> None:
        if self.size < 1 or self.diversity < 0:
            raise ValueError(f"EnsembleConfig.size={self.size}, diversity={self.diversity}: at least 1 and 0")


@dataclasses.dataclass(frozen=True)
class Quality:
    """Of averaged predictions: mean cross-entropy in nats, accuracy as share of 1, mean disagreement of members."""

    loss: float
    accuracy: float
    disagreement: float


def predictions(hypernetwork: Hypernetwork, architectures: Sequence[Any], data: Dataset, images: int = 500) -> Floats:
    """[A, B, K] probabilities of the first images with generated weights; batch statistics are those of the images."""
    space = hypernetwork.space
    x = jax.numpy.asarray(data.images[:images])
    rows = []
    for architecture in architectures:
        logits = space.apply(hypernetwork(space.graph(architecture)), architecture, x)
        rows.append(np.asarray(jax.nn.softmax(logits), np.float64))
    return np.stack(rows)


def quality(probabilities_ABK: Floats, labels_B: NDArray[np.integer[Any]], members: Sequence[int]) -> Quality:
    """Of the mean of some members' probabilities."""
    own_ABK = probabilities_ABK[list(members)]
    mean_BK = own_ABK.mean(0)
    answers_B = mean_BK[np.arange(len(labels_B)), labels_B]
    return Quality(
        float(-np.log(np.maximum(answers_B, 1e-12)).mean()),
        float((mean_BK.argmax(-1) == labels_B).mean()),
        disagreement(own_ABK),
    )


def disagreement(probabilities_ABK: Floats) -> float:
    """Mean over images and pairs of members of half the distance between their probabilities: 0 to 1."""
    count = len(probabilities_ABK)
    if count < 2:
        return 0.0
    pairs = [(i, j) for i in range(count) for j in range(i)]
    gaps = [np.abs(probabilities_ABK[i] - probabilities_ABK[j]).sum(-1).mean() / 2 for i, j in pairs]
    return float(np.mean(gaps))


def choose(
    probabilities_ABK: Floats, labels_B: NDArray[np.integer[Any]], config: EnsembleConfig = EnsembleConfig()
) -> list[int]:
    """Rows of the members, greedily: each addition makes loss minus diversity times disagreement least.

    Forward selection (Caruana et al. 2004) without repetition; the first is the best single.

    Raises:
        ValueError: more members than architectures.
    """
    if config.size > len(probabilities_ABK):
        raise ValueError(f"EnsembleConfig.size={config.size}: there are {len(probabilities_ABK)} architectures")
    chosen: list[int] = []
    while len(chosen) < config.size:

        def cost(row: int) -> float:
            own = quality(probabilities_ABK, labels_B, [*chosen, row])
            return own.loss - config.diversity * own.disagreement

        chosen.append(min((row for row in range(len(probabilities_ABK)) if row not in chosen), key=cost))
    return chosen


def compare(
    chosen_on: tuple[Floats, NDArray[np.integer[Any]]],
    judged_on: tuple[Floats, NDArray[np.integer[Any]]],
    config: EnsembleConfig = EnsembleConfig(),
) -> dict[str, tuple[list[int], Quality]]:
    """Ensembles chosen on some images and judged on others: (rows, quality) of each way of choosing.

    Ways: the best single; the best `size` singles; greedy without a diversity term; greedy with it.

    Args:
        chosen_on: probabilities [A, B, K] and labels [B].
        judged_on: the same architectures on other images.
        config: size, and weight of diversity.
    """
    probabilities, labels = chosen_on
    losses = [quality(probabilities, labels, [row]).loss for row in range(len(probabilities))]
    order = np.argsort(losses, kind="stable").tolist()
    ways = {
        "best single": order[:1],
        f"best {config.size} singles": order[: config.size],
        "chosen together": choose(probabilities, labels, dataclasses.replace(config, diversity=0.0)),
        "chosen together, diverse": choose(probabilities, labels, config),
    }
    return {name: (rows, quality(*judged_on, rows)) for name, rows in ways.items()}
