"""What passes between algorithms, scorers and the database: proposals, and what became of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from eval.search.problem import Costs


class Proposal(NamedTuple):
    """An architecture to be scored.

    Attributes:
        architecture: of the problem's space.
        fidelity: training steps before it is scored; 0 for none.
        parent: index of the evaluation that it was made from, where there is one.
    """

    architecture: Any
    fidelity: int = 0
    parent: int | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        index: its place in the order of proposals.
        architecture: what was scored.
        key: of its isomorphism class.
        fidelity: training steps before it was scored.
        score: higher is better; nan where scoring failed.
        costs: of the architecture.
        seconds: wall time of scoring it, its share of a batch; 0 for a repeat.
        parent: index of the evaluation that it was made from.
        repeats: index of the evaluation whose score it has, being isomorphic; None for one that was scored.
        elapsed: seconds of search, all sessions and processes together, when it was stored.
    """

    index: int
    architecture: Any
    key: str
    fidelity: int
    score: float
    costs: Costs
    seconds: float = 0.0
    parent: int | None = None
    repeats: int | None = None
    elapsed: float = 0.0

    @property
    def rank_value(self) -> float:
        """The score; below everything where scoring failed."""
        return self.score if math.isfinite(self.score) else -math.inf


OBJECTIVES = ("score", "parameters", "flops", "latency_ms")


def gains(evaluation: Evaluation, objectives: tuple[str, ...]) -> tuple[float, ...]:
    """The value of every objective, costs with a minus sign: higher is better throughout.

    Where scoring failed, each is minus infinity: being cheap makes up for no score.

    Raises:
        ValueError: an unknown objective.
    """
    values = {"score": evaluation.rank_value, **{k: -float(v) for k, v in evaluation.costs._asdict().items()}}
    for name in objectives:
        if name not in values:
            raise ValueError(f"objective {name!r}: unknown; there are {', '.join(OBJECTIVES)}")
    return tuple(values[name] if math.isfinite(evaluation.score) else -math.inf for name in objectives)


def best_of(evaluations: list[Evaluation]) -> Evaluation | None:
    """The best score at the highest fidelity that any has, the earliest of equals; None of nothing."""
    if not evaluations:
        return None
    top = max(evaluation.fidelity for evaluation in evaluations)
    return max((e for e in evaluations if e.fidelity == top), key=lambda e: (e.rank_value, -e.index))
