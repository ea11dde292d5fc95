"""A server of media on 127.0.0.1 that behaves as badly as its paths say, and the network that lets a test reach it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captionary.understand import remote
from captionary.understand.addresses import is_public
from captionary.understand.media import MEDIA_REASONS, MediaError
from captionary.understand.remote import RemoteConfig

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


@contextmanager
def media_server() -> Iterator[ThreadingHTTPServer]:
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


def loopback(names: Names) -> remote._Network:
    """One that takes 127.0.0.1 for a public address."""
    return remote._Network(names.resolve, lambda address: str(address) == "127.0.0.1" or is_public(address))


NAMES = {"images_test": ["127.0.0.1"], "inside_test": ["10.0.0.7"], "mixed_test": ["127.0.0.1", "10.0.0.7"]}


def get(server: ThreadingHTTPServer, path: str, *, host: str = "images.test", **options: object) -> bytes:
    port = server.server_address[1]
    allow = (f"http://images.test:{port}", f"http://inside.test:{port}", f"http://mixed.test:{port}")
    config = RemoteConfig(**{"allow": allow, "timeout_s": 5.0, **options})
    return remote._fetch(f"http://{host}:{port}{path}", config, loopback(Names(**NAMES)))


def refusal(call: Callable[[], object]) -> MediaError:
    with pytest.raises(MediaError) as caught:
        call()
    assert f"must be {MEDIA_REASONS[caught.value.reason]}" in str(caught.value)
    return caught.value
