"""Names of what the online store keeps; ids as `packing.id_bytes` packs them, so that LMDB's order is theirs."""

from __future__ import annotations

__all__ = [
    "ALLOWANCE",
    "GONE",
    "GONE_USERS",
    "ITEM",
    "META",
    "REFOLD",
    "SEGMENT_EVENTS",
    "USER",
    "applied",
    "audience",
    "audience_member",
    "audience_of",
    "fold",
    "forgotten",
    "governance",
    "item",
    "place_of",
    "placed",
    "profile",
    "rest",
    "revision",
    "row",
    "rows_of",
    "segments",
    "user",
]

SEGMENT_EVENTS = 256
"""Events in one segment of a log: what an event in order writes anew is at most this, however long the log."""
ALLOWANCE = b"allowance"
"""How many items may still be captioned, see `allowance`."""
META = b"meta"
"""What the store was filled under."""
USER = b"u"
"""Prefix of a user's entry: the event types of which there is a log, and tombstones."""
ITEM = b"i"
"""Prefix of an item's record."""
GONE = b"gone"
"""Set of (update, item): items that were forgotten, so that a replay passes over the events on them before it."""
GONE_USERS = b"goneusers"
"""Set of (update, digest of the user, moment), see `forgotten`: without the id of whom shall be forgotten."""
REFOLD = b"refold"
"""Set of items of which not all profiles have been folded anew."""


def user(user: bytes) -> bytes:
    """The user's entry."""
    return USER + user


def governance(user: bytes) -> bytes:
    """What the user muted, boosted and erased."""
    return b"g" + user


def profile(user: bytes, event: str) -> bytes:
    """A packed list."""
    return b"l" + user + b"\0" + event.encode()


def fold(user: bytes, event: str) -> bytes:
    """The fold state of a list."""
    return b"f" + user + b"\0" + event.encode()


def segments(user: bytes, event: str, events: int, first: int = 0) -> list[bytes]:
    """The segments of a log of so many events, from number `first` on."""
    count = -(-events // SEGMENT_EVENTS)
    stem = b"s" + user + b"\0" + event.encode() + b"\0"
    return [stem + number.to_bytes(4, "big") for number in range(first, count)]


def item(item: bytes) -> bytes:
    """An item's record."""
    return ITEM + item


def row(version: str, item: bytes) -> bytes:
    """What the ranker of a version folded of an item."""
    return b"r" + version.encode() + b"\0" + item


def rows_of(item: bytes) -> bytes:
    """Set of the versions that have a row of an item."""
    return b"v" + item


def revision(item: bytes, number: int) -> bytes:
    """The tokens of an item as they were from one update to the next."""
    return b"h" + item + b"\0" + number.to_bytes(4, "big")


def audience(item: bytes) -> bytes:
    """Set of the (user, event type) whose log names an item."""
    return b"a" + item


def audience_member(user: bytes, event: str) -> bytes:
    """A member of an audience."""
    return user + b"\0" + event.encode()


def audience_of(member: bytes) -> tuple[bytes, str]:
    """(user, event type) of a member; numbers hold null bytes, names of events none."""
    user, _, event = member.rpartition(b"\0")
    return user, event.decode()


def applied(topic: str) -> bytes:
    """Positions of a topic that had their effect and may be delivered once more, with the number of the update."""
    return b"p" + topic.encode()


def forgotten(topic: str) -> bytes:
    """Set of (position, user or item): entries of a topic up to there about who was forgotten are passed over."""
    return b"forgotten" + topic.encode()


def rest(item: bytes) -> bytes:
    """Set of those of an item's audience whose lists are still to be folded anew."""
    return b"rest" + item


def placed(number: int, name: bytes) -> bytes:
    """A member of a set: a position or update, and what it is about."""
    return number.to_bytes(8, "big") + name


def place_of(member: bytes) -> tuple[int, bytes]:
    """What `placed` joined."""
    return int.from_bytes(member[:8], "big"), member[8:]
