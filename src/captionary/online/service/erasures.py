"""People who asked to be forgotten, taken out of the files that services write: here at once, by replicas soon after.

The store knows who was forgotten. Each process looks there when it begins and every half minute, since what another
process has open can be rewritten by that process alone.
"""

from __future__ import annotations

import logging
import threading

from captionary.errors import CaptionaryError
from captionary.online.decisions import forget_user
from captionary.online.experiments.exposure import ExposureLog
from captionary.online.forgotten import Forgotten
from captionary.online.log import EVENTS, EventLog
from captionary.online.packing import Id, id_bytes
from captionary.online.service.recording import Recorder
from captionary.online.service.types import Removed
from captionary.online.store import OnlineStore

__all__ = ["Erasures"]

_logger = logging.getLogger("captionary.service")


class Erasures:
    """Forgets users, those included that were forgotten elsewhere; for any number of threads.

    Args:
        store: which knows who was forgotten.
        log: with events that are on their way.
        recorder: the request log of this process; None: there is none.
        exposures: its exposure log; None: there is none.
        seconds: between two looks, > 0.
    """

    def __init__(
        self,
        store: OnlineStore,
        log: EventLog,
        recorder: Recorder | None,
        exposures: ExposureLog | None,
        *,
        seconds: float = 30.0,
    ) -> None:
        self.store, self.log, self.recorder, self.exposures = store, log, recorder, exposures
        self._seconds, self._seen = seconds, -1
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look now and from now on, in a thread of its own."""
        if self.recorder is None and self.exposures is None:
            return
        self._thread = threading.Thread(target=self._run, name="captionary-erasures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; returns when a look that has begun is over."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def forget(self, user: Id) -> Removed:
        """Forget a user everywhere; what other replicas have open, they delete within a minute. Blocks.

        Raises:
            StoreUnavailableError, LogUnavailableError: what was not reached is still there: ask again.
        """
        # First what is on its way, then what is there: no event can come in between and stay.
        entries = self.log.erase(EVENTS, id_bytes(user))
        found = forget_user(self.store, user, self.log.last(EVENTS))
        with self._lock:
            requests, exposures = self._erase(Forgotten.of(self.store.engine).alone(user))
        anything = found or entries + requests + exposures > 0
        return Removed(found=anything, log_entries=entries, requests=requests, exposures=exposures)

    def look(self) -> int:
        """Delete what this process can of everybody who was forgotten since the last look; how many lines. Blocks."""
        with self._lock:
            new = Forgotten.of(self.store.engine).since(self._seen)
            lines = sum(self._erase(new))
            if new.partings:
                self._seen = max(one.sequence for one in new.partings.values())
        return lines

    def _erase(self, forgotten: Forgotten) -> tuple[int, int]:
        """(lines of the request log, lines of the exposure log)."""
        requests = 0 if self.recorder is None else self.recorder.erase(forgotten)
        return requests, 0 if self.exposures is None else self.exposures.erase(forgotten)

    def _run(self) -> None:
        while True:
            try:
                if lines := self.look():
                    _logger.info("%d lines of people who were forgotten elsewhere are deleted", lines)
            except (CaptionaryError, OSError) as error:  # the next look does it
                _logger.warning("people who were forgotten: %s", error)
            if self._stop.wait(self._seconds):
                return
