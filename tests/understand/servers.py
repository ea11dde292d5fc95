"""A server of chat completions on 127.0.0.1 that behaves as badly as a test asks."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Request(BaseHTTPRequestHandler):
    """One request; a behaviour answers it with one of the methods."""

    protocol_version = "HTTP/1.1"
    number: int
    body: dict[str, Any]

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, BadServer)
        self.body = json.loads(raw)
        with server.lock:
            self.number = len(server.requests)
            server.requests.append((self.path, dict(self.headers), self.body, time.monotonic()))
            server.flying += 1
            server.most_flying = max(server.most_flying, server.flying)
        try:
            server.behave(self)
        finally:
            with server.lock:
                server.flying -= 1

    def say(self, text: object, *, usage: object = (10, 3), **choice: object) -> None:
        counts = {}
        if isinstance(usage, tuple):
            counts = {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
        message = {"role": "assistant", "content": text, **choice.pop("message", {})}  # type: ignore[dict-item]
        self.send(200, {"choices": [{"message": message, "finish_reason": "stop", **choice}], **counts})

    def send(
        self, status: int, body: object, headers: dict[str, str] | None = None, *, claim: int = 0
    ) -> None:
        """JSON, or bytes as they are; `claim` more bytes are promised than sent."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data) + claim), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if claim:
            self.close_connection = True

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client hung up, or `reset` closed the files
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


class BadServer(ThreadingHTTPServer):
    """Keeps (path, headers, body, time) of all requests and how many it had at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Callable[[Request], None]) -> None:
        self.behave = behave
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any], float]] = []
        self.flying = self.most_flying = 0
        super().__init__(("127.0.0.1", 0), Request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(behave: Callable[[Request], None]) -> Iterator[BadServer]:
    """The server, for as long as the block lasts."""
    server = BadServer(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def colour_of(body: dict[str, Any]) -> int:
    """The red channel of the picture in a request, by 10s: which picture it is."""
    import base64
    import io

    from PIL import Image

    url = body["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return round(image.getpixel((0, 0))[0] / 10)  # type: ignore[index]
