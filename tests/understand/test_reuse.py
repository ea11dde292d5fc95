"""Near-duplicates, `force` and `only_missing`: who is captioned, and whose caption is taken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.understand.fake import FakeCaptioner, column, items_of, write_pictures

from captionary.errors import CaptionaryError
from captionary.understand.caption import caption_items
from captionary.understand.media import digest
from captionary.understand.store import CaptionStore
from captionary.world.render import render
from captionary.world.scenes import draw_scenes


@pytest.fixture
def store(tmp_path):
    with CaptionStore(tmp_path / "captions.sqlite") as opened:
        yield opened


@pytest.fixture
def scenes(tmp_path):
    """Four scenes, each in two qualities: s0.jpg … s3.jpg and their near-duplicates d0.jpg … d3.jpg."""
    table = draw_scenes(np.random.default_rng(0), 4)
    for row in range(4):
        render(table, row).save(tmp_path / f"s{row}.jpg", quality=90)
        render(table, row).save(tmp_path / f"d{row}.jpg", quality=70)
    return tmp_path


def names(*letters: str) -> list[list[str]]:
    return [[f"{letter}.jpg"] for letter in letters]


def fake(**options) -> FakeCaptioner:
    return FakeCaptioner(**{"vector_size": 2, "image_size": 224} | options)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_a_near_duplicate_gets_the_earlier_ones_caption(scenes, store, batch_size, lanes):
    items = items_of(names("s0", "d0", "s1", "s2", "d1", "d2", "s3", "d3"))
    asked = fake(seconds=0.01)
    asked.lanes = lanes
    report = caption_items(items, scenes, asked, store, batch_size=batch_size, similar=4)
    assert asked.images == 4
    said = column(report, "caption")
    assert len(set(said)) == 4
    for one, other in ((0, 1), (2, 4), (3, 5), (6, 7)):
        assert said[one] == said[other]
        assert column(report, "reused_from")[one] is None
        assert column(report, "reused_from")[other] == column(report, "media_digest")[one]
        np.testing.assert_array_equal(report.vectors[one], report.vectors[other])
    assert (report.new, report.reused, report.pictures, report.similar) == (4, 4, 4, 4)
    assert "4 new, 4 reused (4 near-duplicates), 0 failed" in report.to_string()
    reused = store.get_many([digest(scenes / "d0.jpg")], "fake-1")[digest(scenes / "d0.jpg")]
    assert (reused.source, reused.output_tokens, reused.latency_ms) == (digest(scenes / "s0.jpg"), 0, 0.0)
    again = caption_items(items, scenes, asked, store, similar=4)
    assert asked.images == 4
    assert again.captions.equals(report.captions)


def test_off_unless_asked(scenes, store):
    report = caption_items(items_of(names("s0", "d0")), scenes, fake(), store)
    assert (report.new, report.similar) == (2, 0)


def test_near_duplicates_of_an_earlier_run(scenes, store):
    caption_items(items_of(names("s0", "s1")), scenes, fake(), store, similar=4)
    asked = fake()
    report = caption_items(items_of(names("d1", "d0", "s2")), scenes, asked, store, similar=4)
    assert asked.images == 1
    assert report.similar == 2
    other = fake(variant="2")  # another captioner's captions are not taken
    assert caption_items(items_of(names("d1")), scenes, other, store, similar=4).similar == 0


def test_near_duplicates_of_what_failed_are_captioned_themselves(scenes, store):
    asked = []

    def hook(image):
        asked.append(image)
        if len(asked) == 1:  # s0, alone in its batch
            raise RuntimeError

    captioner = fake(hook=hook)
    report = caption_items(items_of(names("s0", "d0", "d0")), scenes, captioner, store, similar=4)
    assert column(report, "reason") == ["captioner_error", None, None]
    assert column(report, "reused_from") == [None, None, None]


def test_a_source_without_a_vector_is_no_source(scenes, store):
    caption_items(items_of(names("s0")), scenes, fake(vector_size=0), store, similar=4)
    report = caption_items(items_of(names("d0")), scenes, fake(), store, similar=4)
    assert report.similar == 0
    assert report.has_vector.all()


def test_a_shirt_in_another_colour_is_another_shirt(tmp_path, store):
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 121, 40)), ("red again", (201, 41, 40))):
        image = Image.new("RGB", (100, 120), "white")
        ImageDraw.Draw(image).polygon([(10, 20), (90, 20), (75, 110), (50, 60), (25, 110)], colour)
        image.save(tmp_path / f"{name}.png")
    for batch_size in (1, 3):  # told apart from what is stored, and from what is in the batch
        captioner = fake(variant=str(batch_size))
        items = items_of([["red.png"], ["green.png"], ["red again.png"]])
        report = caption_items(items, tmp_path, captioner, store, similar=4, batch_size=batch_size)
        first = digest(tmp_path / "red.png")
        assert column(report, "reused_from") == [None, None, first]


def test_flat_pictures_match_nothing(tmp_path, store):
    for i in range(5):
        Image.new("RGB", (40, 40), (251 + i, 255, 255)).save(tmp_path / f"w{i}.png")
    report = caption_items(items_of([[f"w{i}.png"] for i in range(5)]), tmp_path, fake(), store, similar=16)
    assert (report.new, report.similar) == (5, 0)


def test_a_crowd_of_near_duplicates_takes_no_memory(tmp_path, store):
    """A captioner's batch is not awaited for ever while only copies of what is in it come."""
    image = render(draw_scenes(np.random.default_rng(1), 1), 0)
    for quality in range(50, 90):
        image.save(tmp_path / f"q{quality}.jpg", quality=quality)
    asked = fake(image_size=64)
    listed = names(*(f"q{quality}" for quality in range(50, 90)))
    report = caption_items(items_of(listed), tmp_path, asked, store, batch_size=8, similar=4)
    assert report.new + report.similar == 40
    assert asked.calls[0] == 1
    assert sum(asked.calls) <= 2


