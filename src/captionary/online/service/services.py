"""Everything a request or a page needs, opened once: the one object that handlers and the explorer are given.

A page asks it for data through `await services.read(function, ...)`, which runs in a thread of the bounded pool:
stores and logs block, and the event loop is everybody's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from captionary.errors import CaptionaryError
from captionary.online.log import EVENTS, MEDIA, EventLog, open_log
from captionary.online.packing import Id
from captionary.online.service.arms import Trials, load_trials
from captionary.online.service.breaker import Breaker
from captionary.online.service.erasures import Erasures
from captionary.online.service.keys import KeyRing
from captionary.online.service.limits import Pool, RateLimits
from captionary.online.service.rankers import Rankers
from captionary.online.service.ranking import Ranking
from captionary.online.service.recording import Recorder
from captionary.online.service.sessions import Sessions
from captionary.online.service.settings import ServeConfig
from captionary.online.service.telemetry import Telemetry
from captionary.online.service.words import Words
from captionary.online.spool import Spool
from captionary.online.store import OnlineStore, open_store

__all__ = ["Services"]

T = TypeVar("T")
_logger = logging.getLogger("captionary.service")


class Services:
    """What a running service holds. Made by `Services.open`; tests put their own parts together.

    Args:
        config: of the service.
        rankers: loaded, by name.
        store: the online store.
        log: the durable log.
        spool: uploaded media.
        words: of the tokenizer whose tokens the store holds.
        trials: who sees which ranker.
        recorder: the request log; None: none is kept.
        keys: None: nobody is asked for a key.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        rankers: Rankers,
        store: OnlineStore,
        log: EventLog,
        spool: Spool,
        words: Words,
        trials: Trials,
        recorder: Recorder | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        limits = config.limits
        self.config, self.rankers, self.store, self.log = config, rankers, store, log
        self.spool, self.words, self.trials, self.recorder, self.keys = spool, words, trials, recorder, keys
        self.telemetry = Telemetry(rankers.versions, self._backlogs)
        self.sessions = Sessions(config.secret, keys)
        self.rates = RateLimits()
        self.ranks = Pool(
            "rank", limits.threads, limits.waiting, wait=limits.wait_ms / 1e3, most=limits.rank_ms / 1e3
        )
        self.writes = Pool(
            "write",
            limits.write_threads,
            limits.writes_waiting,
            wait=limits.write_seconds,
            most=limits.write_seconds,
        )
        self.status = Pool("status", 1, 8, wait=2.0, most=2.0)
        """Of its own, so that probes are answered while everything else is busy."""
        self.breaker = Breaker()
        self.ranking = Ranking(
            rankers, store, trials, words, self.telemetry, self.breaker, config.combine, recorder
        )
        self.erasures = Erasures(store, log, recorder, trials.exposures)
        self.draining = False
        """Whether the service is about to stop: `/readyz` says no, what comes is still answered."""
        self._ready: tuple[float, dict[str, str]] = (0.0, {})

    @classmethod
    def open(cls, config: ServeConfig) -> Self:
        """Load the rankers and open store, log and the rest.

        Raises:
            CaptionaryError: something is missing, or does not fit the rest.
            StoreUnavailableError, LogUnavailableError: no answer. A service that runs goes on without its store.
        """
        limits = config.limits
        words = Words.load(config.tokenizer)
        rankers = Rankers.load(config.rankers, config.default)
        rankers.check_tasks(config.combine)
        keys = None if config.keys is None else KeyRing(config.keys)
        trials = load_trials(config)
        log = open_log(config.log, most_waiting=limits.backlog)
        store = open_store(
            config.store,
            config.profiles,
            words.idf,
            timeout=limits.store_ms / 1e3,
            connections=limits.threads + limits.write_threads,
        )
        return cls(
            config,
            rankers=rankers,
            store=store,
            log=log,
            spool=Spool(config.spool),
            words=words,
            trials=trials,
            recorder=None
            if config.requests is None
            else Recorder(config.requests, share=config.request_share),
            keys=keys,
        )

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that waits for disks or servers in a thread.

        Raises:
            OverloadedError: too many wait already, or it took too long; the service answers 503.
            CaptionaryError: what the function raises; the service answers 400, 404 or 503.
        """
        return await self.writes.run(function, *arguments)

    def user_id(self, text: str) -> Id:
        """A user's id as the data have it, of text from a path or a form.

        Raises:
            CaptionaryError: not a number, where ids are numbers.
        """
        return self.rankers.user_id(text)

    def item_id(self, text: str) -> Id:
        """An item's id as the data have it; see `user_id`."""
        return self.rankers.item_id(text)

    def has_rows(self, ranker: str) -> bool:
        """Whether the store has rows of a ranker's version: it has none when it was filled for others. Blocks."""
        served = self.rankers[ranker].ranker
        items = self.store.item_ids(most=100)
        read = self.store.read("(nobody)", items, 0, version=served.version, width=served.row_width)
        return bool(read.present.any())

    def readiness(self) -> dict[str, str]:
        """Part → `ok`, or what is wrong; looked at once a second at most. Blocks."""
        now = time.monotonic()
        if now - self._ready[0] < 1 and self._ready[1]:
            return self._ready[1]
        found = {"rankers": "ok", "store": "ok", "log": "ok"}
        try:
            self.store.sequence  # noqa: B018  it asks the engine
        except CaptionaryError as error:
            found["store"] = str(error)
        try:
            for topic in (EVENTS, MEDIA):
                if (waiting := self.log.backlog(topic)) >= self.config.limits.backlog:
                    found["log"] = f"backlog of {topic} == {waiting}"
        except CaptionaryError as error:
            found["log"] = str(error)
        if found != self._ready[1] and (wrong := {k: v for k, v in found.items() if v != "ok"}):
            _logger.warning("not ready: %s", "; ".join(f"{part}: {said}" for part, said in wrong.items()))
        self._ready = (now, found)
        return found

    def _backlogs(self) -> dict[str, tuple[int, float]]:
        """Topic → (entries that wait, age of the oldest in seconds)."""
        found = {}
        for topic in (EVENTS, MEDIA):
            oldest = self.log.oldest_waiting(topic)
            age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1e6)
            found[topic] = self.log.backlog(topic), age
        return found

    def close(self) -> None:
        """Wait for what is being done, then let go of everything."""
        self.erasures.close()
        self.ranks.close()
        self.writes.close()
        self.status.close()
        self.trials.close()
        if self.recorder is not None:
            self.recorder.close()
        self.store.close()
        self.log.close()
