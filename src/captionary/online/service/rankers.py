"""The rankers of a service by name, and what the service asks of each beside scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from captionary.errors import bad_value, nearest
from captionary.online.packing import Id
from captionary.online.request_log import RequestRecord
from captionary.rank.artefact import Artefact, read_artefact
from captionary.rank.lookup import Lookup
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.represent.profiles import ProfileList

__all__ = ["Loaded", "Rankers"]


class Loaded:
    """An exported ranker in memory.

    Args:
        name: in the service's configuration.
        parts: the artefact.
    """

    def __init__(self, name: str, parts: Artefact) -> None:
        schema = parts.ranker.schema
        self.name, self.parts, self.ranker = name, parts, ServingRanker(parts)
        numeric = [one.removeprefix("context.") for one in schema.numeric if one.startswith("context.")]
        self.context = frozenset((*schema.context, *numeric))
        """Context columns that it reads."""
        self.events = frozenset(self.ranker.events)
        """Event types whose profile it reads."""
        self.vectors = frozenset(schema.vectors) - parts.item_vectors
        """Dense vectors of users that it reads."""

    @property
    def version(self) -> str:
        """Digest of all that decides a score."""
        return self.ranker.version

    def knows_user(self, user: Id) -> bool:
        """Whether the user was seen in training.

        Raises:
            CaptionaryError: an id of another type.
        """
        return self.parts.lookups["user"].row(user) != 0

    def fill(
        self, items: Sequence[Id], rows: npt.NDArray[np.float32], present: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], int, int]:
        """Rows for the items that the store has none of: those of the export, or that of an unseen item.

        Returns:
            rows [C, R], how many came from the export, how many are of unseen items.
        """
        if present.all():
            return rows, 0, 0
        absent = np.flatnonzero(~present)
        places = self.parts.item_rows.rows([items[place] for place in absent.tolist()])
        filled = rows.copy()
        filled[absent] = self.parts.rows[places]
        unseen = int((places == 0).sum())
        return filled, len(absent) - unseen, unseen

    def score_again(
        self,
        request: RequestRecord,
        lists: Mapping[str, ProfileList],
        rows: npt.NDArray[np.float32],
        present: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float32]:
        """Scores [C, T] of a request that was served, by the steps of `ranking.Ranking`: for `captionary verify`.

        Args:
            request: as it was recorded.
            lists: event type → the user's profile.
            rows: [C, R] of the store.
            present: [C] whether the store had a row then; others are filled as they were.
        """
        asked = ScoringRequest(
            user=request.user_id,
            rows=self.fill(request.item_ids, rows, present)[0],
            context=request.context,
            profiles={event: one for event, one in lists.items() if event in self.events},
        )
        return self.ranker.score(asked)


class Rankers:
    """All rankers of a service.

    Args:
        loaded: name → ranker.
        default: the name of that which ranks where no experiment says otherwise.

    Raises:
        CaptionaryError: rankers of other tasks, or of other kinds of ids, cannot stand in for each other.
    """

    def __init__(self, loaded: Mapping[str, Loaded], default: str) -> None:
        self.loaded, self.default = dict(loaded), default
        first = self.loaded[default]
        for name, one in self.loaded.items():
            if one.ranker.tasks != first.ranker.tasks:
                raise bad_value(f"tasks of ranker {name}", one.ranker.tasks, f"those of {default}")
        self.tasks = first.ranker.tasks
        self.context = frozenset().union(*(one.context for one in self.loaded.values()))
        """Context columns that any of them reads."""
        self.vectors = frozenset().union(*(one.vectors for one in self.loaded.values()))
        self._users = _integers(first.parts.lookups["user"])
        self._items = _integers(first.parts.item_rows)
        for name, one in self.loaded.items():
            kinds = _integers(one.parts.lookups["user"]), _integers(one.parts.item_rows)
            if kinds != (self._users, self._items):
                raise bad_value(f"ids of ranker {name}", "of another type", f"those of {default}")

    @classmethod
    def load(cls, folders: Mapping[str, Path], default: str, *, threads: int = 1) -> Rankers:
        """Read exported rankers; item rows are memory-mapped.

        Args:
            folders: name → folder.
            default: one of the names.
            threads: of one request's matrix products; requests are worked on side by side, so one is best.

        Raises:
            CaptionaryError: a folder that is no artefact; see the class.
        """
        torch.set_num_threads(threads)
        return cls({name: Loaded(name, read_artefact(place)) for name, place in folders.items()}, default)

    def __getitem__(self, name: str) -> Loaded:
        if name not in self.loaded:
            raise bad_value("ranker", name, nearest(name, self.loaded))
        return self.loaded[name]

    @property
    def versions(self) -> dict[str, str]:
        """Name → version."""
        return {name: one.version for name, one in self.loaded.items()}

    def check_tasks(self, tasks: Collection[str]) -> None:
        """Refuse names that are no tasks."""
        for task in tasks:
            if task not in self.tasks:
                raise bad_value("task", task, nearest(task, self.tasks), where="combine")

    def user_id(self, text: str) -> Id:
        """A user's id of text: a number where the rankers know users by number."""
        return _id(text, self._users, "user")

    def item_id(self, text: str) -> Id:
        """An item's id of text."""
        return _id(text, self._items, "item")

    def check_user(self, user: Id) -> None:
        """Refuse an id of another type than in training: nothing would ever be found under it."""
        _check(user, self._users, "user")

    def check_items(self, items: Sequence[Id]) -> None:
        """`check_user` for items."""
        for item in items:
            _check(item, self._items, "item")


def _integers(lookup: Lookup) -> bool | None:
    """Whether ids are integers; None: not known, as of a vocabulary that hashes whatever comes."""
    kind: Any = lookup.vocabulary.ids.type
    if pa.types.is_integer(kind):
        return True
    return False if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _id(text: str, integers: bool | None, what: str) -> Id:
    if not integers:
        return text
    try:
        return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 21 else _none(text)
    except ValueError:
        raise bad_value(f"{what} id", text, "an integer, as in training") from None


def _none(text: str) -> int:
    raise ValueError(text)


def _check(value: Id, integers: bool | None, what: str) -> None:
    if integers is not None and isinstance(value, int) != integers:
        raise bad_value(
            f"{what} id", repr(value), f"{'an integer' if integers else 'a string'}, as in training"
        )
