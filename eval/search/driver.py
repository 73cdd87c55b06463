"""The loop of a search: leases proposals, scores them, stores what they scored, until a budget is spent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from eval.search.algorithms import Algorithm
from eval.search.history import Evaluation, Proposal
from eval.search.store import Ask, Job, Row, SearchStore

WAIT = 0.1  # seconds between looks at what other processes have finished


class SearchScorer(Protocol):
    """What scores architectures in a search.

    Attributes:
        id: names what a score means; scores are compared only where ids are equal.
        chunk: architectures that are scored at once.
        unit: of a score, for people.
    """

    id: str
    chunk: int
    unit: str

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> Sequence[float]:
        """A score for each after `fidelity` steps of training; higher is better, nan where it failed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop: whichever comes first; None is no bound."""

    evaluations: int | None = None  # architectures scored, earlier sessions included; repeats are free
    seconds: float | None = None  # of all sessions and processes together

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"budget of {field.name}={value}: must be positive")
        if self.evaluations is None and self.seconds is None:
            raise ValueError("budget: give --budget-evaluations or --budget-seconds")

    def left(self, scored: int) -> int | None:
        """How many more may be scored; None where nothing bounds it."""
        return None if self.evaluations is None else max(0, self.evaluations - scored)


Watch = Callable[[list[Evaluation]], None]


def search(
    algorithm: Algorithm,
    scorer: SearchScorer,
    store: SearchStore,
    budget: Budget,
    batch: int = 16,
    watch: Watch | None = None,
) -> str:
    """Searches until the budget is spent; returns why it stopped.

    With one process and a budget in evaluations, what a killed and resumed search has stored in the end equals what an
    unbroken one stores, but for times.

    Args:
        algorithm: fresh: the store's history is told to it.
        scorer: of the store's id.
        store: of the search.
        budget: when to stop.
        batch: proposals that are asked for at once, with the same knowledge.
        watch: called with what has been finished since the last call, by any process.
    """
    state = _State(algorithm, watch)
    while True:
        count, seconds, open_rows = store.spent()
        if budget.seconds is not None and seconds >= budget.seconds:
            state.catch_up(store.news())
            return "the budget in seconds is spent"
        jobs = store.begin(state.ask(batch, budget), batch)
        for start in range(0, len(jobs), scorer.chunk):
            _score(scorer, store, jobs[start : start + scorer.chunk])
        state.catch_up(store.news())
        if jobs:
            continue
        if open_rows:  # by other processes, which may yet die
            time.sleep(WAIT)
        elif budget.left(count) == 0:
            return "the budget in evaluations is spent"
        elif state.exhausted:
            return "nothing new is left to propose"


class _State:
    """The algorithm with everything told, in the order of proposals."""

    def __init__(self, algorithm: Algorithm, watch: Watch | None) -> None:
        self._algorithm, self._watch = algorithm, watch
        self._noted = -1
        self._told: set[int] = set()
        self.exhausted = False  # whether the last question found nothing to propose

    def ask(self, batch: int, budget: Budget) -> Ask:
        """For `SearchStore.begin`."""

        def asked(rows: list[Row], first: int, scored: int) -> list[Proposal]:
            self.catch_up(rows)
            left = budget.left(scored)
            count = batch if left is None else min(batch, left)
            proposals = self._algorithm.ask(first, count) if count else []
            self.exhausted = not proposals and all(row.done for row in rows)
            return proposals

        return asked

    def catch_up(self, rows: list[Row]) -> None:
        """Notes what has been begun and tells what is done, each once."""
        fresh = []
        for row in rows:
            if row.index > self._noted:
                self._algorithm.note(row.index, row.proposal)
                self._noted = row.index
            if row.evaluation is not None and row.index not in self._told:
                self._algorithm.tell(row.evaluation)
                self._told.add(row.index)
                fresh.append(row.evaluation)
        if fresh and self._watch is not None:
            self._watch(fresh)


def _score(scorer: SearchScorer, store: SearchStore, jobs: list[Job]) -> None:
    """Scores jobs, those of one fidelity together, and stores each group."""
    for fidelity in dict.fromkeys(job.proposal.fidelity for job in jobs):
        group = [job for job in jobs if job.proposal.fidelity == fidelity]
        start = time.perf_counter()
        scores = scorer([job.proposal.architecture for job in group], fidelity)
        store.finish(group, scores, time.perf_counter() - start)
