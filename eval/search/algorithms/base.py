"""The interface of search algorithms: ask for proposals, tell what they scored.

What is asked for depends only on the seed, on the index of the proposal, and on what was noted and told, in the order
of indices. So a killed search that tells an algorithm its recorded history goes on as if nothing had happened.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import numpy as np

from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem

TRIES = 200  # draws in a row that may be known already before an algorithm gives up drawing so


class Algorithm(abc.ABC):
    """One way of choosing what to score next."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        """Knows nothing yet.

        Args:
            problem: what may be proposed.
            seed: of every draw.
        """
        self.problem, self.seed = problem, seed
        self.known: set[tuple[str, int]] = set()  # (class, fidelity) of everything noted

    def ask(self, first: int, count: int) -> list[Proposal]:
        """Up to `count` proposals, numbers `first` and on; fewer, or none, where it waits for results or has no more.

        Changes nothing: what is begun has to be noted.
        """
        asked: list[Proposal] = []
        taken = set(self.known)
        for index in range(first, first + count):
            proposal = self.propose(index, taken)
            if proposal is None:
                break
            taken.add((self.problem.key(proposal.architecture), proposal.fidelity))
            asked.append(proposal)
        return asked

    @abc.abstractmethod
    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """Proposal number `index`, outside `taken`; None where it waits or has no more."""

    def note(self, index: int, proposal: Proposal) -> None:
        """A proposal has been begun, here or elsewhere; called in the order of indices."""
        self.known.add((self.problem.key(proposal.architecture), proposal.fidelity))

    @abc.abstractmethod
    def tell(self, evaluation: Evaluation) -> None:
        """What a noted proposal scored."""

    def rng(self, index: int) -> np.random.Generator:
        """The generator of one proposal."""
        return np.random.default_rng((self.seed, index))

    def fresh(
        self,
        draw: Callable[[], Proposal],
        taken: set[tuple[str, int]],
        otherwise: Callable[[], Proposal] | None = None,
    ) -> Proposal | None:
        """The first draw whose class is not taken; after 200 that are, one of `otherwise`; None where those are too."""
        for source in (draw, otherwise):
            for _ in range(TRIES if source is not None else 0):
                assert source is not None
                proposal = source()
                if (self.problem.key(proposal.architecture), proposal.fidelity) not in taken:
                    return proposal
        return None
