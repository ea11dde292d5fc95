"""Gather what the gate may know: exposure before the decision, digests, costs, text, and how pictures look.

items, views ──digest──▶ same media, captioned before, measured latency
             ──sniff───▶ videos, animations, sounds: their key frames, or how many there may be (`gate_streams`)
             ──embed───▶ visual vectors (the encoder alone; kept in the store, where the captioner finds them)
impressions, events before the cut-off ──▶ exposure forecast, weight in profiles
titles and text columns ──▶ how much is said already
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.understand.caption import CaptionReport
from captionary.understand.captioner import embeds
from captionary.understand.gate import FREE, Calls, GateContext, GateDecision
from captionary.understand.gate_forecast import DAY, forecast_exposure
from captionary.understand.gate_lookalike import metadata_space, neighbours, visual_space
from captionary.understand.gate_settings import GateConfig
from captionary.understand.gate_streams import KeyFrames
from captionary.understand.media import (
    LIMITS,
    PERMANENT_REASONS,
    MediaError,
    MediaLimits,
    digest,
    locate,
    open_image,
)
from captionary.understand.store import CaptionStore
from captionary.understand.views import Locate, views_of

__all__ = ["Catalogue", "Looked", "build_context", "carried_out", "hold_back", "look", "mark", "text_says"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_WORD = re.compile(r"[^\W\d_]{2,}")
_INFORMATION = 3.0
"""Words that only this item has, of which a text says half of what a caption would."""
_METADATA = 0.3
"""How much an item that shares all its categories counts as a look-alike; a picture's vector tells far more."""
_MOST_CATEGORIES = 1000
_FOR_GOOD = PERMANENT_REASONS | {
    "remote", "remote_not_allowed", "private_address", "redirect_refused", "too_large",
}  # fmt: skip
"""Refusals that the caption stage will repeat; what fails for another reason may be there again when it comes."""


class Looked(NamedTuple):
    """What the store and the encoder know of the media of I items that the captioner would be invoked on."""

    contents: tuple[tuple[str, ...], ...]
    """Digests of the pictures of each item that the captioner would be asked about: its still pictures, the key frames
    of its streams, and of a stream that was not unfolded yet the stream's own. What was refused is left out."""
    calls: Calls
    """How many captions of this captioner they lack, and have."""
    vectors: npt.NDArray[np.float32]
    """[I, D] mean of the media's, zeros where there is none; D = 0 without an encoder."""
    present: Flags
    """[I] whether the row of `vectors` is one."""
    seconds_each: float | None
    """Mean latency of this captioner's captions in the store, one of each picture; None where it has none."""
    unread: tuple[str, ...] = ()
    """Why a medium of each item could not be read for now, "" where none was; empty: no such item."""

    @property
    def missing(self) -> Ints:
        """[I] captions that are yet to be made, at most."""
        return self.calls.most

    @property
    def media(self) -> Ints:
        """[I] a number for each set of contents, -1 for the empty one."""
        number: dict[tuple[str, ...], int] = {(): -1}
        return np.array(
            [number.setdefault(tuple(sorted(keys)), len(number) - 1) for keys in self.contents], np.int64
        )

    @property
    def captioned(self) -> Flags:
        """[I] whether there are media, and this captioner has captioned all of them."""
        some = np.array([bool(keys) for keys in self.contents], np.bool_)
        return np.asarray(some & (self.missing == 0), np.bool_)


class Catalogue(NamedTuple):
    """The tables that a context is made of, as the data contract has them."""

    items: pa.Table
    """I rows: item_id, created_at, and the columns named below."""
    impressions: pa.Table
    """item_id and timestamp of what may be known; rows at the cut-off or later are not looked at."""
    events: pa.Table
    """The same of the events that profiles are made of."""
    text: Sequence[str] = ("title",)
    """Columns of the items that hold text."""
    categorical: Sequence[str] = ()
    """Columns of the items that hold categories."""


class _Medium(NamedTuple):
    """What the captioner would be asked about a media entry."""

    pictures: tuple[tuple[str, Path], ...] = ()
    """(digest, file) of each."""
    stream: tuple[str, Path] | None = None
    """(digest, file) of a stream whose key frames are not known yet."""
    shown: bool = False
    """Whether the picture that a decoder of pictures finds in the stream is one of it."""
    unread: str = ""
    """Why it cannot be read for now."""


