"""Does the hypernetwork read the architecture? Scores with what it reads spoilt, one thing at a time.

If a spoilt score ranks as well as the right one, what was spoilt plays no part in the ranking.

Shape letters: A architectures, N places of a graph's grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.metrics import Interval, bootstrap, failures_last, kendall, paired_difference
from eval.ranking import Method, Vector
from eval.scoring import Scorer
from ghn import Hypernetwork
from ghn.features import PADDING_OP, GraphInputs

WRONG = "weights of a wrong architecture"
SHUFFLED = "graph with shuffled edges"
SILENT = "no messages"
SMALL = "a hypernetwork that is too small"


@dataclasses.dataclass(frozen=True)
class Check:
    """A spoilt score beside the right one.

    Attributes:
        kendall: of the spoilt score.
        difference: Kendall of the right score minus that of the spoilt one, paired.
        gap: mean training loss under the spoilt score minus that under the right one, in nats.
    """

    kendall: Interval
    difference: Interval
    gap: Interval


def no_messages(inputs: GraphInputs) -> GraphInputs:
    """The same nodes without any edge: every node knows only itself."""
    return inputs._replace(distances_NN=np.zeros_like(inputs.distances_NN))


def shuffled_edges(rng: np.random.Generator) -> Callable[[GraphInputs], GraphInputs]:
    """The same nodes with edges between other pairs: distances permuted among the places that hold a node."""

    def alter(inputs: GraphInputs) -> GraphInputs:
        present = np.flatnonzero(np.asarray(inputs.op_N) != PADDING_OP)
        moved = rng.permutation(present)
        distances_NN = np.zeros_like(inputs.distances_NN)
        distances_NN[np.ix_(present, present)] = np.asarray(inputs.distances_NN)[np.ix_(moved, moved)]
        return inputs._replace(distances_NN=distances_NN)

    return alter


def spoilt_scores(
    scorer: Scorer, hypernetwork: Hypernetwork, architectures: Sequence[Any], seed: int = 0
) -> dict[str, Vector]:
    """Training losses [A] by check: those that apply to this hypernetwork. The scorer need not score other images.

    A supernet reads nothing. Only the gated graph network falls silent without edges (a transformer attends to every
    node), and SMASH's network reads an encoding instead of a graph.
    """
    if not hypernetwork.config.delta:
        return {}
    # Shifted by one in a random order: nobody keeps its own graph.
    order = np.random.default_rng(seed).permutation(len(architectures))
    others = [architectures[order[(place + 1) % len(order)]] for place in np.argsort(order)]
    losses = {WRONG: scorer(architectures, graphs_of=others).train_loss}
    if hypernetwork.config.network == "graph" and hypernetwork.config.propagation == "gatedgnn":
        alter = shuffled_edges(np.random.default_rng(seed))
        losses[SHUFFLED] = scorer(architectures, alter=alter).train_loss
        losses[SILENT] = scorer(architectures, alter=no_messages).train_loss
    return losses


def judge(
    losses: dict[str, Vector], right: Method, truth: Vector, classes: Any, resamples: int, seed: int = 0
) -> dict[str, Check]:
    """Every spoilt score against the right one.

    Args:
        losses: training losses [A] by check.
        right: minus the training loss of the right score.
        truth: [A] accuracies.
        classes: [A] isomorphism keys.
        resamples: of every bootstrap.
        seed: of every bootstrap.
    """
    own, shared = failures_last(right.scores)[0], {"classes": classes, "resamples": resamples, "seed": seed}
    checks = {}
    for name, loss in losses.items():
        spoilt = failures_last(-loss)[0]
        checks[name] = Check(
            bootstrap(kendall, spoilt, truth, **shared),
            paired_difference(kendall, own, spoilt, truth, **shared),
            bootstrap(_mean, own - spoilt, truth, **shared),
        )
    return checks


def _mean(gaps: Vector, _: Vector) -> float:
    return float(np.mean(gaps))
