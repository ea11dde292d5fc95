"""Train/serve skew: logged requests done again offline, from the log of events and by the batch builder.

    request (user, moment, sequence, lists, scores)
        events with an effect up to that sequence, items as they were then ──build_profiles──▶ lists   = served?
        lists, rows ──ranker──▶ scores                                                              = served?

The stream update has no part in it: the profiles come from the code that makes training data. Zero differences, to
the bit, is the bar.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.online import keys
from captionary.online.forgotten import Forgotten
from captionary.online.governance import Governance, governed
from captionary.online.items import unpack_item
from captionary.online.log import EVENTS, EventLog, EventMessage
from captionary.online.packing import id_bytes
from captionary.online.request_log import RequestRecord
from captionary.online.store import OnlineStore
from captionary.online.updates import checked_event
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList, build_profiles

__all__ = ["Difference", "Scoring", "Verification", "verify"]

_AT_ONCE = 2000
_EXAMPLES = 20
_FOR_EVER = 1 << 62

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class Scoring(NamedTuple):
    """How a version of the ranker scores again: `online.service.rankers.Loaded.score_again`."""

    score: Callable[[RequestRecord, dict[str, ProfileList], Floats, Flags], Floats]
    """(request, lists, rows [C, R] of its items, [C] whether the store had them) → [C, T], by the code that serves."""
    width: int
    """R of its rows."""


class Difference(NamedTuple):
    """Something that was served otherwise than it is made offline."""

    request_id: str
    what: str
    """`list like`, `scores`."""
    served: str
    offline: str


class Verification(NamedTuple):
    """What doing the requests again showed."""

    requests: int
    lists: int
    """Lists that were compared."""
    scored: int
    """Requests whose scores were compared."""
    unequal_lists: int
    unequal_scores: int
    """Requests of which a score differs by more than the tolerance."""
    largest: float
    """Difference of a score."""
    skipped: dict[str, int]
    """Reason → requests (of `user forgotten since` and the like), or requests whose scores could not be compared."""
    examples: tuple[Difference, ...]
    """The first differences."""

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not (self.unequal_lists or self.unequal_scores)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self._asdict(), "examples": [example._asdict() for example in self.examples]}

    def to_string(self) -> str:
        """For a terminal."""
        lines = [
            f"{self.requests:,} requests: {self.unequal_lists:,} of {self.lists:,} lists differ, "
            f"{self.unequal_scores:,} of {self.scored:,} answers differ (largest difference {self.largest:.3g})"
        ]
        lines += [f"not compared: {reason}: {count:,}" for reason, count in sorted(self.skipped.items())]
        lines += [
            f"  {e.request_id}: {e.what}: served {e.served}, offline {e.offline}" for e in self.examples
        ]
        return "\n".join(lines)


class _Event(NamedTuple):
    item: bytes
    message: EventMessage
    sequence: int


class _Replay:
    """The past of the store, as far as a set of requests needs it."""

    def __init__(
        self, store: OnlineStore, log: EventLog, history: Iterable[EventMessage], users: set[bytes]
    ) -> None:
        self.store = store
        self.events: dict[bytes, list[_Event]] = {user: [] for user in users}
        for message in history:
            self._add(message, 0)
        for entry, sequence in log.settled(EVENTS):
            if entry.subject in self.events:
                self._add(msgspec.json.decode(entry.payload, type=EventMessage), sequence)
        self.gone_items: dict[bytes, int] = {}
        for sequence, name in map(keys.place_of, store.engine.view(lambda r: r.members(keys.GONE))):
            self.gone_items[name] = max(sequence, self.gone_items.get(name, -1))
        self.forgotten = Forgotten.of(store.engine)
        named = {event.item for events in self.events.values() for event in events}
        self.revisions = {item: self._revisions(item) for item in named}
        packed = store.engine.read([keys.governance(user) for user in users])[1]
        self.governance = dict(zip(users, map(Governance.unpack, packed), strict=True))

    def _add(self, message: EventMessage, sequence: int) -> None:
        user = id_bytes(message.user_id)
        if user in self.events and checked_event(self.store, message):
            self.events[user].append(_Event(id_bytes(message.item_id), message, sequence))

    def _revisions(self, item: bytes) -> list[tuple[int, npt.NDArray[np.int32]]]:
        """(update, tokens) of an item, by update."""
        (packed,) = self.store.engine.read([keys.item(item)])[1]
        if packed is None:
            return []
        count = unpack_item(packed).revision + 1
        found = self.store.engine.read([keys.revision(item, number) for number in range(count)])[1]
        rows = [msgspec.msgpack.decode(data) for data in found if data is not None]
        return [(sequence, np.frombuffer(tokens, "<i4").astype(np.int32)) for sequence, tokens in rows]

    def tokens_at(self, item: bytes, sequence: int) -> tuple[int, npt.NDArray[np.int32]] | None:
        """(number of the revision, tokens) after an update; None where the item was not known."""
        revisions = self.revisions[item]
        number = bisect.bisect_right([row[0] for row in revisions], sequence) - 1
        return None if number < 0 else (number, revisions[number][1])

    def gone_at(self, user: bytes) -> int:
        """The update with which a user was forgotten for the last time; -1: they were not."""
        parting = self.forgotten.of_packed(user)
        return -1 if parting is None else parting.sequence

    def counting(self, user: bytes, sequence: int, governance: Governance) -> list[_Event]:
        """The events that counted after an update."""
        forgotten = self.gone_at(user)
        found = []
        for event in self.events[user]:
            erased = event.message.timestamp < governance.erased_before(event.message.event)
            gone = self.gone_items.get(event.item, _FOR_EVER)
            passed = event.sequence <= gone <= sequence or event.sequence <= forgotten <= sequence
            if event.sequence <= sequence and not erased and not passed:
                found.append(event)
        return found


def verify(
    requests: Iterable[RequestRecord],
    store: OnlineStore,
    log: EventLog,
    *,
    history: Iterable[EventMessage] = (),
    scorings: Mapping[str, Scoring] = MappingProxyType({}),
    tolerance: float = 0.0,
) -> Verification:
    """Do logged requests again.

    Args:
        requests: as they were served.
        store: for items as they were, rows, and what users decided; its lists are not read.
        log: whose settled entries are the events; those trimmed since cannot be done again.
        history: events that the store was seeded with.
        scorings: version of the ranker → how it scores; requests of other versions are compared by features alone.
        tolerance: of a score.
    """
    everything = list(requests)
    users = {id_bytes(r.user_id) for r in everything if r.user_id is not None}
    replay = _Replay(store, log, history, users)
    found = _Found()
    for start in range(0, len(everything), _AT_ONCE):
        chosen = [r for r in everything[start : start + _AT_ONCE] if found.may_compare(r, replay)]
        for request, lists in zip(chosen, _lists(chosen, replay), strict=True):
            found.compare_lists(request, lists)
            scoring = scorings.get(request.version)
            if scoring is None:
                if scorings:
                    found.skipped["scores of another version of the ranker"] += 1
            elif (met := found.rows_of(request, store, scoring.width)) is not None:
                found.compare_scores(request, scoring.score(request, lists, *met), tolerance)
    return found.result(len(everything))


def _lists(requests: Sequence[RequestRecord], replay: _Replay) -> list[dict[str, ProfileList]]:
    """What the batch builder makes of each request's events: each request is a user of its own to it."""
    store = replay.store
    rows: list[tuple[int, tuple[bytes, int, tuple[int, ...]] | None, EventMessage]] = []
    lists: dict[tuple[bytes, int, tuple[int, ...]], npt.NDArray[np.int32]] = {}
    rules = []
    for number, request in enumerate(requests):
        assert request.user_id is not None
        user = id_bytes(request.user_id)
        governance = replay.governance[user].before(request.sequence)
        rules.append(governance)
        for event in replay.counting(user, request.sequence, governance):
            known = replay.tokens_at(event.item, request.sequence)
            if known is None:
                rows.append((number, None, event.message))
                continue
            erased = governance.erased(event.message.event)
            gone = {token for token, moment in erased.items() if event.message.timestamp < moment}
            lost = tuple(sorted(gone.intersection(known[1].tolist())))
            variant = event.item, known[0], lost
            lists[variant] = known[1][~np.isin(known[1], lost)]
            rows.append((number, variant, event.message))
    order = sorted(lists)  # numbers in the order of ids, which decides between events of one moment
    numbers = {variant: place for place, variant in enumerate(order)}
    events = pa.table(
        {
            "user_id": pa.array([number for number, _, _ in rows], pa.int64()),
            "item_id": pa.array([-1 if v is None else numbers[v] for _, v, _ in rows], pa.int64()),
            "event": pa.array([message.event for *_, message in rows], pa.string()),
            "timestamp": pa.array([message.timestamp for *_, message in rows], pa.int64()),
            "value": pa.array([message.value for *_, message in rows], pa.float64()),
        }
    )
    asked = pa.table(
        {
            "user_id": pa.array(range(len(requests)), pa.int64()),
            "timestamp": pa.array([request.as_of for request in requests], pa.int64()),
        }
    )
    tokens = Jagged.from_lists([lists[variant] for variant in order])  # type: ignore[misc]
    ids, idf = pa.array(range(len(order)), pa.int64()), store.folder.idf.astype(np.float32)
    config = store.config
    built = build_profiles(events, asked, ids, tokens, config, idf, types=config.event_types)
    answers: list[dict[str, ProfileList]] = [{} for _ in requests]
    for kind, made in built.items():
        assert made.lists.weights is not None
        for number, rule in enumerate(rules):
            piece = slice(made.lists.offsets[number], made.lists.offsets[number + 1])
            plain = ProfileList(made.lists.values[piece], made.lists.weights[piece], float(made.mass[number]))
            answers[number][kind] = governed(plain, rule, kind)
    return answers


