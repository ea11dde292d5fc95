"""Against real servers on 127.0.0.1, which only an injected network lets us reach: `fetch` itself must refuse it."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captionary.errors import CaptionaryError
from captionary.understand import remote
from captionary.understand.addresses import is_public
from captionary.understand.media import MEDIA_REASONS, MediaError
from captionary.understand.remote import RemoteConfig, fetch, is_remote

fsspec = pytest.importorskip("fsspec", reason="remote media need fsspec")
pytest.importorskip("aiohttp", reason="remote media over http need aiohttp")

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        port = self.server.server_address[1]
        if path == "/ok":
            self.answer(200, BODY)
        elif path == "/empty":
            self.answer(200, b"")
        elif path.startswith("/status/"):
            self.answer(int(path[8:]), b"no")
        elif path.startswith("/hop/"):
            left = int(path[5:])
            self.answer(302, b"", Location="/ok" if left == 1 else f"/hop/{left - 1}")
        elif path == "/loop":
            self.answer(302, b"", Location="/loop")
        elif path == "/nowhere":
            self.answer(302, b"")
        elif path == "/to-private":
            self.answer(302, b"", Location=f"http://inside.test:{port}/ok")
        elif path == "/to-metadata":
            self.answer(301, b"", Location="http://169.254.169.254/latest/meta-data")
        elif path == "/to-file":
            self.answer(302, b"", Location="file:///etc/passwd")
        elif path == "/to-login":
            self.answer(302, b"", Location=f"http://me:secret@images.test:{port}/ok")
        elif path == "/gzip":
            self.answer(200, b"\x1f\x8b", **{"Content-Encoding": "gzip"})
        elif path == "/short":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY) + 5))
            self.end_headers()
            self.wfile.write(BODY)
            self.close_connection = True
        elif path == "/endless":
            self.stream(b"x" * 65536, 0.0)
        elif path == "/drip":  # never silent for long, never done
            self.stream(b"x", 0.02)
        elif path == "/cookie":
            self.answer(302, b"", Location="/ok", **{"Set-Cookie": "id=1"})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, part: bytes, pause: float) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(part)
                time.sleep(pause)
        except OSError:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.seen = []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


class Names:
    """A name service of our own, which counts who asks."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): list(found) for name, found in names.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(-2, "Name or service not known")
        return self.names[host]


def test_network(names: Names) -> remote._Network:
    return remote._Network(names.resolve, lambda address: str(address) == "127.0.0.1" or is_public(address))


test_network.__test__ = False
NAMES = {"images_test": ["127.0.0.1"], "inside_test": ["10.0.0.7"], "mixed_test": ["127.0.0.1", "10.0.0.7"]}


def get(server: ThreadingHTTPServer, path: str, *, host: str = "images.test", **options: object) -> bytes:
    port = server.server_address[1]
    allow = (f"http://images.test:{port}", f"http://inside.test:{port}", f"http://mixed.test:{port}")
    config = RemoteConfig(**{"allow": allow, "timeout_s": 5.0, **options})
    return remote._fetch(f"http://{host}:{port}{path}", config, test_network(Names(**NAMES)))


def refusal(call: Callable[[], object]) -> MediaError:
    with pytest.raises(MediaError) as caught:
        call()
    assert f"must be {MEDIA_REASONS[caught.value.reason]}" in str(caught.value)
    return caught.value


def test_what_is_allowed_is_fetched(server):
    assert get(server, "/ok") == BODY
    assert get(server, "/ok?size=2") == BODY
    assert get(server, "/empty") == b""
    path, headers = server.seen[-1]
    assert path == "/empty"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_nothing_is_allowed_by_default(server):
    before = len(server.seen)
    for uri in ("https://example.com/a.jpg", "http://127.0.0.1/", "s3://bucket/key", "memory://bucket/key"):
        assert refusal(lambda uri=uri: fetch(uri, RemoteConfig())).reason == "remote_not_allowed"
    assert len(server.seen) == before


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "local:///etc/passwd",
        "/etc/passwd",
        "etc/passwd",
        "simplecache::file:///etc/passwd",
        "simplecache::http://images.test/ok",
        "zip://a.jpg::file:///tmp/a.zip",
        "memory://bucket/a::file:///etc/passwd",
        "memory://bucket/../other/a",
        "memory://bucket/x/%2e%2e/%2e%2e/other",
        "memory://bucket2/a",
        "memory://me:secret@bucket/a",
        "ssh://images.test/a",
        "ftp://images.test/a",
        "data:image/png;base64,AAAA",
        "https://images.test/a",  # only http is allowed
        "http://images.test:8080/a",
        "http://me:secret@images.test/a",
        "http://me@images.test/a",
        "http://images.test.evil.test/a",
        "http://evilimages.test/a",
        "http://evil.test/images.test",
        "http://evil.test\\@images.test/a",
        "http://evil.test#@images.test/a",
        "http://images.test@evil.test/a",
        "http://sub.images.test/a",
        "http://images.test/a::b",
        "http://images.test/a b",
        "http://images.test/\r\nHost: evil.test",
        "http://cdn.test/other/a",
        "http://cdn.test/pictures/../other/a",
        "http://cdn.test/pictures/%2e%2e/other/a",
        "http://cdn.test/pictures/%252e%252e/other/a",
        "http://cdn.test/picturesque",
        "http://wild.test/a",
        "http:///a",
        "http://",
        "http://[::1/a",
    ],
)
def test_what_is_not_on_the_list(uri):
    allow = ("http://images.test", "http://cdn.test/pictures", "http://*.wild.test", "memory://bucket")
    names = Names()
    error = refusal(lambda: remote._fetch(uri, RemoteConfig(allow=allow), test_network(names)))
    assert error.reason == "remote_not_allowed"
    assert names.asked == []  # refused before anybody is asked anything
    assert "secret" not in str(error)


