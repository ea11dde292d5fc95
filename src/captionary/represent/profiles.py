"""User profiles: per user and event type, the decayed list of the tokens of what they engaged with.

One fold (`decay.update` over the events that count) serves three faces: `build_profiles` for every impression of
a table, `snapshot` for all users as of a time, and `stream.ProfileState` for a live stream. All three see events
strictly earlier than the moment asked about: an event at the same microsecond is the future. For logs that do not
fit into memory see `parquet.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import bad_value, nearest
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import EventRows, IdCodes, Items, ids_of, micros

__all__ = [
    "Event",
    "ProfileConfig",
    "ProfileList",
    "Profiles",
    "SharedProfiles",
    "Snapshot",
    "build_profiles",
    "snapshot",
]

_DAY = 86_400_000_000  # microseconds


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
    last_events: int | None = None
    """Of each user and type only the last so many events count, >= 1; None: all."""
    last_days: float = math.inf
    """Only events at most so many days old count, > 0; .inf: all."""
    per_item: int | None = None
    """Of each item only a user's latest so many events of a type count, >= 1; None: all."""
    repeat_weight: float = 1.0
    """What a further event of one item counts, 0 to 1: from the latest back 1, r, r^2, ...; 1: all alike."""
    weigh_by_value: bool = True
    """Whether an event counts its value, such as the share watched; false: every event counts 1."""
    value_max: float = math.inf
    """A larger value counts as this, > 0."""
    value_missing: float = 1.0
    """What an event counts whose value is null or NaN, >= 0."""

    def __post_init__(self) -> None:
        if not self.half_life_days > 0:
            raise bad_value("half_life_days", self.half_life_days, "> 0")
        for event_type, days in self.half_life_days_of.items():
            if not days > 0:
                raise bad_value(f"half_life_days_of {event_type}", days, "> 0")
        if self.top_k < 1:
            raise bad_value("top_k", self.top_k, ">= 1 tokens")
        if not self.last_days > 0:
            raise bad_value("last_days", self.last_days, "> 0")
        for name in ("last_events", "per_item"):
            least = getattr(self, name)
            if least is not None and least < 1:
                raise bad_value(name, least, ">= 1, or null for all")
        if not 0 <= self.repeat_weight <= 1:
            raise bad_value("repeat_weight", self.repeat_weight, "0 to 1")
        if not self.value_max > 0:
            raise bad_value("value_max", self.value_max, "> 0")
        if not 0 <= self.value_missing < math.inf:
            raise bad_value("value_missing", self.value_missing, ">= 0 and finite")
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

    @property
    def capped(self) -> bool:
        """Whether an event can cease to count for another reason than decay."""
        return self.caps != (0, 0, 0, 1.0)

    @property
    def caps(self) -> tuple[int, int, int, float]:
        """(last_events, last_micros, per_item, repeat_weight), as the kernels take them; 0, 0, 0, 1: none."""
        horizon = 0 if math.isinf(self.last_days) else max(1, round(self.last_days * _DAY))
        return self.last_events or 0, horizon, self.per_item or 0, self.repeat_weight


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


class SharedProfiles(NamedTuple):
    """The profiles of N moments, where moments of a user between two events share one list."""

    lists: Jagged
    """L lists, as of `Profiles`; the first is empty."""
    list_of: npt.NDArray[np.int64]
    """[N] which list each moment has."""
    mass: npt.NDArray[np.float32]
    """[N] as of `Profiles`."""

    def whole(self) -> Profiles:
        """A list of its own for every moment."""
        from captionary.represent.grouping import scatter

        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lists.lengths[self.list_of])])
        values, weights = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
        shares = self.lists.weights
        scatter(self.lists.values, shares, self.lists.offsets[self.list_of], offsets, values, weights)
        return Profiles(Jagged(values, offsets, weights), self.mass)


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
    *,
    engine: Literal["local", "ray"] = "local",
    threads: int | None = None,
    types: Sequence[str] | None = None,
) -> dict[str, Profiles]:
    """Point-in-time profiles for every impression.

    Args:
        events: user_id, item_id, event, timestamp and maybe value, rows in any order. The tokens of an item that
            `item_ids` does not hold are unknown: its events count for the mass and `last_events` alone.
        impressions: user_id and timestamp; N rows in any order.
        item_ids: I ids, unique.
        item_tokens: the token list of each item, I rows; its weights, where it has some, scale the event's.
        config: half-lives, caps, list length.
        idf: float32 [V], above 0; None: every token alike. See `frequency.py` for one that cannot leak.
        engine: ray shards by user over a cluster (`ray_profiles.py`); the result is the same to the bit.
        threads: of the local engine; None: one for each CPU this process may use. No result depends on it.
        types: event types to make profiles of, whether they occur in this table or not; None: as the config says.

    Returns:
        event type -> `Profiles`, whose row i belongs to impression i. The result does not depend on the order
        of the rows of any table.

    Raises:
        CaptionaryError: an event type of the config that does not occur; ids of unlike types; values that are
            negative; a timestamp that is missing; an idf or token list that does not fit.
    """
    if engine == "ray" and types is None:
        from captionary.represent.ray_profiles import build_on_ray

        return build_on_ray(events, impressions, item_ids, item_tokens, config, idf)
    if engine != "local":
        raise bad_value("engine", engine, nearest(engine, ("local", "ray")) + ", the latter without types")
    items = Items.of(item_ids, item_tokens, idf)
    read_users = ids_of(impressions["user_id"], "user_id of impressions")
    read_times = micros(impressions["timestamp"], "timestamp of impressions")
    return _build(events, read_users, read_times, items, config, threads, types)


def snapshot(
    events: pa.Table,
    as_of: datetime.datetime | int,
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32] | None = None,
    *,
    threads: int | None = None,
) -> Snapshot:
    """Profiles of every user of `events` as of a moment (microseconds, or a datetime with a time zone).

    Arguments, rules and errors are those of `build_profiles`; only events strictly before `as_of` are seen.
    """
    if isinstance(as_of, datetime.datetime):
        if as_of.tzinfo is None:
            raise bad_value("as_of", as_of.isoformat(), "a datetime with a time zone")
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        as_of = (as_of - epoch) // datetime.timedelta(microseconds=1)
    users = pc.unique(ids_of(events["user_id"], "user_id of events"))
    users = users.take(pc.sort_indices(users))
    items = Items.of(item_ids, item_tokens, idf)
    moments = np.full(len(users), as_of, np.int64)
    return Snapshot(users, _build(events, users, moments, items, config, threads))


def _build(
    events: pa.Table,
    read_users: pa.Array,
    read_times: npt.NDArray[np.int64],
    items: Items,
    config: ProfileConfig,
    threads: int | None,
    types: Sequence[str] | None = None,
) -> dict[str, Profiles]:
    from captionary.represent.builder import ProfileBuilder

    types = (
        tuple(types)
        if types is not None
        else config.types_among(pc.unique(events["event"].combine_chunks()).drop_null().to_pylist())
    )
    builder = ProfileBuilder(items, types, config, threads=threads)
    rows = EventRows.of(events, types, IdCodes(items.ids), config)
    built = builder.advance(rows, read_users, read_times, last=True)
    return {event_type: shared.whole() for event_type, shared in built.items()}
