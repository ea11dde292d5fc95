"""A user's interests as words, how they came about over time, and what the user decided about them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from captionary.errors import CaptionaryError, bad_value
from captionary.evidence.formats import share
from captionary.online.decisions import erase, erase_token, govern
from captionary.online.explorer.charts import spark
from captionary.online.governance import EVERY, Action
from captionary.online.items import ItemRecord
from captionary.online.packing import Id

if TYPE_CHECKING:
    from markupsafe import Markup

    from captionary.online.experiments.assignment import Assignment
    from captionary.online.service.services import Services

__all__ = ["DEEDS", "Interest", "Past", "Person", "Word", "decide", "person"]

_MOMENTS = 6
_PAST = 12
_EVENTS = 100
DEEDS = ("mute", "unmute", "more", "less", "plain", "erase")
"""What a form may ask for: `more` doubles a weight, `less` halves it, `plain` takes both back."""


class Word(NamedTuple):
    """A word of a profile."""

    token: int
    word: str
    weight: float
    """Share of the list, 0 to 1."""
    size: int
    """1 to 6: how large it is written."""
    line: Markup
    """Its share over time."""
    factor: float | None
    """What the user multiplied it by."""


class Interest(NamedTuple):
    """One event type."""

    event: str
    events: int
    """Events that count, up to a hundred."""
    mass: float
    """Decayed number of events."""
    words: tuple[Word, ...]
    muted: tuple[tuple[int, str], ...]
    """Token and word."""
    boosted: tuple[tuple[int, str, float], ...]
    """Token, word and factor, of words that are not in the list now."""


class Past(NamedTuple):
    """One event."""

    at: int
    """Microseconds since 1970."""
    event: str
    item: Id
    record: ItemRecord | None


class Person(NamedTuple):
    """What the page shows of a user."""

    user: Id
    known: bool
    """Whether the store has anything of them."""
    interests: tuple[Interest, ...]
    span: tuple[int, int] | None
    """Microseconds of the first and the last moment of the lines."""
    past: tuple[Past, ...]
    """The newest events."""
    assignments: tuple[Assignment, ...]
    actions: tuple[tuple[Action, str], ...]
    """What the user decided, the newest first, with the word."""


def person(services: Services, user: Id) -> Person:
    """Everything that the page of a user says. Blocks.

    Raises:
        CaptionaryError: an id that cannot be one.
    """
    store, words = services.store, services.words
    present = time.time_ns() // 1000
    read = store.read(user, (), present)
    events = [
        (at, event, item)
        for event in store.config.event_types
        for at, item, _ in store.events_of(user, event, _EVENTS)
    ]
    counts = Counter(event for _, event, _ in events)
    span = _span([at for at, _, _ in events], present)
    series = _series(services, user, span)
    interests = []
    for event, one in read.lists.items():
        weights = one.weights.tolist()
        boosts, most = read.governance.boosts(event), max(weights, default=0.0)
        tokens = one.token_ids.tolist()
        listed = [
            Word(
                token,
                words.word(token),
                weight,
                _size(weight, most),
                _line(
                    words.word(token),
                    [moment.get(event, {}).get(token, 0.0) for moment in series],
                    weight,
                    most,
                ),
                boosts.get(token),
            )
            for token, weight in zip(tokens, weights, strict=True)
        ]
        interests.append(
            Interest(
                event,
                counts[event],
                one.mass,
                tuple(sorted(listed, key=lambda word: -word.weight)),
                tuple((token, words.word(token)) for token in sorted(read.governance.muted(event))),
                tuple((t, words.word(t), factor) for t, factor in boosts.items() if t not in tokens),
            )
        )
    events = sorted(events, key=lambda one: -one[0])[:_PAST]
    records = store.items([item for _, _, item in events])
    trials = services.trials
    return Person(
        user=user,
        known=bool(events or read.governance.actions or any(one.mass for one in read.lists.values())),
        interests=tuple(interests),
        span=span if series else None,
        past=tuple(
            Past(at, event, item, record) for (at, event, item), record in zip(events, records, strict=True)
        ),
        assignments=trials.choose(user).assignments,
        actions=tuple(
            (action, words.word(action.token) if action.token >= 0 else "")
            for action in reversed(read.governance.actions)
        ),
    )


def decide(services: Services, user: Id, deed: str, event: str, token: int) -> None:
    """Do what a form asks for. Blocks.

    Args:
        services: of the running service.
        user: whose profile it is.
        deed: one of `DEEDS`.
        event: an event type, or `*`.
        token: of a word; -1 with `erase`: everything.

    Raises:
        CaptionaryError: none of these; an unknown event type or token.
    """
    store = services.store
    if deed not in DEEDS:
        raise bad_value("what to do", deed, f"one of {', '.join(DEEDS)}")
    if deed == "erase":
        if token < 0:
            erase(store, user, event=event)
        else:
            erase_token(store, user, token, event=event)
    elif deed in ("mute", "unmute"):
        govern(store, user, "mute" if deed == "mute" else "unmute", event=event, token=token)
    elif deed == "plain":
        govern(store, user, "boost", event=event, token=token, factor=1.0)
    else:
        types = store.config.event_types if event == EVERY else (event,)
        governance = store.governance_of(user)
        factors = [governance.boosts(kind).get(token, 1.0) for kind in types]
        factor = max(factors) * 2 if deed == "more" else min(factors) / 2
        govern(store, user, "boost", event=event, token=token, factor=min(max(factor, 0.01), 100.0))


def _span(times: Sequence[int], present: int) -> tuple[int, int] | None:
    if not times:
        return None
    first, last = min(times), min(max(times) + 1, present)
    return (first, last) if last > first + 1 else None


def _series(services: Services, user: Id, span: tuple[int, int] | None) -> list[dict[str, dict[int, float]]]:
    """Event type → token → share, at moments of the span; those that the store cannot answer for are left out."""
    if span is None:
        return []
    first, last = span
    found = []
    for step in range(1, _MOMENTS + 1):
        try:
            lists = services.store.history(user, first + (last - first) * step // _MOMENTS)
        except CaptionaryError:  # events so old have been dropped
            continue
        found.append(
            {
                event: dict(zip(one.token_ids.tolist(), one.weights.tolist(), strict=True))
                for event, one in lists.items()
            }
        )
    return found


def _line(word: str, values: Sequence[float], now: float, most: float) -> Markup:
    before, after = (share(values[0], 1), share(now, 1)) if values else ("", "")
    return spark(values, max([most, *values]), f"{word}: from {before} to {after}")


def _size(weight: float, most: float) -> int:
    """The area of a word, not its height, follows the weight."""
    return 1 + round(5 * (max(weight, 0.0) / most) ** 0.5) if most > 0 else 1
