"""The database of one search: a row an evaluation, shared by processes, from which a killed search goes on.

A row is written twice: as a proposal, with the process that has leased it and until when, and with its score. Both are
transactions (`train.database`). Proposals whose search has ended or died, or whose lease has run out, are taken over by
the next that asks: on the same machine at once, elsewhere when the lease is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.search.history import Evaluation, Proposal
from eval.search.problem import Costs, Problem
from train.database import DatabaseError, transaction

_SEARCHING: set[str] = set()  # sessions of this process that are within `SearchStore.session`
LEASE = 600.0  # seconds without a sign of life after which another process takes a proposal over
SCHEMA = """
CREATE TABLE IF NOT EXISTS scorer (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS problem (part TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations (
    number INTEGER PRIMARY KEY,
    architecture TEXT NOT NULL, class TEXT NOT NULL, fidelity INTEGER NOT NULL, seed INTEGER NOT NULL,
    scorer TEXT NOT NULL, parent INTEGER, repeats INTEGER,
    parameters INTEGER NOT NULL, flops INTEGER NOT NULL, latency_ms REAL,
    owner TEXT, lease REAL, done INTEGER NOT NULL DEFAULT 0,
    score REAL, seconds REAL, elapsed REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS once ON evaluations (class, scorer, fidelity, seed) WHERE repeats IS NULL;
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """A proposal that this process is to score."""

    index: int
    proposal: Proposal
    key: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What the database says of a proposal; `score` and what follows it only when done."""

    index: int
    proposal: Proposal
    done: bool
    evaluation: Evaluation | None


# From all rows that this process has not seen done, in order; the number of the next proposal; how many evaluations are
# finished or under way: new proposals.
Ask = Callable[[list[Row], int, int], list[Proposal]]


class SearchStore:
    """The database of one search; see the module."""

    def __init__(self, path: Path, problem: Problem, scorer: str, seed: int = 0, lease: float = LEASE) -> None:
        """Opens the database, or makes it.

        Args:
            path: of the file.
            problem: whose architectures it holds.
            scorer: id of what scores them.
            seed: of the search, recorded in every row.
            lease: seconds, see LEASE.

        Raises:
            DatabaseError: the file holds another search (other scorer, space, constraints or table), cannot be
                written, or is no database.
        """
        self.path, self._problem, self._scorer, self._seed, self._lease = path, problem, scorer, seed, lease
        self._session, self._begun = uuid.uuid4().hex, time.perf_counter()
        self.owner = f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}/{self._session}"
        self._read = -1  # rows up to this number are known to be done
        with transaction(path) as database:
            for statement in SCHEMA.split(";"):
                database.execute(statement)
            database.execute("INSERT OR IGNORE INTO scorer VALUES (1, ?)", (scorer,))
            (recorded,) = database.execute("SELECT name FROM scorer").fetchone()
            searched = self._searched(database)
        if recorded != scorer:
            raise DatabaseError(
                f"{path}: holds scores of {recorded}, this search scores by {scorer}; choose another --out"
            )
        for part, value in problem.identity().items():
            if searched.get(part, value) != value:
                raise DatabaseError(
                    f"{path}: holds a search with {part} {searched[part]}, this one has {part} {value}; choose another "
                    "--out"
                )

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """A search: it hears of all rows anew, and whatever ends it, what it has leased and not finished is given up.

        Other searches of this process leave its leases alone while it lasts, and no longer.
        """
        self.release()
        self._read = -1
        _SEARCHING.add(self._session)
        try:
            yield
        except BaseException:
            with contextlib.suppress(DatabaseError):  # what went wrong first is what is told
                self.release()
            raise
        finally:
            _SEARCHING.discard(self._session)

    def begin(self, ask: Ask, count: int) -> list[Job]:
        """Leases up to `count` proposals: those of dead processes first, else new ones.

        Args:
            ask: gives new proposals, see `Ask`. It is called within a transaction, so no two processes ask at once.
            count: how many may be leased.
        """
        now = time.time()
        with self._transaction() as database:
            taken = self._reclaim(database, now, count)
            if not taken and count > 0:
                rows = self._news(database)
                first = database.execute("SELECT COALESCE(MAX(number), -1) + 1 FROM evaluations").fetchone()[0]
                taken = self._insert(database, ask(rows, first, _scored(database)), first, now)
            self._touch(database, now)
        return taken

    def finish(self, jobs: Sequence[Job], scores: Sequence[float], seconds: float) -> None:
        """Stores what jobs scored, `seconds` of wall time together; what another process stored first stands."""
        with self._transaction() as database:
            self._touch(database, time.time())
            (elapsed,) = database.execute("SELECT SUM(seconds) FROM sessions").fetchone()
            for job, score in zip(jobs, scores, strict=True):
                value = float(score) if math.isfinite(score) else None  # SQLite has no nan
                database.execute(
                    "UPDATE evaluations SET done = 1, score = ?, seconds = ?, elapsed = ?, owner = NULL, lease = NULL "
                    "WHERE number = ? AND done = 0",
                    (value, seconds / len(jobs), elapsed, job.index),
                )
            self._settle(database, elapsed)

    def release(self) -> None:
        """Gives up what this store has leased and not finished."""
        with self._transaction() as database:
            database.execute("UPDATE evaluations SET owner = NULL, lease = NULL WHERE owner = ?", (self.owner,))
            self._touch(database, time.time())

    def news(self) -> list[Row]:
        """All rows from the first on that was not done when asked before, in order."""
        with self._transaction() as database:
            return self._news(database)

    def evaluations(self) -> list[Evaluation]:
        """Everything finished, in the order of proposals."""
        with self._transaction() as database:
            found = database.execute(f"{_SELECT} WHERE done = 1 ORDER BY number").fetchall()
        return [evaluation for row in found if (evaluation := self._row(row).evaluation) is not None]

    def spent(self) -> tuple[int, float, int]:
        """(evaluations finished or under way, repeats left out; seconds of all sessions; rows not done)."""
        with self._transaction() as database:
            self._touch(database, time.time())
            (open_rows,) = database.execute("SELECT COALESCE(SUM(done = 0), 0) FROM evaluations").fetchone()
            count = _scored(database)
            (seconds,) = database.execute("SELECT COALESCE(SUM(seconds), 0) FROM sessions").fetchone()
        return count, float(seconds), int(open_rows)

    # ------------------------------------------------------------------------------------------------ transactions

    def _searched(self, database: sqlite3.Connection) -> dict[str, str]:
        """The file's problem, by part: what this is where nothing has been proposed; empty for earlier versions."""
        parts = dict(database.execute("SELECT part, value FROM problem").fetchall())
        if not parts and database.execute("SELECT 1 FROM evaluations LIMIT 1").fetchone() is None:
            parts = self._problem.identity()
            database.executemany("INSERT INTO problem VALUES (?, ?)", parts.items())
        return parts

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with transaction(self.path) as database:
            yield database

    def _reclaim(self, database: sqlite3.Connection, now: float, count: int) -> list[Job]:
        """Proposals that nobody alive is scoring, the earliest first."""
        left = database.execute(
            f"{_SELECT} WHERE done = 0 AND repeats IS NULL AND (owner IS NULL OR owner != ?) ORDER BY number",
            (self.owner,),
        ).fetchall()
        alive: dict[str, bool] = {}
        jobs: list[Job] = []
        for row in left:
            owner, lease = row[-2:]
            if owner is not None and owner not in alive:
                alive[owner] = _alive(owner)
            if len(jobs) < count and (owner is None or now > lease or not alive[owner]):
                parsed = self._row(row)
                jobs.append(Job(parsed.index, parsed.proposal, row[2]))
        lease = now + self._lease
        for job in jobs:
            database.execute(
                "UPDATE evaluations SET owner = ?, lease = ? WHERE number = ?", (self.owner, lease, job.index)
            )
        return jobs

    def _insert(self, database: sqlite3.Connection, proposals: Sequence[Proposal], first: int, now: float) -> list[Job]:
        """New rows; those whose class is there already are repeats, and no jobs."""
        jobs = []
        for index, proposal in enumerate(proposals, start=first):
            key, costs = self._problem.key(proposal.architecture), self._problem.costs(proposal.architecture)
            known = database.execute(
                "SELECT number FROM evaluations WHERE class = ? AND scorer = ? AND fidelity = ? AND seed = ? "
                "AND repeats IS NULL",
                (key, self._scorer, proposal.fidelity, self._seed),
            ).fetchone()
            latency = None if math.isnan(costs.latency_ms) else costs.latency_ms
            text = self._problem.space.to_string(proposal.architecture)
            database.execute(
                f"INSERT INTO evaluations VALUES ({', '.join('?' * 13)}, 0, NULL, NULL, NULL)",
                (
                    *(index, text, key, proposal.fidelity, self._seed, self._scorer, proposal.parent),
                    *(known[0] if known else None, costs.parameters, costs.flops, latency),
                    *((None, None) if known else (self.owner, now + self._lease)),
                ),
            )
            if known is None:
                jobs.append(Job(index, proposal, key))
        self._settle(database, None)
        return jobs

    def _settle(self, database: sqlite3.Connection, elapsed: float | None) -> None:
        """Repeats take the score of what they repeat as soon as that is known."""
        database.execute(
            "UPDATE evaluations SET done = 1, seconds = 0, "
            "elapsed = COALESCE(?, (SELECT SUM(seconds) FROM sessions), 0), "
            "score = (SELECT e.score FROM evaluations e WHERE e.number = evaluations.repeats) "
            "WHERE done = 0 AND repeats IN (SELECT number FROM evaluations WHERE done = 1)",
            (elapsed,),
        )

    def _touch(self, database: sqlite3.Connection, now: float) -> None:
        """A sign of life: leases are renewed, the seconds of this session recorded."""
        database.execute(
            "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET seconds = excluded.seconds",
            (self._session, time.perf_counter() - self._begun),
        )
        database.execute("UPDATE evaluations SET lease = ? WHERE owner = ?", (now + self._lease, self.owner))

    def _news(self, database: sqlite3.Connection) -> list[Row]:
        found = database.execute(f"{_SELECT} WHERE number > ? ORDER BY number", (self._read,)).fetchall()
        rows = [self._row(row) for row in found]
        for row in rows:
            if not row.done:
                break
            self._read = row.index
        return rows

    def _row(self, values: Sequence[Any]) -> Row:
        index, text, key, fidelity, parent, repeats = values[:6]
        parameters, flops, latency, done, score, seconds, elapsed = values[6:13]
        proposal = Proposal(self._problem.space.from_string(text), fidelity, parent)
        if not done:
            return Row(index, proposal, False, None)
        costs = Costs(parameters, flops, math.nan if latency is None else latency)
        value = math.nan if score is None else score
        evaluation = Evaluation(
            index, proposal.architecture, key, fidelity, value, costs, seconds, parent, repeats, elapsed
        )
        return Row(index, proposal, True, evaluation)


_SELECT = (
    "SELECT number, architecture, class, fidelity, parent, repeats, parameters, flops, latency_ms, done, score, "
    "seconds, elapsed, owner, lease FROM evaluations"
)


def _scored(database: sqlite3.Connection) -> int:
    """Evaluations finished or under way, repeats left out."""
    return int(database.execute("SELECT COUNT(*) FROM evaluations WHERE repeats IS NULL").fetchone()[0])


def _started(process: int) -> str:
    """When a process of this machine began, to tell it from a later one of the same number; "" where unknown, and for
    one that has ended and that its parent has not yet asked about."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _alive(owner: str) -> bool:
    """Whether the search may still be running; of another machine's nothing is known."""
    process_of, _, session = owner.partition("/")  # no session in files of earlier versions
    machine, process, started = process_of.rsplit(":", 2)
    if machine != platform.node():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if _started(int(process)) != started:
        return False
    return int(process) != os.getpid() or not session or session in _SEARCHING
