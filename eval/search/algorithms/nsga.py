"""NSGA-II (Deb et al. 2002) with mutation alone: fronts of several objectives."""

from __future__ import annotations

import dataclasses

import numpy as np

from architectures.checks import at_least
from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal, gains
from eval.search.pareto import crowding, front_numbers
from eval.search.problem import Problem


@dataclasses.dataclass(frozen=True)
class NSGAConfig:
    """Sizes."""

    population: int = 50  # survivors of everything evaluated, and random architectures at the beginning

    def __post_init__(self) -> None:
        at_least(self, population=2)


class NSGA(Algorithm):
    """The best by front and crowding survive; winners of tournaments among them are mutated."""

    def __init__(
        self,
        problem: Problem,
        seed: int = 0,
        config: NSGAConfig = NSGAConfig(),
        objectives: tuple[str, ...] = ("score", "parameters"),
    ) -> None:
        """See `Algorithm`; `config` holds the sizes, `objectives` names from `history.OBJECTIVES`."""
        super().__init__(problem, seed)
        self._config, self._objectives = config, objectives
        self._alive: list[Evaluation] = []
        self._order: dict[int, tuple[float, float]] = {}  # index -> (front, minus crowding): lower is better
        self._new: list[Evaluation] = []

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """A random architecture while the population is not full; then a mutation of the better of two."""
        self._select()
        rng = self.rng(index)

        def sample() -> Proposal:
            return Proposal(self.problem.sample(rng))

        def mutate() -> Proposal:
            pair = rng.choice(len(self._alive), min(2, len(self._alive)), replace=False)
            best = min((self._alive[int(row)] for row in pair), key=lambda e: (*self._order[e.index], e.index))
            return Proposal(self.problem.mutate(best.architecture, rng), 0, best.index)

        if index < self._config.population or not self._alive:
            return self.fresh(sample, taken)
        return self.fresh(mutate, taken, sample)

    def tell(self, evaluation: Evaluation) -> None:
        """A candidate for survival."""
        self._new.append(evaluation)

    def _select(self) -> None:
        """Survivors of those alive and those told since."""
        if not self._new:
            return
        everyone = [*self._alive, *self._new]
        values = np.array([gains(evaluation, self._objectives) for evaluation in everyone])
        numbers = front_numbers(values)
        distance = np.zeros(len(everyone))
        for number in set(numbers.tolist()):
            rows = np.flatnonzero(numbers == number)
            distance[rows] = crowding(values[rows])
        self._order = {e.index: (float(n), -float(d)) for e, n, d in zip(everyone, numbers, distance, strict=True)}
        everyone.sort(key=lambda e: (*self._order[e.index], e.index))
        self._alive, self._new = everyone[: self._config.population], []
