"""What the online store needs of an engine: keys with values, sets, reads in one go, updates one after the other.

`store_lmdb.LmdbEngine` is the embedded one, `store_redis.RedisEngine` that of fleets. Updates of one store are serial
whatever the engine, so that each has a number and the state after it is that of all updates up to that number; reads
see the state after one update, never half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from captionary.errors import CaptionaryError, bad_value

__all__ = ["Engine", "Reader", "StoreFullError", "StoreUnavailableError", "Transaction", "open_engine"]

T = TypeVar("T")


class StoreUnavailableError(CaptionaryError):
    """The store cannot be reached or does not answer in time: what was asked was not done; trying later may help."""


class StoreFullError(StoreUnavailableError):
    """No room on the disk or in the server's memory: nothing of the update was kept."""


class Reader(Protocol):
    """The store as it was after one update."""

    @property
    def sequence(self) -> int:
        """The number of that update; of a transaction, the number that it will have."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in order; None for a key that is not there."""
        ...

    def members(self, key: bytes, most: int | None = None) -> list[bytes]:
        """Members of the set at a key, in no order; up to about `most` of them."""
        ...


class Transaction(Reader, Protocol):
    """One update in the making: it reads what was there before it, others see all of what it wrote or nothing."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove a key, where it is there."""
        ...

    def add(self, key: bytes, member: bytes) -> None:
        """Put a member into a set."""
        ...

    def remove(self, key: bytes, member: bytes) -> None:
        """Take a member out of a set, where it is there."""
        ...


class Engine(Protocol):
    """Where the store's bytes are; used by several threads, its data by several processes."""

    writable: bool

    def read(self, keys: Sequence[bytes]) -> tuple[int, list[bytes | None]]:
        """(number of the last update, values in order), of one moment and in one round trip.

        Raises:
            StoreUnavailableError: no answer.
        """
        ...

    def update(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` as one atomic update; what it raises undoes it. It may be run again where another came between.

        On disk (Redis: as its server is set to) when it returns.

        Raises:
            StoreFullError: there is no room.
            StoreUnavailableError: no answer; the update may or may not have been made.
        """
        ...

    def view(self, work: Callable[[Reader], T]) -> T:
        """Run `work` on the store of one moment, for reads that depend on each other; it may be run again.

        Raises:
            StoreUnavailableError: no answer, or no moment between updates that was long enough.
        """
        ...

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[bytes]:
        """Keys that start with a prefix and are greater than `after`; in order where the engine has one (LMDB)."""
        ...

    def close(self) -> None:
        """Let go of files or connections."""
        ...


def open_engine(url: str, *, readonly: bool = False, timeout: float = 2.0, connections: int = 16) -> Engine:
    """Open an engine: a path or `lmdb:PATH`, or `redis://`, `rediss://`, `unix://`.

    Args:
        url: where it is; Redis: with user, password and database, such as `rediss://user:password@host:6379/0`.
        readonly: LMDB: for processes that only read; the folder must exist.
        timeout: Redis: seconds to connect, and to wait for an answer, > 0.
        connections: Redis: most connections of this process, >= 1; a thread that finds none free waits.

    Raises:
        CaptionaryError: a scheme that is none of these, a folder that is no store.
        StoreUnavailableError: no answer.
    """
    if not timeout > 0:
        raise bad_value("timeout", timeout, "> 0 seconds")
    if connections < 1:
        raise bad_value("connections", connections, ">= 1")
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        from captionary.online.store_redis import RedisEngine

        return RedisEngine(url, timeout=timeout, connections=connections)
    if scheme not in ("", "lmdb"):
        raise bad_value("store", scheme, "a path, lmdb:PATH, redis://, rediss:// or unix://")
    from captionary.online.store_lmdb import LmdbEngine

    return LmdbEngine(url.removeprefix("lmdb:"), readonly=readonly)
