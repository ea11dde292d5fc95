"""One way to talk to Redis for store and log: a bounded pool, timeouts, errors in the house grammar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from captionary.errors import CaptionaryError, bad_value

__all__ = ["address_of", "connect", "redis_errors"]

_FULL = ("OOM", "maxmemory", "MISCONF", "No space left")
"""Out of the memory it may use; cannot write its files."""


def address_of(url: str) -> str:
    """The URL without user and password, for messages."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def connect(url: str, *, timeout: float, connections: int) -> Any:
    """A client whose threads share at most `connections` connections.

    Raises:
        CaptionaryError: the package is missing, or the URL cannot be read.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError:
        raise bad_value(
            "package redis", "missing", "installed", todo="pip install 'captionary[redis]'"
        ) from None
    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=30,
            # One more try on a connection that the server has closed meanwhile; what is sent twice must bear it.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise bad_value("URL", address_of(url), "one of Redis", where=str(error)) from None
    return redis.Redis(connection_pool=pool)


@contextmanager
def redis_errors(
    url: str, unavailable: type[CaptionaryError], full: type[CaptionaryError] | None = None
) -> Iterator[None]:
    """Errors of the client as `unavailable`, or `full` where the server has no room."""
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        said = str(error)
        kind = full if full is not None and any(word in said for word in _FULL) else unavailable
        rule = "with room left" if kind is full else "a Redis server that answers"
        raise kind(str(bad_value("redis", address_of(url), rule, where=said[:200]))) from None
