"""Who was forgotten and when, so that every process that keeps files about people takes them out of its own.

    forget_user ──▶ store: (update, digest of the user, moment) ──▶ service replicas: request log, exposures
                                                                └─▶ verify: passes over what was served before

The store keeps a digest of each, not who they were. What came after the moment stays: people may come back.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from captionary.errors import CaptionaryError
from captionary.online import keys
from captionary.online.keyvalue import Engine, Transaction
from captionary.online.packing import Id, id_bytes

__all__ = ["Forgotten", "Parting", "alone_in", "hold", "is_held", "note_parting", "user_digest"]

_DIGEST = 16


class Parting(NamedTuple):
    """When somebody was forgotten for the last time."""

    sequence: int
    """The update of the store."""
    moment: int
    """Microseconds since 1970."""


class Forgotten(NamedTuple):
    """Those who were forgotten."""

    partings: Mapping[bytes, Parting]
    """By `user_digest`."""

    @classmethod
    def of(cls, engine: Engine) -> Forgotten:
        """All that a store knows of.

        Raises:
            StoreUnavailableError: no answer.
        """
        found: dict[bytes, Parting] = {}
        for member in engine.view(lambda reader: reader.members(keys.GONE_USERS)):
            sequence, rest = keys.place_of(member)
            one = Parting(sequence, int.from_bytes(rest[_DIGEST:], "big"))
            digest = rest[:_DIGEST]
            found[digest] = max(one, found.get(digest, one))
        return cls(found)

    @classmethod
    def now(cls, user: Id) -> Forgotten:
        """One user, with all that there is of them so far."""
        return cls({user_digest(id_bytes(user)): Parting(1 << 62, time.time_ns() // 1000)})

    def since(self, sequence: int) -> Forgotten:
        """Those who were forgotten after an update."""
        return Forgotten({user: one for user, one in self.partings.items() if one.sequence > sequence})

    def alone(self, user: Id) -> Forgotten:
        """Of one user only."""
        digest = user_digest(id_bytes(user))
        return Forgotten({digest: self.partings[digest]} if digest in self.partings else {})

    def of_packed(self, user: bytes) -> Parting | None:
        """Of `packing.id_bytes` of a user; None: they were not forgotten."""
        return self.partings.get(user_digest(user))

    def of_names(self, names: Iterable[str]) -> dict[str, int]:
        """Of ids as text, where a number and its digits look the same: name → moment, of those who were forgotten."""
        found = {}
        for name in set(names):
            moments = [one.moment for user in _ids(name) if (one := self.of_packed(user)) is not None]
            if moments:
                found[name] = max(moments)
        return found


def user_digest(user: bytes) -> bytes:
    """What is kept of a forgotten user: enough to leave their old events out of a replay, not who they were."""
    return hashlib.blake2b(user, digest_size=_DIGEST).digest()


def note_parting(transaction: Transaction, user: bytes, moment: int) -> None:
    """Write down that a user is forgotten with this update."""
    said = user_digest(user) + max(moment, 0).to_bytes(8, "big")
    transaction.add(keys.GONE_USERS, keys.placed(transaction.sequence, said))


def _ids(name: str) -> list[bytes]:
    ids: list[Id] = [name]
    digits = name.isascii() and name.removeprefix("-").isdigit() and len(name) < 21
    if digits and str(int(name)) == name:
        ids.append(int(name))
    found = []
    for one in ids:
        try:
            found.append(id_bytes(one))
        except CaptionaryError:
            continue
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process rewrites the files of a folder, and keep others from it."""
    with (folder / ".rewriting").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hold(file: IO[bytes] | int) -> None:
    """Mark an open file as being written; the mark goes with the file, however its process ends."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether somebody still writes a file: to rewrite it would lose what comes."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