def look(
    items: pa.Table,
    root: Path,
    captioner: Any,
    store: CaptionStore,
    *,
    embed: bool = True,
    batch_size: int = 32,
    threads: int = 2,
    limits: MediaLimits = LIMITS,
    entries: str = "first",
    most: int = 4,
    locate: Locate = locate,
    frames: KeyFrames | None = None,
) -> Looked:
    """Digest the media of every item that would be captioned, look them up, and embed what has no vector yet.

    The encoder alone is run, where the captioner has `embed(images)`; its vectors go to the store, batch by batch. A
    captioner without it, or without vectors, costs nothing here, and the gate compares items by metadata. Videos are
    not decoded: of those that were unfolded before the key frames are looked at, of an animation the first picture.

    Args:
        items: needs the columns `item_id` and `media`.
        root: where relative media entries start.
        captioner: which would be invoked.
        store: of its captions.
        embed: whether the encoder may be run.
        batch_size: pictures that it is given together.
        threads: that read.
        limits: files beyond these are refused.
        entries, most, locate: of the caption stage, see `captionary.understand.caption.caption_items`.
        frames: tells streams from pictures, and what they come to; None: the caption stage captions pictures alone.
    """
    views, _ = views_of(items, entries=entries, most=most)
    with ThreadPoolExecutor(threads, thread_name_prefix="captionary-gate") as pool:
        distinct = list(dict.fromkeys(view.uri for of_item in views for view in of_item))
        read = pool.map(lambda uri: _read(uri, root, limits, locate, frames), distinct)
        found = dict(zip(distinct, read, strict=True))
        pictures = dict(picture for medium in found.values() for picture in medium.pictures)
        shown = dict(m.stream for m in found.values() if m.stream is not None and m.shown)
        keys, paths = list(pictures), shown | pictures
        records = store.get_many(keys, captioner.fingerprint)
        made = {key: record for key, record in records.items() if record.status == "ok"}
        # What media are refused for is kept for all captioners, under the limits.
        records |= store.get_many([key for key in keys if key not in records], limits.fingerprint)
        usable = {key for key in keys if key not in records or records[key].status == "ok"}
        size = int(captioner.vector_size) if embeds(captioner) else 0
        shut: dict[str, str] = {}
        if size and embed and hasattr(captioner, "embed"):
            has = store.has_vectors(paths, captioner.encoder_fingerprint)
            todo = [key for key in paths if key not in has]
            for start in range(0, len(todo), batch_size):
                part = todo[start : start + batch_size]
                shut |= _embed_batch(part, paths, captioner, store, pool, limits)
    known = store.get_vectors(paths, captioner.encoder_fingerprint) if size else {}
    usable -= shut.keys()  # what the encoder could not open, the captioner cannot either
    # A caption without the vector that belongs to it is made again.
    told = {key: record for key, record in made.items() if not size or key in known}
    vectors, present = np.zeros((len(views), size), np.float32), np.zeros(len(views), np.bool_)
    contents, unread = [], []
    most_calls, bound, had = np.zeros((3, len(views)), np.int64)
    calls = Calls(most_calls, bound, had, np.zeros(len(views)))
    for row, of_item in enumerate(views):
        media = [found[view.uri] for view in of_item]
        seen = [key for medium in media for key, _ in medium.pictures]
        kept = [key for key in seen if key in usable]
        streams = list(dict.fromkeys(medium.stream[0] for medium in media if medium.stream is not None))
        lost = {view.uri: medium.unread for view, medium in zip(of_item, media, strict=True) if medium.unread}
        lost |= {key: shut[key] for key in seen if key in shut and shut[key] not in _FOR_GOOD}
        unread.append(next(iter(lost.values()), ""))
        mine = tuple(dict.fromkeys(kept + streams))
        untold = sum(key not in told for key in dict.fromkeys(kept))
        if untold or streams:  # to be captioned anyway: then what may turn up by then is counted, too
            mine += tuple(f"unread {name}" for name in lost)
            calls.bound[row] = (len(streams) + len(lost)) * (1 if frames is None else frames.most)
        contents.append(mine)
        calls.most[row] = untold + calls.bound[row]
        calls.had[row] = len(kept) - untold
        calls.had_seconds[row] = sum(told[key].latency_ms for key in kept if key in told) / 1000
        # As the caption stage: the mean of those that can be captioned, a picture that is there twice counted twice.
        looks = [known[key] for key in kept + streams or seen if key in known]
        if looks:
            vectors[row] = looks[0] if len(looks) == 1 else np.mean(looks, axis=0)
            present[row] = True
    # A near-duplicate's caption was not waited for, so it says nothing about what one takes.
    latencies = [record.latency_ms for record in made.values() if record.latency_ms > 0]
    seconds_each = float(np.mean(latencies)) / 1000 if latencies else None
    return Looked(tuple(contents), calls, vectors, present, seconds_each, tuple(unread))


