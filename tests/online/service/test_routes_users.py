import pytest

from captionary.online.log import EVENTS, EventMessage, event_draft


@pytest.fixture
def one(start):
    return start()


def profile(served, user="u1", query=""):
    return served.client.get(f"/users/{user}/profile{query}", headers=served.admin)


def decide(served, verb, user="u1", **body):
    return served.client.post(f"/users/{user}/profile/{verb}", json=body, headers=served.admin)


def words(served, event):
    return [token["word"] for token in profile(served).json()["events"][event]]


def test_a_profile_is_words_that_the_ranker_reads(served):
    said = profile(served).json()
    lists = served.services.store.profile("u1", 1 << 60)
    assert {e: [t["token"] for t in of] for e, of in said["events"].items()} == {
        e: one.token_ids.tolist() for e, one in lists.items()
    }
    assert [t["word"] for t in said["events"]["like"]] == served.services.words.words(lists["like"].token_ids)
    assert sum(t["weight"] for t in said["events"]["like"]) == pytest.approx(1)
    assert said["muted"] == said["boosted"] == {}
    empty = profile(served, "stranger").json()
    assert empty["events"] == {"like": [], "share": []}
    assert profile(served, query="?as_of=2020-01-01T00:00:00Z").json()["mass"] == {"like": 0, "share": 0}
    assert profile(served, query="?as_of=2020-01-01T00:00:00").status_code == 400


def test_what_a_user_decides_changes_the_next_request(one):
    before = words(one, "like")
    scores = one.client.post("/rank", json={"user": "u1", "items": [1001, 1004]}, headers=one.admin).json()[
        "scores"
    ]
    said = decide(one, "mute", word=before[0], event="like")
    assert said.json() == {"user": "u1", "muted": {"like": [before[0]]}, "boosted": {}}
    assert words(one, "like") == before[1:]
    after = one.client.post("/rank", json={"user": "u1", "items": [1001, 1004]}, headers=one.admin).json()[
        "scores"
    ]
    assert after != scores
    decide(one, "unmute", word=before[0], event="like")
    assert words(one, "like") == before
    boosted = decide(one, "boost", word=before[-1], factor=50).json()["boosted"]
    assert boosted["like"] == {before[-1]: 50}
    assert words(one, "like")[0] == before[-1]
    decide(one, "erase", word=before[0])
    assert before[0] not in words(one, "like")
    decide(one, "erase")
    assert words(one, "like") == words(one, "share") == []


@pytest.mark.parametrize(
    ("verb", "body", "part"),
    [
        ("mute", {}, "word == (absent)"),
        ("mute", {"word": "no such word"}, "word == no such word"),
        ("mute", {"word": "dog", "event": "likes"}, "did you mean that?"),
        ("boost", {"word": "dog"}, "factor == (absent)"),
        ("mute", {"word": "dog", "factor": 2}, "factor"),
        ("boost", {"word": "dog", "factor": 0}, "> 0"),
        ("burn", {"word": "dog"}, "verb"),
    ],
)
def test_a_mistake_is_named(served, verb, body, part):
    answer = decide(served, verb, **body)
    assert answer.status_code == 400
    assert part in answer.text


def test_a_user_is_forgotten_with_what_is_on_its_way(one):
    message = EventMessage(user_id="u1", item_id=1001, event="like", timestamp=1)
    one.services.log.append(EVENTS, [event_draft(message, "k")])
    said = one.client.delete("/users/u1", headers=one.admin).json()
    assert said == {"found": True, "log_entries": 1, "requests": 0, "exposures": 0}
    assert one.services.log.backlog(EVENTS) == 0
    assert words(one, "like") == []
    assert words(one, "share") == []
    assert one.client.delete("/users/u1", headers=one.admin).json() == {
        "found": False,
        "log_entries": 0,
        "requests": 0,
        "exposures": 0,
    }
