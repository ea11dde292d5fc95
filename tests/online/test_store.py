"""One store, two engines: what is read is bit for bit what the batch builder makes of the same events and items."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from tests.online.worlds import CONFIG, DAY, IDF, catalogue, events_of, expected, item_of, opened, same

from captionary.errors import CaptionaryError
from captionary.online import keys, updates
from captionary.online.decisions import erase, erase_token, forget_item, forget_user, govern
from captionary.online.packing import id_bytes
from captionary.online.updates import apply_events, put_items, refold_pending, tidy
from captionary.represent.profiles import ProfileConfig

CONFIGS = {
    "decayed": CONFIG,
    "forever": ProfileConfig(event_types=("like", "share"), half_life_days=float("inf"), top_k=4),
    "window": ProfileConfig(
        event_types=("like", "share"), top_k=6, last_days=4.0, last_events=9, per_item=2, repeat_weight=0.5
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_profiles_are_those_of_the_batch_builder_to_the_bit(store_url: str, config: ProfileConfig) -> None:
    items, events = catalogue(), events_of(300)
    draw = random.Random(1)
    with opened(store_url, config) as store:
        pieces: list[object] = [events[start : start + 17] for start in range(0, len(events), 17)]
        pieces += [(number, tokens) for number, tokens in items.items()]
        draw.shuffle(pieces)  # items come before, between and after the events on them
        for piece in pieces:
            if isinstance(piece, tuple):
                put_items(store, [item_of(*piece)])
            else:
                apply_events(store, piece)  # type: ignore[arg-type]
        moments = [(f"user-{user}", day * DAY + 5) for user in range(4) for day in (3, 19, 20, 30)]
        for (user, moment), want in zip(moments, expected(events, items, moments, config), strict=True):
            assert same(store.profile(user, moment), want)
            assert same(store.history(user, moment), want)


def test_a_long_log_in_order_of_time_is_written_by_segments(store_url: str) -> None:
    events = sorted(events_of(1500, users=1, days=300), key=lambda e: e.timestamp)
    items = catalogue()
    with opened(store_url) as store:
        put_items(store, [item_of(*pair) for pair in items.items()])
        for start in range(0, len(events), 50):
            apply_events(store, events[start : start + 50])
        late = events_of(20, users=1, days=100, seed=5)
        apply_events(store, late)
        ((want,),) = [expected(events + late, items, [("user-0", 400 * DAY)])]
        assert same(store.profile("user-0", 400 * DAY), want)
        assert len(store.events_of("user-0", "like", 10_000)) == sum(
            e.event == "like" and e.value != 0 for e in events + late
        )


def test_one_read_gives_lists_and_rows_and_says_what_is_missing(store_url: str) -> None:
    with opened(store_url) as store:
        put_items(store, [item_of(7, [3, 4]), item_of("seven", [5, 5, 6])])
        apply_events(store, events_of(30))
        read = store.read("user-1", [7, "nobody", "seven", 7], 99 * DAY, version="v1", width=3)
        assert read.rows.tolist() == [[2, 3, 4], [0, 0, 0], [3, 5, 5], [2, 3, 4]]
        assert read.present.tolist() == [True, False, True, True]
        assert read.sequence == store.sequence == 3  # one for the settings, two updates
        assert not store.read("user-1", [7], DAY, version="v2", width=3).present.any()
        assert not store.read("user-1", [7], DAY, version="v1", width=4).present.any()
        nobody = store.read("nobody", [], DAY)
        assert nobody.rows.shape == (0, 0)
        assert all(len(found.token_ids) == 0 and found.mass == 0 for found in nobody.lists.values())


def test_what_is_delivered_twice_counts_once(store_url: str) -> None:
    events = events_of(60)
    places = list(range(1, 61))
    with opened(store_url) as store:
        put_items(store, [item_of(*pair) for pair in catalogue().items()])
        first = apply_events(store, events[:40], places[:40])
        again = apply_events(store, events[20:], places[20:])
        assert {place: again[place] for place in places[20:40]} == {p: first[p] for p in places[20:40]}
        assert again[60] == first[1] + 1
        moments = [(f"user-{user}", 50 * DAY) for user in range(4)]
        for (user, moment), want in zip(moments, expected(events, catalogue(), moments), strict=True):
            assert same(store.profile(user, moment), want)
        tidy(store, "events", 59)
        assert apply_events(store, events[59:], places[59:]) == {60: again[60]}


def test_an_item_that_changes_changes_the_profiles_of_its_audience(store_url: str) -> None:
    events, items = events_of(200), catalogue()
    with opened(store_url) as store:
        put_items(store, [item_of(*pair) for pair in items.items()], list(range(1, 13)))
        apply_events(store, events)
        items[3] = [1, 2, 3]
        put_items(store, [item_of(3, items[3])], [20])
        put_items(store, [item_of(3, [44])], [15])  # an older upload that was worked on later
        moments = [(f"user-{user}", 50 * DAY) for user in range(4)]
        for (user, moment), want in zip(moments, expected(events, items, moments), strict=True):
            assert same(store.profile(user, moment), want)
        record = store.item(3)
        assert record is not None
        assert (record.token_ids.tolist(), record.position, record.revision) == ([1, 2, 3], 20, 1)


def test_a_large_audience_is_folded_anew_piece_by_piece(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "AUDIENCE_AT_ONCE", 2)
    events = events_of(100, users=9)
    with opened(store_url) as store:
        apply_events(store, events)
        put_items(store, [item_of(*pair) for pair in catalogue().items()])
        while refold_pending(store):
            apply_events(store, events_of(3, users=9, seed=store.sequence))
            events += events_of(3, users=9, seed=store.sequence - 1)
        moments = [(f"user-{user}", 50 * DAY) for user in range(9)]
        for (user, moment), want in zip(moments, expected(events, catalogue(), moments), strict=True):
            assert same(store.profile(user, moment), want)


def test_forgetting_leaves_nothing_and_is_as_though_they_had_never_been(store_url: str) -> None:
    events, items = events_of(200), catalogue()
    with opened(store_url) as store:
        put_items(store, [item_of(*pair) for pair in items.items()])
        apply_events(store, events)
        govern(store, "user-1", "mute", token=3)
        assert forget_user(store, "user-1", last_position=77)
        assert forget_item(store, 5)
        assert not forget_item(store, 5)
        assert not forget_user(store, "user-1")
        prefixes = (b"f", b"l", b"s", b"g", b"u")
        names = [key for prefix in prefixes for key in store.engine.scan(prefix)]
        assert names
        assert not [name for name in names if id_bytes("user-1") in name]
        assert set(store.user_ids()) == {"user-0", "user-2", "user-3"}
        # What was on its way when they were forgotten is passed over, what comes later counts.
        apply_events(store, [e for e in events if e.user_id == "user-1"][:1], [77])
        assert "user-1" not in store.user_ids()
        left = [e for e in events if e.user_id != "user-1" and e.item_id != 5]
        del items[5]
        moments = [(f"user-{user}", 50 * DAY) for user in range(4)]
        for (user, moment), want in zip(moments, expected(left, items, moments), strict=True):
            assert same(store.profile(user, moment), want)
        assert store.item(5) is None
        assert not store.read("x", [5], 0, version="v1", width=3).present.any()


def test_a_user_mutes_boosts_and_takes_it_back(store_url: str) -> None:
    with opened(store_url) as store:
        put_items(store, [item_of(1, [10]), item_of(2, [11]), item_of(3, [12])])
        events = events_of(0)
        for item, value in ((1, 4.0), (2, 2.0), (3, 2.0)):
            events.append(_like("ann", item, DAY, value))
        apply_events(store, events)
        plain = store.profile("ann", 2 * DAY)["like"]
        assert sorted(zip(plain.token_ids.tolist(), plain.weights.tolist(), strict=True)) == [
            (10, 0.5), (11, 0.25), (12, 0.25),
        ]  # fmt: skip
        govern(store, "ann", "mute", token=10, event="like")
        govern(store, "ann", "boost", token=12, factor=3.0)
        read = store.read("ann", [], 2 * DAY)
        assert read.lists["like"].token_ids.tolist() == [12, 11]
        assert read.lists["like"].weights.tolist() == [3 / 4, 1 / 4]
        assert read.lists["like"].mass == plain.mass
        assert [action.verb for action in read.governance.actions] == ["mute", "boost"]
        govern(store, "ann", "unmute", token=10, event="like")
        govern(store, "ann", "boost", token=12, factor=1.0)
        assert same(store.profile("ann", 2 * DAY), {**read.lists, "like": plain})
        assert len(store.governance_of("ann").actions) == 4


def test_what_is_erased_comes_back_only_by_new_events(store_url: str) -> None:
    items = {1: [10, 11], 2: [11, 12]}
    old = [_like("ann", 1, DAY, 1.0), _like("ann", 2, 2 * DAY, 1.0)]
    new = [_like("ann", 2, 6 * DAY, 1.0)]
    with opened(store_url) as store:
        put_items(store, [item_of(*pair) for pair in items.items()])
        apply_events(store, old)
        erase_token(store, "ann", 11, at=4 * DAY)
        without = {1: [10], 2: [12]}
        assert same(store.profile("ann", 5 * DAY), expected(old, without, [("ann", 5 * DAY)])[0])
        apply_events(store, new)
        assert set(store.profile("ann", 7 * DAY)["like"].token_ids.tolist()) == {10, 11, 12}
        erase(store, "ann", at=5 * DAY)
        apply_events(store, [_like("ann", 1, 3 * DAY, 1.0)])  # late, and of before
        assert same(store.profile("ann", 7 * DAY), expected(new, items, [("ann", 7 * DAY)])[0])
        assert store.events_of("ann", "like") == [(6 * DAY, 2, 1.0)]
        erase(store, "ann", at=8 * DAY)
        assert not len(store.profile("ann", 9 * DAY)["like"].token_ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": 50}, "token == 50, must be in 0..49"),
        ({"token": 3, "factor": 0.0}, "mute a token"),
        ({"token": 3, "event": "lik"}, "like"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(
    store_url: str, change: dict[str, object], said: str
) -> None:
    with opened(store_url) as store, pytest.raises(CaptionaryError, match=re.escape(said)):
        govern(store, "ann", "boost", **change)  # type: ignore[arg-type]


def test_a_store_filled_under_other_settings_is_refused(store_url: str) -> None:
    opened(store_url).close()
    other = ProfileConfig(event_types=("like", "share"), half_life_days=4.0)
    with pytest.raises(CaptionaryError, match="store == profiles, must be that with which it was filled"):
        opened(store_url, other)
    opened(store_url).close()


def test_events_that_cannot_be_are_refused_whole(store_url: str) -> None:
    with opened(store_url) as store:
        with pytest.raises(CaptionaryError, match=r"value == -1\.0"):
            apply_events(store, [_like("ann", 1, DAY, 1.0), _like("ann", 1, DAY, -1.0)])
        assert store.user_ids() == []
        with pytest.raises(CaptionaryError, match="must be 1 to 200 bytes"):
            store.profile("a" * 201, DAY)


def test_ids_of_numbers_and_words_live_side_by_side(store_url: str) -> None:
    ids = [-5, 0, 7, 1 << 40, "", "Ünsal", "a", "a b"]
    with opened(store_url) as store:
        put_items(store, [item_of(item, [1]) for item in ids if item != ""])
        assert set(store.item_ids()) == set(ids) - {""}
        assert [record and record.item_id for record in store.items([7, "a", 8])] == [7, "a", None]


def test_keys_of_segments_do_not_depend_on_the_ids() -> None:
    assert len(keys.segments(b"#12345678", "like", 513)) == 3
    member = keys.audience_member(id_bytes(0), "like")  # a number's bytes hold nulls
    assert keys.audience_of(member) == (id_bytes(0), "like")


def _like(user: str, item: int, moment: int, value: float):  # type: ignore[no-untyped-def]
    from captionary.online.log import EventMessage

    return EventMessage(user_id=user, item_id=item, event="like", timestamp=moment, value=value)


def test_rows_are_what_was_written(store_url: str, tmp_path: Path) -> None:
    row = np.random.default_rng(0).normal(size=37).astype(np.float32)
    with opened(store_url) as store:
        update = item_of(1, [1])._replace(rows={"v1": row, "v2": 2 * row})
        put_items(store, [update])
        assert np.array_equal(store.read(0, [1], 0, version="v2", width=37).rows[0], 2 * row)
        assert len(IDF) == len(store.folder.idf)
