from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.understand.signals.signal import Signal, clean, signals_from_json, signals_to_json

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
seconds = st.none() | st.floats(0, 1e6)
some = st.builds(
    Signal, st.sampled_from(["caption", "speech", "sound", "screen_text", "title"]), texts, texts, st.floats(0, 1),
    seconds, st.none() | st.integers(0, 99),
)  # fmt: skip


@given(st.lists(some, max_size=5))
def test_round_trip(signals):
    assert signals_from_json(signals_to_json(signals)) == signals


def test_what_is_written():
    line = signals_to_json([Signal("title", "Käse", "item"), Signal("caption", "a dog", "fake", 1.0, 2.5, 1)])
    assert line == (
        '[{"kind":"title","text":"Käse","origin":"item","score":1.0},'
        '{"kind":"caption","text":"a dog","origin":"fake","score":1.0,"at_seconds":2.5,"frame":1}]'
    )


@pytest.mark.parametrize(
    "text", ["", "{}[", "7", "[7]", '[{"kind":"title"}]', '[{"kind":"x","text":"","origin":""}]']
)
def test_something_else(text):
    with pytest.raises(CaptionaryError, match="must be a JSON array written by"):
        signals_from_json(text)


def test_clean():
    assert clean(" a\tb\x00c\u200b\nd ") == "a b c d"
    assert clean("go to https://evil.example/x?y=1 now") == "go to now"
    assert clean("www.shop.example!") == ""
    assert clean("write to jo.doe+x@mail.example today") == "write to today"
    assert clean("e\u0301te\u0301") == "été"
    assert clean("\ud800x") == "x"


@given(st.text(max_size=60))
def test_clean_is_one_line_and_stays(text):
    once = clean(text)
    assert clean(once) == once
    assert all(letter.isprintable() for letter in once)
