"""Limits on a catalogue with a film, a loop and a sound beside pictures: they hold in captions, whatever the media."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner
from tests.understand.signals.films import animation, film, recording, scenes, siren

from captionary.understand.caption import caption_items
from captionary.understand.gate import Budget, GateContext, GateDecision, gate
from captionary.understand.gate_audit import Audit, Forecast, audit, forecast
from captionary.understand.gate_context import Catalogue, build_context, carried_out, hold_back, look
from captionary.understand.gate_settings import POLICIES, GateConfig
from captionary.understand.gate_streams import KeyFrames, Stream
from captionary.understand.media import MediaError, digest, locate
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.store import CaptionStore
from captionary.understand.streams import Streams
from captionary.understand.views import View, views_of

pytest.importorskip("av", reason="the extra `video` is not installed")

CUT = 1_700_000_000_000_000
MEDIA = ("film.mp4", "loop.gif", "alarm.wav", "one.png", "two.png", "three.png")
FRAMES = {"film.mp4": 3, "loop.gif": 2, "alarm.wav": 0, "one.png": 1, "two.png": 1, "three.png": 1}
"""What each is captioned with; 4 key frames are asked for at most."""


class LookingCaptioner(FakeCaptioner):
    """Whose encoder can be asked alone."""

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        return np.array([[*image.resize((1, 1)).getpixel((0, 0)), 1.0] for image in images], np.float32)

    def caption_and_embed(self, images: Sequence[Image.Image]) -> tuple[list, np.ndarray]:  # type: ignore[type-arg]
        return self.caption(images), self.embed(list(images))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    pictures = scenes(6)
    (folder / "film.mp4").write_bytes(film([(picture, 1.0) for picture in pictures[:3]]))
    (folder / "loop.gif").write_bytes(animation(pictures[1:3], "GIF"))
    (folder / "alarm.wav").write_bytes(recording(siren(0.5)))
    for name, picture in zip(("one", "two", "three"), pictures[3:], strict=True):
        picture.save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no medium at all")
    (folder / "cut.mp4").write_bytes((folder / "film.mp4").read_bytes()[:3000])
    return folder


def items_of(media: Sequence[Sequence[str]]) -> pa.Table:
    size = len(media)
    return pa.table(
        {
            "item_id": pa.array(range(size)),
            "media": [list(entries) for entries in media],
            "title": [""] * size,
            "created_at": pa.array([None] * size, pa.timestamp("us", tz="UTC")),
        }
    )


def log(size: int) -> pa.Table:
    """The first items are shown most: streams are what every policy wants."""
    item = np.repeat(np.arange(size), 2 * np.arange(size, 0, -1))
    return pa.table(
        {"item_id": item, "timestamp": pa.array(np.full(len(item), CUT - 1), pa.timestamp("us", tz="UTC"))}
    )


class Shop:
    """A catalogue with its store, its folder of streams and a captioner that counts."""

    def __init__(self, root: Path, streams: Path, captioner: FakeCaptioner | None = None) -> None:
        self.root, self.captioner = root, captioner or LookingCaptioner(vector_size=4, image_size=224)
        self.streams = Streams(SignalsConfig(sounds=""), streams, self.captioner.image_size)
        self.frames = KeyFrames(self.streams)

    def of(self, name: str) -> Stream | None:
        path = self.root / name
        return self.frames.of(path, digest(path))

    def unfold(self, *names: str) -> None:
        self.streams.unfold([[View(name)] for name in names], self.root, locate)


class Done(NamedTuple):
    context: GateContext
    decision: GateDecision
    forecast: Forecast
    audit: Audit
    images: int
    """Pictures that the captioner was asked about."""
    reasons: list[str | None]
    """Of the captions table."""


def carry_out(
    shop: Shop, store: CaptionStore, config: GateConfig, media: Sequence[Sequence[str]], entries: str
) -> Done:
    """Look, decide, caption what was decided and audit, as the caption stage does it."""
    items, shown = items_of(media), log(len(media))
    embed = config.policy in ("budget", "learned")
    looked = look(items, shop.root, shop.captioner, store, embed=embed, entries=entries, frames=shop.frames)
    context = build_context(Catalogue(items, shown, shown), looked, CUT, config)
    context = context._replace(gain=np.linspace(1, 2, len(media)))
    budget = Budget.of(config, context)
    decision = gate(items, context, budget, config)
    again = gate(items, context, budget, config)
    assert again.chosen.tolist() == decision.chosen.tolist()
    before = forecast(decision, context, budget, horizon_days=7)
    asked = shop.captioner.images
    held = hold_back(items, decision)
    views, _ = views_of(held, entries=entries)
    views = shop.streams.unfold(views, shop.root, locate).views
    report = caption_items(held, shop.root, shop.captioner, store, views=views, progress=False)
    captions = carried_out(report, decision, looked).captions
    after = audit(
        before, captions, np.zeros(0, np.int64), np.zeros(0, np.int64),
        price_per_item=config.price_per_item, price_per_second=config.price_per_second,
    )  # fmt: skip
    images = shop.captioner.images - asked
    return Done(context, decision, before, after, images, captions["reason"].to_pylist())


SINGLE = [[name] for name in MEDIA]
ALBUM = [
    ["film.mp4", "one.png"],
    ["loop.gif", "alarm.wav"],
    ["alarm.wav"],
    ["two.png", "three.png"],
    ["one.png"],
]


@pytest.fixture(scope="module")
def known(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of streams in which all are unfolded."""
    folder = tmp_path_factory.mktemp("streams")
    Shop(root, folder).unfold(*MEDIA)
    return folder


