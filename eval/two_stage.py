"""Two stages: screen everything by a label-free score, then train a shortlist briefly and honestly.

A budget is a number of training steps over all architectures. It buys many short trainings or few long ones, at once or
in rounds: which, is chosen on one half of the classes and reported on the other.

Shape letters: A architectures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import stats

from architectures.spaces import SearchSpace
from eval.metrics import failures_last, kendall_top_half, rank_sum
from eval.ranking import Vector
from ghn import Hypernetwork
from train.data import Splits
from train.database import transaction
from train.finetune import FinetuneConfig, Finetuner, Glance

Start = Literal["generated", "initialiser"]


@dataclasses.dataclass(frozen=True)
class Round:
    """Short trainings of a shortlist.

    Attributes:
        starts: where trainings start from; each architecture of the shortlist is trained once from each.
        steps: of each training.
        share: of all architectures that are trained: the best by the scores so far.
        weight: of these scores beside the new ones within the shortlist, both as ranks: 0 to 1.
    """

    starts: tuple[Start, ...]
    steps: int
    share: float
    weight: float = 0.0

    @property
    def cost(self) -> float:
        """Training steps an architecture, those that are not trained counted too."""
        return len(self.starts) * self.steps * self.share

    def shortlist(self, count: int) -> int:
        """How many of `count` architectures are trained."""
        return int(self.share * count + 1e-9)


Plan: TypeAlias = tuple[Round, ...]  # one after the other
Second: TypeAlias = Callable[[list[int], Start, int], Vector]  # rows, start, steps -> scores after training


def plans(
    count: int,
    budget: float,
    steps: Sequence[int],
    starts: Sequence[tuple[Start, ...]],
    weights: Sequence[float] = (0.0, 0.3),
) -> list[Plan]:
    """Every way to spend `budget` training steps an architecture on `count` of them in one round, 3 trained or more.

    Raises:
        ValueError: a budget that buys no shortlist of 3 at any number of steps.
    """
    rounds = [
        Round(own, each, min(1.0, budget / (len(own) * each)), weight)
        for own in starts
        for each in steps
        for weight in weights
    ]
    found: list[Plan] = [(own,) for own in rounds if own.shortlist(count) >= 3]
    if not found:
        raise ValueError(f"budget={budget:g} steps an architecture: buys no three trainings of {min(steps)} steps")
    return found


def shortlisted(first: Vector, count: int) -> list[int]:
    """The rows of the `count` best by the first score [A], the best first."""
    return [int(row) for row in np.argsort(-first, kind="stable")[:count]]


def two_stage_scores(first: Vector, second: Mapping[int, float], weight: float = 0.0) -> Vector:
    """Scores [A]: the shortlist above everything else, ordered within by both scores; the rest by the first.

    Args:
        first: [A] label-free scores.
        second: row -> score after training, for the shortlist.
        weight: of the first score's ranks beside the second's.
    """
    scores = stats.rankdata(first).astype(np.float64)
    rows = np.array(sorted(second))
    own = np.array([second[int(row)] for row in rows])
    scores[rows] = len(first) + (1 - weight) * stats.rankdata(own) + weight * stats.rankdata(first[rows])
    return scores


def planned_scores(first: Vector, plan: Plan, second: Second) -> Vector:
    """Scores [A] after all rounds of a plan; starts of one round count alike.

    Args:
        first: [A] label-free scores.
        plan: how the budget is spent.
        second: trains.
    """
    scores = first
    for own in plan:
        rows = shortlisted(scores, own.shortlist(len(first)))
        views = [second(rows, start, own.steps) for start in own.starts]
        scores = two_stage_scores(scores, dict(zip(rows, rank_sum(*views).tolist(), strict=True)), own.weight)
    return scores


def choose(candidates: Sequence[Plan], first: Vector, truth: Vector, second: Second) -> Plan:
    """The plan with the highest Kendall in the true top half: the top tenth of half of a table is too few to choose by.

    Args:
        candidates: plans.
        first: [A] label-free scores of the development half.
        truth: [A] its accuracies.
        second: trains.
    """
    return max(candidates, key=lambda plan: kendall_top_half(planned_scores(first, plan, second), truth))


class Looker:
    """Short trainings that are kept in an SQLite file: none is done twice, a killed run goes on."""

    def __init__(
        self, hypernetwork: Hypernetwork, splits: Splits, configs: Mapping[Start, FinetuneConfig], path: Path
    ) -> None:
        """Makes the file where there is none.

        Args:
            hypernetwork: generates weights to start from.
            splits: trained on `train`, looked at on `score`.
            configs: how to train from either start.
            path: of the database.
        """
        self._hypernetwork, self._path = hypernetwork, path
        space: SearchSpace[Any] = hypernetwork.space
        self._tuners = {
            start: Finetuner(space, splits.train, splits.score, config) for start, config in configs.items()
        }
        own = {"space": space.describe(), "step": hypernetwork.step, "data": dict(splits.provenance)}
        self._scorers = {
            start: json.dumps({"start": start, **dataclasses.asdict(config), **own}, sort_keys=True)
            for start, config in configs.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with transaction(path) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS looks (class TEXT, scorer TEXT, fidelity INTEGER, seed INTEGER, "
                "train_loss REAL, train_accuracy REAL, score_loss REAL, score_accuracy REAL, "
                "UNIQUE (class, scorer, fidelity, seed))"
            )

    def __call__(self, architecture: Any, start: Start, steps: int, seed: int = 100) -> Glance:
        """What `steps` steps from `start` show; `seed` is of the initialiser, apart from those of ground truths."""
        space = self._hypernetwork.space
        key = (space.canonical(architecture), self._scorers[start], steps, seed)
        query = (
            "SELECT train_loss, train_accuracy, score_loss, score_accuracy FROM looks "
            "WHERE class = ? AND scorer = ? AND fidelity = ? AND seed = ?"
        )
        with transaction(self._path) as database:
            found = database.execute(query, key).fetchone()
        if found is not None:
            return Glance(*(float("nan") if value is None else value for value in found))
        tuner = self._tuners[start]
        generated = start == "generated"
        graph = space.graph(architecture)
        weights = self._hypernetwork(graph).arrays if generated else tuner.initial(architecture, seed)
        glance = tuner(architecture, weights, steps)
        with transaction(self._path) as database:
            database.execute("INSERT OR IGNORE INTO looks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*key, *glance))
        return glance


def second_scores(glances: Sequence[Glance]) -> Vector:
    """[A] rank sums of accuracy and minus loss on the score split, and of minus the loss on training images: three
    noisy views of one training."""
    columns = np.array(glances, np.float64)
    views = (columns[:, 3], -columns[:, 2], -columns[:, 0])
    return rank_sum(*(failures_last(view)[0] for view in views))
