"""Regularised evolution (Real et al. 2019, Regularized evolution for image classifier architecture search)."""

from __future__ import annotations

import collections
import dataclasses

from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
    """Sizes."""

    population: int = 50  # the youngest so many are alive
    tournament: int = 10  # drawn from them; the best is mutated

    def __post_init__(self) -> None:
        if not 1 <= self.tournament <= self.population:
            raise ValueError(f"EvolutionConfig.tournament={self.tournament}: must be 1 to population={self.population}")


class RegularisedEvolution(Algorithm):
    """The oldest die: a random population, then mutations of the best of a tournament."""

    def __init__(self, problem: Problem, seed: int = 0, config: EvolutionConfig = EvolutionConfig()) -> None:
        """See `Algorithm`; `config` holds the sizes."""
        super().__init__(problem, seed)
        self._config = config
        self._alive: collections.deque[Evaluation] = collections.deque(maxlen=config.population)

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """A random architecture while the population is not full; then a mutation."""
        rng, config = self.rng(index), self._config

        def sample() -> Proposal:
            return Proposal(self.problem.sample(rng))

        def mutate() -> Proposal:
            rows = rng.choice(len(self._alive), min(config.tournament, len(self._alive)), replace=False)
            best = max((self._alive[int(row)] for row in rows), key=lambda e: (e.rank_value, e.index))
            return Proposal(self.problem.mutate(best.architecture, rng), 0, best.index)

        if index < config.population or not self._alive:
            return self.fresh(sample, taken)
        return self.fresh(mutate, taken, sample)

    def tell(self, evaluation: Evaluation) -> None:
        """Joins the population; the oldest leaves it."""
        self._alive.append(evaluation)
