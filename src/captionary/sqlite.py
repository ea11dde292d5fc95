"""One transaction of an SQLite database: all of what is written within, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["transaction"]


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written within, or take it back where it raises; holds the write lock from the start.

    Raises:
        sqlite3.Error: the database's own.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has already rolled it back
            database.execute("ROLLBACK")
        raise
