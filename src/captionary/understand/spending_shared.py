"""One cap for captioners in several processes: their account is kept in an SQLite file.

    captioner ──SharedCap──▶ Ledger (here, or by RPC on the driver's node) ──▶ accounts: job -> spent, in flight

Every request is set aside and settled in a transaction of its own. A process that dies leaves what it had set aside:
once its requests can no longer be running, that counts as spent in full.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from captionary.errors import bad_value
from captionary.sqlite import transaction
from captionary.understand.spending import Account, Reserve, Spent

__all__ = ["Accounts", "Ledger", "SharedCap"]

_GRACE = 30.0
"""Seconds beyond a request's timeout after which whoever made it counts as dead."""
_KEPT = 30 * 86_400.0
"""Seconds after which an account that no job has closed is forgotten."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5
"""Seconds between two questions whether something came in."""


class Accounts(Protocol):
    """Where an account is kept; every call may be repeated."""

    def ask(self, name: str) -> bool:
        """See `Account.ask`."""
        ...

    def settle(self, name: str, used: Reserve | None) -> None:
        """See `Account.settle`."""
        ...

    def spent(self) -> Spent:
        """What all have used so far."""
        ...


class Ledger:
    """The account of one job, in a file that any number of processes of a machine have open.

    Args:
        path: the SQLite file; made where absent.
        job: whose account.
        begun: what it begins with where the file has none of the job.

    Raises:
        CaptionaryError: here and in every method: no such file can be written, or it is something else.
    """

    def __init__(self, path: Path, job: str, begun: Account) -> None:
        self.path, self.job, self._begun = path, job, begun
        self._lock = threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            # Without a flush at each commit: what a power cut would lose, ends with it.
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS accounts (job TEXT PRIMARY KEY, state TEXT NOT NULL, at REAL NOT NULL)"
            )
            self._db.execute("DELETE FROM accounts WHERE at < ?", (time.time() - _KEPT,))

    def ask(self, name: str) -> bool:
        """Set aside what a request may cost; False: not before something in flight comes in.

        Raises:
            CapReachedError: there is not enough left, and nothing in flight that could come in cheaper.
        """
        with self._account() as (account, until):
            granted = account.ask(name)
            if granted:
                until.setdefault(name, time.time() + account.config.timeout_s + _GRACE)
            return granted

    def settle(self, name: str, used: Reserve | None) -> None:
        """Book what a request cost, None where nobody knows; too late where it counts in full already."""
        with self._account() as (account, _):
            account.settle(name, None if used is None else Reserve(*used))

    def spent(self) -> Spent:
        """What all have used so far, without what is in flight."""
        with self._account() as (account, _):
            return account.spent

    def end(self) -> Account:
        """Close the job's account; what is still in flight counts in full."""
        with self._account() as (account, _):
            for name in list(account.flying):
                account.settle(name, None)
        with self._errors(), self._lock:
            self._db.execute("DELETE FROM accounts WHERE job = ?", (self.job,))
            self._db.close()
        return account

    @contextmanager
    def _account(self) -> Iterator[tuple[Account, dict[str, float]]]:
        """The account as the file has it, and until when each request may be running; what changes is written."""
        with self._lock, self._errors(), transaction(self._db):
            row = self._db.execute("SELECT state FROM accounts WHERE job = ?", (self.job,)).fetchone()
            state = json.loads(row[0]) if row else {"account": self._begun.state(), "until": {}}
            account, until = self._begun.restored(state["account"]), state["until"]
            for name in [name for name, moment in until.items() if moment < time.time()]:
                account.settle(name, None)
            yield account, until
            left = {name: moment for name, moment in until.items() if name in account.flying}
            said = json.dumps({"account": account.state(), "until": left})
            self._db.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", (self.job, said, time.time())
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            todo = "free space, or remove the file: it holds nothing but what running jobs have spent"
            raise bad_value(
                "spending", str(self.path), "a writable ledger", where=str(error), todo=todo
            ) from None


class SharedCap:
    """The cap of one captioner of several, who wait for each other's requests to come in."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        who = uuid.uuid4().hex
        self._names = (f"{who}-{number}" for number in count())

    def open(self) -> None:
        """Nothing is kept here that belongs to an event loop."""

    async def reserve(self) -> str:
        """See `captionary.understand.spending.Cap`."""
        name, wait = next(self._names), _FIRST_WAIT
        while not await asyncio.to_thread(self._accounts.ask, name):
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        return name

    async def settle(self, name: str, used: Reserve | None) -> None:
        """See `captionary.understand.spending.Cap`."""
        await asyncio.to_thread(self._accounts.settle, name, used)

    @property
    def spent(self) -> Spent:
        """What all who share the cap have used so far."""
        return self._accounts.spent()
