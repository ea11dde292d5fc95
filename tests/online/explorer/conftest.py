"""A service with an experiment, uploads with pictures, and a browser's session; keys of each kind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

pytest.importorskip("litestar", reason="the service is a Litestar application")
pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.service.conftest import Served, starter
from tests.online.service.small_service import EXPERIMENTS, make_key, picture

from captionary.online.items import ItemRecord
from captionary.online.log import MEDIA, MediaMessage, media_draft
from captionary.online.updates import ItemUpdate, put_items

SCRIPT = "<script>document.title='run'</script>"
METRICS = """        metrics: [{name: likes, of: like, role: primary}, {name: slow, of: slow_requests, per: requests,
          role: guardrail, better: less, margin: 0.05}]
"""


class Site(NamedTuple):
    """A running service, and what a browser does with it."""

    served: Served

    @property
    def services(self) -> Any:
        return self.served.services

    def key(self, *scopes: str, name: str = "someone") -> dict[str, str]:
        """A new key that the service knows of at once."""
        made = make_key(self.served.folder, *scopes, name=name)
        self.services.keys._refresh(force=True)
        return made

    @property
    def client(self) -> Any:
        return self.served.client

    def get(self, path: str, key: dict[str, str] | None = None) -> Any:
        return self.client.get(path, headers=self.served.admin if key is None else key)

    def token(self, page: str = "/explore/ingest") -> str:
        found = re.search(r'name="_csrf_token" value="([^"]+)"', self.get(page).text)
        assert found is not None
        return found[1]

    def post(self, path: str, key: dict[str, str] | None = None, csrf: bool = True, **fields: str) -> Any:
        if csrf:
            fields["_csrf_token"] = self.token("/explore/user/forget?id=u1")
        headers = self.served.admin if key is None else key
        return self.client.post(path, data=fields, headers=headers, follow_redirects=False)

    def upload(
        self, item: int, caption: str, tokens: tuple[int, ...] = (1, 2), data: bytes = b"", **more: Any
    ) -> ItemRecord:
        """As the worker would: spool, log, store."""
        import numpy as np

        services, now = self.services, time.time_ns() // 1000
        name = services.spool.put(data or picture("teal", "PNG"))
        message = MediaMessage(item_id=item, media=(name,), received_at=now - 900_000)
        (position,) = services.log.append(MEDIA, [media_draft(message, f"k{item}-{now}")])
        services.log.take(MEDIA, "worker", most=10)
        packed = np.array(tokens, "<i4").tobytes()
        record = ItemRecord(
            item_id=item,
            status="ok",
            tokens=packed,
            caption=caption,
            media=(name,),
            media_digest=name[3:],
            received_at=message.received_at,
            **more,
        )
        put_items(services.store, [ItemUpdate(record)], [position])
        services.log.done(MEDIA, [position], services.store.sequence)
        return services.store.item(item)


@pytest.fixture
def start(tmp_path) -> Iterator[Any]:
    """Starts a service with what `small_service.services` is given."""
    running = starter(tmp_path)
    begin = next(running)
    yield lambda **settings: Site(begin(**settings))
    next(running, None)


@pytest.fixture(scope="package")
def site(tmp_path_factory) -> Iterator[Site]:
    """One service for all tests that leave it as they found it; item 2001 has a picture and a wicked caption."""
    running = starter(tmp_path_factory.mktemp("explorer"))
    made = Site(next(running)(experiments=EXPERIMENTS + METRICS))
    made.upload(2001, f"a {SCRIPT} dog", title="\" onerror='alert(1)'>")
    yield made
    next(running, None)


@pytest.fixture
def reader(site) -> dict[str, str]:
    """A key that may look."""
    return site.key("read", name="reader")
