import re
import time

import pytest

from captionary.online.log import EVENTS, EventMessage, event_draft
from captionary.online.updates import apply_events

NOW = 2**52


def words(site, user, event="like"):
    one = site.services.store.profile(user, NOW)[event]
    return dict(zip(one.token_ids.tolist(), one.weights.tolist(), strict=True))


def user(site, name, items=(1001, 1002, 1004)):
    now = time.time_ns() // 1000
    messages = [
        EventMessage(user_id=name, item_id=item, event=event, timestamp=now - (n + 1) * 3_600_000_000)
        for n, item in enumerate(items)
        for event in ("like", "share")
    ]
    apply_events(site.services.store, messages)
    return words(site, name)


def test_mute_more_less_and_take_back(site):
    before = user(site, "m1")
    token = max(before, key=before.get)
    answer = site.post("/explore/user", id="m1", event="like", do=f"mute:{token}")
    assert answer.status_code == 303
    assert token not in words(site, "m1")
    assert token in words(site, "m1", "share")  # of that event type alone
    page = site.get(answer.headers["Location"].split("#")[0]).text
    shown = site.services.words.word(token)
    assert f"“{shown}” is muted" in page
    assert f'aria-label="Unmute {shown}"' in page
    site.post("/explore/user", id="m1", event="like", do=f"unmute:{token}")
    assert words(site, "m1") == before
    site.post("/explore/user", id="m1", event="like", do=f"more:{token}", everywhere="yes")
    site.post("/explore/user", id="m1", event="share", do=f"more:{token}")
    governance = site.services.store.governance_of("m1")
    assert (governance.boosts("like")[token], governance.boosts("share")[token]) == (2, 2 * 2)
    assert words(site, "m1")[token] > before[token]
    site.post("/explore/user", id="m1", event="like", do=f"less:{token}")
    assert words(site, "m1") == before
    site.post("/explore/user", id="m1", event="*", do=f"plain:{token}")
    assert words(site, "m1", "share") == words(site, "m1", "share") | before


def test_the_feed_changes_before_the_eyes(site):
    user(site, "u1-changes", items=(1001, 1001, 1001, 1002))
    token = max(words(site, "u1-changes"), key=words(site, "u1-changes").get)
    answer = site.post("/explore/user", id="u1-changes", event="*", do=f"erase:{token}")
    page = site.get(answer.headers["Location"].split("#")[0]).text
    assert "The feed, before and now" in page
    old = page.split("Before</h3>")[1].split("</ol>")[0]
    shown = re.findall(r'href="/explore/item\?id=(\d+)"', old)
    assert shown == re.findall(r"was=(\d+)", answer.headers["Location"])
    assert token not in words(site, "u1-changes")
    assert token not in words(site, "u1-changes", "share")


def test_any_word_can_be_named(site):
    user(site, "m2")
    site.post("/explore/user", id="m2", event="*", word="guitar", deed="mute")
    assert site.services.store.governance_of("m2").muted("like") == {5}
    answer = site.post("/explore/user", id="m2", event="*", word="no such word", deed="mute")
    assert answer.status_code == 400
    assert "no such word" in answer.text


def test_erasing_everything_asks_first(site):
    user(site, "m3")
    page = site.get("/explore/user/erase?id=m3").text
    assert "cannot be taken back" in page
    assert words(site, "m3")
    site.post("/explore/user", id="m3", event="*", do="erase:-1")
    assert not words(site, "m3")
    assert not words(site, "m3", "share")


def test_forgetting_takes_the_log_along(start):
    site = start()
    user(site, "m4")
    message = EventMessage(user_id="m4", item_id=1001, event="like", timestamp=1)
    site.services.log.append(EVENTS, [event_draft(message, "k")])
    assert site.post("/explore/user/forget", id="m4").status_code == 400  # not ticked
    assert words(site, "m4")
    answer = site.post("/explore/user/forget", id="m4", sure="yes")
    assert "User m4 is forgotten" in answer.text
    assert "1 entries of the log" in answer.text
    assert not words(site, "m4")
    assert site.services.log.backlog(EVENTS) == 0
    assert "m4" not in site.services.store.user_ids()
    assert "There was nothing of user m4" in site.post("/explore/user/forget", id="m4", sure="yes").text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/explore/user", {"id": "u1", "event": "like", "do": "mute:1"}),
        ("/explore/user", {"id": "u1", "event": "*", "do": "erase:-1"}),
        ("/explore/user/forget", {"id": "u1", "sure": "yes"}),
        ("/explore/ingest", {"topic": "media"}),
    ],
)
def test_a_form_needs_its_token_and_the_scope(site, reader, path, fields):
    before, decided = words(site, "u1"), site.services.store.governance_of("u1")
    for answer in (
        site.post(path, csrf=False, **fields),
        site.post(path, csrf=False, **fields, _csrf_token="0" * 128),
        site.post(path, reader, **fields),
    ):
        assert answer.status_code == 403
        assert "Not allowed" in answer.text
    site.client.cookies.clear()
    token = {"_csrf_token": "a" * 128}
    assert site.post(path, csrf=False, **fields, **token).status_code == 403
    assert words(site, "u1") == before
    assert site.services.store.governance_of("u1") == decided


@pytest.mark.parametrize(
    "fields",
    [
        {"do": "mute:-1"},
        {"do": "mute:999999"},
        {"do": "burn:1"},
        {"do": "mute:1", "event": "none"},
        {"deed": "mute"},
        {"word": "dog", "deed": "burn"},
        {},
    ],
)
def test_what_is_no_decision_changes_nothing(site, fields):
    decided = site.services.store.governance_of("u2")
    answer = site.post("/explore/user", **({"id": "u2", "event": "like"} | fields))
    assert answer.status_code == 400
    assert site.services.store.governance_of("u2") == decided
