"""Which items there are, for pages: newest uploads, items with a word, items like another, a sample to rank.

A page never reads the whole store, of a million items neither. What it lists comes of an index in memory:

    the export's items and tokens ──once──▶ word → items (postings)     built at the first question, in a thread
    uploads that the log has settled ──since the last look──▶ recent    a bounded number a look

and is then looked up in the store by id, so that what was forgotten, or captioned anew, is never shown as it was.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from captionary.errors import CaptionaryError
from captionary.online.items import ItemRecord
from captionary.online.log import MEDIA, MediaMessage
from captionary.online.packing import Id

if TYPE_CHECKING:
    from captionary.online.service.services import Services
    from captionary.represent.jagged import Jagged

__all__ = ["Catalogue", "Near", "Postings"]

_LOOK_BACK = 20_000
"""Positions of the log that the first look for uploads goes back."""
_AT_ONCE = 2000
_RECENT = 1000
"""Uploads that are remembered."""
_LOOK_SECONDS = 1.0
_MOST_POSTINGS = 2_000_000
"""Items that one question for likeness goes through: words that all items have are left out first."""
_decode = msgspec.json.Decoder(MediaMessage).decode


class Near(NamedTuple):
    """An item like another."""

    record: ItemRecord
    likeness: float
    """Cosine of the idf-weighted sets of words, 0 to 1."""
    shared: tuple[int, ...]
    """Tokens that both have, the rarest first."""


class Postings:
    """Word → items, of the I items of an export.

    Args:
        lists: [I] token lists.
        idf: float32 [V].
    """

    def __init__(self, lists: Jagged, idf: npt.NDArray[np.float32]) -> None:
        self.count, self.idf = lists.rows, idf.astype(np.float64)
        known = (lists.values >= 0) & (lists.values < len(idf))
        offsets = np.concatenate([[0], np.cumsum(known)])[lists.offsets]
        marks, shape = np.ones(int(offsets[-1]), np.bool_), (self.count, len(idf))
        # Rows to columns by counting, not by sorting: a second for a million items.
        by_token = sparse.csr_matrix((marks, lists.values[known], offsets), shape=shape).tocsc()
        token = np.repeat(np.arange(len(idf)), np.diff(by_token.indptr))
        items = by_token.indices.astype(np.int32, copy=False)
        first = np.ones(len(items), np.bool_)  # an item that says a word twice has it once
        first[1:] = (items[1:] != items[:-1]) | (token[1:] != token[:-1])
        self._items: npt.NDArray[np.int32] = items[first]
        token = token[first]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(token, minlength=len(idf)))])
        weight = np.bincount(self._items, self.idf[token] ** 2, self.count)
        self._norm = np.sqrt(np.maximum(weight, 1e-12))

    def of(self, token: int) -> npt.NDArray[np.int32]:
        """Places of the items with a word, ascending."""
        if not 0 <= token < len(self.idf):
            return self._items[:0]
        return self._items[self._starts[token] : self._starts[token + 1]]

    def nearest(self, tokens: Iterable[int], most: int) -> list[int]:
        """Places of the items with the most in common, the best first; rare words count more (idf)."""
        scores = np.zeros(self.count)
        left = _MOST_POSTINGS
        for token in sorted(set(tokens), key=lambda token: len(self.of(token))):
            places = self.of(token)
            if len(places) > left:
                break
            left -= len(places)
            scores[places] += self.idf[token] ** 2  # each item once: pairs are unique
        found = np.flatnonzero(scores)
        likeness = scores[found] / self._norm[found]
        if len(found) > most:
            best = np.argpartition(-likeness, most - 1)[:most]
            found, likeness = found[best], likeness[best]
        order = np.lexsort((found, -likeness))
        return [int(place) for place in found[order]]


class Catalogue:
    """Items of a running service; for any number of threads. Every method blocks."""

    def __init__(self, services: Services) -> None:
        self.services = services
        loaded = services.rankers.loaded
        with_tokens = [one for one in loaded.values() if one.parts.tokens is not None]
        self._parts = (with_tokens or [services.rankers[services.rankers.default]])[0].parts
        self._ids = self._parts.item_rows.vocabulary.ids
        self._lock = threading.Lock()
        self._postings: Postings | None = None
        self._recent: OrderedDict[Id, None] = OrderedDict()
        self._seen: int | None = None
        self._looked = 0.0

    def __len__(self) -> int:
        """Items of the export; uploads come on top."""
        return len(self._ids)

    def newest(self, most: int) -> list[ItemRecord]:
        """What was uploaded last and is visible, the newest first."""
        self._look()
        with self._lock:
            ids = list(islice(reversed(self._recent), 2 * most))
        found = [record for record in self.services.store.items(ids) if record is not None]
        return sorted(found, key=lambda record: -record.visible_at)[:most]

    def sample(self, most: int, seed: int, without: Iterable[Id] = ()) -> list[ItemRecord]:
        """Items to rank: uploads of late and others by lot, the same for the same seed; never one without a record."""
        left_out = set(without)
        chosen = {
            record.item_id: record for record in self.newest(most // 4) if record.item_id not in left_out
        }
        count, draw = len(self._ids), random.Random(seed)
        places = draw.sample(range(count), min(count, 3 * most + len(left_out)))
        ids = [item for item in map(self._id, places) if item not in left_out and item not in chosen]
        while ids and len(chosen) < most:  # again only where items of the export were forgotten
            taken, ids = ids[: most - len(chosen)], ids[most - len(chosen) :]
            found = [record for record in self.services.store.items(taken) if record is not None]
            chosen |= {record.item_id: record for record in found}
            if len(found) < len(taken) // 2:
                break
        return list(chosen.values())

    def page(self, offset: int, most: int) -> list[ItemRecord]:
        """Items of the export in its order, from a place on; those that were forgotten are left out."""
        ids = [self._id(place) for place in range(max(offset, 0), min(offset + most, len(self._ids)))]
        return [record for record in self.services.store.items(ids) if record is not None]

    def with_word(self, token: int, offset: int, most: int) -> tuple[list[ItemRecord], int]:
        """(items of the export with a word, from the offset on; how many there are in all)."""
        places = self._index().of(token)
        ids = [self._id(int(place)) for place in places[max(offset, 0) : max(offset, 0) + most]]
        found = [record for record in self.services.store.items(ids) if record is not None]
        return [record for record in found if token in record.token_ids], len(places)

    def nearest(self, record: ItemRecord, most: int) -> list[Near]:
        """Items with the most words in common, uploads of late among them."""
        mine = set(record.token_ids.tolist())
        if not mine:
            return []
        ids = dict.fromkeys(self._id(place) for place in self._index().nearest(mine, 3 * most + 1))
        self._look()
        with self._lock:
            ids |= dict.fromkeys(islice(reversed(self._recent), 200))
        ids.pop(record.item_id, None)
        near = [
            self._likeness(mine, other)
            for other in self.services.store.items(list(ids))
            if other is not None and len(other.token_ids)
        ]
        near = [one for one in near if one.shared]
        return sorted(near, key=lambda one: (-one.likeness, str(one.record.item_id)))[:most]

    def _likeness(self, mine: set[int], other: ItemRecord) -> Near:
        theirs = set(other.token_ids.tolist())
        shared = sorted(mine & theirs, key=lambda token: (-self._weight([token]), token))
        both = (self._weight(mine) * self._weight(theirs)) ** 0.5
        return Near(other, self._weight(shared) / both if both > 0 else 0.0, tuple(shared))

    def _weight(self, tokens: Iterable[int]) -> float:
        idf = self.services.words.idf
        return float(sum(float(idf[token]) ** 2 for token in tokens if 0 <= token < len(idf)))

    def _id(self, place: int) -> Id:
        found: Id = self._ids[place].as_py()
        return found

    def _index(self) -> Postings:
        with self._lock:
            if self._postings is None:
                lists = self._parts.tokens
                if lists is None:
                    from captionary.represent.jagged import Jagged

                    lists = Jagged(np.empty(0, np.int32), np.zeros(len(self._ids) + 1, np.int64))
                self._postings = Postings(lists, self.services.words.idf)
            return self._postings

    def _look(self) -> None:
        """Learn of uploads that were settled since; a log that does not answer has none."""
        with self._lock:
            now = time.monotonic()
            if self._seen is not None and now - self._looked < _LOOK_SECONDS:
                return
            self._looked, log = now, self.services.log
            try:
                if self._seen is None:
                    self._seen = max(0, log.last(MEDIA) - _LOOK_BACK)
                # Entries settle in any order: from the floor on they are read again, which changes nothing.
                floor = log.floor(MEDIA)
                settled = list(islice(log.settled(MEDIA, after=self._seen), _AT_ONCE))
            except CaptionaryError:
                return
            for one in settled:
                item = _decode(one.entry.payload).item_id
                self._recent[item] = None
                self._recent.move_to_end(item)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            last = settled[-1].entry.position if len(settled) == _AT_ONCE else floor
            self._seen = max(self._seen, min(floor, last))
