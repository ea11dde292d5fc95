"""Who looks at the pages: a browser that showed a key has a signed cookie that says which key it was, until when.

The cookie holds no secret: a key that is revoked, or whose scopes change, changes what its sessions may do at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from captionary.errors import bad_value
from captionary.online.service.keys import LOCAL, ApiKey, KeyRing

__all__ = ["COOKIE", "Sessions"]

COOKIE = "captionary_session"
_SECONDS = 12 * 3600
_SHAPE = re.compile(r"([0-9a-f]{12})\.([0-9]{1,12})\.([0-9a-f]{64})")


class Sessions:
    """Makes and checks session cookies.

    Args:
        path: of the secret; made where absent.
        keys: None: every browser is let in, as only this machine reaches the service.

    Raises:
        CaptionaryError: the secret cannot be read or made, or is too short.
    """

    def __init__(self, path: Path, keys: KeyRing | None) -> None:
        self.keys = keys
        self._secret = _secret(path)

    @property
    def csrf_secret(self) -> str:
        """What CSRF tokens are signed with."""
        return self._sign("csrf")

    def cookie(self, key: ApiKey) -> str:
        """The value of a new session's cookie."""
        said = f"{key.id}.{int(time.time()) + _SECONDS}"
        return f"{said}.{self._sign(said)}"

    def check(self, cookie: str | None) -> ApiKey | None:
        """The key of a session; None: no session, or over, or its key is gone."""
        if self.keys is None:
            return LOCAL
        match = _SHAPE.fullmatch(cookie or "")
        if match is None or not hmac.compare_digest(self._sign(f"{match[1]}.{match[2]}"), match[3]):
            return None
        return self.keys.find(match[1]) if int(match[2]) > time.time() else None

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _secret(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and linked: of two replicas that start at once both get the one that came first.
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        if not path.exists():
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_urlsafe(48).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(beside, path)
            except FileExistsError:
                pass
            finally:
                beside.unlink()
        found = path.read_bytes().strip()
    except OSError as error:
        raise bad_value(
            "secret", str(path), "a file that can be read or made", where=str(error.strerror)
        ) from None
    if len(found) < 32:
        raise bad_value("secret", f"{len(found)} bytes", "32 bytes at least", where=str(path))
    return found
