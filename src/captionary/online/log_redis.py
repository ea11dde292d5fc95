"""The log of fleets: a Redis Stream for each topic, whose consumer group is all workers.

    captionary:log:TOPIC            stream     key, subject, payload; what had its effect stays until it is trimmed
    captionary:log:TOPIC:sequence   hash       id → update of the store with which it had its effect
    captionary:log:TOPIC:dead       hash       id → why it was given up
    captionary:log:TOPIC:failures   hash       id → how often it was given back
    captionary:log:TOPIC:waiting    number     the backlog
    captionary:log:TOPIC:key:KEY    string     id of the entry of a producer's key
    captionary:log:TOPIC:about:WHO  set        ids of the entries about a subject

Each change is one script, so that a crash leaves none half done. How much a crash of the server may lose is the
server's own setting: with `appendonly yes` and `appendfsync always` what is acknowledged is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from captionary.errors import bad_value
from captionary.online.log import DeadLetter, Draft, Entry, LogFullError, LogUnavailableError, Settled
from captionary.online.redis_client import connect, redis_errors

__all__ = ["RedisLog"]

_STEM = "captionary:log:"
_GROUP = "workers"
_SEQUENCE_BITS = 20
_PAGE = 1000
_IDLE_DAYS = 1.0

_APPEND = """
local stem, limit, out, new = KEYS[1], tonumber(ARGV[1]), {}, 0
for i = 2, #ARGV, 3 do
    if redis.call('EXISTS', stem .. ':key:' .. ARGV[i]) == 0 then new = new + 1 end