class _Found:
    """Counts what differs."""

    def __init__(self) -> None:
        self.lists = self.scored = self.unequal_lists = self.unequal_scores = 0
        self.largest = 0.0
        self.skipped: Counter[str] = Counter()
        self.examples: list[Difference] = []

    def may_compare(self, request: RequestRecord, replay: _Replay) -> bool:
        reason = ""
        if request.user_id is None:
            reason = "no user"
        elif replay.gone_at(id_bytes(request.user_id)) > request.sequence:
            reason = "user forgotten since"
        else:
            user = id_bytes(request.user_id)
            governance = replay.governance[user].before(request.sequence)
            counting = replay.counting(user, request.sequence, governance)
            if any(replay.gone_items.get(event.item, -1) > request.sequence for event in counting):
                reason = "item forgotten since"
        if reason:
            self.skipped[reason] += 1
        return not reason

    def compare_lists(self, request: RequestRecord, offline: dict[str, ProfileList]) -> None:
        served = request.profiles
        for event in offline.keys() | served.keys():
            self.lists += 1
            one, other = served.get(event), offline.get(event)
            same = (
                one is not None
                and other is not None
                and np.array_equal(one.token_ids, other.token_ids)
                and np.array_equal(one.weights, other.weights)
                and one.mass == other.mass
            )
            if not same:
                self.unequal_lists += 1
                self._example(request, f"list {event}", _told(one), _told(other))

    def rows_of(self, request: RequestRecord, store: OnlineStore, width: int) -> tuple[Floats, Flags] | None:
        """The rows of the request's items, where they are those that it met, and which the store had."""
        had = np.array(request.present or [True] * len(request.item_ids), np.bool_)
        read = store.read(0, request.item_ids, request.as_of, version=request.version, width=width)
        if not read.present[had].all():
            self.skipped["scores with rows that are gone"] += 1
            return None
        for record, there in zip(store.items(request.item_ids), had.tolist(), strict=True):
            if there and (record is None or record.sequence > request.sequence):
                self.skipped["scores with items that have changed since"] += 1
                return None
        return read.rows, had

    def compare_scores(self, request: RequestRecord, offline: Floats, tolerance: float) -> None:
        self.scored += 1
        served = np.array(request.scores, np.float32).reshape(len(request.item_ids), -1)
        apart = np.inf
        if served.shape == offline.shape:
            apart = float(np.abs(served.astype(np.float64) - offline).max(initial=0.0))
        self.largest = max(self.largest, apart)
        if not apart <= tolerance:
            self.unequal_scores += 1
            self._example(request, "scores", str(served[:2].tolist()), str(offline[:2].tolist()))

    def _example(self, request: RequestRecord, what: str, served: str, offline: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(Difference(request.request_id, what, served, offline))

    def result(self, requests: int) -> Verification:
        return Verification(
            requests,
            self.lists,
            self.scored,
            self.unequal_lists,
            self.unequal_scores,
            self.largest,
            dict(self.skipped),
            tuple(self.examples),
        )


def _told(found: ProfileList | None) -> str:
    if found is None:
        return "nothing"
    pairs = zip(found.token_ids[:4].tolist(), found.weights[:4].tolist(), strict=True)
    listed = ", ".join(f"{token}: {weight:.6g}" for token, weight in pairs)
    return f"{len(found.token_ids)} tokens ({listed}), mass {found.mass:.9g}"
