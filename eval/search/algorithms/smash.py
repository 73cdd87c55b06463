"""SMASH's search (Brock et al. 2018, section 4): random, perturbations of the best, then a greedy Markov chain."""

from __future__ import annotations

import dataclasses

from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem


@dataclasses.dataclass(frozen=True)
class SMASHConfig:
    """Lengths of the three parts; the chain is as long as the budget."""

    random: int = 500  # random architectures
    perturbations: int = 100  # of the best of them
    probability: float = 0.05  # that a single choice is drawn again

    def __post_init__(self) -> None:
        if self.random < 1 or self.perturbations < 0:
            raise ValueError(f"SMASHConfig.random={self.random}, perturbations={self.perturbations}: at least 1 and 0")
        if not 0 < self.probability <= 1:
            raise ValueError(f"SMASHConfig.probability={self.probability}: must lie in (0, 1]")


class SMASHSearch(Algorithm):
    """The best of random ones is perturbed; then every step of a chain perturbs the best so far."""

    def __init__(self, problem: Problem, seed: int = 0, config: SMASHConfig = SMASHConfig()) -> None:
        """See `Algorithm`; `config` holds the lengths."""
        super().__init__(problem, seed)
        self._config = config
        self._first: Evaluation | None = None  # the best of the random ones
        self._best: Evaluation | None = None

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """By the part that the index belongs to."""
        rng, config = self.rng(index), self._config
        chain = index >= config.random + config.perturbations
        origin = self._best if chain else self._first

        def sample() -> Proposal:
            return Proposal(self.problem.sample(rng))

        if index < config.random or origin is None:
            return self.fresh(sample, taken)
        found = origin

        def perturb() -> Proposal:
            return Proposal(self.problem.perturb(found.architecture, rng, config.probability), 0, found.index)

        return self.fresh(perturb, taken, sample)

    def tell(self, evaluation: Evaluation) -> None:
        """Keeps the best."""
        if evaluation.index < self._config.random and _better(evaluation, self._first):
            self._first = evaluation
        if _better(evaluation, self._best):
            self._best = evaluation


def _better(evaluation: Evaluation, best: Evaluation | None) -> bool:
    return best is None or evaluation.rank_value > best.rank_value
