import shutil
from datetime import datetime

import numpy as np
import pytest
from tests.online.conftest import RedisServer
from tests.online.service.small_service import EXPERIMENTS, WORDS, make_key

from captionary.online.experiments.exposure import read_exposures
from captionary.online.keyvalue import StoreUnavailableError
from captionary.rank.served import ScoringRequest


def micros(moment):
    return round(datetime.fromisoformat(moment).timestamp() * 1e6)


ITEMS = [1003, 1000, 1024, 1007]


def rank(served, **body):
    return served.client.post("/rank", json={"items": ITEMS} | body, headers=served.admin)


def test_scores_are_those_of_the_ranker_for_the_profile_of_the_store(served):
    context = {"tab": "a", "hour": 7}
    answer = rank(served, user="u1", context=context)
    assert answer.status_code == 200
    said = answer.json()
    one = served.services.rankers["captions"]
    as_of = served.services.store.read("u1", [], micros(said["as_of"])).lists
    expected = one.ranker.score(
        ScoringRequest(user="u1", items=ITEMS, context=context, profiles={e: as_of[e] for e in one.events})
    )
    found = np.array([said["scores"][task] for task in one.ranker.tasks]).T
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(said["combined"], found.sum(1), rtol=1e-5)
    assert said["order"] == np.argsort(-np.array(said["combined"])).tolist()
    assert said["model"] == {"name": "captions", "version": "captions-v1"}
    assert said["degraded"] == {}
    assert said["explanations"] is None


def test_weights_of_tasks_make_the_combined_score(served):
    said = rank(served, user="u1", combine={"like": 2, "seconds": -1}).json()
    expected = 2 * np.array(said["scores"]["like"]) - np.array(said["scores"]["seconds"])
    np.testing.assert_allclose(said["combined"], expected, rtol=1e-5)


def test_what_is_missing_is_left_out_said_and_counted(start):
    served = start()
    said = rank(served, user="nobody", items=[1003, 1028, 5]).json()
    # 1028 has no row in the store but one in the export, 5 has none anywhere
    assert said["degraded"] == {"unknown_user": 1, "no_profile": 1, "row_of_export": 1, "unknown_item": 1}
    ranker = served.services.rankers["captions"].ranker
    expected = ranker.score(ScoringRequest(user="nobody", items=[1003, 1028, 5]))
    np.testing.assert_allclose(said["scores"]["like"], expected[:, 0], rtol=1e-5)
    metrics = served.client.get("/metrics", headers=served.admin).text
    assert 'captionary_fallbacks_total{reason="unknown_item"} 1.0' in metrics
    assert 'captionary_fallbacks_total{reason="store_unavailable"} 0.0' in metrics


def test_without_a_user_the_ids_of_items_rank(served):
    assert rank(served).json()["degraded"] == {"no_user": 1}


def test_a_store_that_is_down_costs_the_features_and_not_the_answer(served, monkeypatch):
    calls = []

    def down(*_, **__):
        calls.append(1)
        raise StoreUnavailableError("redis == away, must be there")

    monkeypatch.setattr(served.services.store.engine, "read", down)
    for _ in range(3):
        said = rank(served, user="u1").json()
        assert said["degraded"] == {"store_unavailable": 1, "row_of_export": 4}
    assert len(calls) == 1  # the others did not wait for it
    monkeypatch.undo()
    served.services.breaker.succeeded()
    assert rank(served, user="u1").json()["degraded"] == {}


