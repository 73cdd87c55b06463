"""Samplers of Optuna (Akiba et al. 2019) behind the interface of our own algorithms.

Needs the extra: pip install "graph-hypernetwork[optuna]". Nothing is imported before a search asks for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

from architectures.checks import at_least
from architectures.spaces import Cell, CellSpace
from eval.search.algorithms.base import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.problem import Problem

DRAWS = 20  # of the sampler that may be known or not allowed before neighbours of the last are taken


@dataclasses.dataclass(frozen=True)
class OptunaConfig:
    """Of the tree-structured Parzen estimator (Bergstra et al. 2011)."""

    startup: int = 20  # random architectures at the beginning
    candidates: int = 24  # draws from the good ones' density for a proposal, of which the likeliest is taken

    def __post_init__(self) -> None:
        at_least(self, startup=1, candidates=1)


class OptunaSearch(Algorithm):
    """Ops of a cell's edges as categorical parameters, told and asked for through a study in memory.

    Asking leaves failed trials in the study, which samplers do not read: every proposal comes from a sampler of its own
    seed and from what has been told, so that a search goes on as if it had not been broken off.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int = 0,
        config: OptunaConfig = OptunaConfig(),
        sampler: Callable[[int], Any] | None = None,
    ) -> None:
        """See `Algorithm`.

        Args:
            problem: what may be proposed.
            seed: of every draw.
            config: of the Parzen estimator.
            sampler: from a seed to any other `optuna.samplers.BaseSampler`, in place of it.

        Raises:
            ValueError: no cell space, or Optuna is not installed.
        """
        super().__init__(problem, seed)
        space = problem.space
        if not isinstance(space, CellSpace):
            raise ValueError(f"algorithm optuna: has parameters for the edges of cells; {space.name} has none")
        try:
            self._optuna = importlib.import_module("optuna")
        except ImportError as error:
            raise ValueError('algorithm optuna: pip install "graph-hypernetwork[optuna]" first') from error
        choices = self._optuna.distributions.CategoricalDistribution(space.choices)
        self._distributions = {f"{source} to {target}": choices for source, target in space.wiring}
        self._sampler = sampler or (lambda own: self._parzen(config, own))
        self._study = self._silent_study()

    def propose(self, index: int, taken: set[tuple[str, int]]) -> Proposal | None:
        """What the sampler draws, if it is new and allowed; else a new neighbour of its last draw."""
        rng = self.rng(index)
        self._study.sampler = self._sampler(int(rng.integers(2**31)))
        drawn = self._draw()
        for _ in range(DRAWS):
            if self.problem.allows(drawn) and (self.problem.key(drawn), 0) not in taken:
                return Proposal(drawn)
            drawn = self._draw()

        def near() -> Proposal:
            return Proposal(self.problem.mutate(drawn, rng))

        def anywhere() -> Proposal:
            return Proposal(self.problem.sample(rng))

        return self.fresh(near, taken, anywhere)

    def tell(self, evaluation: Evaluation) -> None:
        """A finished trial; without a value where scoring failed."""
        failed = not math.isfinite(evaluation.score)
        states = self._optuna.trial.TrialState
        trial = self._optuna.trial.create_trial(
            state=states.FAIL if failed else states.COMPLETE,
            value=None if failed else evaluation.score,
            params=dict(zip(self._distributions, evaluation.architecture.edges, strict=True)),
            distributions=self._distributions,
        )
        self._study.add_trial(trial)

    def _draw(self) -> Cell:
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return Cell(tuple(trial.params[name] for name in self._distributions))

    def _parzen(self, config: OptunaConfig, seed: int) -> Any:
        samplers = self._optuna.samplers
        return samplers.TPESampler(n_startup_trials=config.startup, n_ei_candidates=config.candidates, seed=seed)

    def _silent_study(self) -> Any:
        """Optuna tells of every new study on standard error."""
        logging = self._optuna.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            return self._optuna.create_study(direction="maximize")
        finally:
            logging.set_verbosity(before)
