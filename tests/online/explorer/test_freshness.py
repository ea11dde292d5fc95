import hashlib
import re
import time

import pytest

from captionary.online.explorer.freshness import Captions, ingest_view, replay
from captionary.online.log import EVENTS, MEDIA, EventMessage, MediaMessage, event_draft, media_draft
from captionary.online.status import WorkerStatus, report_worker
from captionary.understand.store import CaptionRecord, CaptionStore


def dead(site, number, reason="truncated", detail="ends <b>early</b>"):
    log = site.services.log
    for n in range(number):
        message = MediaMessage(item_id=5000 + n, media=("00/" + "0" * 32,))
        (position,) = log.append(MEDIA, [media_draft(message, f"d{n}")])
        log.take(MEDIA, "w", most=50)
        log.bury(MEDIA, position, reason, detail)


def test_dead_letters_are_paged_and_replayed(start):
    site = start()
    dead(site, 25)
    seen = ingest_view(site.services)
    assert len(seen.letters) == 20
    later = ingest_view(site.services, MEDIA, seen.after[MEDIA])
    assert [letter.about for letter in (*seen.letters, *later.letters)] == list(range(5000, 5025))
    page = site.get("/explore/ingest").text
    assert "ends &lt;b&gt;early" in page
    assert "25 given up" in site.get("/explore").text
    answer = site.post("/explore/ingest", topic=MEDIA, position=str(seen.letters[0].position))
    assert answer.headers["Location"] == "/explore/ingest?done=1"
    assert "1 put back" in site.get(answer.headers["Location"]).text
    assert site.services.log.backlog(MEDIA) == 1
    assert site.post("/explore/ingest", topic=MEDIA).headers["Location"].endswith("done=24")
    assert site.services.log.backlog(MEDIA) == 25
    assert not ingest_view(site.services).letters
    for fields in ({"topic": "none"}, {"topic": MEDIA, "position": "1 OR 1"}):
        assert site.post("/explore/ingest", **fields).status_code == 400


def test_letters_that_nobody_can_read(start):
    site = start()
    log = site.services.log
    message = EventMessage(user_id="u1", item_id=1, event="like", timestamp=1)
    draft = event_draft(message, "k")
    (position,) = log.append(EVENTS, [draft._replace(payload=b"{")])
    log.take(EVENTS, "w", most=5)
    log.bury(EVENTS, position, "unreadable")
    (letter,) = ingest_view(site.services).letters
    assert (letter.about, letter.reason) == (None, "unreadable")
    assert site.get("/explore/ingest").status_code == 200
    assert replay(site.services, EVENTS, None) == 1


def test_freshness_is_that_of_the_slowest_worker_that_lives(start):
    site = start()
    now = time.time_ns() // 1000
    for name, seen, p95 in (("a", now, 0.5), ("b", now, 1.25), ("gone", now - 100_000_000, 60.0)):
        status = WorkerStatus(
            name=name,
            seen_at=seen,
            started_at=now,
            visible={"p95": p95},
            seconds_per_item=0.25,
            trouble="" if name == "a" else "captioner: away",
        )
        report_worker(site.services.store, status)
    seen = ingest_view(site.services)
    assert seen.fresh == {"p95": 1.25}
    assert [(worker.name, alive, rate) for worker, alive, rate in seen.workers] == [
        ("a", True, 4.0),
        ("b", True, 4.0),
        ("gone", False, 4.0),
    ]
    page = site.get("/explore/ingest").text
    assert "1.2 s" in page
    assert re.findall(r'<span class="state \w+">(\w+)</span>', page) == ["working", "waits", "silent"]


def digest(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def test_a_large_caption_store_is_told_from_a_sample(tmp_path):
    path = tmp_path / "captions.sqlite"
    with CaptionStore(path) as store:
        few = [
            CaptionRecord(digest(1), "a dog", latency_ms=40),
            CaptionRecord(digest(2), "a dog", source=digest(1)),
            CaptionRecord(digest(3), status="failed", reason="corrupt"),
            CaptionRecord(digest(4), "a cat", latency_ms=60),
        ]
        store.put_many(few, "small")
        many = [
            CaptionRecord(digest(n), "x", *(("failed", "refused") if n % 4 == 0 else ("ok", "")))
            for n in range(20_000)
        ]
        store.put_many(many, "large")
    captions = Captions(path)
    large, small = captions.look()
    assert (small.records, small.about, small.failed, small.lent) == (4, False, 0.25, 0.25)
    assert small.milliseconds == (40 + 60) / 2
    assert small.reasons == (("corrupt", 0.25),)
    assert large.about
    assert large.records == pytest.approx(20_000, rel=4 / 2000**0.5)
    assert large.failed == pytest.approx(0.25, abs=0.05)
    said = captions.said("small", digest(2))
    assert (said.caption, said.source) == ("a dog", digest(1))
    assert captions.said("small", digest(9)) is None


def test_no_caption_store_is_made_by_looking(tmp_path):
    path = tmp_path / "captions.sqlite"
    assert Captions(path).look() == ()
    assert Captions(None).said("a", "b") is None
    assert not path.exists()
    path.write_bytes(b"something else, of another program; not a database")
    from captionary.errors import CaptionaryError

    with pytest.raises(CaptionaryError, match="captions"):
        Captions(path).look()
