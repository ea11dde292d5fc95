"""Fetching from real servers on 127.0.0.1: redirects, size and time are bounded, and every failure has its reason."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from tests.understand.media_server import BODY, NAMES, Names, get, loopback, media_server, refusal

from captionary.errors import CaptionaryError
from captionary.understand import remote
from captionary.understand.remote import RemoteConfig, fetch

fsspec = pytest.importorskip("fsspec", reason="remote media need fsspec")
pytest.importorskip("aiohttp", reason="remote media over http need aiohttp")


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with media_server() as running:
        yield running


def test_what_is_allowed_is_fetched(server):
    assert get(server, "/ok") == BODY
    assert get(server, "/ok?size=2") == BODY
    assert get(server, "/empty") == b""
    path, headers = server.seen[-1]
    assert path == "/empty"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_redirects_are_followed_and_checked(server):
    assert get(server, "/hop/1") == BODY
    assert get(server, "/hop/3") == BODY
    assert refusal(lambda: get(server, "/hop/4")).reason == "redirect_refused"
    assert refusal(lambda: get(server, "/loop")).reason == "redirect_refused"
    assert refusal(lambda: get(server, "/nowhere")).reason == "redirect_refused"
    assert refusal(lambda: get(server, "/to-private")).reason == "private_address"
    assert refusal(lambda: get(server, "/to-metadata")).reason == "redirect_refused"
    assert refusal(lambda: get(server, "/to-file")).reason == "redirect_refused"
    error = refusal(lambda: get(server, "/to-login"))
    assert error.reason == "redirect_refused"
    assert "secret" not in str(error)
    assert get(server, "/cookie") == BODY
    assert "Cookie" not in server.seen[-1][1]


def test_no_way_from_https_to_http(monkeypatch):
    async def redirects(url, *_):
        return "http://images.test/ok"

    monkeypatch.setattr(remote, "_get", redirects)
    config = RemoteConfig(allow=("https://images.test", "http://images.test"))
    names = Names(images_test=["127.0.0.1"])
    error = refusal(lambda: remote._fetch("https://images.test/a", config, loopback(names)))
    assert (error.reason, error.detail) == ("redirect_refused", "from https to http")


def test_size_is_counted_as_it_arrives(server):
    assert get(server, "/ok", max_bytes=len(BODY)) == BODY
    assert refusal(lambda: get(server, "/ok", max_bytes=len(BODY) - 1)).reason == "too_large"
    started = time.perf_counter()
    assert refusal(lambda: get(server, "/endless", max_bytes=1_000_000)).reason == "too_large"
    assert time.perf_counter() - started < 3


def test_time_is_limited_in_all(server):
    started = time.perf_counter()
    assert refusal(lambda: get(server, "/drip", timeout_s=0.4)).reason == "timeout"
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("drip", [b"", b"a"])
@pytest.mark.parametrize(
    "opening",
    [b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nabc"],
)
def test_slow_loris(opening, drip):
    """A server that stops in the status line, the headers or the body, or sends a byte now and then."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(opening)
                while not done.wait(0.05):
                    try:
                        connection.sendall(drip)
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        limit = {"timeout_s": 0.4} if drip else {"read_timeout_s": 0.3, "timeout_s": 30.0}
        config = RemoteConfig(allow=(f"http://images.test:{port}",), **limit)
        started = time.perf_counter()
        error = refusal(
            lambda: remote._fetch(f"http://images.test:{port}/", config, loopback(Names(**NAMES)))
        )
        done.set()
        thread.join(5)
    # "HTTP/1.1 2a" is no answer at all, which may be told before the time is up.
    assert error.reason == "timeout" or (drip and opening.endswith(b" 2"))
    assert time.perf_counter() - started < 3


def test_slow_name_service(server):
    class Slow(Names):
        async def resolve(self, host: str, port: int) -> list[str]:
            import asyncio

            await asyncio.sleep(30)
            return []

    config = RemoteConfig(allow=("http://images.test",), timeout_s=0.2)
    started = time.perf_counter()
    assert refusal(lambda: remote._fetch("http://images.test/", config, loopback(Slow()))).reason == "timeout"
    assert time.perf_counter() - started < 2


def test_errors_of_servers(server):
    for path, reason in (
        ("/status/404", "missing"),
        ("/status/410", "missing"),
        ("/status/403", "remote_error"),
        ("/status/500", "remote_error"),
        ("/status/206", "remote_error"),
        ("/short", "remote_error"),
        ("/gzip", "remote_error"),
    ):
        assert refusal(lambda path=path: get(server, path)).reason == reason, path
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for scheme, at in (
        ("http", port),
        ("https", server.server_address[1]),
    ):  # nobody listens; no TLS spoken there
        config = RemoteConfig(allow=(f"{scheme}://images.test:{at}",), timeout_s=5)
        error = refusal(
            lambda u=f"{scheme}://images.test:{at}/ok?token=secret", c=config: remote._fetch(
                u, c, loopback(Names(**NAMES))
            )
        )
        assert error.reason == "remote_error"
        assert "secret" not in str(error)


def test_object_stores_go_through_fsspec():
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/folder/a.jpg": BODY, "/bucket/b.jpg": b"b", "/other/c.jpg": b"c"})
    config = RemoteConfig(allow=("memory://bucket/folder",), max_bytes=len(BODY))
    try:
        assert fetch("memory://bucket/folder/a.jpg", config) == BODY
        for uri in ("memory://bucket/b.jpg", "memory://other/c.jpg", "memory://bucket/folder/../b.jpg"):
            assert refusal(lambda uri=uri: fetch(uri, config)).reason == "remote_not_allowed"
        assert refusal(lambda: fetch("memory://bucket/folder/none.jpg", config)).reason == "missing"
        small = RemoteConfig(allow=config.allow, max_bytes=len(BODY) - 1)
        assert refusal(lambda: fetch("memory://bucket/folder/a.jpg", small)).reason == "too_large"
    finally:
        store.rm("/bucket", recursive=True)
        store.rm("/other", recursive=True)


def test_a_slow_object_store(monkeypatch):
    monkeypatch.setattr(remote, "_read_object", lambda *_: time.sleep(2) or b"")
    config = RemoteConfig(allow=("memory://bucket",), timeout_s=0.1)
    started = time.perf_counter()
    assert refusal(lambda: fetch("memory://bucket/a", config)).reason == "timeout"
    assert time.perf_counter() - started < 1.5


def test_a_broken_object_store(monkeypatch):
    def fail(*_):
        raise PermissionError("access denied to key AKIA…")

    monkeypatch.setattr(remote, "_read_object", fail)
    config = RemoteConfig(allow=("memory://bucket",))
    assert refusal(lambda: fetch("memory://bucket/a", config)).reason == "remote_error"


def test_a_missing_package_is_named(monkeypatch):
    def missing(kind):
        raise ImportError(f"Install {kind}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(CaptionaryError, match="s3fs"):
        fetch("s3://bucket/key", RemoteConfig(allow=("s3://bucket",)))


@pytest.mark.parametrize("name", ["max_bytes", "connect_timeout_s", "read_timeout_s", "timeout_s"])
def test_limits_are_positive(name):
    with pytest.raises(CaptionaryError, match=name):
        RemoteConfig(**{name: 0})
