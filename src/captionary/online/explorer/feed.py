"""A feed as a user sees it under each ranker: the same candidates, ranked by each, side by side.

Nothing is logged: no exposure, no request. Whoever looks at a feed here is not the user.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.online.items import ItemRecord
from captionary.online.packing import Id
from captionary.online.service.types import Explain, Pair, RankRequest
from captionary.rank.served import ScoringRequest

if TYPE_CHECKING:
    from captionary.online.explorer.catalogue import Catalogue
    from captionary.online.service.services import Services

__all__ = ["CANDIDATES", "Card", "Column", "Feed", "Feeds", "Moved", "ids_of"]

CANDIDATES = 200
"""Items that are ranked for a page."""
_SHOWN = 10
_COLUMNS = 3
_PAIRS = 3
_SEEN = 200
"""A user's events whose items are not offered again, of each type."""


class Card(NamedTuple):
    """One item at its place of a feed."""

    place: int
    """From 1."""
    record: ItemRecord
    score: float
    elsewhere: int | None
    """Its place in the first column's ranking; None in the first column."""
    why: tuple[Pair, ...]
    """The user's words that met the item's, the most contributing first."""


class Column(NamedTuple):
    """A feed by one ranker."""

    title: str
    ranker: str
    version: str
    arms: tuple[str, ...]
    """`experiment: arm` that get it."""
    mine: bool
    """Whether it is what the user gets."""
    words: bool
    """Whether it reads profiles made of words."""
    cards: tuple[Card, ...]
    degraded: Mapping[str, int]
    milliseconds: float


class Feed(NamedTuple):
    """What the page shows."""

    user: Id
    task: str
    """A task, or "" for all together."""
    candidates: int
    left_out: int
    """Items that the user engaged with of late, which no feed would offer again."""
    columns: tuple[Column, ...]


class Moved(NamedTuple):
    """An item of the user's own feed, and where it was before they changed something."""

    place: int
    record: ItemRecord
    before: int | None
    """Place; None: not among the first ones."""


