from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("litestar", reason="the service is a Litestar application")
pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from litestar.testing import TestClient
from tests.online.service.small_service import make_key, services

from captionary.online.service.app import create_app
from captionary.online.service.services import Services


class Served(NamedTuple):
    """A running service, in this process."""

    client: TestClient[Any]
    services: Services
    folder: Path
    admin: dict[str, str]


def starter(folder: Path) -> Iterator[Any]:
    running: list[tuple[TestClient[Any], Services]] = []

    def begin(**settings: Any) -> Served:
        admin = make_key(folder)
        made = services(folder, **settings)
        client = TestClient(create_app(made, close=False), raise_server_exceptions=False)
        client.__enter__()
        running.append((client, made))
        return Served(client, made, folder, admin)

    yield begin
    for client, made in running:
        client.__exit__(None, None, None)
        made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts a service with what `small_service.services` is given."""
    yield from starter(tmp_path)


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service, with keys and without experiments, for all tests that leave it as they found it."""
    running = starter(tmp_path_factory.mktemp("service"))
    yield next(running)()
    next(running, None)
