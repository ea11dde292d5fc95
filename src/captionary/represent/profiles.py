"""User profiles: per user and event type, the decayed list of the tokens of what they engaged with.

One kernel (`decay.update`) serves three faces: `build_profiles` for every impression of a table, `snapshot`
for all users as of a time, and `ProfileState` for a live stream. All three see events strictly earlier than
the moment asked about: an event at the same microsecond is the future.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.represent import decay
from captionary.represent.jagged import Jagged

__all__ = [
    "Event",
    "ProfileConfig",
    "ProfileList",
    "ProfileState",
    "Profiles",
    "Snapshot",
    "build_profiles",
    "snapshot",
]

_DAY = 86_400_000_000  # microseconds
_MAX_VALUE = 1e100  # far from where a sum of doubles overflows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """How events become a profile."""

    event_types: tuple[str, ...] = ()
    """The event types to make profiles of; empty: every type that occurs."""
    half_life_days: float = 14.0
    """Days after which an event counts half, > 0; .inf: no decay."""
    half_life_days_of: dict[str, float] = dataclasses.field(default_factory=dict)
    """Another half-life for single event types."""
    top_k: int = 24
    """Most tokens of a list, >= 1: those of the highest weight x idf."""
    weigh_by_idf: bool = False
    """Whether the weights that come out are weight x idf, rather than the decayed weight alone."""

    def __post_init__(self) -> None:
        if not self.half_life_days > 0:
            raise bad_value("half_life_days", self.half_life_days, "> 0")
        for event_type, days in self.half_life_days_of.items():
            if not days > 0:
                raise bad_value(f"half_life_days_of {event_type}", days, "> 0")
        if self.top_k < 1:
            raise bad_value("top_k", self.top_k, ">= 1 tokens")
        if self.event_types:
            _check_types("half_life_days_of", self.half_life_days_of, self.event_types, "event_types")

    def types_among(self, found: Sequence[str]) -> tuple[str, ...]:
        """The event types to make profiles of, where `found` are those that occur.

        Raises:
            CaptionaryError: the config names a type that does not occur.
        """
        _check_types("event_types", self.event_types, found, "column event of the events")
        _check_types("half_life_days_of", self.half_life_days_of, found, "column event of the events")
        return self.event_types or tuple(sorted(found))

    def half_life(self, event_type: str) -> int:
        """The half-life of an event type in microseconds; 0: no decay."""
        days = self.half_life_days_of.get(event_type, self.half_life_days)
        return 0 if math.isinf(days) else max(1, round(days * _DAY))


def _check_types(what: str, names: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise bad_value(f"event type in {what}", name, nearest(name, known), where=where)


class Profiles(NamedTuple):
    """The profiles of N moments, for one event type."""

    lists: Jagged
    """Token ids by falling weight x idf, with weights that sum to 1 in a row that is not empty."""
    mass: npt.NDArray[np.float32]
    """[N] the decayed event weight before the moment: how active the user was, whatever the items say."""


class Snapshot(NamedTuple):
    """The profiles of all users as of one moment."""

    user_ids: pa.Array
    """[U] in rising order."""
    profiles: dict[str, Profiles]
    """event type -> profiles, row u of user u."""


class ProfileList(NamedTuple):
    """The profile of one user and event type."""

    token_ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    mass: float


class Event(NamedTuple):
    """One event of a live stream."""

    user_id: Hashable
    item_id: Hashable
    event: str
    timestamp: int
    """Microseconds since 1970, UTC."""
    value: float | None = None
    """None: 1."""


def build_profiles(
    events: pa.Table,
    impressions: pa.Table,
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32] | None = None,
) -> dict[str, Profiles]:
    """Point-in-time profiles for every impression.

    Args:
        events: user_id, item_id, event, timestamp and maybe value (null: 1), rows in any order. The tokens of
        an
            item that `item_ids` does not hold are unknown: its events count for the mass alone.
        impressions: user_id and timestamp; N rows in any order.
        item_ids: I ids, unique.
        item_tokens: the token list of each item, I rows; its weights, where it has some, scale the event's.
        config: half-lives, list length.
        idf: float32 [V], above 0; None: every token alike.

    Returns:
        event type -> `Profiles`, whose row i belongs to impression i. The result does not depend on the order
        of the rows of any table.

    Raises:
        CaptionaryError: an event type of the config that does not occur; ids of unlike types; values that are
            negative or not finite; a timestamp that is missing; an idf or token list that does not fit.
    """
    items = _Items.of(item_ids, item_tokens, idf)
    read_users = _ids(impressions["user_id"], "user_id of impressions")
    read_times = _micros(impressions["timestamp"], "timestamp of impressions")
    return _build(events, read_users, read_times, items, config)


def snapshot(
    events: pa.Table,
    as_of: datetime.datetime | int,
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32] | None = None,
) -> Snapshot:
    """Profiles of every user of `events` as of a moment (microseconds, or a datetime with a time zone).

    Arguments, rules and errors are those of `build_profiles`; only events strictly before `as_of` are seen.
    """
    if isinstance(as_of, datetime.datetime):
        if as_of.tzinfo is None:
            raise bad_value("as_of", as_of.isoformat(), "a datetime with a time zone")
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        as_of = (as_of - epoch) // datetime.timedelta(microseconds=1)
    users = pc.unique(_ids(events["user_id"], "user_id of events"))
    users = users.take(pc.sort_indices(users))
    items = _Items.of(item_ids, item_tokens, idf)
    return Snapshot(users, _build(events, users, np.full(len(users), as_of, np.int64), items, config))


class _Items(NamedTuple):
    """Items in the order of their ids, so that nothing depends on the order of a table."""

    ids: pa.Array
    tokens: Jagged
    token_weights: npt.NDArray[np.float32]
    """[nnz], or [0] where every weight is 1."""
    idf: npt.NDArray[np.float64]

    @classmethod
    def of(cls, item_ids: Any, item_tokens: Jagged, idf: npt.NDArray[np.float32] | None) -> _Items:
        ids = _ids(item_ids, "item_id of items")
        if len(ids) != item_tokens.rows:
            raise bad_value("item_tokens", f"{item_tokens.rows} lists", f"one for each of {len(ids)} items")
        if len(pc.unique(ids)) != len(ids):
            raise bad_value("item_ids", "repeated ids", "unique")
        size = int(item_tokens.values.max()) + 1 if len(item_tokens.values) else 0
        if len(item_tokens.values) and item_tokens.values.min() < 0:
            raise bad_value("token id", int(item_tokens.values.min()), ">= 0", where="item_tokens")
        if idf is None:
            idf = np.ones(size, np.float32)
        if len(idf) < size:
            raise bad_value("idf", f"{len(idf)} values", f"a value for each of {size} token ids")
        if not (np.isfinite(idf) & (idf > 0)).all():
            raise bad_value("idf", "values of 0, below 0 or not finite", "above 0 and finite")
        order = pc.sort_indices(ids)
        tokens = item_tokens.take(order.to_numpy().astype(np.int64))
        weights = np.empty(0, np.float32) if tokens.weights is None else tokens.weights
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise bad_value("weights of item_tokens", "values below 0 or not finite", ">= 0 and finite")
        return cls(ids.take(order), tokens, weights, idf.astype(np.float64))


def _build(
    events: pa.Table,
    read_users: pa.Array,
    read_times: npt.NDArray[np.int64],
    items: _Items,
    config: ProfileConfig,
) -> dict[str, Profiles]:
    users = pc.unique(read_users)
    read_codes = _codes(read_users, users, "user_id")
    nothing = np.empty(0, np.int64), np.empty(0, np.float64)
    reads, read_starts = decay.sort_rows(read_codes, read_times, *nothing, len(users))
    read_times = read_times[reads]

    kinds = events["event"].combine_chunks()
    types = config.types_among(pc.unique(kinds).drop_null().to_pylist())
    user_codes = _codes(_ids(events["user_id"], "user_id of events"), users, "user_id")
    item_codes = _codes(_ids(events["item_id"], "item_id of events"), items.ids, "item_id")
    times = _micros(events["timestamp"], "timestamp of events")
    values = _values(events)

    room = (min(int((user_codes >= 0).sum()), len(reads)) + 1) * config.top_k
    ids, shares = np.empty(room, np.int32), np.empty(room, np.float32)
    profiles = {}
    for event_type in types:
        mine = pc.equal(kinds, event_type).fill_null(False).to_numpy(zero_copy_only=False)
        # Equal moments are put in order too, since a sum of doubles depends on its order.
        rows, starts = decay.sort_rows(np.where(mine, user_codes, -1), times, item_codes, values, len(users))
        profiles[event_type] = _read(
            reads, read_starts, read_times, (starts, times[rows], item_codes[rows], values[rows]),
            items, config, event_type, ids, shares,
        )  # fmt: skip
    return profiles


def _read(
    reads: npt.NDArray[np.int64],
    read_starts: npt.NDArray[np.int64],
    read_times: npt.NDArray[np.int64],
    events: tuple[npt.NDArray[Any], ...],
    items: _Items,
    config: ProfileConfig,
    event_type: str,
    ids: npt.NDArray[np.int32],
    shares: npt.NDArray[np.float32],
) -> Profiles:
    """Run the kernel over one event type, then put what it read into the order of the impressions."""
    starts, lengths = np.empty(len(reads), np.int64), np.empty(len(reads), np.int64)
    masses = np.empty(len(reads), np.float32)
    trace = decay.new_trace(len(items.idf), config.top_k)
    decay.build(
        *events, read_starts, read_times,
        items.tokens.values, items.tokens.offsets, items.token_weights,
        items.idf, config.weigh_by_idf, config.half_life(event_type), trace,
        ids, shares, starts, lengths, masses,
    )  # fmt: skip
    starts[reads], lengths[reads], masses[reads] = starts.copy(), lengths.copy(), masses.copy()
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    weights = np.empty(offsets[-1], np.float32)
    lists = Jagged(np.empty(offsets[-1], np.int32), offsets, weights)
    decay.scatter(ids, shares, starts, offsets, lists.values, weights)
    return Profiles(lists, masses)


class _Trace:
    """What one user's events of one type have left; sparse, and dense in the scratch while one is added."""

    __slots__ = ("head", "mass", "newest", "pending", "settled", "tokens", "weights")

    def __init__(self) -> None:
        self.tokens = np.empty(0, np.int32)
        self.weights = np.empty(0, np.float64)
        self.head = np.zeros(3, np.int64)
        self.mass = np.zeros(1)
        self.settled: int | None = None
        """The time of the newest event that is in the weights."""
        self.newest: int | None = None
        self.pending: list[tuple[int, float]] = []
        """The (item, value) of events at `newest`: others at the same moment may still come, in any order."""


