from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures

from captionary.errors import CaptionaryError
from captionary.understand import caption, views
from captionary.understand.caption import REASONS, CaptionReport, caption_items
from captionary.understand.captioner import ImportedCaptions
from captionary.understand.media import MEDIA_REASONS, MediaLimits, digest
from captionary.understand.store import CaptionStore

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path])}


@pytest.fixture
def store(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as opened:
        yield opened


def total(report: CaptionReport) -> int:
    return report.new + report.reused + sum(report.failed.values()) + sum(report.skipped.values())


def test_every_item_gets_a_row(tmp_path, store):
    names = write_pictures(tmp_path / "media", 10)
    items, fake = items_of([[name] for name in names]), FakeCaptioner()
    report = caption_items(items, tmp_path / "media", fake, store, batch_size=4)
    assert fake.calls == [4, 4, 2]
    assert report.captions.schema.names == ["item_id", *caption.CAPTIONS_SCHEMA]
    assert column(report, "item_id") == items["item_id"].to_pylist()
    assert column(report, "status") == ["ok"] * 10
    assert column(report, "captioner") == ["fake-1"] * 10
    assert column(report, "media_digest") == [digest(tmp_path / "media" / name) for name in names]
    assert len(set(column(report, "caption"))) == 10
    assert column(report, "output_tokens") == [len(text.split()) + 1 for text in column(report, "caption")]
    assert column(report, "prompt_tokens") == [4] * 10
    assert min(column(report, "latency_ms")) > 0
    assert report.captions["created_at"].null_count == 0
    assert column(report, "reason") == column(report, "detail") == [None] * 10
    assert (report.new, report.reused, report.failed, report.skipped) == (10, 0, {}, {})
    assert report.vectors.shape == (10, 0)
    assert not report.has_vector.any()


def test_a_caption_belongs_to_its_own_picture(tmp_path, store):
    media = tmp_path / "media"
    media.mkdir()
    colours = {f"{value}.png": (value, 0, 0) for value in range(0, 200, 3)}
    for name, colour in colours.items():
        Image.new("RGB", (4, 4), colour).save(media / name)
    fake = FakeCaptioner(hook=lambda image: f"red {image.getpixel((0, 0))[0]}")
    report = caption_items(items_of([[name] for name in colours]), media, fake, store, batch_size=5)
    assert column(report, "caption") == [f"red {colour[0]}" for colour in colours.values()]


def test_a_second_run_calls_nothing(tmp_path, store):
    names = write_pictures(tmp_path, 9)
    (tmp_path / "bad.jpg").write_text("words")
    items = items_of([[name] for name in (*names, "bad.jpg")] + [[]])
    first = caption_items(items, tmp_path, FakeCaptioner(vector_size=3), store, batch_size=4)
    fake = FakeCaptioner(vector_size=3)
    second = caption_items(items, tmp_path, fake, store, batch_size=4)
    assert fake.calls == []
    assert (second.new, second.reused) == (0, 9)
    assert second.failed == {"not_an_image": 1}
    assert second.captions.equals(first.captions)
    np.testing.assert_array_equal(second.vectors, first.vectors)
    other = FakeCaptioner(variant="2")
    assert caption_items(items, tmp_path, other, store).new == 9  # another captioner is another key


def test_only_what_is_new_is_captioned(tmp_path, store):
    names = write_pictures(tmp_path, 6)
    caption_items(items_of([[name] for name in names[:4]]), tmp_path, FakeCaptioner(), store)
    (tmp_path / names[0]).rename(tmp_path / "renamed.png")  # the same content
    Image.new("RGB", (5, 5), "red").save(tmp_path / names[1])  # other content
    names[0] = "renamed.png"
    fake = FakeCaptioner()
    report = caption_items(items_of([[name] for name in names]), tmp_path, fake, store)
    assert fake.images == 1 + 2
    assert (report.new, report.reused) == (3, 3)


def test_same_bytes_are_captioned_once(tmp_path, store):
    names = write_pictures(tmp_path, 3)
    for i in range(20):
        (tmp_path / f"copy{i}.png").write_bytes((tmp_path / names[i % 3]).read_bytes())
    media = [*names, *(f"copy{i}.png" for i in range(20)), names[0], names[0]]
    fake = FakeCaptioner(vector_size=2)
    report = caption_items(items_of([[name] for name in media]), tmp_path, fake, store, batch_size=2)
    assert fake.images == 3
    assert (report.new, report.reused) == (3, 22)
    assert column(report, "caption")[3:6] == column(report, "caption")[:3]
    assert report.has_vector.all()


def test_vectors_come_with_captions(tmp_path, store):
    names = write_pictures(tmp_path, 5)
    (tmp_path / "bad.png").write_text("words")
    media = [[names[0]], ["bad.png"], [names[1]], [], [names[2]]]
    fake = FakeCaptioner(vector_size=4)
    report = caption_items(items_of(media), tmp_path, fake, store)
    assert report.vectors.dtype == np.float32
    assert report.vectors.shape == (5, 4)
    assert report.has_vector.tolist() == [True, False, True, False, True]
    assert not report.vectors[~report.has_vector].any()
    _, expected = fake.caption_and_embed([Image.open(tmp_path / name) for name in names[:3]])
    np.testing.assert_allclose(report.vectors[report.has_vector], expected, rtol=2**-10)


def test_vectors_that_are_missing_are_made_up_for(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 5)])
    captions = caption_items(items, tmp_path, FakeCaptioner(), store)
    fake = FakeCaptioner(vector_size=4)  # the same captions, and vectors
    report = caption_items(items, tmp_path, fake, store)
    assert fake.images == 5
    assert report.has_vector.all()
    assert report.captions.equals(captions.captions)
    assert caption_items(items, tmp_path, fake, store).reused == 5
    assert fake.images == 5