def test_force_makes_all_again_and_replaces(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 6)])
    first = caption_items(items, tmp_path, fake(hook=lambda image: "old"), store)
    captioner = fake(hook=lambda image: "new")
    report = caption_items(items, tmp_path, captioner, store, batch_size=4, force=True)
    assert captioner.calls == [4, 2]
    assert column(report, "caption") == ["new"] * 6
    assert report.new == 6
    assert len(store) == 6
    assert min(column(report, "created_at")) > max(column(first, "created_at"))


def test_force_keeps_a_caption_that_cannot_be_made_again(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 3)])
    caption_items(items, tmp_path, fake(hook=lambda image: "old"), store)
    answers = iter(["new", "", "new"])
    report = caption_items(items, tmp_path, fake(hook=lambda image: next(answers)), store, force=True)
    assert column(report, "caption") == ["new", "old", "new"]
    assert report.new == 2


def test_force_makes_copies_anew_from_the_new_caption(scenes, store):
    items = items_of(names("s0", "d0"))
    caption_items(items, scenes, fake(hook=lambda image: "old"), store, similar=4)
    captioner = fake(hook=lambda image: "new")
    report = caption_items(items, scenes, captioner, store, similar=4, force=True)
    assert captioner.images == 1
    assert column(report, "caption") == ["new", "new"]
    assert column(report, "reused_from") == [None, digest(scenes / "s0.jpg")]


def test_only_missing_takes_any_captioners_caption(tmp_path, store):
    pictures = write_pictures(tmp_path, 4)
    caption_items(
        items_of([[pictures[0]]]), tmp_path, fake(variant="older", hook=lambda image: "older"), store
    )
    caption_items(
        items_of([[p] for p in pictures[:2]]), tmp_path, fake(variant="old", hook=lambda im: "old"), store
    )
    silent = fake(variant="silent", hook=lambda image: "")
    caption_items(items_of([[pictures[2]]]), tmp_path, silent, store)
    captioner = fake(hook=lambda image: "new")
    items = items_of([[name] for name in pictures])
    report = caption_items(items, tmp_path, captioner, store, only_missing=True)
    assert captioner.images == 2
    assert column(report, "caption") == ["old", "old", "new", "new"]
    assert column(report, "captioner") == ["fake-old", "fake-old", "fake-1", "fake-1"]
    assert (report.new, report.reused) == (2, 2)


def test_only_missing_asks_for_no_vectors(tmp_path, store):
    items = items_of([[name] for name in write_pictures(tmp_path, 2)])
    caption_items(items, tmp_path, FakeCaptioner(), store)
    captioner = fake()
    report = caption_items(items, tmp_path, captioner, store, only_missing=True)
    assert captioner.calls == []
    assert not report.has_vector.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similar": 17}, "similar == 17, must be 0 to 16 bits of 64, or off"),
        (
            {"force": True, "only_missing": True},
            "force and only_missing == both, must be one of them at most",
        ),
        ({"decode_threads": 0}, "decode_threads == 0, must be >= 1"),
        ({"decode_processes": -1}, "decode_processes == -1, must be >= 0"),
    ],
)
def test_bad_options(tmp_path, store, options, message):
    with pytest.raises(CaptionaryError, match=message):
        caption_items(items_of([]), tmp_path, fake(), store, **options)
