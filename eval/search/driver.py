"""The loop of a search: leases proposals, scores them, stores what they scored, until a budget is spent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

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
        if self.evaluations is not None and not isinstance(self.evaluations, int | np.integer):
            raise ValueError(f"budget of evaluations={self.evaluations!r}: must be a whole number; give an int")
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

    With one process and a budget in evaluations, what a search has stored in the end equals what an unbroken one
    stores, but for times: when it was killed and resumed, and when it had a smaller budget first.

    Args:
        algorithm: fresh: the store's history is told to it.
        scorer: of the store's id.
        store: of the search.
        budget: when to stop.
        batch: proposals that are asked for at once, with the same knowledge; batches end at multiples of it.
        watch: called with what has been finished since the last call, by any process.

    Whatever ends it, an error of the scorer or Ctrl-C too, leaves nothing leased: a later search goes on from there.
    """
    with store.session():
        return _searched(_State(algorithm, watch), scorer, store, budget, batch)


def _searched(state: _State, scorer: SearchScorer, store: SearchStore, budget: Budget, batch: int) -> str:
    """The loop of `search`."""
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
    """The algorithm with what it is to know: all batches before the one that is being asked for."""

    def __init__(self, algorithm: Algorithm, watch: Watch | None) -> None:
        self._algorithm, self._watch = algorithm, watch
        self._begun: dict[int, Proposal] = {}  # still to be noted
        self._done: dict[int, Evaluation] = {}  # still to be told
        self._finished: set[int] = set()
        self._next = 0  # the first number that has not been noted
        self.exhausted = False  # whether the last question found nothing to propose

    def ask(self, batch: int, budget: Budget) -> Ask:
        """For `SearchStore.begin`. Batches end at multiples of their size, wherever a budget has cut one."""

        def asked(rows: list[Row], first: int, scored: int) -> list[Proposal]:
            self.catch_up(rows)
            left, start = budget.left(scored), first - first % batch
            end = start + batch if left is None else min(start + batch, first + left)
            proposals = self._proposals(start, first, end) if end > first else []
            self.exhausted = not proposals and all(row.done for row in rows)
            return proposals

        return asked

    def catch_up(self, rows: list[Row]) -> None:
        """Keeps what has been begun and done for the algorithm, and tells who watches, each once."""
        fresh = []
        for row in rows:
            if row.index >= self._next:
                self._begun[row.index] = row.proposal
            if row.evaluation is not None and row.index not in self._finished:
                self._finished.add(row.index)
                self._done[row.index] = row.evaluation
                fresh.append(row.evaluation)
        if fresh and self._watch is not None:
            self._watch(fresh)

    def _proposals(self, start: int, first: int, end: int) -> list[Proposal]:
        """Numbers `first` to `end` of the batch that begins at `start`, with the knowledge of an unbroken search.

        A batch of which some have been begun is asked for again from its start; where the algorithm waited within it
        for results, it learns them there. Where that gives something else than what was begun, as with several
        processes, the algorithm learns all there is.
        """
        self._learn(start)
        while self._next < first:
            again = self._algorithm.ask(self._next, end - self._next)
            numbers = range(self._next, min(first, self._next + len(again)))
            if not again or any(self._begun.get(number) != again[number - self._next] for number in numbers):
                break
            if self._next + len(again) > first:
                return again[first - self._next :]
            self._learn(self._next + len(again))
        self._learn(first)
        return self._algorithm.ask(first, end - first)

    def _learn(self, end: int) -> None:
        """Notes what is numbered below `end` and tells what of it is done, in the order of numbers."""
        self._next = max(self._next, end)
        for number in sorted(number for number in {*self._begun, *self._done} if number < self._next):
            if number in self._begun:
                self._algorithm.note(number, self._begun.pop(number))
            if number in self._done:
                self._algorithm.tell(self._done.pop(number))


def _score(scorer: SearchScorer, store: SearchStore, jobs: list[Job]) -> None:
    """Scores jobs, those of one fidelity together, and stores each group."""
    for fidelity in dict.fromkeys(job.proposal.fidelity for job in jobs):
        group = [job for job in jobs if job.proposal.fidelity == fidelity]
        start = time.perf_counter()
        scores = scorer([job.proposal.architecture for job in group], fidelity)
        store.finish(group, scores, time.perf_counter() - start)
