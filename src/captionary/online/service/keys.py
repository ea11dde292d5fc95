"""API keys: who may do what, how often. The file holds salted hashes alone; a secret is shown once, when it is made.

    cap_3f9c1a0b7d24_kzQ…   "cap", the key's id, and a secret of 256 random bits

Such a secret cannot be guessed whatever the hash, so the hash is a fast one: blake2b with a salt. A slow one (scrypt)
is for passwords, which people choose; here it would let anybody keep the service busy with wrong keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from captionary.errors import bad_value, nearest
from captionary.publish import atomic_file

__all__ = ["LOCAL", "SCOPES", "ApiKey", "KeyFile", "KeyRing", "Scope", "new_key"]

Scope = Literal["rank", "events", "items", "read", "erase", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""`rank`, `events`, `items`: the POST of that name. `read`: items, profiles, pages, metrics. `erase`: mute, boost and
erase profiles, delete users and items. `admin`: all of these, and forced variants."""
_SHAPE = re.compile(r"cap_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_PERSON = b"captionary-key"
_NO_SALT = bytes(16)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is stored."""

    id: str
    name: str
    """Of whoever uses it. Keys of one name share their idempotency keys, so that a key can be replaced."""
    scopes: tuple[Scope, ...]
    salt: str = ""
    digest: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    per_second: float | None = 100.0
    """Requests a second on average; None: no limit."""
    burst: float = 200.0
    """Requests at once."""

    def allows(self, scope: str) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def rate(self) -> float:
        """Requests a second."""
        return math.inf if self.per_second is None else self.per_second

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


LOCAL = ApiKey(
    id="local",
    name="local",
    scopes=("admin",),
    created_at=datetime.fromtimestamp(0, UTC),
    per_second=None,
)
"""Everybody, where the service asks for no keys and only this machine reaches it."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    format: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read it; no keys where there is no file.

        Raises:
            CaptionaryError: it cannot be read, or is no file of keys.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise bad_value("keys", str(path), "a readable file", where=str(error.strerror)) from None
        except msgspec.DecodeError as error:  # its message names places and types, no values
            raise bad_value("keys", str(path), "a file of `captionary keys`", where=str(error)) from None

    def write(self, path: Path) -> None:
        """Write it, readable for its owner alone."""
        with atomic_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    def without(self, name: str) -> KeyFile:
        """The file without a key.

        Raises:
            CaptionaryError: it has none of that id.
        """
        if name not in (ids := [key.id for key in self.keys]):
            raise bad_value("key", name, nearest(name, ids))
        return KeyFile(keys=tuple(key for key in self.keys if key.id != name))

    @staticmethod
    @contextmanager
    def changing(path: Path) -> Iterator[None]:
        """Hold the file while it is read, changed and written: of two who do so, one waits."""
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def new_key(
    name: str,
    scopes: Collection[str],
    *,
    expires_at: datetime | None = None,
    per_second: float | None = 100.0,
    burst: float | None = None,
) -> tuple[ApiKey, str]:
    """A key to store, and the secret to hand over.

    Args:
        name: of whoever will use it.
        scopes: of `SCOPES`.
        expires_at: with a time zone; None: never.
        per_second: requests on average; None: no limit.
        burst: requests at once; None: those of two seconds.

    Raises:
        CaptionaryError: an unknown scope, none, a rate that is none.
    """
    if not name or len(name) > 100 or not name.isprintable():
        raise bad_value("name", name, "1 to 100 printable characters")
    if not scopes:
        raise bad_value("scopes", "none", f"one at least of {', '.join(SCOPES)}")
    for scope in scopes:
        if scope not in SCOPES:
            raise bad_value("scope", scope, nearest(scope, SCOPES))
    if per_second is not None and not 0 < per_second < math.inf:
        raise bad_value("rate", per_second, "> 0 requests a second")
    at_once = max(1.0, 2 * (per_second or 1)) if burst is None else burst
    if not 1 <= at_once < math.inf:
        raise bad_value("burst", at_once, ">= 1 requests")
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    number, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_bytes(16)
    key = ApiKey(
        id=number,
        name=name,
        scopes=chosen,
        salt=base64.b64encode(salt).decode(),
        digest=_digest(secret, salt).hex(),
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=expires_at,
        per_second=per_second,
        burst=at_once,
    )
    return key, f"cap_{number}_{secret}"


class KeyRing:
    """The keys of a file, read again within a second of a change; for any number of threads.

    Raises:
        CaptionaryError: the file is no file of keys.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._looked = 0.0
        self._keys: dict[str, ApiKey] = {}
        self._refresh(force=True)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, number: str) -> ApiKey | None:
        """The key of an id, unless its time is over."""
        self._refresh()
        key = self._keys.get(number)
        return None if key is None or key.expired else key

    def check(self, text: str) -> ApiKey | None:
        """The key that a caller showed; None: it is none, or not any more.

        It takes as long for a wrong secret as for an unknown id.
        """
        match = _SHAPE.fullmatch(text)
        if match is None:
            return None
        key = self.find(match[1])
        salt = _NO_SALT if key is None else base64.b64decode(key.salt)
        given = _digest(match[2], salt)
        expected = bytes(32) if key is None else bytes.fromhex(key.digest)
        return key if hmac.compare_digest(given, expected) and key is not None else None

    def _refresh(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._looked < 1:
            return
        with self._lock:
            self._looked = now
            try:
                stat = self.path.stat()
                stamp: tuple[int, ...] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            except OSError:
                stamp = ()
            if stamp == self._stamp and not force:
                return
            try:
                found = KeyFile.read(self.path)
            except Exception:
                if force:
                    raise
                return  # a file that is half edited by hand: the keys read before still hold
            self._stamp, self._keys = stamp, {key.id: key for key in found.keys}


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32, salt=salt, person=_PERSON).digest()