class ProfileState:
    """Live profiles: apply events as they come, read a list at any later moment.

    After the same events it gives, bit for bit, what `build_profiles` gives, as long as no event of a user
    and type is earlier than one before it; such a late event counts as what is left of it, up to rounding.
    """

    def __init__(
        self,
        item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
        item_tokens: Jagged,
        config: ProfileConfig,
        idf: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Start without any event; arguments as of `build_profiles`, but the config names event types."""
        if not config.event_types:
            raise bad_value("event_types", "()", "given", where="profiles of a stream")
        self._config = config
        self._items = _Items.of(item_ids, item_tokens, idf)
        self._rows = {item: row for row, item in enumerate(self._items.ids.to_pylist())}
        self._traces: dict[tuple[Hashable, str], _Trace] = {}
        self._scratch = decay.new_trace(len(self._items.idf), config.top_k)

    def apply(self, event: Event) -> ProfileList | None:
        """Take one event; the user's list of its type right after it, or None for a type without profiles.

        Raises:
            CaptionaryError: a value that is negative or not finite.
        """
        if event.event not in self._config.event_types:
            return None
        value = 1.0 if event.value is None else float(event.value)
        if not 0 <= value <= _MAX_VALUE:
            raise _bad_event_value(value, "stream")
        trace = self._traces.setdefault((event.user_id, event.event), _Trace())
        entry = (self._rows.get(event.item_id, -1), value)
        if trace.newest is not None and event.timestamp < trace.newest:
            self._settle(trace, event.event, [entry], event.timestamp)
        else:
            if trace.newest is not None and event.timestamp > trace.newest:
                self._settle(trace, event.event, trace.pending, trace.newest)
                trace.pending = []
            trace.newest = event.timestamp
            trace.pending.append(entry)
        return self.read(event.user_id, event.event, trace.newest + 1)

    def read(self, user_id: Hashable, event_type: str, as_of: int) -> ProfileList:
        """The list as of a moment (microseconds), of the events strictly before it.

        Raises:
            CaptionaryError: an event type without profiles; a moment at or before an event that later ones
            followed.
        """
        if event_type not in self._config.event_types:
            raise bad_value("event type", event_type, nearest(event_type, self._config.event_types))
        trace = self._traces.get((user_id, event_type))
        if trace is None:
            return ProfileList(np.empty(0, np.int32), np.empty(0, np.float32), 0.0)
        if trace.settled is not None and as_of <= trace.settled:
            raise bad_value("as_of", as_of, f"after {trace.settled}, the user's last event but the newest")
        self._load(trace)
        if trace.newest is not None and trace.newest < as_of:
            self._add(trace.pending, trace.newest, event_type)
        ids, shares = np.empty(self._config.top_k, np.int32), np.empty(self._config.top_k, np.float32)
        count = decay.shares_of(self._scratch, self._items.idf, self._config.weigh_by_idf, ids, shares)
        mass = decay.mass_at(self._scratch, as_of, self._config.half_life(event_type))
        decay.clear(self._scratch)
        return ProfileList(ids[:count].copy(), shares[:count].copy(), float(mass))

    def _settle(
        self, trace: _Trace, event_type: str, entries: list[tuple[int, float]], timestamp: int
    ) -> None:
        self._load(trace)
        self._add(entries, timestamp, event_type)
        weights, active, _, _, _, head, mass = self._scratch
        trace.tokens = active[: head[decay.COUNT]].copy()
        trace.weights = weights[trace.tokens]
        trace.head, trace.mass = head.copy(), mass.copy()
        trace.settled = timestamp if trace.settled is None else max(trace.settled, timestamp)
        decay.clear(self._scratch)

    def _load(self, trace: _Trace) -> None:
        weights, active, _, _, _, head, mass = self._scratch
        weights[trace.tokens] = trace.weights
        active[: len(trace.tokens)] = trace.tokens
        head[:], mass[:] = trace.head, trace.mass
        decay.relist(self._scratch, self._items.idf)

    def _add(self, entries: list[tuple[int, float]], timestamp: int, event_type: str) -> None:
        tokens, parts = self._items.tokens, self._items.token_weights
        for row, value in sorted(entries):
            first, last = (tokens.offsets[row], tokens.offsets[row + 1]) if row >= 0 else (0, 0)
            decay.update(
                self._scratch, self._items.idf, tokens.values[first:last], parts[first:last],
                value, timestamp, self._config.half_life(event_type),
            )  # fmt: skip


def _ids(values: Any, what: str) -> pa.Array:
    """Ids as one Arrow array of int64 or string."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_null(array.type):
        return array.cast(pa.string())
    raise bad_value(what, str(array.type), "int64 or string")


def _codes(ids: pa.Array, known: pa.Array, what: str) -> npt.NDArray[np.int64]:
    """The place of each id among the known ones, int64; -1 for the others."""
    if not len(ids) or not len(known):
        return np.full(len(ids), -1, np.int64)
    if ids.type != known.type:
        raise bad_value(f"{what} of events", str(ids.type), f"{known.type}, as in the other table")
    codes = pc.index_in(ids, value_set=known).fill_null(-1)
    return codes.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _micros(column: Any, what: str) -> npt.NDArray[np.int64]:
    if column.null_count:
        raise bad_value(what, "null", "given", where=f"{column.null_count} rows")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif not pa.types.is_int64(column.type):
        raise bad_value(what, str(column.type), "timestamp, or int64 in microseconds")
    return column.cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def _values(events: pa.Table) -> npt.NDArray[np.float64]:
    if "value" not in events.column_names:
        return np.ones(len(events))
    try:
        column = events["value"].cast(pa.float64())
    except pa.ArrowInvalid:
        raise bad_value("value of events", str(events["value"].type), "a number") from None
    values: npt.NDArray[np.float64] = column.fill_null(1.0).to_numpy()
    wrong = ~((values >= 0) & (values <= _MAX_VALUE))
    if wrong.any():
        raise _bad_event_value(float(values[wrong][0]), f"events, row {int(np.flatnonzero(wrong)[0])}")
    return values


def _bad_event_value(value: float, where: str) -> CaptionaryError:
    return bad_value("value", value, f"from 0 to {_MAX_VALUE:g}, or null for 1", where=where)