def build_context(catalogue: Catalogue, looked: Looked, cutoff: int, config: GateConfig) -> GateContext:
    """What is known of every item at `cutoff`, microseconds since 1970, and nothing of what came after."""
    items = catalogue.items
    size = items.num_rows
    created = _micros(items["created_at"])
    item, times = _rows(catalogue.impressions, items["item_id"])
    columns = [_codes(items[name]) for name in catalogue.categorical]
    columns = [column for column in columns if column.max(initial=0) < _MOST_CATEGORIES]
    exposure = forecast_exposure(
        item,
        times,
        created,
        cutoff=cutoff,
        horizon_days=config.horizon_days,
        half_life_days=config.half_life_days,
        category=columns[0] + 1 if columns else None,
    )
    event_item, event_times = _rows(catalogue.events, items["item_id"])
    seconds = config.seconds_per_item or looked.seconds_each
    taken = (math.nan if seconds is None else seconds) * looked.missing.astype(np.float64)
    money = config.price_per_item * looked.missing + config.price_per_second * np.nan_to_num(taken)
    known = created != np.iinfo(np.int64).min
    if looked.present.any():
        likeness = neighbours(visual_space(looked.vectors, looked.present))
    else:
        likeness = neighbours(metadata_space([np.zeros(size, np.int64), *columns]))
        likeness = likeness._replace(similarity=likeness.similarity * np.float32(_METADATA))
    return GateContext(
        cutoff=cutoff,
        exposure=exposure,
        media=looked.media,
        captioned=looked.captioned,
        seconds=taken,
        money=np.asarray(money, np.float64),
        said=text_says(_texts(items, catalogue.text)),
        age=np.where(known, (cutoff - np.where(known, created, cutoff)) / DAY, math.nan),
        likeness=likeness,
        events=np.bincount(event_item[event_times < cutoff], minlength=size).astype(np.float64),
        calls=looked.calls,
        unread=np.array(list(map(bool, looked.unread)), np.bool_) if looked.unread else None,
    )


