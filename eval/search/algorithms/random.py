"""Random search without replacement: what every other algorithm has to beat."""

from __future__ import annotations

from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal


class RandomSearch(Algorithm):
    """Random architectures, each class once."""

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """A random class that is not known."""
        rng = self.rng(index)
        return self.fresh(lambda: Proposal(self.problem.sample(rng)), taken)

    def tell(self, evaluation: Evaluation) -> None:
        """Learns nothing."""
