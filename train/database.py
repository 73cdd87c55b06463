"""Transactions on SQLite files that several processes share.

Every transaction is `BEGIN IMMEDIATE`, so that it never has to be given up half-way. The journal is SQLite's default,
because write-ahead logging does not work on network mounts. A connection lives as long as its transaction, so that a
killed process leaves nothing open.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

BUSY = 60.0  # seconds to wait for another process's transaction


class DatabaseError(ValueError):
    """A database that cannot be used; the message names it and the way out."""


@contextlib.contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction that locks out other writers from its start; rolled back where an error leaves it.

    Raises:
        DatabaseError: no database, a full disk, or one that another process holds locked for too long.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise DatabaseError(
            f"{path}: {error}; give a database that this program wrote, on a disk with room, that no other process "
            f"holds locked for more than {BUSY:.0f} s"
        ) from error