end
if new > 0 and tonumber(redis.call('GET', stem .. ':waiting') or '0') + new > limit then return false end
for i = 2, #ARGV, 3 do
    local key = stem .. ':key:' .. ARGV[i]
    local id = redis.call('GET', key)
    if not id then
        id = redis.call('XADD', stem, '*', 'key', ARGV[i], 'subject', ARGV[i + 1], 'payload', ARGV[i + 2])
        redis.call('SET', key, id)
        redis.call('SADD', stem .. ':about:' .. ARGV[i + 1], id)
        redis.call('INCR', stem .. ':waiting')
    end
    out[#out + 1] = id
end
return out
"""
_DONE = """
local stem = KEYS[1]
for i = 2, #ARGV do
    if redis.call('XACK', stem, 'workers', ARGV[i]) == 1 then
        redis.call('DECR', stem .. ':waiting')
        redis.call('HDEL', stem .. ':failures', ARGV[i])
        redis.call('HSET', stem .. ':sequence', ARGV[i], ARGV[1])
    end
end
"""
_BURY = """
local stem = KEYS[1]
if redis.call('XACK', stem, 'workers', ARGV[1]) == 1 then
    redis.call('DECR', stem .. ':waiting')
    redis.call('HSET', stem .. ':dead', ARGV[1], ARGV[2])
end
"""
_REVIVE = """
local stem, count = KEYS[1], 0
for i = 1, #ARGV do
    if redis.call('HDEL', stem .. ':dead', ARGV[i]) == 1 then
        redis.call('XCLAIM', stem, 'workers', 'revived', 0, ARGV[i], 'IDLE', 1000000000, 'RETRYCOUNT', 0, 'FORCE',
            'JUSTID')
        redis.call('HDEL', stem .. ':failures', ARGV[i])
        redis.call('INCR', stem .. ':waiting')
        count = count + 1
    end
end
return count
"""
_ERASE = """
local stem, about, count = KEYS[1], KEYS[1] .. ':about:' .. ARGV[1], 0
for _, id in ipairs(redis.call('SMEMBERS', about)) do
    local found = redis.call('XRANGE', stem, id, id)
    if #found > 0 then
        local settled = redis.call('HDEL', stem .. ':sequence', id) + redis.call('HDEL', stem .. ':dead', id)
        redis.call('XACK', stem, 'workers', id)
        if settled == 0 then redis.call('DECR', stem .. ':waiting') end
        redis.call('DEL', stem .. ':key:' .. found[1][2][2])
        redis.call('HDEL', stem .. ':failures', id)
        redis.call('XDEL', stem, id)
        count = count + 1
    end
end
redis.call('DEL', about)
return count
"""
_TRIM = """
local stem, count, last = KEYS[1], 0, ''
local found = redis.call('XRANGE', stem, ARGV[1], ARGV[2], 'COUNT', 1000)
for _, entry in ipairs(found) do
    local id, fields = entry[1], entry[2]
    last = id
    if redis.call('HDEL', stem .. ':sequence', id) == 1 then
        redis.call('DEL', stem .. ':key:' .. fields[2])
        redis.call('SREM', stem .. ':about:' .. fields[4], id)
        redis.call('XDEL', stem, id)
        count = count + 1
    end
end
return {count, last, #found}
"""


class RedisLog:
    """See `log.EventLog`.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database.
        most_waiting: the backlog of a topic at which `append` refuses.
        timeout: seconds to connect, to wait for an answer, and for a free connection.
        connections: most of this process.

    Raises:
        CaptionaryError: the package is missing, or the URL cannot be read.
        LogUnavailableError: no answer.
    """

    def __init__(
        self, url: str, *, most_waiting: int = 100_000, timeout: float = 2.0, connections: int = 16
    ) -> None:
        self._url, self.most_waiting, self._timeout = url, most_waiting, timeout
        self._client = connect(url, timeout=timeout, connections=connections)
        scripts = {
            "append": _APPEND, "done": _DONE, "bury": _BURY, "revive": _REVIVE, "erase": _ERASE, "trim": _TRIM,
        }  # fmt: skip
        self._scripts = {name: self._client.register_script(text) for name, text in scripts.items()}
        self._grouped: set[str] = set()
        with self._errors():
            self._client.ping()

    def append(self, topic: str, drafts: Sequence[Draft]) -> list[int]:
        """See `log.EventLog.append`."""
        if not drafts:
            return []
        values: list[Any] = [self.most_waiting]
        for draft in drafts:
            values += [draft.key, draft.subject, draft.payload]
        ids = self._script("append", topic, values)
        if ids is None:
            where, todo = f"the backlog of {topic} is at its limit", "try again later, or run more workers"
            rule = f"< {self.most_waiting:,} entries"
            raise LogFullError(str(bad_value("backlog", self.backlog(topic), rule, where=where, todo=todo)))
        return [_position(id_) for id_ in ids]

    def take(
        self, topic: str, consumer: str, *, most: int, wait_seconds: float = 0.0, lease_seconds: float = 60.0
    ) -> list[Entry]:
        """See `log.EventLog.take`. All consumers of a topic have the same lease."""
        stem, lease = self._stem(topic), int(lease_seconds * 1000)
        until = time.monotonic() + wait_seconds
        while True:
            with self._errors():
                _, found, *_ = self._client.xautoclaim(stem, _GROUP, consumer, lease, "0-0", count=most)
                if len(found) < most:
                    left = until - time.monotonic()
                    # Never 0, which waits for ever; below the timeout of the connection.
                    block = max(1, int(1000 * min(left, self._timeout / 2, 0.5))) if not found else None
                    new = self._client.xreadgroup(
                        _GROUP, consumer, {stem: ">"}, count=most - len(found), block=block
                    )
                    found += [entry for _, entries in new or () for entry in entries]
                found = [(id_, fields) for id_, fields in found if fields]
                if found:
                    return self._entries(stem, found)
            if time.monotonic() >= until:
                return []

    def renew(self, topic: str, consumer: str, positions: Sequence[int], lease_seconds: float) -> None:  # noqa: ARG002
        """See `log.EventLog.renew`; for as long again as `take` said."""
        self._claim(topic, consumer, positions, idle=0)

    def done(self, topic: str, positions: Sequence[int], sequence: int) -> None:
        """See `log.EventLog.done`."""
        if positions:
            self._script("done", topic, [sequence, *map(_id, positions)])

    def retry(
        self, topic: str, positions: Sequence[int], delay_seconds: float = 0.0, *, failed: bool = True
    ) -> None:
        """See `log.EventLog.retry`."""
        lease = 60_000  # at least: whoever has a shorter lease takes it sooner
        self._claim(topic, "given-back", positions, idle=max(0, lease - int(1000 * delay_seconds)))
        if failed:
            stem = self._stem(topic)
            with self._errors():
                for position in positions:
                    self._client.hincrby(f"{stem}:failures", _id(position), 1)

    def bury(self, topic: str, position: int, reason: str, detail: str = "") -> None:
        """See `log.EventLog.bury`."""
        said = msgspec.json.encode((reason, detail[:2000], time.time_ns() // 1000))
        self._script("bury", topic, [_id(position), said])

    def dead(self, topic: str, *, after: int = 0, most: int = 100) -> list[DeadLetter]:
        """See `log.EventLog.dead`."""
        stem = self._stem(topic)
        with self._errors():
            found = {_position(id_): said for id_, said in self._client.hgetall(f"{stem}:dead").items()}
            letters = []
            for position in sorted(p for p in found if p > after)[:most]:
                entries = self._client.xrange(stem, _id(position), _id(position))
                if entries:
                    reason, detail, died = msgspec.json.decode(found[position])
                    id_, fields = entries[0]
                    letters.append(DeadLetter(_entry(id_, fields, 0, 0), reason, detail, died))
        return letters

    def revive(self, topic: str, positions: Sequence[int] | None = None) -> int:
        """See `log.EventLog.revive`."""
        if positions is None:
            with self._errors():
                ids = list(self._client.hkeys(f"{self._stem(topic)}:dead"))
        else:
            ids = [_id(position) for position in positions]
        return int(self._script("revive", topic, ids)) if ids else 0

    def backlog(self, topic: str) -> int:
        """See `log.EventLog.backlog`."""
        with self._errors():
            return int(self._client.get(f"{self._stem(topic)}:waiting") or 0)

    def oldest_waiting(self, topic: str) -> int | None:
        """See `log.EventLog.oldest_waiting`."""
        pending, delivered = self._marks(topic)
        if pending is not None:
            return _micros(pending)
        with self._errors():
            new = self._client.xrange(self._stem(topic), b"(" + delivered, "+", count=1)
        return _micros(new[0][0]) if new else None

    def last(self, topic: str) -> int:
        """See `log.EventLog.last`."""
        stem = self._stem(topic)
        with self._errors():
            return _position(self._client.xinfo_stream(stem)["last-generated-id"])

    def floor(self, topic: str) -> int:
        """See `log.EventLog.floor`."""
        pending, delivered = self._marks(topic)
        return _position(delivered) if pending is None else _position(pending) - 1

    def settled(self, topic: str, *, after: int = 0) -> Iterator[Settled]:
        """See `log.EventLog.settled`."""
        stem, start = self._stem(topic), _id(after + 1)
        while True:
            with self._errors():
                page = self._client.xrange(stem, start, "+", count=_PAGE)
                if not page:
                    return
                sequences = self._client.hmget(f"{stem}:sequence", [id_ for id_, _ in page])
            for (id_, fields), sequence in zip(page, sequences, strict=True):
                if sequence is not None:
                    yield Settled(_entry(id_, fields, 0, 0), int(sequence))
            start = _id(_position(page[-1][0]) + 1)

    def erase(self, topic: str, subject: bytes) -> int:
        """See `log.EventLog.erase`."""
        return int(self._script("erase", topic, [subject]))

    def trim(self, topic: str, before: int) -> int:
        """See `log.EventLog.trim`; consumers that have gone are forgotten too."""
        count, start, end = 0, "-", f"{before // 1000 - 1}-{(1 << 63) - 1}"
        while True:
            removed, last, found = self._script("trim", topic, [start, end])
            count += int(removed)
            if int(found) < _PAGE:
                break
            start = b"(" + last
        stem = self._stem(topic)
        with self._errors():
            for consumer in self._client.xinfo_consumers(stem, _GROUP):
                if not consumer["pending"] and consumer["idle"] > _IDLE_DAYS * 86_400_000:
                    self._client.xgroup_delconsumer(stem, _GROUP, consumer["name"])
        return count

    def close(self) -> None:
        """See `log.EventLog.close`."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _stem(self, topic: str) -> str:
        """The stream's name; makes it, with its group, where absent."""
        stem = _STEM + topic
        if stem not in self._grouped:
            from redis.exceptions import ResponseError

            with self._errors():
                try:
                    self._client.xgroup_create(stem, _GROUP, id="0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise
            self._grouped.add(stem)
        return stem

    def _script(self, name: str, topic: str, values: Sequence[Any]) -> Any:
        stem = self._stem(topic)
        with self._errors():
            return self._scripts[name](keys=[stem], args=list(values))

    def _claim(self, topic: str, consumer: str, positions: Sequence[int], *, idle: int) -> None:
        """Give pending entries to a consumer, as though it had been idle for so many milliseconds."""
        if positions:
            stem = self._stem(topic)
            with self._errors():
                self._client.xclaim(
                    stem, _GROUP, consumer, 0, [_id(p) for p in positions], idle=idle, justid=True
                )

    def _entries(self, stem: str, found: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
        ids = [id_ for id_, _ in found]
        pipe = self._client.pipeline(transaction=False)
        for id_ in ids:
            pipe.xpending_range(stem, _GROUP, id_, id_, 1)
        pipe.hmget(f"{stem}:failures", ids)
        *pending, failures = pipe.execute()
        counts = [found[0]["times_delivered"] if found else 1 for found in pending]
        rows = zip(found, counts, failures, strict=True)
        entries = [_entry(id_, fields, count, int(failed or 0)) for (id_, fields), count, failed in rows]
        return sorted(entries)

    def _marks(self, topic: str) -> tuple[bytes | None, bytes]:
        """(the first id that is taken and not done, the last id that was ever taken), of one moment."""
        stem = self._stem(topic)
        with self._errors():
            pipe = self._client.pipeline(transaction=True)
            pipe.xpending(stem, _GROUP)
            pipe.xinfo_groups(stem)
            pending, groups = pipe.execute()
        (mine,) = [group for group in groups if group["name"] == _GROUP.encode()]
        return pending["min"], mine["last-delivered-id"]

    def _errors(self) -> Any:
        return redis_errors(self._url, LogUnavailableError)


def _position(id_: bytes) -> int:
    """An id of a stream, milliseconds and a number, as one number of 63 bits."""
    moment, _, number = id_.partition(b"-")
    return (int(moment) << _SEQUENCE_BITS) + int(number)


def _id(position: int) -> bytes:
    """What `_position` numbered."""
    return b"%d-%d" % (position >> _SEQUENCE_BITS, position & ((1 << _SEQUENCE_BITS) - 1))


def _micros(id_: bytes) -> int:
    return int(id_.partition(b"-")[0]) * 1000


def _entry(id_: bytes, fields: dict[bytes, bytes], attempts: int, failures: int) -> Entry:
    key, subject, payload = fields[b"key"].decode(), fields[b"subject"], fields[b"payload"]
    return Entry(_position(id_), key, subject, payload, _micros(id_), attempts, failures)
