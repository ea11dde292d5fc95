import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner

from captionary.understand.caption import caption_items
from captionary.understand.gate import Budget, gate
from captionary.understand.gate_context import (
    Catalogue,
    build_context,
    carried_out,
    hold_back,
    look,
    mark,
    text_says,
)
from captionary.understand.gate_forecast import DAY
from captionary.understand.gate_settings import GateConfig
from captionary.understand.store import CaptionStore

CUT = 1_700_000_000_000_000


class LookingCaptioner(FakeCaptioner):
    """Whose encoder can be asked alone."""

    looks = 0

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        self.looks += len(images)
        return np.array([[*image.resize((1, 1)).getpixel((0, 0)), 1.0] for image in images], np.float32)


@pytest.fixture
def items(tmp_path: Path) -> pa.Table:
    """Three pictures, one of them twice, a broken one and an item without."""
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    moment = datetime.datetime.fromtimestamp(CUT / 1e6, datetime.UTC)
    created = [moment - datetime.timedelta(days=days) for days in (10, 5, 1, 1, 1)] + [None]
    return pa.table(
        {
            "item_id": pa.array(range(6)),
            "media": [["a.png"], ["b.png"], ["c.png"], ["d.png"], ["broken.png"], None],
            "title": ["Post 1", "Post 2", "a red velvet sofa with oak legs", None, "Post", ""],
            "created_at": pa.array(created, pa.timestamp("us", tz="UTC")),
        }
    )