LIMITS: tuple[dict[str, float], ...] = (
    {"money": 0.5, "price_per_item": 0.5},
    {"money": 0.5, "price_per_second": 0.25, "seconds_per_item": 2.0},
    {"seconds": 2.0, "seconds_per_item": 2.0},
    {"items": 1},
)
"""What one caption, or item, takes of each."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize(("media", "entries"), [(SINGLE, "first"), (ALBUM, "all")])
@pytest.mark.parametrize("settings", LIMITS)
def test_a_limit_holds_whatever_the_media(
    root: Path, known: Path, tmp_path: Path, policy: str, unfolded: bool, media: list[list[str]], entries: str,
    settings: dict[str, float],
) -> None:  # fmt: skip
    name, each = next(iter(settings.items()))
    for most in (2, 5):
        shop = Shop(root, known if unfolded else tmp_path / f"{most}")
        config = GateConfig(**(settings | {"policy": policy, name: each * most}))  # type: ignore[arg-type]
        with CaptionStore(tmp_path / f"{most}.sqlite") as store:
            done = carry_out(shop, store, config, media, entries)
        captions = done.forecast.captions
        assert captions is not None
        if name == "items":
            assert len(done.decision.chosen) == min(most, 5 if media is SINGLE else 4)
        else:
            assert 0 < done.images <= captions <= most
        # Forecast and audit count the same thing; what two items have in common is counted for both.
        assert done.images <= done.audit.captions <= captions
        assert done.audit.items == done.forecast.items
        if unfolded:
            assert done.forecast.bound == 0
            assert done.audit.captions == captions
        if "price_per_item" in settings:
            assert done.forecast.money == pytest.approx(0.5 * captions)
            assert done.audit.money == pytest.approx(0.5 * done.audit.captions)
        assert done.decision.reason[2] == "gate_no_media"  # a sound: it is heard, and no captioner is asked


def test_streams_that_were_not_unfolded_are_counted_by_their_most_frames(root: Path, tmp_path: Path) -> None:
    shop = Shop(root, tmp_path)
    config = GateConfig(policy="budget", price_per_item=1.0, money=6.0)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        done = carry_out(shop, store, config, SINGLE, "first")
        # 4 for the film, for the loop there is no more room: two pictures.
        assert done.context.money.tolist() == [4, 4, 0, 1, 1, 1]
        assert (done.forecast.captions, done.forecast.bound, done.forecast.money) in (
            (6, 4, 6.0),
            (3, 0, 3.0),
        )
        table = done.audit.to_markdown()
        if done.forecast.bound:
            assert "| captions made | ≤ 6 | 5 | −16.7 % |" in table
            assert "| money | ≤ 6.00 | 5.00 |" in table
        # What was unfolded meanwhile is known to the frame, and what was captioned costs nothing more.
        shop.unfold(*MEDIA)
        other = LookingCaptioner(vector_size=4, image_size=224, variant="2")
        more = GateConfig(policy="budget", price_per_item=1.0, money=8.0)
        exact = carry_out(Shop(root, tmp_path, other), store, more, SINGLE, "first")
        assert exact.context.money.tolist() == list(FRAMES.values())
        assert (exact.forecast.captions, exact.forecast.bound, exact.images) == (8, 0, 8)
        assert exact.audit.captions == 8
        last = carry_out(Shop(root, tmp_path, other), store, config, SINGLE, "first")
        assert last.decision.reason == ("gate_captioned",) * 2 + ("gate_no_media",) + ("gate_captioned",) * 3
        assert (last.images, last.audit.captions, last.audit.money) == (0, 0, 0)


def test_what_an_item_has_already_is_not_booked_again(root: Path, tmp_path: Path) -> None:
    shop = Shop(root, tmp_path)
    config = GateConfig(policy="popular", price_per_item=1.0, money=4.0)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        carry_out(shop, store, GateConfig(), [["one.png"], ["two.png"]], "first")
        album = [["film.mp4", "one.png"], ["one.png", "two.png", "three.png"]]
        shop.unfold("film.mp4")
        done = carry_out(shop, store, config, album, "all")
    assert done.context.calls is not None
    assert done.context.calls.most.tolist() == [3, 1]
    assert done.context.calls.had.tolist() == [1, 2]
    assert done.images == done.audit.captions == done.forecast.captions == 4
    assert done.audit.money == 4
    # 4 of the 7 pictures of these items were captioned now, and only their seconds are booked.
    assert [pictures for _, pictures, _ in done.forecast.had] == [1, 2]
    assert all(seconds > 0 for *_, seconds in done.forecast.had)


def test_streams_have_their_worth_and_look_like_their_frames_once_these_are_known(
    root: Path, tmp_path: Path
) -> None:
    shop = Shop(root, tmp_path)
    items = items_of(SINGLE)
    with CaptionStore(tmp_path / "store.sqlite") as store:
        first = look(items, root, shop.captioner, store, frames=shop.frames)
        assert first.present.tolist() == [False, True, False, True, True, True]  # of a loop its first picture
        assert (first.media >= 0).tolist() == [True, True, False, True, True, True]
        assert first.unread == ("",) * 6
        shop.unfold(*MEDIA)
        then = look(items, root, shop.captioner, store, frames=shop.frames)
        assert then.present.tolist() == [True, True, False, True, True, True]
        views = shop.streams.unfold(views_of(items)[0], root, locate).views
        report = caption_items(items, root, shop.captioner, store, views=views, progress=False)
    np.testing.assert_array_equal(then.vectors, report.vectors)
    assert shop.captioner.images == sum(FRAMES.values())


def test_kinds_are_told_and_frames_found_where_they_were_kept(root: Path, tmp_path: Path) -> None:
    shop = Shop(root, tmp_path, FakeCaptioner(image_size=224))
    assert shop.of("one.png") is None
    assert shop.of("notes.txt") is None
    assert shop.of("alarm.wav") == Stream("sound", ())
    assert shop.of("film.mp4") == Stream("video", None)
    assert shop.of("loop.gif") == Stream("animation", None)
    shop.unfold("film.mp4", "loop.gif", "cut.mp4")
    for name in ("film.mp4", "loop.gif"):
        found = shop.of(name)
        assert found is not None
        assert found.frames is not None
        assert len(found.frames) == FRAMES[name]
    assert shop.of("cut.mp4") == Stream("video", ())  # refused for good: nothing to caption
    found = shop.of("film.mp4")
    assert found is not None
    assert found.frames is not None
    found.frames[0].unlink()
    assert shop.of("film.mp4") == Stream("video", None)
    other = Shop(root, tmp_path, FakeCaptioner(image_size=112))  # which is given frames of another size
    assert other.of("loop.gif") == Stream("animation", None)


def test_what_could_not_be_read_when_the_gate_decided_is_not_paid_when_it_turns_up(
    root: Path, tmp_path: Path
) -> None:
    def flaky(uri: str, folder: Path) -> Path:
        if uri.startswith("far"):
            raise MediaError("timeout", uri)
        return folder / uri

    media = [["far.png"], ["none.png"], ["notes.txt"], ["one.png", "far.png"], ["two.png"]]
    items, shop = items_of(media), Shop(root, tmp_path)
    captioner = shop.captioner
    with CaptionStore(tmp_path / "store.sqlite") as store:
        looked = look(items, root, captioner, store, entries="all", locate=flaky, frames=shop.frames)
        assert looked.unread == ("timeout", "missing", "", "timeout", "")
        assert looked.missing.tolist() == [0, 0, 0, 1 + 4, 1]  # the far one may turn out to be a film
        for config, reasons in (
            (GateConfig(policy="budget", items=5), ("gate_unread", "gate_unread", "gate_no_media", "", "")),
            (GateConfig(policy="budget"), ("gate_no_media",) * 3 + ("", "")),
        ):
            made = build_context(Catalogue(items, log(5), log(5)), looked, CUT, config)
            decision = gate(items, made, Budget.of(config, made), config)
            assert decision.reason == reasons
            held = hold_back(items, decision)
            assert [bool(entries) for entries in held["media"].to_pylist()][:2] == [
                reason == "gate_no_media" for reason in reasons[:2]
            ]
            report = caption_items(held, root, captioner, store, progress=False)
            table = carried_out(report, decision, looked).captions
            details = table["detail"].to_pylist()
            assert (details[0] == "timeout") == (reasons[0] == "gate_unread")
