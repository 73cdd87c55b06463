"""Successive halving (Jamieson & Talwalkar 2016) and Hyperband (Li et al. 2018) over steps of training.

Fidelities are steps from wherever the scorer starts: with a hypernetwork, 0 steps are the generated weights themselves,
so that the first rung costs a forward pass.
"""

from __future__ import annotations

import dataclasses
import math

from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem


@dataclasses.dataclass(frozen=True)
class HalvingConfig:
    """Rungs."""

    fidelities: tuple[int, ...] = (0, 30, 120, 480)  # steps of training, ascending; the last is as long as it gets
    eta: int = 3  # one in so many goes on to the next rung
    first: int = 81  # architectures in the first rung of successive halving; Hyperband has eta^(rungs - 1)

    def __post_init__(self) -> None:
        if not self.fidelities or list(self.fidelities) != sorted(set(self.fidelities)) or self.fidelities[0] < 0:
            raise ValueError(f"HalvingConfig.fidelities={self.fidelities}: steps in ascending order, each once")
        if self.eta < 2 or self.first < 1:
            raise ValueError(f"HalvingConfig.eta={self.eta}, first={self.first}: at least 2 and 1")


class SuccessiveHalving(Algorithm):
    """Random architectures, the best of which are looked at longer; then again with new ones."""

    def __init__(self, problem: Problem, seed: int = 0, config: HalvingConfig = HalvingConfig()) -> None:
        """See `Algorithm`; `config` holds the rungs."""
        super().__init__(problem, seed)
        self._config = config
        self._bracket = self._rung = self._asked = 0
        self._told: list[Evaluation] = []  # of this rung
        self._promoted: list[Evaluation] = []  # into this rung
        self._start, self._size = self.bracket(0)

    def bracket(self, number: int) -> tuple[int, int]:
        """(first rung, architectures in it) of a bracket."""
        return 0, self._config.first

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """The next of this rung; None while the rest of it is under way."""
        place = self._asked + index - self._next
        if place >= self._size:
            return None
        fidelity = self._config.fidelities[self._rung + self._start]
        if self._rung > 0:
            return Proposal(self._promoted[place].architecture, fidelity, self._promoted[place].index)
        rng = self.rng(index)
        return self.fresh(lambda: Proposal(self.problem.sample(rng), fidelity), taken)

    _next = 0  # index of the next proposal

    def note(self, index: int, proposal: Proposal) -> None:
        """Counts the rung."""
        super().note(index, proposal)
        self._asked, self._next = self._asked + 1, index + 1

    def tell(self, evaluation: Evaluation) -> None:
        """When the rung is complete, the best of it enter the next; after the last rung the next bracket begins."""
        self._told.append(evaluation)
        if len(self._told) < self._size:
            return
        order = sorted(self._told, key=lambda e: (-e.rank_value, e.index))
        self._promoted = order[: math.ceil(len(order) / self._config.eta)]
        self._told, self._asked = [], 0
        if self._start + self._rung + 1 < len(self._config.fidelities):
            self._rung, self._size = self._rung + 1, len(self._promoted)
        else:
            self._bracket, self._rung = self._bracket + 1, 0
            self._start, self._size = self.bracket(self._bracket)


class Hyperband(SuccessiveHalving):
    """Brackets that begin at ever higher rungs with ever fewer architectures, in turn."""

    def bracket(self, number: int) -> tuple[int, int]:
        """Bracket s begins s rungs below the last, with ceil(rungs / (s + 1) * eta^s) architectures."""
        rungs = len(self._config.fidelities)
        left = rungs - 1 - number % rungs
        return rungs - 1 - left, math.ceil(rungs / (left + 1) * self._config.eta**left)
