"""Whether profiles know what had not happened yet: the leakage test, for our own builder and for anybody's tables.

Three questions, from proof to suspicion:

- `probe`: does a *builder* give other lists as of a moment when events at or after it are taken away, or shuffled?
- `check_profiles`: do *finished profiles* hold a token that no strictly earlier event can have brought, whatever the
  formula? And, with a config, are they the lists that the definition gives?
- `check_tables`: do the *tables* invite a leak: events at the impression's own moment, events of the impression itself
  logged before it, a clock too coarse to tell before from after?
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import EventRows, IdCodes, ids_of, micros
from captionary.represent.profiles import ProfileConfig, Profiles, build_profiles

__all__ = ["Finding", "LeakageReport", "check_profiles", "check_tables", "probe"]

_SHOWN = 3
_HOUR = 3_600_000_000
_CLOCKS = (("day", 24 * _HOUR), ("hour", _HOUR), ("minute", _HOUR // 60), ("second", 1_000_000))


class Finding(NamedTuple):
    """One thing that was found."""

    verdict: Literal["leak", "differs", "suspect", "note"]
    """leak: the future shows, proven; differs: not the lists of the definition; suspect: a pattern that a leak would
    leave; note: worth knowing, no fault."""
    what: str
    rows: int
    """Impressions concerned."""
    of: int
    """Impressions looked at."""
    examples: tuple[str, ...] = ()
    """The first of them, in words."""

    def to_string(self) -> str:
        """One line, and one for each example."""
        head = f"{self.verdict}: {self.what} ({self.rows:,} of {self.of:,} impressions)"
        return "\n".join([head, *(f"    {example}" for example in self.examples)])


class LeakageReport(NamedTuple):
    """What was asked and what was found."""

    asked: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def leaks(self) -> int:
        """Findings that are proven leaks."""
        return sum(finding.verdict == "leak" for finding in self.findings)

    def to_string(self) -> str:
        """The findings, worst first, then what was asked."""
        order = ("leak", "differs", "suspect", "note")
        found = sorted(self.findings, key=lambda finding: order.index(finding.verdict))
        lines = [finding.to_string() for finding in found]
        return "\n".join([*lines, *(f"asked: {question}" for question in self.asked)])


Builder = Callable[[pa.Table, pa.Table], Mapping[str, Profiles]]


def probe(
    build: Builder,
    events: pa.Table,
    impressions: pa.Table,
    *,
    cuts: int = 3,
    sample: int = 20_000,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Ask a builder for lists up to a moment, with the events from then on as they are, taken away, and shuffled.

    Args:
        build: (events, impressions) -> event type -> profiles, row i of impression i; any code.
        events, impressions: in the data contract.
        cuts: how many moments of each user, drawn from their impressions, >= 1.
        sample: at most so many impressions; users are drawn, and of a user all events and impressions are taken.
        seed: of the draw and of the shuffling.

    Returns:
        A finding for each way in which some list changed; none: nothing after a moment changed a list as of it.

    Raises:
        CaptionaryError: no impressions; what `build` raises.
    """
    if cuts < 1:
        raise bad_value("cuts", cuts, ">= 1")
    if not len(impressions):
        raise bad_value("impressions", "no rows", "at least one")
    events, impressions = _sampled(events, impressions, sample, seed)
    times = micros(impressions["timestamp"], "timestamp of impressions")
    when = micros(events["timestamp"], "timestamp of events")
    readers = ids_of(impressions["user_id"], "user_id of impressions")
    users = IdCodes(pc.unique(readers))
    of_read = users.codes(readers, "user_id")
    of_event = users.codes(ids_of(events["user_id"], "user_id of events"), "user_id of events")
    rng = np.random.default_rng(seed)
    changed: dict[str, tuple[npt.NDArray[np.bool_], list[str]]] = {}
    for _ in range(cuts):
        # Each user is cut at an impression of their own, so that a builder that looks seconds ahead shows it too.
        dealt = rng.permutation(len(times))
        moment = times[dealt[np.unique(of_read[dealt], return_index=True)[1]]]
        early, future = (np.flatnonzero(side) for side in (when < moment[of_event], when >= moment[of_event]))
        past = np.flatnonzero(times <= moment[of_read])
        reads = impressions.take(past)
        # Who did it and when stay; which item, event and value do not.
        dealt = rng.permutation(future)
        mixed = events.take(np.concatenate([early, future]))
        for column in {"item_id", "event", "value"}.intersection(mixed.column_names):
            order = np.concatenate([early, dealt])
            mixed = mixed.set_column(mixed.column_names.index(column), column, events[column].take(order))
        whole = build(events, reads)
        for way, other in (("taken away", events.take(early)), ("shuffled", mixed)):
            again = build(other, reads)
            for event_type, profiles in whole.items():
                differ = _differing(profiles, again.get(event_type), len(reads))
                key = f"lists of {event_type} change when events after them are {way}"
                rows, shown = changed.setdefault(key, (np.zeros(len(times), np.bool_), []))
                rows[past[differ]] = True
                shown += [_named(reads, int(row), "as of", int(times[past[row]])) for row in differ[:_SHOWN]]
    return tuple(
        Finding("leak", what, int(rows.sum()), len(times), tuple(dict.fromkeys(shown))[:_SHOWN])
        for what, (rows, shown) in changed.items()
        if rows.any()
    )


