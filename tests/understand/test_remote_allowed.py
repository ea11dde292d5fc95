"""What may be asked at all: the list of places, and addresses of the inside in whatever form they come.

Only an injected network lets a test reach 127.0.0.1: `fetch` itself must refuse it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from tests.understand.media_server import BODY, Names, get, loopback, media_server, refusal

from captionary.errors import CaptionaryError
from captionary.understand import remote
from captionary.understand.addresses import is_public
from captionary.understand.remote import RemoteConfig, fetch, is_remote

pytest.importorskip("fsspec", reason="remote media need fsspec")
pytest.importorskip("aiohttp", reason="remote media over http need aiohttp")


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with media_server() as running:
        yield running


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
    error = refusal(lambda: remote._fetch(uri, RemoteConfig(allow=allow), loopback(names)))
    assert error.reason == "remote_not_allowed"
    assert names.asked == []  # refused before anybody is asked anything
    assert "secret" not in str(error)


def test_wildcards_and_folders():
    names = Names()
    allow = ("http://cdn.test/pictures/", "http://*.wild.test")
    for uri in ("http://cdn.test/pictures/a", "http://CDN.test./pictures/b/c", "http://a.b.wild.test/x"):
        error = refusal(lambda uri=uri: remote._fetch(uri, RemoteConfig(allow=allow), loopback(names)))
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
    assert remote._fetch(f"http://images.test:{port}/ok", config, loopback(names)) == BODY
    assert names.asked == ["images.test"]
    assert server.seen[-1][1]["Host"] == f"images.test:{port}"


@pytest.mark.parametrize(
    "entry",
    ["example.com", "*", "https://*", "https://*.com", "https://", "file:///data", "local://x", "https://a b", "ftp://x",
     "https://me:secret@x.com", "s3://*.bucket", "simplecache::s3://bucket", "https://x.com/a?b", "zip://x"],
)  # fmt: skip
def test_entries_of_the_list(entry):
    with pytest.raises(CaptionaryError, match="allow"):
        RemoteConfig(allow=(entry,))


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
