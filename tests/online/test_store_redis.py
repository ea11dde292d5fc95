"""The engine of fleets: passwords, a bounded pool, a server that goes away and comes back, updates that collide."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.online.conftest import RedisServer

pytest.importorskip("redis", reason="the package redis talks to the server")

from captionary.errors import CaptionaryError
from captionary.online.keyvalue import StoreFullError, StoreUnavailableError, open_engine
from captionary.online.log import EVENTS, Draft, LogUnavailableError, open_log
from captionary.online.store_redis import RedisEngine


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path, "--requirepass", "s3cret", "--maxmemory", "20mb")
    yield server
    server.kill()


def with_password(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis://:s3cret@")


def test_a_password_is_in_the_url_and_in_no_message(server: RedisServer) -> None:
    engine = RedisEngine(with_password(server))
    engine.update(lambda transaction: transaction.put(b"a", b"1"))
    assert engine.read([b"a"]) == (1, [b"1"])
    wrong = with_password(server).replace("s3cret", "secret-too")
    for url in (server.url, wrong):
        with pytest.raises(StoreUnavailableError) as caught:
            RedisEngine(url)
        assert "secret-too" not in str(caught.value)
    server.kill()
    with pytest.raises(StoreUnavailableError) as caught:
        engine.read([b"a"])
    assert "s3cret" not in str(caught.value)


def test_tls_by_url_with_a_certificate_that_is_checked(tmp_path: Path) -> None:
    for program in ("redis-server", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no", "--requirepass", "s3cret"]
    server = RedisServer(tmp_path, *options)
    try:
        url = f"rediss://:s3cret@127.0.0.1:{port}/0"
        engine = RedisEngine(f"{url}?ssl_ca_certs={certificate}")
        engine.update(lambda transaction: transaction.put(b"a", b"1"))
        assert engine.read([b"a"]) == (1, [b"1"])
        log = open_log(f"{url}?ssl_ca_certs={certificate}")
        assert log.append(EVENTS, [Draft("x", b"$u", b"1")]) == [log.last(EVENTS)]
        with pytest.raises(StoreUnavailableError, match="certificate") as caught:
            RedisEngine(url)  # nobody whom this machine trusts has signed it
        assert "s3cret" not in str(caught.value)
    finally:
        server.kill()


def test_a_server_that_comes_back_has_all_that_was_acknowledged(server: RedisServer) -> None:
    engine, log = RedisEngine(with_password(server)), open_log(with_password(server))
    engine.update(lambda transaction: transaction.put(b"a", b"1"))
    places = log.append(EVENTS, [Draft("x", b"$u", b"1"), Draft("y", b"$u", b"2")])
    (first,) = log.take(EVENTS, "one", most=1, lease_seconds=0.1)
    server.kill()
    with pytest.raises(StoreUnavailableError, match="must be a Redis server that answers"):
        engine.update(lambda transaction: transaction.put(b"a", b"2"))
    with pytest.raises(LogUnavailableError):
        log.append(EVENTS, [Draft("z", b"$u", b"3")])
    server.start()
    assert engine.read([b"a"]) == (1, [b"1"])
    engine.update(lambda transaction: transaction.put(b"a", b"3"))
    assert log.append(EVENTS, [Draft("y", b"$u", b"2")]) == places[1:]
    time.sleep(0.1)
    again = log.take(EVENTS, "two", most=5, lease_seconds=0.1)
    assert [entry.position for entry in again] == places
    assert again[0].key == first.key


def test_memory_that_is_full_undoes_the_update_and_says_so(server: RedisServer) -> None:
    engine = RedisEngine(with_password(server))

    def fill() -> None:
        for number in range(60):
            engine.update(lambda t, n=number: t.put(b"%d" % n, bytes(1_000_000)))  # type: ignore[misc]

    with pytest.raises(StoreFullError, match="must be with room left"):
        fill()
    sequence, values = engine.read([b"%d" % number for number in range(60)])
    assert sum(value is not None for value in values) == sequence


def test_updates_that_collide_are_made_one_after_the_other(redis_server: RedisServer) -> None:
    redis_server.flush()

    def count() -> None:
        engine = RedisEngine(redis_server.url)
        for _ in range(30):
            engine.update(lambda t: t.put(b"n", str(int(t.get_many([b"n"])[0] or b"0") + 1).encode()))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert RedisEngine(redis_server.url).read([b"n"]) == (120, [b"120"])


def test_more_threads_than_connections_wait_for_one(redis_server: RedisServer) -> None:
    redis_server.flush()
    engine = open_engine(redis_server.url, connections=2)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(engine.read([b"a"] * 100)[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 20
    import redis

    clients = redis.Redis(port=redis_server.port).client_list()
    assert len([c for c in clients if c["cmd"] == "mget"]) <= 2


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreUnavailableError):
            open_engine(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("ftp://x", {}, "store == ftp"),
        ("redis://x", {"timeout": 0.0}, "timeout == 0.0"),
        ("redis://x", {"connections": 0}, "connections == 0"),
    ],
)
def test_what_cannot_be_an_engine_is_refused(url: str, more: dict[str, float], said: str) -> None:
    with pytest.raises(CaptionaryError, match=said):
        open_engine(url, **more)  # type: ignore[arg-type]
