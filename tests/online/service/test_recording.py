import polars as pl
from tests.online.service.small_service import HOUR

from captionary.online.items import ItemRecord
from captionary.online.log import EVENTS
from captionary.online.request_log import read_requests
from captionary.online.service.recording import Recorder
from captionary.online.updates import ItemUpdate, apply_events, put_items
from captionary.online.verify import Scoring, verify


def test_what_was_served_is_made_again_offline_to_the_bit(start, tmp_path, monkeypatch):
    applied = []

    def remembered(store, messages, *more):
        applied.extend(messages)
        return apply_events(store, messages, *more)

    monkeypatch.setattr("tests.online.service.small_service.apply_events", remembered)
    served = start(recorder=Recorder(tmp_path / "requests", share=1.0))
    for user in ("u1", "u2", "stranger"):
        items = [1001, 1004, 5, 1027, 1010]  # of the store, of nobody, of the export alone
        body = {"user": user, "items": items, "context": {"tab": "b", "hour": 3}}
        said = served.client.post("/rank", json=body, headers=served.admin).json()
        missing = {"unknown_item", "row_of_export"}
        assert missing <= said["degraded"].keys() <= missing | {"unknown_user", "no_profile"}
        served.client.post(f"/users/{user}/profile/mute", json={"word": "dog"}, headers=served.admin)
    served.client.post("/rank", json={"items": [1001]}, headers=served.admin)
    served.services.recorder.close()
    one = served.services.rankers["captions"]

    row = served.services.store.read("x", [1001], 1, version=one.version, width=one.ranker.row_width).rows[0]
    late = ItemUpdate(ItemRecord(item_id=5, status="ok"), {one.version: row})
    put_items(served.services.store, [late])  # it has a row now, which it had not when it was asked for
    found = verify(
        read_requests(tmp_path / "requests"),
        served.services.store,
        served.services.log,
        history=applied,
        scorings={one.version: Scoring(one.score_again, one.ranker.row_width)},
    )
    assert found.clean, found.to_string()
    assert (found.requests, found.scored, found.skipped) == (4, 3, {"no user": 1})
    assert applied[0].timestamp > HOUR


def test_times_are_kept_for_all_and_requests_for_a_sample(start, tmp_path, monkeypatch):
    served = start(recorder=Recorder(tmp_path / "requests", share=0.0))
    for body in ({"user": "u1", "items": [1001]}, {"user": "u2", "items": ["x"]}, {"items": [1001]}):
        served.client.post("/rank", json=body, headers=served.admin)
    served.services.recorder._flush()
    (path,) = (tmp_path / "requests" / "times").glob("*.parquet")
    table = pl.read_parquet(path)
    assert table["user_id"].to_list() == ["u1", "u2", ""]
    assert table["error"].to_list() == [False, True, False]
    assert (table["latency_ms"] > 0).all()
    assert list(read_requests(tmp_path / "requests")) == []


def test_segments_are_written_when_they_are_full_and_by_time(tmp_path):
    recorder = Recorder(tmp_path, rows=3, seconds=1000)
    for _ in range(7):
        recorder.timed("u1", 0.001, error=False)
        if recorder._behind is not None:
            recorder._behind.result()
    recorder.close()
    lengths = sorted(len(pl.read_parquet(path)) for path in (tmp_path / "times").glob("*.parquet"))
    assert lengths == [1, 3, 3]


def test_who_is_deleted_is_deleted_here_too(start, tmp_path):
    served = start(recorder=Recorder(tmp_path / "requests", share=1.0))
    for user in ("u1", "u2", "u1"):
        served.client.post("/rank", json={"user": user, "items": [1001]}, headers=served.admin)
    said = served.client.delete("/users/u1", headers=served.admin).json()
    assert said["requests"] == 4  # two whole ones, two times
    served.services.recorder._flush()
    assert [record.user_id for record in read_requests(tmp_path / "requests")] == ["u2"]
    (path,) = (tmp_path / "requests" / "times").glob("*.parquet")
    assert pl.read_parquet(path)["user_id"].to_list() == ["u2"]
    assert served.services.log.last(EVENTS) == 0
    served.client.post("/rank", json={"user": "u2", "items": [1001]}, headers=served.admin)
    served.services.recorder.close()
    assert [record.user_id for record in read_requests(tmp_path / "requests")] == ["u2", "u2"]
