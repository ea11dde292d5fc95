"""Live profiles: apply one event, get the changed list; the events themselves are kept, so that any can be forgotten.

A state holds for each user and event type a log of 20 bytes an event, in order of time, and beside it the fold of
all but the newest moment. An event in order costs one `update`; one that comes late is put where it belongs and the
user's fold is made anew from the log, so that the state is always that of the events in order, to the bit.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import bad_value, nearest
from captionary.represent import decay
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import Items, checked_idf, event_values
from captionary.represent.profiles import Event, ProfileConfig, ProfileList

__all__ = ["ProfileState"]

_BEGINNING = -(1 << 62)  # a moment before all others


class _Log:
    """The events of one user and type by (time, item, value), and the fold of those before the newest moment."""

    __slots__ = ("codes", "folded", "head", "mass", "times", "tokens", "values", "weights")

    def __init__(self) -> None:
        self.times, self.codes, self.values = array("q"), array("i"), array("d")
        self.forget_fold()

    def forget_fold(self) -> None:
        self.folded = 0
        """How many events, from the first, are in the weights below."""
        self.tokens, self.weights = np.empty(0, np.int32), np.empty(0, np.float64)
        self.head, self.mass = np.zeros(3, np.int64), np.zeros(1)

    def insert(self, time: int, code: int, value: float) -> None:
        first, last = bisect.bisect_left(self.times, time), bisect.bisect_right(self.times, time)
        # Items without tokens are alike whatever their number: below all others, by value.
        order = [(max(self.codes[row], -1), self.values[row]) for row in range(first, last)]
        at = first + bisect.bisect_right(order, (max(code, -1), value))
        self.times.insert(at, time)
        self.codes.insert(at, code)
        self.values.insert(at, value)
        if at < self.folded:
            self.forget_fold()

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """(times, codes, values); views, to be dropped before the log changes."""
        codes = np.frombuffer(self.codes, np.int32)
        return np.frombuffer(self.times, np.int64), codes, np.frombuffer(self.values, np.float64)

    def keep(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Drop all other events, as though they had never been there."""
        times, codes, values = (column[chosen].tobytes() for column in self.arrays())
        self.times, self.codes, self.values = array("q"), array("i"), array("d")
        self.times.frombytes(times)
        self.codes.frombytes(codes)
        self.values.frombytes(values)
        self.forget_fold()