def test_an_explanation_is_in_words(served):
    said = rank(served, user="u1", explain={"items": 2, "pairs": 3, "task": "seconds"}).json()
    assert [one["item"] for one in said["explanations"]] == [ITEMS[place] for place in said["order"][:2]]
    pairs = [pair for one in said["explanations"] for pair in one["pairs"]]
    assert pairs
    for one in said["explanations"]:
        words = served.services.words.words(served.services.store.item(one["item"]).token_ids.tolist())
        assert all(pair["item"] in words and pair["profile"] in WORDS for pair in one["pairs"])
        assert one["score"] == pytest.approx(said["scores"]["seconds"][ITEMS.index(one["item"])])


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"items": []}, "length >= 1"),
        ({"items": list(range(1001))}, "length <= 1000"),
        ({"items": ["1003"]}, "an integer, as in training"),
        ({"items": [10**30]}, "<= 9223372036854775807"),
        ({"user": 17}, "a string, as in training"),
        ({"user": "a\x00b"}, "without a null character"),
        ({"context": {"tabb": "a"}}, "did you mean that?"),
        ({"context": {"hour": "noon"}}, "a number"),
        ({"context": {"hour": 10**400}}, "<= 9223372036854775807"),
        ({"combine": {"likes": 1}}, "did you mean that?"),
        ({"explain": {"task": "x"}}, "task == x"),
        ({"vectors": {"x": [1.0]}}, "vector == x"),
        ({"users": 1}, "unknown field `users`"),
        ({"variant": {"captions": "x"}}, "experiment == captions"),
    ],
)
def test_a_mistake_is_named(served, body, part):
    answer = rank(served, **body)
    assert answer.status_code == 400, answer.text
    said = answer.json()
    assert said["status"] == 400
    assert part in said["detail"], said


def test_fewer_candidates_by_configuration(start):
    from captionary.online.service.settings import LimitsConfig

    served = start(limits=LimitsConfig(candidates=3))
    assert "candidates == 4, must be <= 3" in rank(served).json()["detail"]


def test_arms_are_ranked_by_their_ranker_and_logged_once(start):
    served = start(experiments=EXPERIMENTS)
    for user, arm, ranker in (("u1", "treatment", "captions"), ("u2", "control", "ids")):
        for _ in range(2):
            said = rank(served, user=user).json()
            assert said["model"]["name"] == ranker
            version = served.services.trials.experiments.version("captions")
            dealt = {"experiment": "captions", "arm": arm, "reason": "forced", "version": version}
            assert said["experiments"] == [dealt]
    drawn = {rank(served, user=f"v{k}").json()["model"]["name"] for k in range(20)}
    assert drawn == {"captions", "ids"}
    log = read_exposures(served.folder / "exposures")
    assert log.height == 22
    assert set(log["user_id"].to_list()) == {"u1", "u2", *(f"v{k}" for k in range(20))}
    assert rank(served).json()["experiments"] == []


def test_an_arm_is_forced_by_those_who_test(start):
    served = start(experiments=EXPERIMENTS)
    said = rank(served, user="u2", variant={"captions": "treatment"}).json()
    assert said["model"]["name"] == "captions"
    assert said["experiments"][0]["reason"] == "forced"
    key = make_key(served.folder, "rank")
    served.services.keys._refresh(force=True)
    answer = served.client.post(
        "/rank", json={"items": ITEMS, "variant": {"captions": "treatment"}}, headers=key
    )
    assert answer.status_code == 403


def test_context_that_another_arm_reads_is_no_mistake(start, monkeypatch):
    served = start(experiments=EXPERIMENTS)
    ids = served.services.rankers["ids"]
    monkeypatch.setattr(ids, "context", frozenset({"tab"}))
    said = rank(served, user="u2", context={"tab": "a", "hour": 3}).json()
    assert said["degraded"] == {"unknown_context": 1}


def test_a_fleets_store_that_dies_and_comes_back(start, tmp_path_factory):
    pytest.importorskip("redis", reason="the package redis talks to the server")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        served = start(url=server.url)
        before = rank(served, user="u1").json()
        assert before["degraded"] == {}
        server.kill()
        without = rank(served, user="u1")
        assert without.status_code == 200
        assert without.json()["degraded"]["store_unavailable"] == 1
        assert without.json()["scores"] != before["scores"]
        profile = served.client.get("/users/u1/profile", headers=served.admin)
        assert (profile.status_code, profile.json()["reason"]) == (503, "store_unavailable")
        assert profile.headers["Retry-After"]
        served.services._ready = (0.0, {})
        assert served.client.get("/readyz").status_code == 503
        server.start()
        served.services.breaker._until = 0
        assert rank(served, user="u1").json()["degraded"] == {}
    finally:
        server.kill()