class Feeds:
    """Makes feeds; for any number of threads. Blocks."""

    def __init__(self, services: Services, catalogue: Catalogue) -> None:
        self.services, self.catalogue = services, catalogue

    def feed(self, user: Id, *, task: str = "", seed: int = 0, why: bool = True) -> Feed:
        """The feed under each ranker.

        Args:
            user: whose.
            task: what to rank by; "": the service's weighted sum.
            seed: which candidates.
            why: whether words that met are looked for, which costs more than the ranking.

        Raises:
            CaptionaryError: a task that is none.
        """
        services = self.services
        if task and task not in services.rankers.tasks:
            raise bad_value("task", task, nearest(task, services.rankers.tasks))
        seen = self._seen(user)
        records = self.catalogue.sample(CANDIDATES, seed, seen)
        names = self._names()
        mine = services.trials.choose(user).ranker
        first: dict[Id, int] = {}
        columns = [self._column(name, user, records, task, why, first, mine=name == mine) for name in names]
        if len(names) == 1 and services.rankers[names[0]].parts.ranker.schema.events:
            columns.append(self._wordless(names[0], user, records, task, first))
        return Feed(user, task, len(records), len(seen), tuple(columns))

    def ranker_of(self, user: Id) -> tuple[str, bool]:
        """(a ranker that shows what the user's words do, whether it is the one they get).

        Their own, where it reads words; else the first that does: nothing that they change would show under theirs.
        """
        mine = self.services.trials.choose(user).ranker
        for name in (mine, *self._names()):
            if self.services.rankers[name].parts.ranker.schema.events:
                return name, name == mine
        return mine, True

    def own(self, user: Id, most: int = 8) -> list[ItemRecord]:
        """The first items by `ranker_of`, always of the same candidates."""
        records = self.catalogue.sample(CANDIDATES, 0, self._seen(user))
        if not records:
            return []
        request = RankRequest(user=user, items=[record.item_id for record in records])
        answer = self.services.ranking.rank(request, ranker=self.ranker_of(user)[0])
        return [records[place] for place in answer.order[:most]]

    def moved(self, user: Id, before: Sequence[Id], most: int = 8) -> list[Moved]:
        """`own`, beside what it was."""
        places = {item: place for place, item in enumerate(before, 1)}
        return [
            Moved(place, record, places.get(record.item_id))
            for place, record in enumerate(self.own(user, most), 1)
        ]

    def _column(
        self,
        name: str,
        user: Id,
        records: Sequence[ItemRecord],
        task: str,
        why: bool,
        first: dict[Id, int],
        *,
        mine: bool,
    ) -> Column:
        services, chosen = self.services, self.services.rankers[name]
        arms = tuple(
            f"{experiment}: {arm}"
            for experiment, found in services.config.arms.items()
            for arm, ranker in found.items()
            if ranker == name
        )
        words = bool(chosen.parts.ranker.schema.events)
        if not records:
            return Column(name, name, chosen.version, arms, mine, words, (), {}, 0.0)
        explain = None
        if why and words:
            explain = Explain(task=task or services.rankers.tasks[0], items=_SHOWN, pairs=_PAIRS)
        request = RankRequest(
            user=user,
            items=[record.item_id for record in records],
            combine={task: 1.0} if task else {},
            explain=explain,
        )
        began = time.perf_counter()
        answer = services.ranking.rank(request, ranker=name)
        spent = 1e3 * (time.perf_counter() - began)
        met = {one.item: tuple(one.pairs) for one in answer.explanations or ()}
        cards = self._cards(records, answer.order, answer.combined, first, met)
        return Column(name, name, answer.model.version, arms, mine, words, cards, answer.degraded, spent)

    def _wordless(
        self, name: str, user: Id, records: Sequence[ItemRecord], task: str, first: dict[Id, int]
    ) -> Column:
        """By the one ranker that there is, as though nothing were known of the user's words."""
        services, chosen = self.services, self.services.rankers[name]
        ranker, items = chosen.ranker, [record.item_id for record in records]
        began = time.perf_counter()
        cards: tuple[Card, ...] = ()
        if items:
            read = services.store.read(
                user, items, time.time_ns() // 1000, version=ranker.version, width=ranker.row_width
            )
            rows, _, _ = chosen.fill(items, read.rows, read.present)
            scores = ranker.score(ScoringRequest(user=user, rows=rows))
            tasks, combine = services.rankers.tasks, services.config.combine
            weights = dict.fromkeys([task], 1.0) if task else combine or dict.fromkeys(tasks, 1.0)
            combined = scores @ np.array([weights.get(one, 0.0) for one in tasks], np.float32)
            order = np.argsort(-combined, kind="stable").tolist()
            cards = self._cards(records, order, combined.tolist(), first, {})
        spent = 1e3 * (time.perf_counter() - began)
        title = f"{name}, without the user's words"
        return Column(title, name, chosen.version, (), False, False, cards, {}, spent)

    @staticmethod
    def _cards(
        records: Sequence[ItemRecord],
        order: Sequence[int],
        scores: Sequence[float],
        first: dict[Id, int],
        met: Mapping[Id, tuple[Pair, ...]],
    ) -> tuple[Card, ...]:
        """Cards of the first places; `first` is filled by the first column, and read by the others."""
        places = first
        if not first:
            first.update({records[row].item_id: place for place, row in enumerate(order, 1)})
            places = {}
        return tuple(
            Card(
                place,
                records[row],
                scores[row],
                places.get(records[row].item_id),
                met.get(records[row].item_id, ()),
            )
            for place, row in enumerate(order[:_SHOWN], 1)
        )

    def _names(self) -> list[str]:
        """Rankers of experiments first, arm by arm, then the others; so many as fit on a page."""
        services = self.services
        names = [ranker for arms in services.config.arms.values() for ranker in arms.values()]
        return list(dict.fromkeys([*names, services.config.default, *services.rankers.loaded]))[:_COLUMNS]

    def _seen(self, user: Id) -> set[Id]:
        store = self.services.store
        found: set[Id] = set()
        for event in store.config.event_types:
            found |= {item for _, item, _ in store.events_of(user, event, _SEEN)}
        return found


def ids_of(services: Services, texts: Iterable[str]) -> list[Id]:
    """Item ids of texts out of an address; those that are none are left out."""
    found = []
    for text in texts:
        try:
            found.append(services.item_id(text))
        except CaptionaryError:
            continue
    return found
