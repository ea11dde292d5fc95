"""The stream update on packed logs: `represent.decay`'s fold, gone on with from what the store has of a user.

The same kernels as `represent.stream.ProfileState` and the batch builder, on the events of one user and type and on
a table of only the items that these name: the order of events is (time, item, value), whatever numbers items have.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.online.governance import Governance
from captionary.online.packing import FOREVER, FoldState, ListRecord, Segment
from captionary.represent import decay
from captionary.represent.profiles import ProfileConfig, ProfileList

__all__ = ["BEGINNING", "SLACK_MICROS", "Folder", "Tokens", "fresh_state", "in_order", "list_at"]

BEGINNING = -(1 << 62)
"""A moment before all others."""
SLACK_MICROS = 86_400_000_000
"""With `last_days`: how far before the newest event of a list moments stay answerable."""

Tokens = Mapping[bytes, npt.NDArray[np.int32]]
"""Packed item id → its tokens, of the items that are known; others count for the mass alone."""

_EMPTY_IDS, _EMPTY_WEIGHTS = np.empty(0, np.int32), np.empty(0, np.float64)


class _Scratch(threading.local):
    """A trace and a clean `seen` for each thread."""

    trace: tuple[Any, ...] | None = None


class Folder:
    """Folds logs under one configuration; any number of threads may use it at once.

    Args:
        config: half-lives, caps, list length.
        idf: float32 [V].

    Raises:
        CaptionaryError: an idf that is not above 0 and finite.
    """

    def __init__(self, config: ProfileConfig, idf: npt.NDArray[np.float32]) -> None:
        if not len(idf) or not (np.isfinite(idf) & (idf > 0)).all():
            raise bad_value("idf", f"{len(idf)} values", "at least one, all above 0 and finite")
        self.config = config
        self.idf = np.ascontiguousarray(idf, np.float64)
        self._scratch = _Scratch()

    @property
    def trace(self) -> tuple[Any, ...]:
        """This thread's trace, clean."""
        if self._scratch.trace is None:
            self._scratch.trace = decay.new_trace(len(self.idf), self.config.top_k)
        return self._scratch.trace

    def fold(
        self, event: str, state: FoldState, rows: Segment, tokens: Tokens, governance: Governance
    ) -> tuple[FoldState, ListRecord]:
        """Go on with a fold, and make the list right after the newest event.

        Args:
            event: the event type.
            state: what is folded; its `events` are those of the log with these rows.
            rows: at least one: in order, the events after the folded ones; with caps or a state of nothing, all.
            tokens: of the items that the rows name and that are known.
            governance: of the user: what was erased brings no tokens.
        """
        trace, half_life = self.trace, self.config.half_life(event)
        items, codes = self._table(rows, tokens, governance.erased(event))
        log = np.array(rows.times, np.int64), codes, np.array(rows.values, np.float64)
        newest, count = rows.times[-1], len(rows.times)
        if self.config.capped:
            kept = state._replace(newest=newest)
            self._recall(trace, items, half_life, log, count, newest + 1)
        else:
            last = bisect.bisect_left(rows.times, newest)
            _load(trace, state)
            decay.fold_log(trace, items, half_life, log, 0, last)
            kept = _saved(trace, state._replace(newest=newest, folded=state.folded + last))
            decay.fold_log(trace, items, half_life, log, last, count)
        ids, shares = self._shares(trace)
        head, mass = trace[5], trace[6]
        valid = newest + 1, self._valid_until(rows.times, newest + 1)
        record = ListRecord(ids, shares, *valid, int(head[decay.UNIT]), float(mass[0]))
        decay.clear(trace)
        return kept, record

    def at(
        self, event: str, since: int, rows: Segment, tokens: Tokens, governance: Governance, as_of: int
    ) -> ProfileList:
        """The list as of any moment, from the whole log.

        Raises:
            CaptionaryError: a moment before `since`, whose events have been dropped.
        """
        if as_of < since:
            raise bad_value("as_of", as_of, f">= {since}: older events have been dropped (last_days)")
        trace, half_life = self.trace, self.config.half_life(event)
        last = bisect.bisect_left(rows.times, as_of)
        if not last:
            return ProfileList(_EMPTY_IDS, np.empty(0, np.float32), 0.0)
        rows = rows.part(0, last)
        items, codes = self._table(rows, tokens, governance.erased(event))
        log = np.array(rows.times, np.int64), codes, np.array(rows.values, np.float64)
        if self.config.capped:
            self._recall(trace, items, half_life, log, last, as_of)
        else:
            decay.fold_log(trace, items, half_life, log, 0, last)
        ids, shares = self._shares(trace)
        mass = decay.mass_at(trace, as_of, half_life)
        decay.clear(trace)
        return ProfileList(ids, shares, float(mass))

    def _recall(self, trace: Any, items: Any, half_life: int, log: Any, last: int, as_of: int) -> None:
        seen, chosen = np.zeros(len(items[1]) - 1, np.int64), np.empty(last, np.int64)
        decay.recall_window(trace, items, half_life, self.config.caps, log, last, as_of, seen, chosen)

    def _shares(self, trace: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        ids, shares = np.empty(self.config.top_k, np.int32), np.empty(self.config.top_k, np.float32)
        count = decay.shares_of(trace, self.idf, self.config.weigh_by_idf, ids, shares)
        return ids[:count], shares[:count]

    def _valid_until(self, times: list[int], as_of: int) -> int:
        """The last moment at which no event of the window has become too old."""
        horizon = self.config.caps[1]
        if not horizon:
            return FOREVER
        return times[bisect.bisect_left(times, as_of - horizon)] + horizon

    def _table(
        self, rows: Segment, tokens: Tokens, erased: Mapping[int, int]
    ) -> tuple[tuple[npt.NDArray[Any], ...], npt.NDArray[np.int32]]:
        """((values, offsets, weights, idf), the rows' codes): a table of the items that the rows name.

        An event before a token was erased names a variant of its item, which lacks that token.
        """
        named: list[tuple[bytes, tuple[int, ...]] | None] = []
        for time, item in zip(rows.times, rows.items, strict=True):
            if item not in tokens:
                named.append(None)
                continue
            gone = {token for token, moment in erased.items() if time < moment}
            lost = tuple(sorted(gone.intersection(tokens[item].tolist()))) if gone else ()
            named.append((item, lost))
        variants = sorted({variant for variant in named if variant is not None})
        place = {variant: code for code, variant in enumerate(variants)}
        lists = []
        for item, lost in variants:
            ids = tokens[item]
            lists.append(ids[~np.isin(ids, lost)] if lost else ids)
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        values = np.concatenate([_EMPTY_IDS, *lists])
        codes = np.array([-1 if v is None else place[v] for v in named], np.int32)
        return (values, offsets, np.empty(0, np.float32), self.idf), codes


def fresh_state(events: int = 0, since: int = BEGINNING) -> FoldState:
    """A state into which nothing is folded."""
    return FoldState(events, 0, BEGINNING, since, _EMPTY_IDS, _EMPTY_WEIGHTS, np.zeros(3, np.int64), 0.0)


def in_order(rows: Segment, tokens: Tokens) -> Segment:
    """Events by (time, item, value): items that are not known are alike, and below all others."""
    order = sorted(
        range(len(rows.times)),
        key=lambda at: (rows.times[at], rows.items[at] if rows.items[at] in tokens else b"", rows.values[at]),
    )
    return rows.chosen(order)


def list_at(record: ListRecord, as_of: int, folder: Folder, event: str) -> ProfileList | None:
    """A packed list with its mass as of a moment; None where the list is not that of the moment."""
    if not record.valid_from <= as_of <= record.valid_until:
        return None
    trace = folder.trace
    head, mass = trace[5], trace[6]
    head[decay.UNIT], mass[0] = record.unit, record.mass
    found = decay.mass_at(trace, as_of, folder.config.half_life(event))
    head[decay.UNIT], mass[0] = 0, 0.0
    return ProfileList(record.token_ids, record.weights, float(found))


def _load(trace: tuple[Any, ...], state: FoldState) -> None:
    weights, active, _, _, _, head, mass = trace
    weights[state.tokens] = state.weights
    active[: len(state.tokens)] = state.tokens
    head[:], mass[0] = state.head, state.mass
    head[decay.LISTED] = 0


def _saved(trace: tuple[Any, ...], state: FoldState) -> FoldState:
    weights, active, _, _, _, head, mass = trace
    tokens = active[: head[decay.COUNT]].copy()
    return state._replace(tokens=tokens, weights=weights[tokens], head=head.copy(), mass=float(mass[0]))
