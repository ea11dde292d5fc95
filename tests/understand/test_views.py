from __future__ import annotations

import pytest
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures

from captionary.errors import CaptionaryError
from captionary.understand.caption import caption_items
from captionary.understand.media import LIMITS, MediaError, digest
from captionary.understand.store import CaptionStore
from captionary.understand.views import View, join_distinct, read_picture, views_of

ITEMS = items_of([["a", "b", "a", "c"], ["", "d", " "], [], None])


@pytest.fixture
def store(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as opened:
        yield opened


def test_the_first_entry_is_the_default():
    assert views_of(ITEMS) == ([[View("a")], [View("d")], [], []], [3, 0, 0, 0])


def test_all_entries():
    assert views_of(ITEMS, entries="all") == (
        [[View("a"), View("b"), View("c")], [View("d")], [], []],
        [1, 0, 0, 0],
    )
    assert views_of(ITEMS, entries="all", most=2)[0][0] == [View("a"), View("b")]
    assert views_of(ITEMS, entries="all", most=2)[1] == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entries": "al"}, "entries == al, must be all"),
        ({"most": 0}, "most views per item == 0, must be >= 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(CaptionaryError, match=message):
        views_of(ITEMS, **options)


def test_a_key_has_the_frame():
    assert View("a.gif").key("d1") == "d1"
    assert View("a.gif", 0).key("d1") == "d1@0"
    assert View("a.gif", 12).key("d1") == "d1@12"


def test_captions_are_joined_without_repetition():
    assert join_distinct(["a dog", "A  dog.", "a cat ", "a dog"]) == "a dog; a cat"
    assert join_distinct(["a dog"]) == "a dog"
    assert join_distinct(["犬", "犬。", "猫"]) == "犬; 猫"


def test_an_item_of_several_pictures(tmp_path, store):
    names = write_pictures(tmp_path, 5)
    (tmp_path / "bad.png").write_text("words")
    items = items_of([names[:2], [names[2], "bad.png", "none.png"], ["bad.png", "none.png"], [names[1]], []])
    fake = FakeCaptioner(vector_size=2)
    report = caption_items(items, tmp_path, fake, store, entries="all")
    said = [each.text for each in FakeCaptioner().caption([read(tmp_path / name) for name in names])]
    assert column(report, "caption") == [f"{said[0]}; {said[1]}", said[2], None, said[1], None]
    assert column(report, "views") == [2, 1, None, 1, None]
    assert column(report, "detail")[1] == "2 of 3 pictures failed: not_an_image 1, missing 1"
    assert column(report, "reason") == [None, None, "not_an_image", None, "no_media"]
    assert column(report, "media_digest")[0] == digest(tmp_path / names[0])
    assert column(report, "output_tokens")[0] == sum(len(text.split()) + 1 for text in said[:2])
    # The fourth item's picture was captioned for the first item.
    assert (report.new, report.reused, report.pictures) == (2, 1, 3)
    assert report.failed == {"not_an_image": 1}
    assert report.skipped == {"no_media": 1}
    one, other = store.get_vectors([digest(tmp_path / name) for name in names[:2]], "fake-encoder-2").values()
    assert report.vectors[0].tolist() == ((one + other) / 2).tolist()
    first = caption_items(items, tmp_path, FakeCaptioner(vector_size=2), store)
    assert (first.new, first.media_unused) == (0, 4)  # the first entries were paid for with the rest
    longest = caption_items(
        items, tmp_path, fake, store, entries="all", merge=lambda all_: max(all_, key=len)
    )
    assert column(longest, "caption")[0] == max(said[:2], key=len)


def read(path):
    return read_picture(path.read_bytes(), View(path.name), 32, LIMITS)


def test_files_are_found_by_any_function(tmp_path, store):
    name, other = write_pictures(tmp_path / "cache", 2)

    def find(uri, root):
        if not uri.startswith("cdn:"):
            raise MediaError("remote_not_allowed", uri)
        return root / "cache" / uri.removeprefix("cdn:")

    items = items_of([[f"cdn:{name}"], [f"cdn:{other}"], ["http:x"]])
    report = caption_items(items, tmp_path, FakeCaptioner(), store, locate=find)
    assert column(report, "reason") == [None, None, "remote_not_allowed"]


def frames_of(data, view, size, limits):
    """A stand-in for video: the file's picture, turned by the frame's number."""
    if view.frame > 2:
        raise MediaError("corrupt", view.uri, f"no frame {view.frame}")
    return read_picture(data, view, size, limits).rotate(90 * view.frame)


@pytest.mark.parametrize("processes", [0, 1])
def test_frames_of_one_file(tmp_path, store, processes):
    name, other = write_pictures(tmp_path, 2)
    items = items_of([[name], [other]])
    views = [[View(name, 0), View(name, 2), View(name, 7)], [View(other, 1), View(other, 1)]]
    fake = FakeCaptioner()
    report = caption_items(
        items, tmp_path, fake, store, views=views, reader=frames_of, decode_processes=processes
    )
    assert fake.images == report.pictures == 3
    key = digest(tmp_path / name)
    found = store.get_many([f"{key}@0", f"{key}@2", f"{key}@7", key], "fake-1")
    assert list(found) == [f"{key}@0", f"{key}@2"]
    assert column(report, "caption")[0] == "; ".join(record.caption for record in found.values())
    assert column(report, "views") == [2, 1]
    assert column(report, "media_digest")[0] == f"{key}@0"
    with pytest.raises(CaptionaryError, match="views == of 1 items, must be of 2 items"):
        caption_items(items, tmp_path, fake, store, views=views[:1], reader=frames_of)
