"""User profiles in words: a language model says what a user likes, from the captions of the user's items (as RLMRec
does, Ren et al. 2024), and the words become a dense vector of the user.

    events before a moment ──liked_captions──▶ captions by user ──write_profiles──▶ text by user ──▶ vectors by user
                                                 prompt, model, store of answers ┘

**What a profile may know.** It is as of a moment and made of strictly earlier events. An impression gets the profile of
the latest moment at or before it, and none before the first (`rows_as_of`). With the start of evaluation as the only
moment, no training impression would have a profile and the ranker could not learn to read them; given that profile all
the same, training impressions would see their own labels. So give several moments within the time of training as well:
a user whose prompt has not changed since the last one is not paid for again.
"""

from __future__ import annotations

import datetime
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from captionary.errors import bad_value
from captionary.represent.profile_log import micros

__all__ = ["Completer", "TextProfileConfig", "TextStore", "liked_captions", "rows_as_of", "write_profiles"]

Ints = npt.NDArray[np.int64]
Moment = datetime.datetime | int
"""A datetime with a time zone, or microseconds since 1970, UTC."""

_CHUNK = 500  # keys per SELECT, below every build's limit of bound parameters
_TIME = pa.timestamp("us", "UTC")


@dataclass(frozen=True, kw_only=True)
class TextProfileConfig:
    """Which items speak for a user."""

    event_types: tuple[str, ...] = ()
    """Events that show liking; () for all of the log."""
    items: int = 10
    """Most items a profile is written from, >= 1: those of the highest summed value, then the latest."""
    min_items: int = 2
    """Users with fewer items that have a caption get no profile, >= 1."""
    value_missing: float = 1.0
    """What an event without a value counts, >= 0; events that count 0 show no liking."""

    def __post_init__(self) -> None:
        for name in ("items", "min_items"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        if self.min_items > self.items:
            raise bad_value("min_items", self.min_items, f"<= items == {self.items}")
        if not 0 <= self.value_missing < float("inf"):
            raise bad_value("value_missing", self.value_missing, ">= 0")


class Completer(NamedTuple):
    """A language model, and how it is asked."""

    complete: Callable[[Sequence[str]], Sequence[str]]
    """Whole prompts in, answers out, in order: ``captioner.complete`` of `hf:` and `openai:` captioners."""
    fingerprint: str
    """Of the model and its decoding: what was answered under another one is asked again."""
    fill: Callable[[Sequence[str]], str]
    """The prompt for a list of captions, the oldest first:
    ``lambda captions: prompts.load("user_profile").fill(history=captions)``, which cleans and quotes them."""
    batch_size: int = 64
    """Prompts a call, and so the most that a crash can lose, >= 1."""
    failures: tuple[type[Exception], ...] = ()
    """Errors of `complete` that concern the prompts of the call alone, such as ``EndpointError``: these are then asked
    one by one, and those that fail again are marked. All others end the job; what is answered by then is kept, what
    the error itself has in ``answered`` (``StoppedError``) included."""


def liked_captions(
    events: pa.Table,
    item_ids: Sequence[Any] | pa.Array | pa.ChunkedArray,
    captions: Sequence[str | None] | pa.Array | pa.ChunkedArray,
    moments: Sequence[Moment],
    config: TextProfileConfig | None = None,
) -> pa.Table:
    """The captions that speak for each user as of each moment, from strictly earlier events.

    Args:
        events: `user_id`, `item_id`, `event`, `timestamp`, `value` (may be absent).
        item_ids: [I].
        captions: [I]; items with none are passed over.
        moments: as of when.
        config: default: `TextProfileConfig()`.

    Returns:
        `user_id`, `as_of`, `item_ids` and `captions` (lists, the oldest liking first), by moment and user.

    Raises:
        CaptionaryError: no moments, timestamps that are none, or a moment without a time zone.
    """
    config = config or TextProfileConfig()
    if not moments:
        raise bad_value("moments", "(none)", "at least one, such as the start of evaluation")
    columns = {name: events[name] for name in ("user_id", "item_id", "event")}
    values = events["value"] if "value" in events.column_names else pa.nulls(len(events), pa.float64())
    columns |= {
        "value": values.cast(pa.float64()),
        "time": pa.array(micros(events["timestamp"], "timestamp")),
    }
    log = pl.from_arrow(pa.table(columns))
    assert isinstance(log, pl.DataFrame)
    text = pl.DataFrame({"item_id": pl.Series(item_ids), "caption": pl.Series(captions, dtype=pl.String)})
    text = text.filter(pl.col("caption").str.strip_chars().str.len_chars() > 0)
    if config.event_types:
        log = log.filter(pl.col("event").is_in(config.event_types))
    log = log.with_columns(pl.col("value").fill_nan(None).fill_null(config.value_missing))
    log = log.filter(pl.col("value") > 0).join(text, on="item_id")
    return pa.concat_tables(
        [_as_of(log, _micros(moment), config) for moment in sorted(set(moments), key=_micros)]
    )


def write_profiles(
    asked: pa.Table, completer: Completer, store: TextStore, *, progress: bool = False
) -> pa.Table:
    """Let the model write a profile for each row; each different prompt is asked once, and once for all.

    Args:
        asked: what `liked_captions` gives.
        completer: who writes, and how it is asked.
        store: the answers so far; each call's answers are kept before the next one goes out.
        progress: show a bar.

    Returns:
        `asked` without its captions, and with `text` (null where the model failed), `prompt_digest`, `completer`,
        `created_at` (when it was written) and `reason` (of a failure).

    Raises:
        Exception: any of `complete` that is not among `completer.failures`.
    """
    if completer.batch_size < 1:
        raise bad_value("batch_size", completer.batch_size, ">= 1")
    prompts = [completer.fill(captions) for captions in asked["captions"].to_pylist()]
    digests = [_digest(prompt) for prompt in prompts]
    answers = store.get_many(digests, completer.fingerprint)
    missing = {d: prompt for d, prompt in zip(digests, prompts, strict=True) if d not in answers}
    failed: dict[str, str] = {}
    keys = list(missing)
    with tqdm(total=len(keys), desc="profiles", unit="user", disable=not progress) as bar:
        for start in range(0, len(keys), completer.batch_size):
            part = keys[start : start + completer.batch_size]
            for said in _ask(completer, part, [missing[key] for key in part], failed):
                answers |= store.add(completer.fingerprint, said)
            bar.update(len(part))
    found = [answers.get(digest) for digest in digests]
    columns = {
        "text": pa.array([answer and answer.text for answer in found], pa.string()),
        "prompt_digest": pa.array(digests, pa.string()),
        "completer": pa.array([completer.fingerprint] * len(found), pa.string()),
        "created_at": pa.array([answer and answer.created_at for answer in found], _TIME),
        "reason": pa.array([failed.get(digest, "") for digest in digests], pa.string()),
    }
    written = asked.drop_columns(["captions"])
    for name, column in columns.items():
        written = written.append_column(name, column)
    return written


def rows_as_of(profiles: pa.Table, user_ids: pa.ChunkedArray | pa.Array, timestamps: Any) -> Ints:
    """Which row of `profiles` each impression has, int64 [N]; ``len(profiles)`` for none.

    It is the user's profile of the latest moment at or before the impression. A profile without a text hides no older
    one: it is then passed over.

    Args:
        profiles: what `write_profiles` gives: `user_id`, `as_of`, `text`.
        user_ids: [N].
        timestamps: of the impressions, [N].
    """
    none = len(profiles)
    written = np.flatnonzero(profiles["text"].is_valid().to_numpy())
    kept = profiles.take(written)
    users = pc.unique(kept["user_id"])
    moments, place = np.unique(micros(kept["as_of"], "as_of"), return_inverse=True)
    grid = np.full((len(users), len(moments)), none, np.int64)  # the row of each user at each moment
    grid[_places(kept["user_id"], users), place] = written
    for later in range(1, len(moments)):
        grid[:, later] = np.where(grid[:, later] == none, grid[:, later - 1], grid[:, later])
    who = _places(user_ids, users)
    when = np.searchsorted(moments, micros(timestamps, "timestamp"), side="right") - 1
    found = (who >= 0) & (when >= 0)
    rows = np.full(len(who), none, np.int64)
    rows[found] = grid[who[found], when[found]]
    return rows


class Answer(NamedTuple):
    """What a model wrote."""

    text: str
    created_at: datetime.datetime


class TextStore:
    """Answers of language models by prompt and model, in an SQLite file: nothing is paid twice.

    Args:
        path: the file; made, with its folder, where absent.

    Raises:
        CaptionaryError: here and in every method: not such a store, not writable, locked for over 30 s.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_value("store", str(path), "in a writable folder", where=str(error.strerror)) from None
        with self._errors():
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (prompt TEXT NOT NULL, completer TEXT NOT NULL, "
                "text TEXT NOT NULL, created_at INTEGER NOT NULL, PRIMARY KEY (prompt, completer)) WITHOUT ROWID"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get_many(self, prompts: Sequence[str], completer: str) -> dict[str, Answer]:
        """The answers that there are, by the prompt's digest."""
        found: dict[str, Answer] = {}
        keys = sorted(set(prompts))
        with self._errors():
            for start in range(0, len(keys), _CHUNK):
                part = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT prompt, text, created_at FROM answers WHERE completer = ? AND prompt IN ({marks})"
                with closing(self._db.execute(query, (completer, *part))) as rows:
                    found |= {key: Answer(text, _time(at)) for key, text, at in rows}
        return found

    def add(self, completer: str, texts: Mapping[str, str]) -> dict[str, Answer]:
        """Keep the text of each prompt's digest, safe from a crash on return; what is there already stays, and is
        returned."""
        now = _micros(datetime.datetime.now(datetime.UTC))
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)",
                    [(key, completer, text, now) for key, text in texts.items()],
                )
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return self.get_many(list(texts), completer)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            rule = "a store of answers that can be read and written"
            raise bad_value("store", str(self.path), rule, where=str(error)) from None


