"""A store that does not answer is not asked again at once: waiting for it would cost every request its time limit."""

from __future__ import annotations

import threading
import time

__all__ = ["Breaker"]


class Breaker:
    """Remembers failures; for any number of threads.

    Args:
        pause: seconds without a call after a failure; then one call tries again, while others still go without.
    """

    def __init__(self, pause: float = 1.0) -> None:
        self.pause = pause
        self._lock = threading.Lock()
        self._until = 0.0
        self._failed = False

    @property
    def open(self) -> bool:
        """Whether the last call failed."""
        return self._failed

    def may_try(self) -> bool:
        """Whether to make the call; after a pause one caller is told yes."""
        if not self._failed:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._until:
                return False
            self._until = now + self.pause
            return True

    def failed(self) -> None:
        """The call did not succeed."""
        with self._lock:
            self._failed, self._until = True, time.monotonic() + self.pause

    def succeeded(self) -> None:
        """The call did."""
        self._failed = False
