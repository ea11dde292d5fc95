"""What keeps an overloaded service quick and small: threads with a bounded queue, and a rate for each key.

request ── a place? ── no ──▶ 503, at once              places = threads + waiting, taken before the body is read
             │ yes
             ▼
          a thread within `wait`? ── no ──▶ 503          so nobody waits long for an answer that is none
             │ yes
             ▼
          done within `most`? ── no ──▶ 503              its thread is counted as busy until it is really done
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from captionary.errors import CaptionaryError, bad_value

__all__ = ["OverloadedError", "Pool", "RateLimits", "TokenBucket"]

T = TypeVar("T")


class OverloadedError(CaptionaryError):
    """The service cannot take this on now; `retry_after` is in seconds, `reason` for the metrics."""

    def __init__(self, message: str, *, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.reason, self.retry_after = reason, retry_after


class Pool:
    """Threads, and a bounded number of requests that wait for them; for one event loop.

    Args:
        name: of the work, for messages and metrics.
        threads: how many pieces of work are done at once.
        waiting: how many more requests may be there.
        wait: seconds for which a request waits for a thread.
        most: seconds for a piece of work, from its start.
    """

    def __init__(self, name: str, threads: int, waiting: int, *, wait: float, most: float) -> None:
        self.name, self.threads, self.places = name, threads, threads + waiting
        self.wait, self.most = wait, most
        self.inside = 0
        """Requests that have a place."""
        self._free = threads
        self._queue: dict[asyncio.Future[None], None] = {}
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"captionary-{name}")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a request is read, worked on and answered.

        Raises:
            OverloadedError: none is free.
        """
        if self.inside >= self.places:
            raise self._overloaded("full", f"{self.inside} requests", f"< {self.places}")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in one of the threads.

        Raises:
            OverloadedError: no thread became free in time, or the function took too long.
        """
        if len(self._queue) >= self.places:  # work of pages, which take no place beforehand
            raise self._overloaded("full", f"{len(self._queue)} requests", f"< {self.places}")
        await self._thread()
        loop = asyncio.get_running_loop()
        future: Future[T] = self._executor.submit(function, *arguments)
        future.add_done_callback(lambda _: _soon(loop, self._release))
        try:
            async with asyncio.timeout(self.most):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and (error := future.exception()) is not None:
                raise error from None
            raise self._overloaded("slow", f"more than {self.most:g} s", "done by then") from None

    def close(self) -> None:
        """Wait for what is being done."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _thread(self) -> None:
        """Take a thread, in the order of asking."""
        if self._free > 0 and not self._queue:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[turn] = None
        try:
            async with asyncio.timeout(self.wait):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            given = turn.done() and not turn.cancelled()
            self._queue.pop(turn, None)
            if given:  # the thread came with the end of the wait: it is passed on
                self._release()
            if isinstance(error, asyncio.CancelledError):
                raise
            shown = f"not free within {self.wait * 1e3:g} ms"
            raise self._overloaded("waited", shown, "free sooner") from None

    def _release(self) -> None:
        """Give a free thread to the first who waits."""
        while self._queue:
            turn = next(iter(self._queue))
            del self._queue[turn]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _overloaded(self, reason: str, value: str, rule: str) -> OverloadedError:
        error = bad_value(f"load ({self.name})", value, rule, todo="try again later")
        return OverloadedError(str(error), reason=f"{self.name}_{reason}")


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


class TokenBucket:
    """So many a second on average, so many at once.

    Args:
        per_second: > 0.
        burst: >= 1.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._left, self._at = burst, time.monotonic()

    def take(self, now: float | None = None) -> float:
        """Take one; 0 where it was there, else the seconds until it is."""
        now = time.monotonic() if now is None else now
        self._left = min(self.burst, self._left + max(0.0, now - self._at) * self.per_second)
        self._at = max(now, self._at)
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.per_second


class RateLimits:
    """A bucket for each key; as many as there are keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, key: str, per_second: float, burst: float) -> float:
        """Take one of a key's; seconds to wait, 0: go on.

        Args:
            key: its id.
            per_second: its rate; inf: no limit.
            burst: at once.
        """
        if math.isinf(per_second):
            return 0.0
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None or (bucket.per_second, bucket.burst) != (per_second, burst):
                bucket = self._buckets[key] = TokenBucket(per_second, burst)
            return bucket.take()