class ProfileState:
    """Live profiles: apply events as they come, read a list at any moment, forget a user or an item.

    After the same events, in whatever order they came, it gives bit for bit what `build_profiles` gives.
    """

    def __init__(
        self,
        item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
        item_tokens: Jagged,
        config: ProfileConfig,
        idf: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Start without any event; arguments as of `build_profiles`, but the config names event types.

        Raises:
            CaptionaryError: as `build_profiles`; no event types.
        """
        if not config.event_types:
            raise bad_value("event_types", "()", "given", where="profiles of a stream")
        self._config = config
        self._items = Items.of(item_ids, item_tokens, idf)
        self._codes: dict[Hashable, int] = {item: row for row, item in enumerate(self._items.ids.to_pylist())}
        self._unknown: dict[Hashable, int] = {}
        self._logs: dict[tuple[Hashable, str], _Log] = {}
        self._since = _BEGINNING
        self._scratch = decay.new_trace(len(self._items.idf), config.top_k)
        self._seen = np.zeros(len(self._items.ids), np.int64)

    @property
    def user_ids(self) -> list[Hashable]:
        """The users of whom an event counts, in no order."""
        return list({user: None for user, _ in self._logs})

    def apply(self, event: Event) -> ProfileList | None:
        """Take one event; the user's list of its type right after the newest one, or None for a type without profiles.

        An event that is earlier than others that came before it counts as though it had come in time.

        Raises:
            CaptionaryError: a value below 0, or infinite and not clipped.
        """
        if event.event not in self._config.event_types:
            return None
        given = np.array([np.nan if event.value is None else event.value], np.float64)
        value = float(event_values(given, self._config, "stream")[0])
        log = self._logs.get((event.user_id, event.event))
        if value > 0 and event.timestamp >= self._since - self._config.caps[1]:
            log = self._logs.setdefault((event.user_id, event.event), _Log())
            log.insert(event.timestamp, self._code(event.item_id), value)
            self._settle(log, event.event)
        newest = event.timestamp if log is None else max(event.timestamp, log.times[-1])
        return self.read(event.user_id, event.event, max(newest + 1, self._since))

    def read(self, user_id: Hashable, event_type: str, as_of: int) -> ProfileList:
        """The list as of a moment (microseconds), of the events strictly before it.

        Raises:
            CaptionaryError: an event type without profiles; a moment before that of the last `prune`.
        """
        if event_type not in self._config.event_types:
            raise bad_value("event type", event_type, nearest(event_type, self._config.event_types))
        if as_of < self._since:
            raise bad_value("as_of", as_of, f">= {self._since}, the moment of the last prune")
        log = self._logs.get((user_id, event_type))
        if log is None:
            return ProfileList(np.empty(0, np.int32), np.empty(0, np.float32), 0.0)
        half_life = self._config.half_life(event_type)
        last = bisect.bisect_left(log.times, as_of)
        arrays = log.arrays()
        if self._config.capped:
            chosen = np.empty(last, np.int64)
            decay.recall_window(
                self._scratch, self._items.arrays, half_life, self._config.caps, arrays,
                last, as_of, self._seen, chosen,
            )  # fmt: skip
        else:
            first = 0
            if log.folded <= last:
                self._load(log)
                first = log.folded
            decay.fold_log(self._scratch, self._items.arrays, half_life, arrays, first, last)
        ids, shares = np.empty(self._config.top_k, np.int32), np.empty(self._config.top_k, np.float32)
        count = decay.shares_of(self._scratch, self._items.idf, self._config.weigh_by_idf, ids, shares)
        mass = decay.mass_at(self._scratch, as_of, half_life)
        decay.clear(self._scratch)
        return ProfileList(ids[:count].copy(), shares[:count].copy(), float(mass))

    def prune(self, before: int) -> None:
        """Let go of the events that are too old to count at `before` or later; earlier moments are then closed.

        Only with `last_days` is there such an event: without it the log of a state grows with its events.
        """
        horizon = self._config.caps[1]
        if not horizon or before <= self._since:
            return
        self._since = before
        for key, log in list(self._logs.items()):
            old = bisect.bisect_left(log.times, before - horizon)
            if old == len(log.times):
                del self._logs[key]
            elif old:
                for column in (log.times, log.codes, log.values):
                    del column[:old]

    def forget_user(self, user_id: Hashable) -> None:
        """Delete every event of a user: the state is then that of a stream in which they never were."""
        for event_type in self._config.event_types:
            self._logs.pop((user_id, event_type), None)

    def forget_item(self, item_id: Hashable, idf: npt.NDArray[np.float32] | None = None) -> None:
        """Delete an item, its tokens and every event on it: the state is then that of one that never had it.

        Args:
            item_id: an item of the state, or one that only its events named.
            idf: the frequencies without the item, where those in use counted it; None: they did not.

        Raises:
            CaptionaryError: an idf that does not fit.
        """
        if idf is not None:
            checked = checked_idf(idf, self._items.tokens)
            if len(checked) != len(self._items.idf):
                raise bad_value("idf", f"{len(idf)} values", f"{len(self._items.idf)}, as before")
            self._items = self._items._replace(idf=checked)
        gone = self._codes.pop(item_id, None)
        if gone is None:
            gone = self._unknown.pop(item_id, None)
        if gone is None:
            return
        for key, log in list(self._logs.items()):
            kept = np.frombuffer(log.codes, np.int32) != gone
            if not kept.all():
                log.keep(kept)
                if len(log.times):
                    self._settle(log, key[1])
                else:
                    del self._logs[key]

    def _code(self, item_id: Hashable) -> int:
        """The place of an item; below 0, and its own, for one without tokens, so that it too can be forgotten."""
        code = self._codes.get(item_id)
        return self._unknown.setdefault(item_id, -1 - len(self._unknown)) if code is None else code

    def _settle(self, log: _Log, event_type: str) -> None:
        """Fold all events before the newest moment: others at that moment may still come, and go before it."""
        last = bisect.bisect_left(log.times, log.times[-1])
        if self._config.capped or last <= log.folded:
            return
        self._load(log)
        half_life = self._config.half_life(event_type)
        decay.fold_log(self._scratch, self._items.arrays, half_life, log.arrays(), log.folded, last)
        weights, active, _, _, _, head, mass = self._scratch
        log.tokens = active[: head[decay.COUNT]].copy()
        log.weights = weights[log.tokens]
        log.head, log.mass, log.folded = head.copy(), mass.copy(), last
        decay.clear(self._scratch)

    def _load(self, log: _Log) -> None:
        weights, active, _, _, _, head, mass = self._scratch
        weights[log.tokens] = log.weights
        active[: len(log.tokens)] = log.tokens
        head[:], mass[:] = log.head, log.mass
        head[decay.LISTED] = 0
