"""Requests that were served while items, events and decisions came in are done again offline, to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("lmdb", reason="the embedded store is LMDB")

from tests.online.worlds import DAY, catalogue, events_of, item_of, opened

from captionary.errors import CaptionaryError
from captionary.online.decisions import erase, erase_token, forget_item, forget_user, govern
from captionary.online.forgotten import Forgotten
from captionary.online.log import EVENTS, EventLog, EventMessage, event_draft, open_log
from captionary.online.packing import id_bytes
from captionary.online.request_log import RequestLog, RequestRecord, erase_requests, read_requests, served
from captionary.online.store import OnlineStore
from captionary.online.updates import apply_events, put_items
from captionary.online.verify import Scoring, verify
from captionary.online.worker import IngestWorker, WorkerOptions


class Live:
    """A store and a log with events, and a service that logs what it serves."""

    def __init__(self, folder: Path) -> None:
        self.store: OnlineStore = opened(str(folder / "store"))
        self.log: EventLog = open_log(str(folder / "log.sqlite"))
        self.requests = RequestLog(folder / "requests", share=1.0)
        self.history = events_of(80, seed=9)
        self.worker = IngestWorker(
            self.log, self.store, None, options=WorkerOptions(events_at_once=5, gather_seconds=0)
        )
        apply_events(self.store, self.history)
        self.count = 0

    def send(self, events: list[EventMessage]) -> None:
        for event in events:
            self.count += 1
            self.log.append(EVENTS, [event_draft(event, f"{self.count}")])

    def serve(self, user: str, as_of: int) -> None:
        items = self.store.item_ids()
        read = self.store.read(user, items, as_of, version="v1", width=3)
        self.count += 1
        self.requests.append(
            RequestRecord(
                request_id=f"r{self.count}",
                user_id=user,
                as_of=as_of,
                sequence=read.sequence,
                version="v1",
                item_ids=items,
                scores=score(read.lists, read.rows).tolist(),
                lists=served(read.lists),
            )
        )

    def verify(self, **more: Any) -> Any:
        self.requests.close()
        return verify(
            read_requests(self.requests.folder),
            self.store,
            self.log,
            history=self.history,
            scorings={"v1": Scoring(lambda request, lists, rows, present: score(lists, rows), 3)},
            **more,
        )


def score(lists: Any, rows: Any) -> Any:
    """[C, 2] from all that a ranker reads."""
    known = sum(float(np.dot(found.token_ids, found.weights)) + found.mass for found in lists.values())
    return np.stack([rows.sum(1), np.full(len(rows), known)], 1).astype(np.float32)


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def busy(live: Live, decisions: bool = True) -> None:
    """A day of everything at once."""
    draw = random.Random(4)
    for _ in range(40):
        live.send(events_of(draw.randrange(1, 6), seed=draw.random()))  # type: ignore[arg-type]
        live.worker.events_once()
        number = draw.randrange(12)
        if draw.random() < 0.4:
            put_items(live.store, [item_of(number, [draw.randrange(50) for _ in range(3)])])
        user = f"user-{draw.randrange(4)}"
        if decisions and draw.random() < 0.3:
            token = draw.randrange(50)
            verb = draw.choice(["mute", "unmute", "boost"])
            govern(live.store, user, verb, token=token, factor=2.0 if verb == "boost" else 1.0)  # type: ignore[arg-type]
        if decisions and draw.random() < 0.2:
            erase_token(live.store, user, draw.randrange(50), at=draw.randrange(20) * DAY)
        if decisions and draw.random() < 0.05:
            erase(live.store, user, event="like", at=draw.randrange(20) * DAY)
        live.serve(user, draw.choice([9, 25, 40]) * DAY)


def test_what_was_served_is_what_the_batch_builder_makes(live: Live) -> None:
    put_items(live.store, [item_of(*pair) for pair in catalogue(6).items()])
    busy(live)
    found = live.verify()
    assert found.clean, found.to_string()
    assert (found.requests, found.lists, found.unequal_lists) == (40, 80, 0)
    assert 0 < found.scored <= 40
    assert found.largest == 0
    assert sum(found.skipped.values()) + found.scored == 40
    assert "0 of 80 lists differ" in found.to_string()


def test_a_skew_is_found_and_shown(live: Live) -> None:
    put_items(live.store, [item_of(*pair) for pair in catalogue(12).items()])
    live.serve("user-1", 40 * DAY)
    live.serve("user-2", 40 * DAY)
    path = live.requests.folder
    live.requests.close()
    (file,) = path.glob("*.jsonl")
    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    weights = lines[0]["lists"]["like"][1]
    weights[0] = float(np.nextafter(np.float32(weights[0]), np.float32(1)))  # the last bit
    lines[1]["scores"][0][0] += 0.5
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    found = live.verify()
    assert (found.unequal_lists, found.unequal_scores, found.largest) == (1, 1, 0.5)
    assert [(e.request_id, e.what) for e in found.examples] == [("r1", "list like"), ("r2", "scores")]
    assert not found.clean
    assert live.verify(tolerance=0.5).unequal_scores == 0
    # An event that the log has and the store never saw is a difference too.
    live.send([EventMessage(user_id="user-1", item_id=3, event="like", timestamp=39 * DAY)])
    (entry,) = live.log.take(EVENTS, "x", most=1)
    live.log.done(EVENTS, [entry.position], 1)
    assert live.verify().unequal_lists == 1
    assert "mass" in live.verify().to_string()


def test_what_was_forgotten_is_left_out(live: Live) -> None:
    put_items(live.store, [item_of(*pair) for pair in catalogue(12).items()])
    live.serve("user-1", 40 * DAY)
    live.serve("user-2", 40 * DAY)
    forget_user(live.store, "user-1")
    live.log.erase(EVENTS, id_bytes("user-1"))
    forget_item(live.store, 3)
    live.serve("user-1", 40 * DAY)
    live.serve("user-2", 40 * DAY)
    live.send(events_of(20, seed=7))
    live.worker.events_once()
    for user in range(4):
        live.serve(f"user-{user}", 40 * DAY)
    found = live.verify()
    assert found.clean, found.to_string()
    assert found.skipped["user forgotten since"] == 1
    assert found.skipped["item forgotten since"] == 1
    gone = Forgotten.of(live.store.engine)
    assert erase_requests(live.requests.folder, gone) == 1  # of three: two were asked for after the parting
    users = [r.user_id for r in read_requests(live.requests.folder)]
    assert sorted(users) == ["user-0", "user-1", "user-1", "user-2", "user-2", "user-2", "user-3"]


def test_a_log_of_requests_is_sampled_and_begun_anew(tmp_path: Path) -> None:
    assert not any(RequestLog(tmp_path, share=0.0).wants() for _ in range(100))
    with pytest.raises(CaptionaryError, match="share of requests"):
        RequestLog(tmp_path, share=1.5)
    log = RequestLog(tmp_path, share=1.0, segment_bytes=600)
    assert log.wants()
    record = RequestRecord(
        request_id="x", user_id=5, as_of=1, sequence=2, version="v", item_ids=[1, "a"], scores=[[0.25], [0.1]], lists={}
    )  # fmt: skip
    for _ in range(10):
        log.append(record)
    log.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) > 1
    assert list(read_requests(tmp_path)) == [record] * 10
    with files[-1].open("ab") as file:
        file.write(b'{"request_id": "cut sho')
    assert len(list(read_requests(tmp_path))) == 10
    files[0].write_bytes(b"{}\n")
    with pytest.raises(CaptionaryError, match="line 1"):
        list(read_requests(tmp_path))
    with pytest.raises(CaptionaryError, match="serve with a request log first"):
        list(read_requests(tmp_path / "absent"))
