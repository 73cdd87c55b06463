"""Local search (White et al. 2021, Exploring the loss landscape in neural architecture search)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """How it begins."""

    starts: int = 10  # random architectures, of which the best is the first centre
    neighbours: int = 200  # at most so many of a centre, for spaces where it has thousands

    def __post_init__(self) -> None:
        if self.starts < 1 or self.neighbours < 1:
            raise ValueError(f"LocalConfig.starts={self.starts}, neighbours={self.neighbours}: at least 1 each")


class LocalSearch(Algorithm):
    """Neighbours of the centre in a random order; the first better one is the new centre.

    When no neighbour is better, it begins anew at a random architecture.
    """

    def __init__(self, problem: Problem, seed: int = 0, config: LocalConfig = LocalConfig()) -> None:
        """See `Algorithm`; `config` says how it begins."""
        super().__init__(problem, seed)
        self._config = config
        self._centre: Evaluation | None = None
        self._open = 0  # proposals that have been noted and not told
        self._starting = config.starts  # random proposals that are still to be told before the centre is final
        self._begun = 0  # random proposals noted of this start

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """A start, or a neighbour of the centre."""
        rng = self.rng(index)

        def sample() -> Proposal:
            return Proposal(self.problem.sample(rng))

        asked_here = len(taken) - len(self.known)
        if self._starting > 0:
            return self.fresh(sample, taken) if self._begun + asked_here < self._config.starts else None
        neighbour = next(self._neighbours(taken), None)
        if neighbour is not None:
            return neighbour
        if self._open or asked_here:
            return None  # one of those under way may be better
        return self.fresh(sample, taken)

    def note(self, index: int, proposal: Proposal) -> None:
        """Counts what is under way."""
        super().note(index, proposal)
        self._open += 1
        self._begun += self._starting > 0

    def tell(self, evaluation: Evaluation) -> None:
        """Moves to what is better; a proposal without a parent after the starts is a new beginning."""
        self._open -= 1
        restart = self._starting == 0 and evaluation.parent is None
        self._starting = max(0, self._starting - 1)
        if restart or self._centre is None or evaluation.rank_value > self._centre.rank_value:
            self._centre = evaluation

    def _neighbours(self, taken: set[tuple[str, int]]) -> Iterator[Proposal]:
        """Those of the centre that are not known, in an order that depends on the centre alone."""
        assert self._centre is not None
        found = list(itertools.islice(self.problem.neighbours(self._centre.architecture), self._config.neighbours))
        order = np.random.default_rng((self.seed, self._centre.index, 1)).permutation(len(found))
        for place in order:
            if (self.problem.key(found[place]), 0) not in taken:
                yield Proposal(found[place], 0, self._centre.index)
