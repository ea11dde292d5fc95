from __future__ import annotations

import numpy as np
import pytest
from tests.understand.signals.films import letters, scenes

from captionary.understand.signals.screen_text import ScreenText, _in_reading_order, _Line, _same
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.shots import Frame

pytest.importorskip("rapidocr", reason="text is read by rapidocr")
pytest.importorskip("onnxruntime", reason="rapidocr runs on onnxruntime")


@pytest.fixture(scope="module")
def reader() -> ScreenText:
    return ScreenText(SignalsConfig(screen_text=True))


def frame(*lines: tuple[str, int, int], index: int = 0) -> Frame:
    return Frame(letters(lines), 2.0 * index, index)


def test_strings_from_top_to_bottom_and_left_to_right(reader):
    found = reader.read(
        [frame(("SUMMER SALE", 20, 20), ("ends today", 30, 190), ("LEFT", 20, 105), ("RIGHT", 300, 105))]
    )
    assert [s.text.casefold() for s in found] == ["summer sale", "left", "right", "ends today"]
    assert all(s.kind == "screen_text" and 0.8 <= s.score <= 1 and s.frame == 0 for s in found)
    assert found[0].origin.startswith("screen_text rapidocr ")


def test_short_strings_and_pictures_without_text_say_nothing(reader):
    assert reader.read([frame(("ab", 40, 40))]) == []
    assert reader.read([Frame(scenes(1)[0], 0.0, 0)]) == []


def test_what_stands_in_several_frames_is_said_once(reader):
    found = reader.read(
        [frame(("GRAND OPENING", 20, 40)), frame(("GRAND OPENING", 60, 120), ("50 PERCENT", 20, 20), index=1)]
    )
    assert [(s.text, s.frame, s.at_seconds) for s in found] == [
        ("GRAND OPENING", 0, 0.0),
        ("50 PERCENT", 1, 2.0),
    ]


def test_a_still_picture_has_no_times(reader):
    assert reader.read([frame(("OPEN", 40, 40))], still=True)[0].at_seconds is None


def test_low_scores_are_dropped():
    strict = ScreenText(SignalsConfig(screen_text=True, text_score=1.0))
    assert strict.read([frame(("SUMMER SALE", 20, 20))]) == []


def test_addresses_are_left_out(reader):
    found = reader.read([frame(("see www.shop.example", 10, 40))])
    assert all("www" not in s.text and "shop" not in s.text for s in found)


def test_the_same_string_read_twice():
    assert _same("GRAND OPENING", "Grand 0pening".replace("0", "O"))
    assert _same("GRAND OPENING", "GRAND OPENlNG")
    assert not _same("50 % OFF", "70 % OFF")
    assert not _same("CATS", "DOGS")


def test_rows():
    lines = [_Line(10, 200, 20, "b", 1), _Line(14, 0, 20, "a", 1), _Line(40, 0, 20, "c", 1)]
    assert [line.text for line in _in_reading_order(lines)] == ["a", "b", "c"]
    assert np.diff([line.top for line in _in_reading_order(lines)]).tolist() == [10 - 14, 40 - 10]