def test_wildcards_and_folders():
    names = Names()
    allow = ("http://cdn.test/pictures/", "http://*.wild.test")
    for uri in ("http://cdn.test/pictures/a", "http://CDN.test./pictures/b/c", "http://a.b.wild.test/x"):
        error = refusal(lambda uri=uri: remote._fetch(uri, RemoteConfig(allow=allow), test_network(names)))
        assert error.reason == "remote_error"  # allowed; there is no such name
        assert "no address" in error.detail


HIDDEN = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "0",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a00:1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:db8::1]",
    "１２７.0.0.1",
    "127。0。0。1",
]


@pytest.mark.parametrize("host", HIDDEN)
def test_addresses_of_the_inside_in_any_form(host):
    # Even where the list names them.
    forms = {host, host.strip("[]")}
    url = remote._yarl(f"http://{host}/")
    forms |= {str(url.host), f"[{url.host}]" if ":" in str(url.host) else str(url.host)}
    allow = tuple(
        f"http://{form}" for form in forms if remote._ENTRY.fullmatch(f"http://{form}") and "::" not in form
    )
    allow += tuple(f"http://{form}" for form in forms if form.startswith("[::"))
    config = RemoteConfig.__new__(
        RemoteConfig
    )  # past the check of the list, which has no reason to know them
    for name, value in {
        **RemoteConfig().__dict__,
        "allow": (*allow, *(f"http://{form}" for form in forms)),
    }.items():
        object.__setattr__(config, name, value)
    assert refusal(lambda: fetch(f"http://{host}/", config)).reason == "private_address"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:1.1.1.1"]
)
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


def test_loopback_is_refused_by_the_public_call(server):
    port = server.server_address[1]
    before = len(server.seen)
    for host in ("127.0.0.1", "localhost"):
        config = RemoteConfig(allow=(f"http://{host}:{port}",))
        assert (
            refusal(lambda host=host, c=config: fetch(f"http://{host}:{port}/ok", c)).reason
            == "private_address"
        )
    assert len(server.seen) == before


def test_a_name_with_one_private_address_is_refused(server):
    before = len(server.seen)
    assert refusal(lambda: get(server, "/ok", host="inside.test")).reason == "private_address"
    assert refusal(lambda: get(server, "/ok", host="mixed.test")).reason == "private_address"
    assert len(server.seen) == before


def test_a_name_is_looked_up_once_and_its_checked_address_is_used(server):
    """DNS rebinding: a second look-up would find the inside."""

    class Rebinding(Names):
        async def resolve(self, host: str, port: int) -> list[str]:
            self.asked.append(host)
            return ["127.0.0.1"] if len(self.asked) == 1 else ["10.0.0.7"]

    names = Rebinding()
    port = server.server_address[1]
    config = RemoteConfig(allow=(f"http://images.test:{port}",), timeout_s=5)
    assert remote._fetch(f"http://images.test:{port}/ok", config, test_network(names)) == BODY
    assert names.asked == ["images.test"]
    assert server.seen[-1][1]["Host"] == f"images.test:{port}"


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
    error = refusal(lambda: remote._fetch("https://images.test/a", config, test_network(names)))
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
            lambda: remote._fetch(f"http://images.test:{port}/", config, test_network(Names(**NAMES)))
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
    assert (
        refusal(lambda: remote._fetch("http://images.test/", config, test_network(Slow()))).reason
        == "timeout"
    )
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
                u, c, test_network(Names(**NAMES))
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


@pytest.mark.parametrize(
    "entry",
    ["example.com", "*", "https://*", "https://*.com", "https://", "file:///data", "local://x", "https://a b", "ftp://x",
     "https://me:secret@x.com", "s3://*.bucket", "simplecache::s3://bucket", "https://x.com/a?b", "zip://x"],
)  # fmt: skip
def test_entries_of_the_list(entry):
    with pytest.raises(CaptionaryError, match="allow"):
        RemoteConfig(allow=(entry,))


@pytest.mark.parametrize("name", ["max_bytes", "connect_timeout_s", "read_timeout_s", "timeout_s"])
def test_limits_are_positive(name):
    with pytest.raises(CaptionaryError, match=name):
        RemoteConfig(**{name: 0})


def test_is_remote():
    assert is_remote("https://example.com/a.jpg")
    assert is_remote("S3://bucket/key")
    for uri in (
        "a.jpg",
        "/data/a.jpg",
        "file:///data/a.jpg",
        "FILE:///a",
        "dir://odd/name" * 0,
        "C:\\a.jpg",
        "",
    ):
        assert not is_remote(uri)
