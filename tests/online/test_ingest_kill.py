"""Workers are killed, the server of the log goes away, producers ask twice: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.conftest import RedisServer
from tests.online.uploads import picture, tokens_of, upload
from tests.online.worlds import DAY, events_of, expected, opened, same
from tests.understand.fake import FakeCaptioner

from captionary.online.log import (
    EVENTS,
    MEDIA,
    EventLog,
    LogUnavailableError,
    event_draft,
    media_draft,
    open_log,
)
from captionary.online.spool import Spool

ITEMS, EVENTS_SENT = 12, 160


class Workers:
    """Processes that are begun and killed at random moments."""

    def __init__(self, folder: Path, store_url: str, log_url: str) -> None:
        root = Path(__file__).parents[2]
        script = Path(__file__).with_name("kill_worker.py")
        environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), store_url, log_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._out.readline() == "ready\n"

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def begin(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return int(self._out.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def send(log: EventLog, topic: str, draft: Any) -> None:
    """As a producer does: until it is acknowledged, and now and then once more."""
    while True:
        try:
            log.append(topic, [draft])
            return
        except LogUnavailableError:
            time.sleep(0.02)


@pytest.mark.parametrize("kind", ["embedded", "fleet"])
def test_nothing_is_lost_or_counted_twice(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, draw = (20, random.Random(1)) if kind == "embedded" else (12, random.Random(2))
    store_url, log_url, server = str(tmp_path / "store"), str(tmp_path / "log.sqlite"), None
    if kind == "fleet":
        request.getfixturevalue("redis_server")  # skips where there is none
        (tmp_path / "redis").mkdir()
        server = RedisServer(tmp_path / "redis")
        store_url = log_url = server.url
    workers = Workers(tmp_path, store_url, log_url)
    log, spool = open_log(log_url), Spool(tmp_path / "spool")
    pictures = {number: picture(number) for number in range(ITEMS)}
    events = events_of(EVENTS_SENT, items=ITEMS + 2)
    todo: list[tuple[str, Any]] = [
        (EVENTS, event_draft(event, f"event {n}")) for n, event in enumerate(events)
    ]
    todo += [
        (MEDIA, media_draft(upload(number, spool.put(data)), f"item {number}"))
        for number, data in pictures.items()
    ]
    draw.shuffle(todo)
    each = -(-len(todo) // kills)
    for kill in range(kills):
        children = [workers.begin() for _ in range(2 if kill % 3 == 0 else 1)]
        ends = time.monotonic() + draw.uniform(0.02, 0.2)
        for topic, draft in todo[kill * each : (kill + 1) * each]:
            send(log, topic, draft)
            if draw.random() < 0.1:
                send(log, topic, draft)
        if server is not None and kill % 5 == 2:
            server.kill()
            server.start()
        time.sleep(max(0.0, ends - time.monotonic()))
        for child in children:
            os.kill(child, signal.SIGKILL)
    last = workers.begin()
    deadline = time.monotonic() + 60
    while log.backlog(EVENTS) + log.backlog(MEDIA) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(last, signal.SIGTERM)
    workers.end()
    assert (log.backlog(EVENTS), log.backlog(MEDIA)) == (0, 0)
    assert log.dead(EVENTS) == log.dead(MEDIA) == []
    captioner = FakeCaptioner()
    tokens = {number: tokens_of(data, captioner) for number, data in pictures.items()}
    with opened(store_url) as store:
        for number, record in zip(tokens, store.items(list(tokens)), strict=True):
            assert record is not None
            assert record.token_ids.tolist() == tokens[number]
        read = store.read("user-0", list(tokens), 99 * DAY, version="v1", width=3)
        assert read.rows[:, :2].tolist() == [[len(ids), sum(ids)] for ids in tokens.values()]
        moments = [(f"user-{user}", moment * DAY) for user in range(4) for moment in (7, 50)]
        for (user, moment), want in zip(moments, expected(events, tokens, moments), strict=True):
            assert same(store.profile(user, moment), want)
    settled = [entry.key for entry, _ in log.settled(EVENTS)]
    assert sorted(settled) == sorted(f"event {n}" for n in range(EVENTS_SENT))
    if server is not None:
        server.kill()