def check_profiles(
    profiles: Mapping[str, Profiles],
    events: pa.Table,
    impressions: pa.Table,
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    *,
    config: ProfileConfig | None = None,
    idf: npt.NDArray[np.float32] | None = None,
    sample: int = 20_000,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Whether finished profiles hold what no strictly earlier event can have brought.

    Args:
        profiles: event type -> lists, row i of row i of `impressions`; made by any code, with any weights.
        events, impressions, item_ids, item_tokens: what they were made of.
        config, idf: with a config, the lists are also compared with those of the definition.
        sample, seed: as of `probe`.

    Raises:
        CaptionaryError: profiles that do not belong to the impressions; as `build_profiles`.
    """
    rows = _rows_of_sample(impressions, sample, seed)
    reads = impressions.take(rows)
    times = micros(reads["timestamp"], "timestamp of impressions")
    found: list[Finding] = []
    for event_type, given in profiles.items():
        if given.lists.rows != len(impressions):
            rule = f"one for each of {len(impressions)} impressions"
            raise bad_value(f"profiles of {event_type}", f"{given.lists.rows} lists", rule)
        taken = Profiles(given.lists.take(rows), given.mass[rows])
        found += _unsupported(taken.lists, event_type, events, reads, times, item_ids, item_tokens)
        if config is not None:
            found += _other(taken, event_type, events, reads, times, (item_ids, item_tokens, config, idf))
    return tuple(found)


def check_tables(
    events: pa.Table,
    impressions: pa.Table,
    labels: Mapping[str, npt.NDArray[Any]],
    *,
    window_minutes: float = 60.0,
) -> tuple[Finding, ...]:
    """Patterns in the tables that a leak would leave. Heuristics: what they find is to be looked at, not proven.

    Args:
        events, impressions: in the data contract.
        labels: event type -> 0 or 1 for each impression, of the task that the event answers.
        window_minutes: how long before its impression an event may be logged and still be taken for its answer, > 0.
    """
    if not window_minutes > 0:
        raise bad_value("window_minutes", window_minutes, "> 0")
    times = micros(impressions["timestamp"], "timestamp of impressions")
    reads = pl.DataFrame(
        {
            "row": np.arange(len(times)),
            "user": pl.from_arrow(ids_of(impressions["user_id"], "user_id of impressions")),
            "item": pl.from_arrow(ids_of(impressions["item_id"], "item_id of impressions")),
            "time": times,
        }
    )
    log = pl.DataFrame(
        {
            "user": pl.from_arrow(ids_of(events["user_id"], "user_id of events")),
            "item": pl.from_arrow(ids_of(events["item_id"], "item_id of events")),
            "kind": pl.from_arrow(pc.cast(events["event"].combine_chunks(), pa.string())),
            "at": micros(events["timestamp"], "timestamp of events"),
        }
    )
    found = list(_coarse(times, log["at"].to_numpy()))
    tied = (
        reads.join(log, left_on=["user", "time"], right_on=["user", "at"], how="semi")["row"]
        .sort()
        .to_numpy()
    )
    if len(tied):
        what = (
            "the user has an event at the very moment of the impression; our profiles leave it out, "
            "and any that count events up to and including the moment would leak"
        )
        shown = tuple(_named(impressions, row, "at", int(times[row])) for row in tied[:_SHOWN])
        found.append(Finding("note", what, len(tied), len(times), shown))
    for kind, values in labels.items():
        found += _answered_early(kind, np.asarray(values) > 0, reads, log, impressions, window_minutes)
    return tuple(found)


def _coarse(*clocks: npt.NDArray[np.int64]) -> Iterator[Finding]:
    """The coarsest step that all timestamps keep to, where it hides the order of events and impressions."""
    for name, step in _CLOCKS:
        if all(len(clock) and (clock % step == 0).all() for clock in clocks):
            what = (
                f"all timestamps are whole {name}s: what happened within one {name} cannot be told apart, "
                f"and events of the impression's own {name} count for no profile"
            )
            yield Finding("suspect" if step >= _HOUR else "note", what, len(clocks[0]), len(clocks[0]))
            return


def _answered_early(
    kind: str,
    positive: npt.NDArray[np.bool_],
    reads: pl.DataFrame,
    log: pl.DataFrame,
    impressions: pa.Table,
    minutes: float,
) -> Iterator[Finding]:
    """Positive impressions whose own event seems to be logged before them: far more often than for negative ones."""
    pairs = reads.join(log.filter(pl.col("kind") == kind), on=["user", "item"])
    since = pl.col("time") - pl.col("at")
    early = (
        pairs.filter((since > 0) & (since <= round(minutes * 60e6)))
        .group_by("row")
        .agg(since.min().alias("since"))
    )
    has = np.zeros(len(positive), np.bool_)
    has[early["row"].to_numpy()] = True
    yes, no = int((has & positive).sum()), int((has & ~positive).sum())
    yes_of, no_of = int(positive.sum()), int((~positive).sum())
    # Habits repeat, so that a few are chance; a leak makes it the rule among positives and not among negatives.
    if yes < 5 or yes < 0.01 * yes_of or yes / yes_of < 5 * no / max(no_of, 1):
        return
    what = (
        f"the label of {kind} may be in the profile: {yes:,} of {yes_of:,} positive impressions have a {kind} of "
        f"the same user and item in the {minutes:g} minutes before them, against {no:,} of {no_of:,} negative ones; "
        "if that event answers the impression, one of the two clocks is late or early"
    )
    first = early.filter(pl.col("row").is_in(np.flatnonzero(positive))).sort("row").head(_SHOWN)
    shown = tuple(
        _named(
            impressions, row, f"has a {kind} {since / 1e6:g} s earlier, at", int(reads["time"][row]) - since
        )
        for row, since in first.iter_rows()
    )
    yield Finding("suspect", what, yes, yes_of, shown)


def _unsupported(
    lists: Jagged, event_type: str, events: pa.Table, reads: pa.Table, times: npt.NDArray[np.int64],
    item_ids: Any, item_tokens: Jagged,
) -> Iterator[Finding]:  # fmt: skip
    """Tokens on a list that no strictly earlier event of the user and type has: proof, whatever the formula."""
    users = IdCodes(pc.unique(ids_of(reads["user_id"], "user_id of impressions")))
    plain = ProfileConfig(weigh_by_value=False)
    rows = EventRows.of(events, (event_type,), IdCodes(ids_of(item_ids, "item_id of items")), plain)
    log = pl.DataFrame({"user": users.codes(rows.users, "user_id"), "item": rows.items, "at": rows.times})
    log = log.filter((pl.col("user") >= 0) & pl.Series(rows.kinds == 0) & (pl.col("item") >= 0))
    owned = pl.DataFrame(
        {"item": np.repeat(np.arange(item_tokens.rows), item_tokens.lengths), "token": item_tokens.values}
    ).unique()
    brought = log.join(owned, on="item").group_by("user", "token").agg(pl.col("at").min())
    entries = pl.DataFrame(
        {
            "row": np.repeat(np.arange(lists.rows), lists.lengths),
            "token": lists.values,
            "user": np.repeat(users.codes(ids_of(reads["user_id"], "user_id"), "user_id"), lists.lengths),
            "time": np.repeat(times, lists.lengths),
        }
    )
    wrong = entries.join(brought, on=["user", "token"], how="left").filter(
        pl.col("at").is_null() | (pl.col("at") >= pl.col("time"))
    )
    cases = (
        ("that the user's events bring only later", pl.col("at") > pl.col("time")),
        (
            "that the user's events first bring at the very moment of the impression",
            pl.col("at") == pl.col("time"),
        ),
        ("that no event of the user ever brings", pl.col("at").is_null()),
    )
    for which, case in cases:
        part = wrong.filter(case).sort("row", "at", "token")
        if len(part):
            shown = tuple(
                _named(reads, entry["row"], f"lists token {entry['token']}, as of", int(times[entry["row"]]))
                + (f"; first brought at {_moment(entry['at'])}" if entry["at"] is not None else "")
                for entry in part.unique("row", keep="first", maintain_order=True).head(_SHOWN).to_dicts()
            )
            what = f"lists of {event_type} hold tokens {which}"
            yield Finding("leak", what, part["row"].n_unique(), lists.rows, shown)


def _other(
    given: Profiles, event_type: str, events: pa.Table, reads: pa.Table, times: npt.NDArray[np.int64],
    recipe: tuple[Any, ...],
) -> Iterator[Finding]:  # fmt: skip
    """Lists that are not those of the definition, and what would explain them."""
    if event_type not in pc.unique(events["event"].combine_chunks()).to_pylist():
        return

    def built(moments: npt.NDArray[np.int64]) -> Profiles:
        at = reads.set_column(reads.column_names.index("timestamp"), "timestamp", pa.array(moments))
        return build_profiles(events, at, *recipe, types=(event_type,))[event_type]

    differ = _differing(given, built(times), len(reads), exactly=False)
    if not len(differ):
        return
    end = int(micros(events["timestamp"], "timestamp of events").max()) + 1
    day = 24 * _HOUR
    left = differ
    for reason, moments in (
        ("they count the events of the impression's very moment", times + 1),
        ("they count the events of the hour after the impression", times + _HOUR),
        ("they count the events of the impression's whole day (UTC)", (times // day + 1) * day),
        ("they count all events of the user, later ones included", np.full_like(times, end)),
    ):
        still = _differing(given, built(moments), len(reads), exactly=False, mass=False)
        explained = np.setdiff1d(left, still)
        if len(explained):
            shown = tuple(_named(reads, int(row), "as of", int(times[row])) for row in explained[:_SHOWN])
            yield Finding("leak", f"lists of {event_type}: {reason}", len(explained), len(reads), shown)
        left = np.setdiff1d(left, explained)
    if len(left):
        shown = tuple(_named(reads, int(row), "as of", int(times[row])) for row in left[:_SHOWN])
        what = f"lists of {event_type} are not those that this config, idf and log give; another recipe, or a leak"
        yield Finding("differs", what, len(left), len(reads), shown)


def _differing(
    one: Profiles, other: Profiles | None, rows: int, *, exactly: bool = True, mass: bool = True
) -> npt.NDArray[np.int64]:
    """The rows whose lists (and mass) differ; not exactly: weights may by rounding."""
    if other is None:
        return np.flatnonzero(one.mass != 0)
    lengths = one.lists.lengths
    same = lengths == other.lists.lengths
    index = np.flatnonzero(same)
    a, b = one.lists.take(index), other.lists.take(index)
    assert a.weights is not None
    assert b.weights is not None
    close = a.weights == b.weights if exactly else np.isclose(a.weights, b.weights, rtol=1e-4, atol=1e-6)
    good = (a.values == b.values) & close
    whole = np.ones(rows, np.bool_)
    whole[np.repeat(index, a.lengths)[~good]] = False
    if mass:
        whole &= one.mass == other.mass if exactly else np.isclose(one.mass, other.mass, rtol=1e-4)
    return np.flatnonzero(~(same & whole))


def _rows_of_sample(impressions: pa.Table, sample: int, seed: int) -> npt.NDArray[np.int64]:
    """The rows of users drawn until there are `sample` impressions, at least one user."""
    if len(impressions) <= sample:
        return np.arange(len(impressions))
    ids = ids_of(impressions["user_id"], "user_id of impressions")
    users = pc.unique(ids)
    users = users.take(pc.sort_indices(users))
    codes = IdCodes(users).codes(ids, "user_id")
    order = np.random.default_rng(seed).permutation(len(users))
    count = np.searchsorted(np.cumsum(np.bincount(codes, minlength=len(users))[order]), sample, side="right")
    return np.flatnonzero(np.isin(codes, order[: max(int(count), 1)]))


def _sampled(events: pa.Table, impressions: pa.Table, sample: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """The impressions of a draw of users, and their events."""
    reads = impressions.take(_rows_of_sample(impressions, sample, seed))
    users = pc.unique(reads["user_id"].combine_chunks())
    return events.filter(pc.is_in(events["user_id"], value_set=users)), reads


def _named(impressions: pa.Table, row: int, words: str, time: int) -> str:
    key = (
        f"impression {impressions['impression_id'][row]}"
        if "impression_id" in impressions.column_names
        else f"row {row}"
    )
    return f"{key} of user {impressions['user_id'][row]} {words} {_moment(time)}"


def _moment(time: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (epoch + datetime.timedelta(microseconds=time)).isoformat()
