import json

import msgspec
import numpy as np
import pytest
from tests.online.service.small_service import picture

from captionary.online.items import ItemRecord
from captionary.online.log import MEDIA, MediaMessage
from captionary.online.service.settings import UploadConfig
from captionary.online.updates import ItemUpdate, put_items
from captionary.understand.remote import RemoteConfig


def upload(served, data=None, name="p.png", files=None, **fields):
    form = {"item": "2001"} | fields
    files = files or [("media", (name, picture() if data is None else data, "text/html"))]
    return served.client.post("/items", data=form, files=files, headers=served.admin)


def get(served, item, position=None):
    query = "" if position is None else f"?position={position}"
    return served.client.get(f"/items/{item}{query}", headers=served.admin)


def test_from_upload_to_visible(start):
    served = start()
    two = [("media", ("a", picture("red"), "image/png")), ("media", ("b", picture("blue", "JPEG"), "x/y"))]
    answer = upload(served, files=two, title="Sofa", columns=json.dumps({"genre": "jazz", "age": 2}))
    assert answer.status_code == 202, answer.text
    said = answer.json()
    (entry,) = served.services.log.take(MEDIA, "worker", most=5)
    message = msgspec.json.decode(entry.payload, type=MediaMessage)
    assert (message.item_id, message.title) == (2001, "Sofa")
    assert message.columns == {"genre": "jazz", "age": 2}
    assert [served.services.spool.path(name).read_bytes() for name in message.media] == [f[1][1] for f in two]
    assert said == {
        "item": 2001,
        "position": entry.position,
        "media": list(message.media),
        "status": "queued",
    }

    assert get(served, 2001).status_code == 404
    assert get(served, 2001, entry.position).json()["status"] == "queued"
    tokens = np.array([1, 4], "<i4").tobytes()
    record = ItemRecord(
        item_id=2001, status="ok", tokens=tokens, caption="a dog", received_at=message.received_at
    )
    put_items(served.services.store, [ItemUpdate(record)], [entry.position])
    served.services.log.done(MEDIA, [entry.position], served.services.store.sequence)
    found = get(served, 2001, entry.position).json()
    assert found["status"] == "ok"
    assert found["tokens"] == ["dog", "<script>alert(1)</script>"]
    assert found["visible_at"] > found["received_at"]

    again = upload(served, picture("green")).json()["position"]
    assert get(served, 2001, again).json()["status"] == "queued"
    assert get(served, 2001).json()["status"] == "ok"
    served.services.log.take(MEDIA, "worker", most=5)
    served.services.log.bury(MEDIA, again, "corrupt", "cannot be decoded")
    assert get(served, 2001, again).json() | {"detail": ""} == get(served, 2001, again).json() | {
        "detail": ""
    }
    assert get(served, 2001, again).json()["reason"] == "corrupt"

    gone = served.client.delete("/items/2001", headers=served.admin)
    assert gone.json() == {"found": True, "log_entries": 2, "requests": 0, "exposures": 0}
    assert get(served, 2001).status_code == 404
    put_items(served.services.store, [ItemUpdate(record)], [again])  # a worker had it in its hands
    assert get(served, 2001).status_code == 404


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "scriptable"),
        (b"%PDF-1.4", "scriptable"),
        (picture()[:-30], "truncated"),
        (picture() + b"<script>alert(1)</script>", "polyglot"),
        (b"hello", "not_an_image"),
    ],
)
def test_media_are_what_their_content_says(served, data, reason):
    def kept():
        return {path for path in served.services.spool.folder.rglob("*") if path.is_file()}

    before = served.services.log.last(MEDIA), kept()
    answer = upload(served, data, "innocent.png")
    assert answer.status_code == 422
    assert answer.json()["reason"] == reason
    assert (served.services.log.last(MEDIA), kept()) == before


