"""Profiles governed by the person they describe: tokens muted, boosted or erased, with a record of what was done.

Muting and boosting change what is read, so they can be taken back. Erasing changes what is known: the events before
it no longer bring the token (or, with `erase`, anything), as though they had never been.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from captionary.errors import bad_value
from captionary.represent.profiles import ProfileList

__all__ = ["EVERY", "Action", "Governance", "acted", "governed"]

EVERY = "*"
"""In the place of an event type: all of them."""
_MOST_FACTOR = 100.0

Verb = Literal["mute", "unmute", "boost", "erase", "erase_token"]


class Action(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a user did, as it is kept for audits."""

    verb: Verb
    event: str
    """An event type, or `*`."""
    token: int
    """-1 for `erase`."""
    factor: float
    """Of `boost`; else 1."""
    at: int
    """Microseconds since 1970."""
    sequence: int
    """The update of the store that did it."""


class Governance(msgspec.Struct, frozen=True, array_like=True):
    """All that a user did, in order; what holds now follows from it."""

    actions: tuple[Action, ...] = ()

    @classmethod
    def unpack(cls, data: bytes | None) -> Governance:
        """What `pack` wrote; nothing for None."""
        return _NOTHING if data is None else _decode(data)

    def pack(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    def before(self, sequence: int) -> Governance:
        """What held after the update of that number."""
        return Governance(tuple(action for action in self.actions if action.sequence <= sequence))

    def muted(self, event: str) -> set[int]:
        """Tokens that are left out of the list of an event type."""
        found: set[int] = set()
        for action in self._of(event):
            if action.verb == "mute":
                found.add(action.token)
            elif action.verb == "unmute":
                found.discard(action.token)
        return found

    def boosts(self, event: str) -> dict[int, float]:
        """Token → factor of its weight, those of factor 1 left out; the last word on a token counts."""
        found = {action.token: action.factor for action in self._of(event) if action.verb == "boost"}
        return {token: factor for token, factor in found.items() if factor != 1}

    def erased_before(self, event: str) -> int:
        """Events before this moment do not count; a moment before all others where nothing was erased."""
        return max((a.at for a in self._of(event) if a.verb == "erase"), default=-(1 << 62))

    def erased(self, event: str) -> dict[int, int]:
        """Token → events before this moment do not bring it."""
        return {a.token: a.at for a in self._of(event) if a.verb == "erase_token"}

    def _of(self, event: str) -> list[Action]:
        return [action for action in self.actions if action.event in (event, EVERY)]


_NOTHING = Governance()
_decode = msgspec.msgpack.Decoder(Governance).decode


def governed(profile: ProfileList, governance: Governance, event: str) -> ProfileList:
    """A profile as its user wants it read: muted tokens left out, boosted weights multiplied, shares of 1 again.

    The mass stays: how active the user is, is no token's. Order: by falling weight where anything was boosted.
    """
    if not governance.actions or not len(profile.token_ids):
        return profile
    muted, boosts = governance.muted(event), governance.boosts(event)
    if not muted and not boosts:
        return profile
    kept = np.array([token not in muted for token in profile.token_ids.tolist()], np.bool_)
    ids, weights = profile.token_ids[kept], profile.weights[kept].astype(np.float64)
    if boosts:
        weights = weights * np.array([boosts.get(token, 1.0) for token in ids.tolist()])
        order = np.argsort(-weights, kind="stable")
        ids, weights = ids[order], weights[order]
    total = float(weights.sum())
    if total > 0:
        weights = weights / total
    return ProfileList(ids, weights.astype(np.float32), profile.mass)


def acted(governance: Governance, action: Action, vocabulary: int) -> Governance:
    """`governance` after one more action.

    Raises:
        CaptionaryError: a token that is none, a factor that is not above 0 and up to 100.
    """
    if action.verb != "erase" and not 0 <= action.token < vocabulary:
        raise bad_value("token", action.token, f"in 0..{vocabulary - 1}")
    if not (math.isfinite(action.factor) and 0 < action.factor <= _MOST_FACTOR):
        todo = "mute a token that shall not count" if action.factor == 0 else None
        raise bad_value("factor", action.factor, f"above 0 and up to {_MOST_FACTOR:g}", todo=todo)
    return Governance((*governance.actions, action))
