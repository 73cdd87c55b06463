"""Finished trainings in one SQLite file: a row a run, one protocol a file, safe for several processes at once.

Every result is one transaction (`train.database`).

Several processes that are given the same work divide it by claims: a claim only says that somebody has begun, so the
others do that run last. A claim whose process was killed costs nothing but its place in the order.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.database import DatabaseError, transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS card (id INTEGER PRIMARY KEY CHECK (id = 1), protocol TEXT NOT NULL, json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commands (text TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS claims (class TEXT, protocol TEXT, seed INTEGER, UNIQUE (class, protocol, seed));
CREATE TABLE IF NOT EXISTS runs (
    architecture TEXT NOT NULL, class TEXT NOT NULL, protocol TEXT NOT NULL, seed INTEGER NOT NULL,
    test_accuracy REAL, test_loss REAL, train_loss REAL, seconds REAL,
    UNIQUE (class, protocol, seed)
);
"""
THIS_RUN = "WHERE class = ? AND protocol = ? AND seed = ?"


@dataclasses.dataclass(frozen=True)
class Row:
    """One finished run."""

    architecture: str
    key: str  # isomorphism class
    seed: int
    test_accuracy: float  # share of 1
    test_loss: float  # nats; nan where the training diverged
    train_loss: float  # nats, mean of the last epoch; nan where the training diverged
    seconds: float


class RunStore:
    """The database of one protocol."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        self.path = path

    def create(self, protocol: str, card: Mapping[str, Any]) -> None:
        """Makes the file, or checks that it is of this very protocol.

        Raises:
            DatabaseError: made under another protocol.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with transaction(self.path) as database:
            for statement in SCHEMA.split(";"):
                database.execute(statement)
            text = json.dumps(dict(card), default=str)
            database.execute("INSERT OR IGNORE INTO card VALUES (1, ?, ?)", (protocol, text))
            (recorded,) = database.execute("SELECT protocol FROM card").fetchone()
        if recorded != protocol:
            raise DatabaseError(other_protocol(self.path, recorded, protocol))

    def card(self) -> dict[str, Any]:
        """What the file says of itself: the protocol and what it depends on, the commands, hours, classes, seeds.

        Raises:
            DatabaseError: no such file, or no database of runs.
        """
        if not self.path.is_file():
            raise DatabaseError(f"{self.path}: no such file; ghn-train target makes one")
        with transaction(self.path) as database:
            (text,) = database.execute("SELECT json FROM card").fetchone()
            commands = [row[0] for row in database.execute("SELECT text FROM commands ORDER BY rowid")]
        rows = self.rows()
        return {
            **json.loads(text),
            "command": "; ".join(commands),
            "hours": round(sum(row.seconds for row in rows) / 3600, 2),
            "classes": len({row.key for row in rows}),
            "seeds": sorted({row.seed for row in rows}),
        }

    def add_command(self, command: str) -> None:
        """Records a command that added to the table; the same one again changes nothing."""
        with transaction(self.path) as database:
            database.execute("INSERT OR IGNORE INTO commands VALUES (?)", (command,))

    def rows(self) -> list[Row]:
        """All finished runs, in the order in which they finished."""
        columns = [field.name if field.name != "key" else "class" for field in dataclasses.fields(Row)]
        with transaction(self.path) as database:
            found = database.execute(f"SELECT {', '.join(columns)} FROM runs ORDER BY rowid").fetchall()
        # SQLite has no nan: it stores NULL.
        return [Row(*row[:3], *(math.nan if value is None else value for value in row[3:])) for row in found]

    def claim(self, protocol: str, key: str, seed: int) -> bool:
        """Whether this process is the first to begin a run."""
        with transaction(self.path) as database:
            if database.execute(f"SELECT 1 FROM runs {THIS_RUN}", (key, protocol, seed)).fetchone() is not None:
                return False
            cursor = database.execute("INSERT OR IGNORE INTO claims VALUES (?, ?, ?)", (key, protocol, seed))
            return cursor.rowcount == 1

    def has(self, protocol: str, key: str, seed: int) -> bool:
        """Whether a run is finished."""
        with transaction(self.path) as database:
            return database.execute(f"SELECT 1 FROM runs {THIS_RUN}", (key, protocol, seed)).fetchone() is not None

    def add(self, protocol: str, row: Row) -> bool:
        """Stores a finished run and drops its claim; False where another process had stored it before."""
        with transaction(self.path) as database:
            values = (row.architecture, row.key, protocol, *dataclasses.astuple(row)[2:])
            cursor = database.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            database.execute(f"DELETE FROM claims {THIS_RUN}", (row.key, protocol, row.seed))
            return cursor.rowcount == 1


def other_protocol(path: Path, recorded: str, own: str) -> str:
    """What to say where a table is of another protocol."""
    return (
        f"{path}: made under protocol {recorded}, this run's is {own}; "
        "protocols are never mixed in one table, choose another --out"
    )