def test_videos_and_sounds_are_media(served):
    pytest.importorskip("av", reason="PyAV reads videos and sounds")
    from tests.understand.signals.films import film, recording, scenes, tone

    video = film([(scenes(1)[0].resize((64, 64)), 1.0)], sound=tone(1.0))
    sound = recording(tone(0.2))
    for data in (video, sound):
        answer = upload(served, data)
        assert answer.status_code == 202, answer.text
        (name,) = answer.json()["media"]
        assert served.services.spool.path(name).read_bytes() == data
        served.services.spool.remove(name)
    before = served.services.log.last(MEDIA)
    for data, reason in (
        (video[: len(video) // 2], "truncated"),
        (video[:200] + bytes(len(video) - 200), "truncated"),
        (b"\x1a\x45\xdf\xa3" + bytes(2000), "corrupt"),
        (b"fLaC" + bytes(2000), "corrupt"),
    ):
        answer = upload(served, data)
        assert (answer.status_code, answer.json()["reason"]) == (422, reason), answer.text
    assert served.services.log.last(MEDIA) == before


def test_limits_of_videos(start):
    pytest.importorskip("av", reason="PyAV reads videos and sounds")
    from tests.understand.signals.films import film, scenes

    served = start(uploads=UploadConfig(max_pixels=1000))
    video = film([(scenes(1)[0].resize((64, 64)), 0.5)])
    assert upload(served, video).json()["reason"] == "too_many_pixels"


def test_without_a_reader_of_videos_the_error_says_what_is_taken(start, monkeypatch):
    from captionary.online.service import uploads

    monkeypatch.setattr(uploads.importlib.util, "find_spec", lambda name: None)
    said = upload(start(), b"\x1a\x45\xdf\xa3" + bytes(2000)).json()
    assert said["reason"] == "not_media"
    assert "a video; this service takes pictures and animations" in said["detail"]


def test_limits_of_uploads(start):
    served = start(uploads=UploadConfig(max_bytes=20_000, max_pixels=1000, files=2))
    assert upload(served).json()["reason"] == "too_many_pixels"
    assert upload(served, bytes(100_000)).status_code == 413
    many = [("media", ("a", picture(), "image/png"))] * 3
    assert upload(served, files=many).json()["detail"] == "media == 3 files, must be 1 to 2"


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"item": "abc"}, "item id == abc"),
        ({"item": "1" * 30}, "an integer, as in training"),
        ({"colour": "red"}, "field == 'colour'"),
        ({"columns": "[1]"}, "columns"),
        ({"columns": "{"}, "truncated"),
        ({"columns": '{"a": {"b": 1}}'}, "columns"),
        ({"title": "x" * 1001}, "length <= 1000"),
    ],
)
def test_a_form_has_the_rules_of_json(served, fields, part):
    answer = upload(served, **fields)
    assert answer.status_code == 400
    assert part in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"", "multipart/form-data", 400),
        (b"{", "application/json", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"x", "image/png", 415),
        (b"", "", 415),
    ],
)
def test_a_body_that_is_none(served, content, kind, status):
    headers = served.admin | ({"Content-Type": kind} if kind else {})
    answer = served.client.post("/items", content=content, headers=headers)
    assert answer.status_code == status, answer.text


def test_uris_are_fetched_where_they_are_allowed(start, monkeypatch):
    asked = []

    def fetch(uri, config):
        asked.append((uri, config.allow))
        return picture()

    served = start(uploads=UploadConfig(remote=RemoteConfig(allow=("https://images.example.com",))))
    body = {"item": 2001, "media": ["https://elsewhere.example.com/a.png"]}
    answer = served.client.post("/items", json=body, headers=served.admin)
    assert answer.status_code == 422
    assert answer.json()["reason"] == "remote_not_allowed"
    for local in ("file:///etc/passwd", "/etc/passwd"):
        answer = served.client.post("/items", json=body | {"media": [local]}, headers=served.admin)
        assert answer.json()["reason"] == "remote_not_allowed"
    monkeypatch.setattr("captionary.online.service.uploads.fetch", fetch)
    body["media"] = ["https://images.example.com/a.png"]
    assert served.client.post("/items", json=body, headers=served.admin).status_code == 202
    assert asked == [("https://images.example.com/a.png", ("https://images.example.com",))]


def test_a_caption_with_a_script_is_text(served):
    answer = get(served, 1003)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.json()["caption"] == "a <script>alert(1)</script> dog"
    assert get(served, "abc").status_code == 400