def test_items_without_media_are_skipped(tmp_path, store):
    name = write_pictures(tmp_path, 1)[0]
    report = caption_items(items_of([[], None, [""], [name]]), tmp_path, FakeCaptioner(), store)
    assert column(report, "status") == ["skipped"] * 3 + ["ok"]
    assert column(report, "reason") == ["no_media"] * 3 + [None]
    assert report.skipped == {"no_media": 3}
    nothing = pa.table({"item_id": [1, 2], "media": pa.nulls(2)})
    report = caption_items(nothing, tmp_path, FakeCaptioner(vector_size=2), store)
    assert report.skipped == {"no_media": 2}
    assert report.vectors.shape == (2, 2)
    assert total(caption_items(items_of([]), tmp_path, FakeCaptioner(), store)) == 0


def test_further_media_are_recorded_as_unused(tmp_path, store):
    names = write_pictures(tmp_path, 3)
    fake = FakeCaptioner()
    report = caption_items(items_of([names, ["", names[1]], [names[2]]]), tmp_path, fake, store)
    assert column(report, "media_unused") == [2, 0, 0]
    assert report.media_unused == 2
    assert fake.images == 3


def bad_media(folder: Path) -> dict[str, str]:
    """One file of each kind of badness; the reason by media entry."""
    write_pictures(folder, 1)
    whole = (folder / "00000.png").read_bytes()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    noise.save(folder / "noise.bmp")
    (folder / "text.jpg").write_text("words")
    (folder / "empty.jpg").touch()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.png").write_bytes(whole[:50] + bytes(60) + whole[110:])
    (folder / "folder.png").mkdir()
    (folder / "large.bmp").write_bytes(b"BM" + bytes(20_000))
    return {
        "text.jpg": "not_an_image",
        "empty.jpg": "empty_file",
        "cut.png": "truncated",
        "broken.png": "corrupt",
        "folder.png": "unreadable",
        "large.bmp": "too_large",
        "noise.bmp": "too_many_pixels",
        "none.png": "missing",
        "https://example.com/a.png": "remote",
    }


LIMITS = MediaLimits(max_bytes=10_000, max_pixels=1000)


def test_bad_media_fail_alone(tmp_path, store):
    bad = bad_media(tmp_path)
    names = write_pictures(tmp_path, 20)
    media = [name for pair in zip(names, [*bad, *bad, *bad], strict=False) for name in pair]
    report = caption_items(
        items_of([[name] for name in media]), tmp_path, FakeCaptioner(), store, limits=LIMITS
    )
    assert column(report, "status") == ["ok", "failed"] * 20
    assert column(report, "reason")[1::2] == [*bad.values(), *bad.values(), *bad.values()][:20]
    assert column(report, "caption")[1::2] == [None] * 20
    assert sum(report.failed.values()) == 20
    assert total(report) == 40
    detail = dict(zip(media, column(report, "detail"), strict=True))
    assert detail["noise.bmp"] == "40 × 40, limit 1,000"
    assert detail["text.jpg"] == "the content is text"


def test_quarantine_is_of_bytes_and_missing_files_are_tried_again(tmp_path, store, monkeypatch):
    bad = bad_media(tmp_path)
    items = items_of([[name] for name in bad])
    caption_items(items, tmp_path, FakeCaptioner(), store, limits=LIMITS)
    opened = []
    decode = views.decode
    monkeypatch.setattr(
        views, "decode", lambda data, *rest, **more: opened.append(more) or decode(data, *rest, **more)
    )
    again = caption_items(items, tmp_path, FakeCaptioner(variant="2"), store, limits=LIMITS)
    assert opened == []  # nor does another captioner open them
    assert column(again, "reason") == list(bad.values())
    write_pictures(tmp_path / "new", 3)
    (tmp_path / "new" / "00001.png").rename(tmp_path / "none.png")
    (tmp_path / "new" / "00002.png").rename(tmp_path / "text.jpg")
    mended = caption_items(items, tmp_path, FakeCaptioner(), store, limits=LIMITS)
    assert len(opened) == 2
    changed = [name for name, status in zip(bad, column(mended, "status"), strict=True) if status == "ok"]
    assert changed == ["text.jpg", "none.png"]
    wider = caption_items(items, tmp_path, FakeCaptioner(), store, limits=LIMITS._replace(max_pixels=1600))
    assert wider.new == 1  # the limit was the reason, so another limit tries again