def text_says(texts: Sequence[str]) -> Floats:
    """How much of what a caption would say each text says, 0 to 1, by its words and how few other texts have them.

    A word in all texts says nothing, one that hardly any other text has says most: "Post 17" among posts is thin,
    "red velvet sofa with oak legs" is not. The information i of a text, in words of its own, makes i / (i + 3).
    """
    words = [set(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for found in words for word in found)
    filled = sum(bool(found) for found in words)
    if filled < 2:
        return np.array([len(found) / (len(found) + _INFORMATION) for found in words])
    said = np.empty(len(texts))
    for row, found in enumerate(words):
        # Summed in a set order: floating point sums depend on it, and a set's order on the process.
        information = math.fsum(
            math.log(filled / frequency[word]) / math.log(filled) for word in sorted(found)
        )
        said[row] = information / (information + _INFORMATION)
    return said


def hold_back(items: pa.Table, decision: GateDecision) -> pa.Table:
    """`items` without the media of those that the captioner is not to be invoked for; what costs nothing stays."""
    held = _held(decision)
    media = [None if out else entries for entries, out in zip(items["media"].to_pylist(), held, strict=True)]
    index = items.schema.get_field_index("media")
    return items.set_column(index, "media", pa.array(media, items.schema.field("media").type))


def mark(captions: pa.Table, decision: GateDecision) -> pa.Table:
    """The captions table of held-back items with the gate's reason in the place of `no_media`."""
    held = pa.array(_held(decision))
    reasons = pa.array([reason or None for reason in decision.reason], pa.string())
    index = captions.schema.get_field_index("reason")
    return captions.set_column(index, "reason", pc.if_else(held, reasons, captions["reason"]))


def carried_out(report: CaptionReport, decision: GateDecision, looked: Looked) -> CaptionReport:
    """The caption stage's report with the gate's reasons, and the vectors of what was looked at and not captioned."""
    captions = mark(report.captions, decision)
    if "gate_unread" in decision.reason and looked.unread:
        why = pa.array([reason or None for reason in looked.unread], pa.string())
        out = pa.array([reason == "gate_unread" for reason in decision.reason])
        index = captions.schema.get_field_index("detail")
        captions = captions.set_column(index, "detail", pc.if_else(out, why, captions["detail"]))
    outcomes = zip(captions["status"].to_pylist(), captions["reason"].to_pylist(), strict=True)
    vectors, present = report.vectors, report.has_vector
    if looked.vectors.shape == vectors.shape:
        vectors = np.where(present[:, None], vectors, looked.vectors)
        present = present | looked.present
    return report._replace(
        captions=captions,
        vectors=vectors,
        has_vector=present,
        skipped=dict(Counter(str(reason) for status, reason in outcomes if status == "skipped")),
    )


def _held(decision: GateDecision) -> Flags:
    return np.array([reason not in FREE for reason in decision.reason], np.bool_)


def _read(uri: str, root: Path, limits: MediaLimits, locate: Locate, frames: KeyFrames | None) -> _Medium:
    try:
        path = locate(uri, root)
        key = digest(path, limits)
    except MediaError as error:
        return _Medium(unread="" if error.reason in _FOR_GOOD else error.reason)
    stream = None if frames is None else frames.of(path, key)
    if stream is None:
        return _Medium(((key, path),))
    if stream.frames is None:
        return _Medium(stream=(key, path), shown=stream.kind == "animation")
    try:
        return _Medium(tuple((digest(frame, limits), frame) for frame in stream.frames))
    except MediaError:  # the folder was tidied up meanwhile: it will be unfolded anew
        return _Medium(stream=(key, path), shown=stream.kind == "animation")


def _embed_batch(
    keys: Sequence[str],
    paths: dict[str, Path],
    captioner: Any,
    store: CaptionStore,
    pool: ThreadPoolExecutor,
    limits: MediaLimits,
) -> dict[str, str]:
    """Store the vectors of these pictures; why those that could not be opened could not."""
    size = int(getattr(captioner, "image_size", 0)) or 448

    def picture(key: str) -> Any:
        try:
            return open_image(paths[key], size, limits=limits)
        except MediaError as error:
            return error.reason

    opened = dict(zip(keys, pool.map(picture, keys), strict=True))
    shut = {key: found for key, found in opened.items() if isinstance(found, str)}
    images = {key: found for key, found in opened.items() if key not in shut}
    if images:
        vectors = captioner.embed(list(images.values()))
        found = dict(zip(images, vectors, strict=True))
        store.put_many([], captioner.fingerprint, encoder=captioner.encoder_fingerprint, vectors=found)
    return shut


def _rows(table: pa.Table, ids: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """(row of the item, microseconds) of the rows of a log whose item and time are known."""
    item = pc.index_in(table["item_id"].combine_chunks(), value_set=ids.combine_chunks())
    times = _micros(table["timestamp"])
    rows = item.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    kept = (rows >= 0) & (times != np.iinfo(np.int64).min)
    return rows[kept], times[kept]


def _micros(column: pa.ChunkedArray) -> Ints:
    whole = pc.fill_null(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), np.iinfo(np.int64).min)
    return np.asarray(whole.to_numpy(), np.int64)


def _codes(column: pa.ChunkedArray) -> Ints:
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _texts(items: pa.Table, columns: Sequence[str]) -> list[str]:
    """All text of each item; a column may hold strings or lists of them."""
    parts: list[list[str]] = [[] for _ in range(items.num_rows)]
    for name in columns:
        for mine, value in zip(parts, items[name].to_pylist(), strict=True):
            mine += [str(part) for part in (value if isinstance(value, list) else [value]) if part]
    return [" ".join(mine) for mine in parts]
