"""The engine of fleets: one Redis server (or a primary with replicas), many services and workers.

An update is optimistic: it watches the sequence, which every update moves, and begins again where another came first.
So updates of one store are serial, as with LMDB; readers do not wait for them. How much a crash of the server may
lose is the server's own setting: `appendonly yes` with `appendfsync always` loses nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from captionary.errors import bad_value
from captionary.online.keyvalue import Reader, StoreFullError, StoreUnavailableError, Transaction
from captionary.online.redis_client import address_of, connect, redis_errors

__all__ = ["RedisEngine"]

T = TypeVar("T")

_PREFIX = b"captionary:"
_SEQUENCE = _PREFIX + b"sequence"
_VALUES, _SETS = _PREFIX + b"v:", _PREFIX + b"s:"
_TRIES = 200
_LONGEST_PAUSE = 0.05


class RedisEngine:
    """See `keyvalue.Engine`.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database.
        timeout: seconds to connect, to wait for an answer, and for a free connection.
        connections: most of this process.

    Raises:
        CaptionaryError: the package is missing, or the URL cannot be read.
        StoreUnavailableError: no answer.
    """

    writable = True

    def __init__(self, url: str, *, timeout: float = 2.0, connections: int = 16) -> None:
        self._url = url
        self._client = connect(url, timeout=timeout, connections=connections)
        with self._errors():
            self._client.ping()

    def read(self, keys: Sequence[bytes]) -> tuple[int, list[bytes | None]]:
        """See `keyvalue.Engine.read`."""
        with self._errors():
            sequence, *values = self._client.mget([_SEQUENCE, *(_VALUES + key for key in keys)])
        return int(sequence or 0), values

    def view(self, work: Callable[[Reader], T]) -> T:
        """See `keyvalue.Engine.view`."""
        for attempt in range(_TRIES):
            with self._errors():
                sequence = int(self._client.get(_SEQUENCE) or 0)
            result = work(_Transaction(self._client, sequence, self._errors))
            with self._errors():
                if int(self._client.get(_SEQUENCE) or 0) == sequence:
                    return result
            _pause(attempt)
        raise self._busy()

    def update(self, work: Callable[[Transaction], T]) -> T:
        """See `keyvalue.Engine.update`."""
        from redis.exceptions import WatchError

        for attempt in range(_TRIES):
            with self._errors(), self._client.pipeline(transaction=True) as pipe:
                pipe.watch(_SEQUENCE)
                transaction = _Transaction(pipe, int(pipe.get(_SEQUENCE) or 0) + 1, self._errors)
                result = work(transaction)
                pipe.multi()
                transaction.queue()
                pipe.set(_SEQUENCE, transaction.sequence)
                try:
                    pipe.execute()
                    return result
                except WatchError:
                    pass  # another update came first
            _pause(attempt)
        raise self._busy()

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[bytes]:
        """See `keyvalue.Engine.scan`; in no order, so that `after` only leaves out."""
        pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in _VALUES + prefix)
        cursor, seen = 0, set()
        while True:
            with self._errors():
                cursor, found = self._client.scan(cursor, match=pattern + b"*", count=1000)
            for key in found:
                name = key[len(_VALUES) :]
                if name > after and name not in seen:
                    seen.add(name)
                    yield name
            if not cursor:
                return

    def close(self) -> None:
        """See `keyvalue.Engine.close`."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _errors(self) -> Any:
        return redis_errors(self._url, StoreUnavailableError, StoreFullError)

    def _busy(self) -> StoreUnavailableError:
        where = f"other updates came first {_TRIES} times"
        return StoreUnavailableError(
            str(bad_value("store", address_of(self._url), "free between updates", where=where))
        )


class _Transaction:
    """Reads at once, on a connection that watches the sequence; writes when it is queued."""

    def __init__(self, client: Any, sequence: int, errors: Callable[[], Any]) -> None:
        self._client, self.sequence, self._errors = client, sequence, errors
        self._writes: dict[bytes, bytes | None] = {}
        self._moves: dict[tuple[bytes, bytes], bool] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes | None] = {}
        asked = [key for key in dict.fromkeys(keys) if key not in self._writes]
        if asked:
            with self._errors():
                values = self._client.mget([_VALUES + key for key in asked])
            found = dict(zip(asked, values, strict=True))
        return [self._writes[key] if key in self._writes else found[key] for key in keys]

    def members(self, key: bytes, most: int | None = None) -> list[bytes]:
        with self._errors():
            if most is None:
                found = set(self._client.smembers(_SETS + key))
            else:
                found = set(self._client.srandmember(_SETS + key, most))
        for (name, member), there in self._moves.items():
            if name == key:
                (found.add if there else found.discard)(member)
        return list(found)

    def put(self, key: bytes, value: bytes) -> None:
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        self._writes[key] = None

    def add(self, key: bytes, member: bytes) -> None:
        self._moves[key, member] = True

    def remove(self, key: bytes, member: bytes) -> None:
        self._moves[key, member] = False

    def queue(self) -> None:
        """Send all writes; the connection has begun its MULTI."""
        kept = {_VALUES + key: value for key, value in self._writes.items() if value is not None}
        gone = [_VALUES + key for key, value in self._writes.items() if value is None]
        if kept:
            self._client.mset(kept)
        if gone:
            self._client.delete(*gone)
        changes: dict[tuple[bytes, bool], list[bytes]] = {}
        for (key, member), there in self._moves.items():
            changes.setdefault((key, there), []).append(member)
        for (key, there), members in changes.items():
            (self._client.sadd if there else self._client.srem)(_SETS + key, *members)


def _pause(attempt: int) -> None:
    """Longer and longer, and of chance length, so that two do not meet again."""
    time.sleep(random.random() * min(_LONGEST_PAUSE, 0.001 * 2 ** min(attempt, 6)))