def test_an_empty_caption_fails_and_is_not_asked_for_again(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 4)])
    answers = iter(["a dog", "", " \n\t", "a cat"])
    fake = FakeCaptioner(vector_size=2, hook=lambda image: next(answers))
    report = caption_items(items, tmp_path, fake, store)
    assert column(report, "reason") == [None, "empty_caption", "empty_caption", None]
    assert column(report, "caption") == ["a dog", None, None, "a cat"]
    assert report.has_vector.tolist() == [True, False, False, True]
    assert report.failed == {"empty_caption": 2}
    fake = FakeCaptioner(vector_size=2)
    assert caption_items(items, tmp_path, fake, store).failed == {"empty_caption": 2}
    assert fake.calls == []
    silent = FakeCaptioner(vector_size=2, variant="silent", hook=lambda image: "")  # of the same encoder
    assert not caption_items(items, tmp_path, silent, store).has_vector.any()


def test_progress_goes_to_stderr_when_asked(tmp_path, store, capsys):
    bad = bad_media(tmp_path)
    items = items_of([[name] for name in (*write_pictures(tmp_path, 5), *bad)] + [[]])
    caption_items(items, tmp_path, FakeCaptioner(), store, limits=LIMITS)
    assert capsys.readouterr() == ("", "")  # no terminal, not asked
    caption_items(items, tmp_path, FakeCaptioner(), store, limits=LIMITS, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rsplit("\r", 1)[-1]
    assert "15/15" in last  # the bar reaches its end, failures, reuse and skipped items included
    assert "failed=9" in last
    assert "reused=5" in last
    assert "new" not in last


def test_imported_captions_need_no_media(tmp_path, store):
    (tmp_path / "captions.csv").write_text("item_id,caption\n1,a dog\n2,\n7,a cat\n")
    items = pa.table(
        {"item_id": [7, 1, 2, 3], "media": pa.array([[], ["none.jpg"], [], []], pa.list_(pa.string()))}
    )
    report = caption_items(items, tmp_path, ImportedCaptions(tmp_path / "captions.csv"), store)
    assert column(report, "caption") == ["a cat", "a dog", None, None]
    assert column(report, "status") == ["ok", "ok", "failed", "skipped"]
    assert column(report, "reason") == [None, None, "empty_caption", "not_in_file"]
    assert report.reused == 2
    assert total(report) == 4
    assert report.vectors.shape == (4, 0)
    assert len(store) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"id": [1]}), "items == id, must be with columns item_id and media"),
        (pa.table({"item_id": [1], "media": ["a.jpg"]}), "media == string, must be of type list<string>"),
        (pa.table({"item_id": [1], "media": [[1]]}), "must be of type list<string>"),
    ],
)
def test_bad_items_tables(tmp_path, store, table, message):
    with pytest.raises(CaptionaryError, match=message):
        caption_items(table, tmp_path, FakeCaptioner(), store)


def test_bad_batch_size(tmp_path, store):
    with pytest.raises(CaptionaryError, match="batch_size == 0, must be >= 1"):
        caption_items(items_of([]), tmp_path, FakeCaptioner(), store, batch_size=0)


def test_the_report_in_words(tmp_path, store):
    (tmp_path / "bad.png").write_text("words")
    names = write_pictures(tmp_path, 2)
    report = caption_items(
        items_of([[names[0]], [names[1]], ["bad.png"], []]), tmp_path, FakeCaptioner(), store
    )
    words = "captions: 2 new, 0 reused, 1 failed (not_an_image 1), 1 skipped (no_media 1); "
    assert report._replace(seconds=1.25).to_string() == words + "1.2 s"
    assert report.to_dict().keys() == {
        "new",
        "reused",
        "failed",
        "skipped",
        "media_unused",
        "seconds",
        "pictures",
        "similar",
    }


def test_docs_list_every_reason():
    page = (ROOT / "docs" / "captions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(REASONS)
    for status in ("ok", "failed", "skipped"):
        assert f"**{status}**" in page


def test_code_uses_no_other_reason():
    folder = Path(caption.__file__).parent
    source = "".join((folder / f"{name}.py").read_text() for name in ("media", "job", "caption", "workers"))
    used = set(re.findall(r'MediaError\(\s*"(\w+)"', source)) | set(
        re.findall(r'"(?:failed|skipped)", "(\w+)"', source)
    )
    used |= set(re.findall(r'reason(?: =|=) ?"(\w+)"', source)) | {"captioner_error"}
    assert used <= set(REASONS)
    assert {"no_media", "not_in_file", "empty_caption", "captioner_error", "changed"} <= used
    assert set(MEDIA_REASONS) < set(REASONS)
