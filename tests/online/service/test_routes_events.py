import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.online.service.small_service import make_key

from captionary.online.log import EVENTS, EventMessage, LogFullError
from captionary.online.service.routes_events import idempotency_key
from captionary.online.service.settings import LimitsConfig


def send(served, *events, headers=None, **more):
    body = {"events": [{"user": "u5", "item": 1003, "event": "like"} | event for event in events]}
    return served.client.post("/events", json=body, headers=served.admin | (headers or {}), **more)


def waiting(served):
    entries = served.services.log.take(EVENTS, "test", most=1000, lease_seconds=0.01)
    return {e.position: msgspec.json.decode(e.payload, type=EventMessage) for e in entries}


def test_events_are_on_the_log_as_they_were_sent(start):
    served = start()
    moment = datetime(2026, 3, 2, 9, 0, 0, 123457, tzinfo=UTC)
    before = time.time_ns() // 1000
    answer = send(served, {"timestamp": moment.isoformat(), "value": 2.5}, {}, {"event": "seen"})
    assert answer.status_code == 202
    said = answer.json()
    assert said["accepted"] == 3
    assert said["without_profile"] == ["seen"]
    found = waiting(served)
    first, second, third = (found[position] for position in said["positions"])
    assert first == EventMessage(
        user_id="u5", item_id=1003, event="like", timestamp=1772442000_123457, value=2.5
    )
    assert before <= second.timestamp <= time.time_ns() // 1000
    assert third.event == "seen"


def test_what_is_sent_again_is_there_once(start):
    served = start()
    header = {"Idempotency-Key": "batch 7"}
    first = send(served, {}, {}, headers=header).json()["positions"]
    assert send(served, {}, {}, headers=header).json()["positions"] == first
    assert first[0] != first[1]
    one = send(served, {"key": "a"}).json()["positions"]
    assert send(served, {"key": "a"}, headers={"Idempotency-Key": "other"}).json()["positions"] == one
    assert len(waiting(served)) == 3
    other = make_key(served.folder, "events", name="another producer")
    served.services.keys._refresh(force=True)
    assert send(served, {"key": "a"}, headers=other).json()["positions"] != one


def test_keys_of_a_batch_an_event_and_nobody_differ():
    keys = [
        idempotency_key("p", None, "a", 0),
        idempotency_key("p", None, "a", 1),
        idempotency_key("p", "a", None, 0),
    ]
    keys += [idempotency_key("p", None, None, 0), idempotency_key("p", None, None, 0)]
    assert len(set(keys)) == 5
    assert idempotency_key("p", "a", "b", 3) == idempotency_key("p", "a", None, 0)


@pytest.mark.parametrize(
    ("event", "part"),
    [
        ({"user": 5}, "a string, as in training"),
        ({"item": "x"}, "an integer, as in training"),
        ({"value": -1}, "value"),
        ({"timestamp": "2026-03-02T09:00:00"}, "timezone"),
        ({"timestamp": (datetime.now(UTC) + timedelta(days=1)).isoformat()}, "at most 300 s after now"),
        ({"event": "a\nb"}, "matching regex"),
        ({"event": ""}, "length >= 1"),
        ({"when": 1}, "unknown field"),
    ],
)
def test_one_bad_event_and_none_is_taken(served, event, part):
    before = served.services.log.last(EVENTS)
    answer = send(served, {}, event)
    assert answer.status_code == 400
    assert part in answer.json()["detail"]
    assert served.services.log.last(EVENTS) == before


def test_a_full_log_is_said(served, monkeypatch):
    def full(*_):
        raise LogFullError("backlog == 5, must be < 5", retry_after=7.2)

    monkeypatch.setattr(served.services.log, "append", full)
    answer = send(served, {})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "7"
    assert answer.json()["reason"] == "log_full"


def test_a_batch_has_a_limit(start):
    served = start(limits=LimitsConfig(events=2))
    assert "events == 3, must be <= 2" in send(served, {}, {}, {}).json()["detail"]
