"""One log, two engines: what is acknowledged is delivered until it has had its effect, and kept once."""

from __future__ import annotations

import threading
import time

import pytest

from captionary.errors import CaptionaryError
from captionary.online.log import EVENTS, MEDIA, Draft, EventLog, LogFullError, open_log


def drafts(*keys: str, about: bytes = b"$ann") -> list[Draft]:
    return [Draft(key, about, f"payload of {key}".encode()) for key in keys]


@pytest.fixture
def log(log_url: str) -> EventLog:
    return open_log(log_url, most_waiting=10)


def test_entries_come_in_order_to_one_consumer_each(log: EventLog) -> None:
    first = log.append(EVENTS, drafts("a", "b", "c"))
    assert first == sorted(first)
    mine = log.take(EVENTS, "one", most=2)
    others = log.take(EVENTS, "two", most=5)
    assert [e.key for e in mine + others] == ["a", "b", "c"]
    assert [e.position for e in mine + others] == first
    assert (mine[0].payload, mine[0].subject, mine[0].attempts) == (b"payload of a", b"$ann", 1)
    assert abs(mine[0].received_at / 1e6 - time.time()) < 60
    assert log.take(EVENTS, "three", most=5) == []
    assert log.take(MEDIA, "one", most=5) == []


def test_a_key_is_one_entry(log: EventLog) -> None:
    (first,) = log.append(EVENTS, drafts("a"))
    again, new = log.append(EVENTS, drafts("a", "b"))
    assert (again, log.backlog(EVENTS)) == (first, 2)
    assert new > first
    log.take(EVENTS, "one", most=9)
    log.done(EVENTS, [first, new], 5)
    assert log.append(EVENTS, drafts("a")) == [first]
    assert log.append(MEDIA, drafts("a")) != [first] or log.backlog(MEDIA) == 1


def test_a_full_backlog_refuses_all_of_an_append(log: EventLog) -> None:
    log.append(EVENTS, drafts(*"abcdefgh"))
    with pytest.raises(LogFullError, match=r"must be < 10 entries.*backlog of events") as caught:
        log.append(EVENTS, drafts(*"ijk"))
    assert caught.value.retry_after > 0
    assert log.backlog(EVENTS) == 8
    log.append(EVENTS, drafts("a", "i", "j"))  # one of them is there already
    log.append(MEDIA, drafts("k"))  # another topic has a backlog of its own
    entries = log.take(EVENTS, "one", most=1)
    log.done(EVENTS, [entries[0].position], 1)
    log.append(EVENTS, drafts("k"))


def test_what_a_dead_worker_held_is_another_s_when_its_lease_ends(log: EventLog) -> None:
    log.append(EVENTS, drafts("a", "b"))
    (a, b) = log.take(EVENTS, "one", most=2, lease_seconds=0.3)
    time.sleep(0.2)
    log.renew(EVENTS, "one", [b.position], 0.3)
    time.sleep(0.15)
    again = log.take(EVENTS, "two", most=2, lease_seconds=0.3)
    assert [(e.key, e.attempts, e.failures) for e in again] == [("a", 2, 0)]
    log.done(EVENTS, [a.position, b.position], 3)
    time.sleep(0.35)
    assert log.take(EVENTS, "two", most=2, lease_seconds=0.3) == []
    assert log.backlog(EVENTS) == 0


def test_what_is_given_back_comes_again_and_its_failures_are_counted(log: EventLog) -> None:
    log.append(EVENTS, drafts("a", "b"))
    a, b = log.take(EVENTS, "one", most=2)
    log.retry(EVENTS, [a.position])
    log.retry(EVENTS, [b.position], failed=False)
    again = log.take(EVENTS, "two", most=2)
    assert [(e.key, e.attempts, e.failures) for e in again] == [("a", 2, 1), ("b", 2, 0)]
    log.retry(EVENTS, [a.position], 30.0)
    assert log.take(EVENTS, "two", most=2) == []
    assert log.backlog(EVENTS) == 2


def test_dead_letters_say_why_and_can_be_revived(log: EventLog) -> None:
    places = log.append(MEDIA, drafts("a", "b", "c"))
    for entry in log.take(MEDIA, "one", most=3)[:2]:
        log.bury(MEDIA, entry.position, "corrupt", "PNG: no pixels")
    letters = log.dead(MEDIA)
    assert [(x.entry.key, x.reason, x.detail) for x in letters] == [
        ("a", "corrupt", "PNG: no pixels"),
        ("b", "corrupt", "PNG: no pixels"),
    ]
    assert letters[0].entry.payload == b"payload of a"
    assert [x.entry.key for x in log.dead(MEDIA, after=places[0])] == ["b"]
    assert (log.backlog(MEDIA), len(log.dead(EVENTS))) == (1, 0)
    assert log.revive(MEDIA, [places[1]]) == 1
    assert [(e.key, e.position, e.failures) for e in log.take(MEDIA, "one", most=3)] == [("b", places[1], 0)]
    assert log.revive(MEDIA) == 1
    assert log.revive(MEDIA) == 0
    assert log.backlog(MEDIA) == 3
    log.done(MEDIA, [places[1]], 4)
    log.bury(MEDIA, places[1], "late")  # it has had its effect: it is not dead
    assert log.dead(MEDIA) == []