def _as_of(log: pl.DataFrame, moment: int, config: TextProfileConfig) -> pa.Table:
    liked = (
        log.filter(pl.col("time") < moment)
        .group_by("user_id", "item_id")
        .agg(pl.col("value").sum(), pl.col("time").max(), pl.col("caption").first())
        .sort("value", "time", "item_id", descending=[True, True, False])
        .group_by("user_id", maintain_order=True)
        .head(config.items)
        .sort("user_id", "time", "item_id")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id").alias("item_ids"), pl.col("caption").alias("captions"))
        .filter(pl.col("item_ids").list.len() >= config.min_items)
    )
    table = liked.to_arrow()
    as_of = pa.array(np.full(len(table), moment, np.int64)).cast(_TIME)
    return table.add_column(1, "as_of", as_of)


def _ask(
    completer: Completer, keys: Sequence[str], prompts: Sequence[str], failed: dict[str, str]
) -> Iterator[dict[str, str]]:
    """The answers of each call by key; where the call fails for the prompts' sake they are asked one by one, and what
    fails goes to `failed`."""
    try:
        texts: Sequence[str | None] = completer.complete(prompts)
    except completer.failures as error:
        if len(prompts) == 1:
            failed[keys[0]] = " ".join(str(error).split())[:200] or type(error).__name__
            return
        for key, prompt in zip(keys, prompts, strict=True):
            yield from _ask(completer, [key], [prompt], failed)
        return
    except Exception as error:
        answered = [answer and answer.text for answer in getattr(error, "answered", ())]
        yield {key: text for key, text in zip(keys, map(_plain, answered), strict=False) if text}
        raise
    if len(texts) != len(prompts):
        raise bad_value("answers of complete", len(texts), f"{len(prompts)}, one a prompt")
    plain = dict(zip(keys, map(_plain, texts), strict=True))
    failed |= {key: "empty answer" for key, text in plain.items() if not text}
    yield {key: text for key, text in plain.items() if text}


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


def _places(ids: pa.ChunkedArray | pa.Array, known: pa.Array) -> Ints:
    """Where each of `ids` is in `known`; -1 for nowhere."""
    places = pc.fill_null(pc.index_in(ids.cast(known.type), value_set=known), -1)
    whole = places.combine_chunks() if isinstance(places, pa.ChunkedArray) else places
    found: Ints = whole.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _digest(prompt: str) -> str:
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _micros(moment: Moment) -> int:
    if isinstance(moment, int):
        return moment
    if moment.tzinfo is None:
        raise bad_value("moment", moment.isoformat(), "a datetime with a time zone")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (moment - epoch) // datetime.timedelta(microseconds=1)


def _time(moment: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=moment)