def test_looking_asks_the_encoder_once_and_the_captioner_never(items: pa.Table, tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        first = look(items, tmp_path, captioner, store)
        again = look(items, tmp_path, captioner, store)
        assert len(store) == 0
    assert captioner.images == 0
    assert captioner.looks == 3  # a and d are one picture
    assert first.present.tolist() == [True, True, True, True, False, False]
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert first.media[0] == first.media[3] != first.media[1]
    assert first.media[5] == -1
    assert first.contents[4] == first.contents[5] == ()
    assert first.missing.tolist() == [1, 1, 1, 1, 0, 0]
    assert first.seconds_each is None


def test_what_was_captioned_is_known_with_what_it_took(items: pa.Table, tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        caption_items(items.slice(0, 1), tmp_path, captioner, store, progress=False)
        found = look(items, tmp_path, captioner, store)
    assert found.captioned.tolist() == [True, False, False, True, False, False]
    assert found.seconds_each is not None
    assert found.seconds_each > 0


def test_a_caption_without_its_vector_is_made_again_and_costs(items: pa.Table, tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        caption_items(items.slice(0, 1), tmp_path, captioner, store, progress=False)
        captioner.encoder_fingerprint = "another encoder"
        found = look(items.slice(0, 1), tmp_path, captioner, store, embed=False)
        assert found.missing.tolist() == [1]
        assert look(items.slice(0, 1), tmp_path, captioner, store).missing.tolist() == [0]
        caption_items(items.slice(0, 1), tmp_path, captioner, store, progress=False)
    assert captioner.images == 1  # once the gate has looked, the vector is there


def album(*media: list[str]) -> pa.Table:
    """Items of several media."""
    size = len(media)
    return pa.table(
        {
            "item_id": pa.array(range(size)),
            "media": media,
            "title": [""] * size,
            "created_at": pa.array([None] * size, pa.timestamp("us", tz="UTC")),
        }
    )


NOBODY = pa.table(
    {"item_id": pa.array([], pa.int64()), "timestamp": pa.array([], pa.timestamp("us", tz="UTC"))}
)


@pytest.mark.usefixtures("items")
def test_of_several_media_those_are_looked_at_that_would_be_captioned(tmp_path: Path) -> None:
    catalogue = album(
        ["a.png", "b.png"], ["b.png", " ", "d.png"], ["a.png"], ["a.png", "b.png", "c.png"],
        ["a.png", "broken.png"], ["broken.png", "none.png"], ["a.png", "d.png", "b.png"],
    )  # fmt: skip
    captioner = LookingCaptioner(vector_size=4)
    config = GateConfig(policy="budget", seconds_per_item=2.0, price_per_item=1.0)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        found = look(catalogue, tmp_path, captioner, store, entries="all")
        assert captioner.looks == 3
        # The same set in another order, and of the same bytes under another name; not a subset, nor more.
        assert found.media[0] == found.media[1] == found.media[6]
        assert found.media[2] == found.media[4]  # of one the second is no picture
        assert len({found.media[row] for row in (0, 2, 3)}) == 3
        assert found.media[5] == -1
        assert found.missing.tolist() == [2, 2, 1, 3, 1, 0, 2]
        assert not found.captioned.any()
        fewer = look(catalogue, tmp_path, captioner, store, entries="all", most=2)
        assert fewer.media[3] == fewer.media[0]
        first = look(catalogue, tmp_path, captioner, store)
        assert first.missing.tolist() == [1, 1, 1, 1, 1, 0, 1]
        assert first.media[0] == first.media[2] != first.media[1]

        caption_items(album(["a.png"], ["c.png"]), tmp_path, captioner, store, progress=False)
        again = look(catalogue, tmp_path, captioner, store, entries="all")
        assert again.missing.tolist() == [1, 1, 0, 1, 0, 0, 1]
        assert again.captioned.tolist() == [False, False, True, False, True, False, False]
        made = build_context(Catalogue(catalogue, NOBODY, NOBODY), again, CUT, config)
        assert made.seconds.tolist() == [2, 2, 0, 2, 0, 0, 2]
        whole = build_context(Catalogue(catalogue, NOBODY, NOBODY), found, CUT, config)
        assert whole.money.tolist() == [2, 2, 1, 3, 1, 0, 2]

        # The vectors are those of the caption stage, to the last bit.
        report = caption_items(catalogue, tmp_path, captioner, store, progress=False, entries="all")
    np.testing.assert_array_equal(found.present, report.has_vector)
    np.testing.assert_array_equal(found.vectors, report.vectors)


@pytest.mark.usefixtures("items")
def test_a_budget_in_seconds_counts_every_medium(tmp_path: Path) -> None:
    catalogue = album(["a.png", "b.png", "c.png"], ["b.png", "c.png"], ["c.png", "b.png"], ["a.png"])
    captioner = LookingCaptioner(vector_size=4)
    config = GateConfig(policy="always", seconds_per_item=1.0, seconds=3.0)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        looked = look(catalogue, tmp_path, captioner, store, entries="all")
        made = build_context(Catalogue(catalogue, NOBODY, NOBODY), looked, CUT, config)
        decision = gate(catalogue, made, Budget.of(config, made), config)
        assert made.seconds[decision.chosen].sum() <= 3
        assert set(decision.reason[1:3]) in ({"", "gate_same_media"}, {"gate_over_budget"})
        held = hold_back(catalogue, decision)
        caption_items(held, tmp_path, captioner, store, progress=False, entries="all")
    assert captioner.images <= 3


@pytest.mark.usefixtures("items")
def test_media_are_found_as_the_caption_stage_finds_them(tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        found = look(
            album(["shop://a"]), tmp_path, captioner, store, locate=lambda uri, root: root / f"{uri[7:]}.png"
        )
        assert look(album(["shop://a"]), tmp_path, captioner, store).media.tolist() == [-1]
    assert found.media.tolist() == [0]
    assert captioner.looks == 1


def test_a_context_knows_nothing_of_what_comes_after(items: pa.Table, tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        looked = look(items, tmp_path, captioner, store)

    def log(days: list[float]) -> pa.Table:
        stamps = pa.array([int(CUT + day * DAY) for day in days], pa.timestamp("us", tz="UTC"))
        return pa.table({"item_id": pa.array([0, 1, 1, 77][: len(days)]), "timestamp": stamps})

    config = GateConfig(policy="budget", seconds_per_item=2.0, price_per_second=3.0, price_per_item=1.0)
    made = build_context(Catalogue(items, log([-3, -2, -1, -1]), log([-3, 0])), looked, CUT, config)
    assert made.exposure.past.tolist() == [1, 2, 0, 0, 0, 0]
    assert made.events is not None
    assert made.events.tolist() == [1, 0, 0, 0, 0, 0]  # the second event is at the decision
    same = build_context(Catalogue(items, log([-3, -2, -1]), log([-3])), looked, CUT, config)
    np.testing.assert_array_equal(made.exposure.future, same.exposure.future)
    assert made.age[:3].tolist() == [10, 5, 1]
    assert np.isnan(made.age[5])
    assert made.money.tolist() == [1 + 3 * 2] * 4 + [0, 0]  # nothing is paid for what cannot be read
    assert made.said[2] > 0.5 > made.said[0]


def test_what_is_held_back_keeps_its_row_and_is_given_its_reason(items: pa.Table, tmp_path: Path) -> None:
    captioner = LookingCaptioner(vector_size=4)
    empty = pa.table(
        {"item_id": pa.array([], pa.int64()), "timestamp": pa.array([], pa.timestamp("us", tz="UTC"))}
    )
    with CaptionStore(tmp_path / "store.sqlite") as store:
        looked = look(items, tmp_path, captioner, store)
        made = build_context(Catalogue(items, empty, empty), looked, CUT, GateConfig(policy="budget"))
        decision = gate(items, made, Budget(items=1), GateConfig(policy="budget"))
        report = caption_items(hold_back(items, decision), tmp_path, captioner, store, progress=False)
    assert captioner.images <= 2  # one, and the broken one is none
    table = mark(report.captions, decision)
    whole = carried_out(report, decision, looked)
    assert whole.captions.equals(table)
    assert whole.has_vector.tolist() == [True, True, True, True, False, False]
    assert whole.skipped["gate_over_budget"] >= 1
    by_reason = dict(zip(range(6), table["reason"].to_pylist(), strict=True))
    assert sum(status == "ok" for status in table["status"].to_pylist()) >= 1
    assert by_reason[5] == "no_media"
    assert "gate_over_budget" in by_reason.values()
    for row, status in enumerate(table["status"].to_pylist()):
        if by_reason[row] == "gate_over_budget":
            assert status == "skipped"


def test_text_says_much_where_few_others_say_it() -> None:
    said = text_says(["Post 17", "Post 18", "Post", "", "red velvet sofa with oak legs"])
    assert said[3] == 0
    assert said[0] == said[1] == said[2]
    # four texts have words; "post" is in three of them: log(4/3) / log 4, over itself plus 3
    information = np.log(4 / 3) / np.log(4)
    assert said[0] == pytest.approx(information / (information + 3))
    assert said[4] == pytest.approx(6 / (6 + 3))