def test_the_floor_is_below_all_that_may_be_delivered_again(log: EventLog) -> None:
    assert log.floor(EVENTS) == log.last(EVENTS) == 0
    places = log.append(EVENTS, drafts(*"abcd"))
    assert log.floor(EVENTS) < places[0]
    log.take(EVENTS, "one", most=3)
    log.done(EVENTS, [places[0], places[2]], 1)
    assert places[0] <= log.floor(EVENTS) < places[1]
    log.done(EVENTS, [places[1]], 2)
    assert places[2] <= log.floor(EVENTS) < places[3]
    assert log.last(EVENTS) == places[3]
    waiting = log.oldest_waiting(EVENTS)
    assert waiting is not None
    assert abs(waiting / 1e6 - time.time()) < 60


def test_settled_entries_are_read_with_the_update_that_applied_them(log: EventLog) -> None:
    places = log.append(EVENTS, drafts(*"abcd"))
    log.take(EVENTS, "one", most=4)
    log.done(EVENTS, places[:2], 7)
    log.done(EVENTS, places[3:], 6)
    assert [(s.entry.key, s.sequence) for s in log.settled(EVENTS)] == [("a", 7), ("b", 7), ("d", 6)]
    assert [s.entry.key for s in log.settled(EVENTS, after=places[0])] == ["b", "d"]
    assert log.trim(EVENTS, int(1e6 * (time.time() + 100))) == 3
    assert list(log.settled(EVENTS)) == []
    assert log.backlog(EVENTS) == 1  # what waits is never trimmed
    assert log.append(EVENTS, drafts("a")) != places[:1]


def test_erasing_takes_all_about_a_subject(log: EventLog) -> None:
    log.append(EVENTS, drafts(*"abc"))
    log.append(EVENTS, drafts(*"def", about=b"$bob"))
    entries = log.take(EVENTS, "one", most=5)
    log.done(EVENTS, [entries[0].position, entries[3].position], 1)
    log.bury(EVENTS, entries[1].position, "bad")
    assert log.erase(EVENTS, b"$ann") == 3
    assert log.erase(EVENTS, b"$ann") == 0
    assert [s.entry.key for s in log.settled(EVENTS)] == ["d"]
    assert (log.dead(EVENTS), log.backlog(EVENTS)) == ([], 2)
    assert [e.key for e in log.take(EVENTS, "one", most=5)] == ["f"]


def test_taking_waits_for_the_first_entry(log: EventLog, log_url: str) -> None:
    other = open_log(log_url)
    threading.Timer(0.1, lambda: other.append(EVENTS, drafts("a"))).start()
    assert [e.key for e in log.take(EVENTS, "one", most=5, wait_seconds=10)] == ["a"]
    assert log.take(EVENTS, "one", most=5, wait_seconds=0.05) == []
    other.close()


def test_many_producers_and_consumers_lose_and_double_nothing(log_url: str) -> None:
    taken: list[str] = []
    wanted = {f"{p}-{n}" for p in range(3) for n in range(40)}

    def produce(number: int) -> None:
        log = open_log(log_url)
        for n in range(40):
            log.append(EVENTS, drafts(f"{number}-{n}"))
        log.close()

    def consume(name: str) -> None:
        log = open_log(log_url)
        while len(taken) < len(wanted):
            entries = log.take(EVENTS, name, most=7, wait_seconds=0.05)
            taken.extend(e.key for e in entries)
            log.done(EVENTS, [e.position for e in entries], 1)
        log.close()

    threads = [threading.Thread(target=produce, args=(n,)) for n in range(3)]
    threads += [threading.Thread(target=consume, args=(name,)) for name in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(wanted)


@pytest.mark.parametrize(
    ("url", "said"), [("ftp://x/y", "log == ftp"), ("redis://:s3cret@x:notaport/0", "URL")]
)
def test_a_log_that_cannot_be_is_refused(url: str, said: str) -> None:
    with pytest.raises(CaptionaryError, match=said) as caught:
        open_log(url)
    assert "s3cret" not in str(caught.value)


def test_another_program_s_file_is_left_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import sqlite3

    other = sqlite3.connect(tmp_path / "x.sqlite")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(CaptionaryError, match="another program's SQLite file"):
        open_log(str(tmp_path / "x.sqlite"))
