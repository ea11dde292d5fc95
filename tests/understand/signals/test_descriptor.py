from __future__ import annotations

import random

from captionary.understand.signals.descriptor import describe
from captionary.understand.signals.signal import Signal


def captions(*texts: str) -> list[Signal]:
    return [Signal("caption", text, "fake 1", 1.0, 2.0 * k, k) for k, text in enumerate(texts)]


def test_one_of_each():
    signals = [
        Signal("speech", "Hello and welcome.", "speech tiny", 0.9, 0.0),
        Signal("screen_text", "BIG SALE", "screen_text", 0.9, 0.0, 0),
        Signal("screen_text", "today only", "screen_text", 0.9, 0.0, 0),
        Signal("sound", "dog bark", "sounds builtin", 0.8, 0.0),
        Signal("sound", "rain", "sounds builtin", 0.7, 5.0),
        Signal("title", "My holiday", "item"),
        *captions("a dog on a sofa", "two cats in the park"),
    ]
    seen, heard = "a dog on a sofa. two cats in the park", "dog bark, rain"
    assert describe(signals) == f"{seen}. My holiday. {heard}. BIG SALE, today only. Hello and welcome"


def test_nearly_the_same_captions_are_one():
    # 5 words of 6 in common.
    assert describe(captions("a red dog runs on green grass", "a red dog runs on the grass")) == (
        "a red dog runs on green grass"
    )
    assert describe(captions("a dog", "a dog on a sofa", "the dogs")) == "a dog on a sofa"
    assert describe(captions("a cat", "a bird", "a cat and a tree")) == "a cat and a tree. a bird"


def test_what_captions_said_already_is_left_out():
    signals = [
        *captions("a dog barks in the rain"),
        Signal("sound", "rain", "s"),
        Signal("title", "Dog, Rain!", "item"),
    ]
    assert describe(signals) == "a dog barks in the rain"
    # Words of several captions together also count.
    signals = [*captions("a dog", "a red car"), Signal("title", "The dog and the car", "item")]
    assert describe(signals) == "a dog. a red car"


def test_different_things_stay():
    assert describe(captions("a dog on a sofa", "a cat on a sofa")) == "a dog on a sofa. a cat on a sofa"
    numbers = [Signal("screen_text", text, "t") for text in ("50 % off", "70 % off")]
    assert describe(numbers) == "50 % off, 70 % off"


def test_captions_follow_time_and_the_rest_their_order():
    late, early = (
        Signal("caption", "a late cat", "c", 1.0, 9.0, 1),
        Signal("caption", "an early bird", "c", 1.0, 1.0, 0),
    )
    assert describe([late, early]) == "an early bird. a late cat"
    sounds = [Signal("sound", "rain", "s", 0.9, 5.0), Signal("sound", "wind", "s", 0.8, 0.0)]
    assert describe(sounds) == "rain, wind"


def test_it_is_bounded_and_cut_between_words():
    signals = [*captions("a dog on a sofa"), Signal("speech", "one two three four five six", "s")]
    whole = "a dog on a sofa. one two three four five six"
    for most in range(1, len(whole) + 2):
        line = describe(signals, most)
        assert len(line) <= most
        assert whole.startswith(line)
        if most > len("a dog"):
            assert line
            assert (whole + " ")[len(line)] in " ,."
    assert describe(signals, len(whole)) == whole
    assert describe(captions("incomprehensibilities"), 5) == "incom"


def test_nothing_to_say():
    assert describe([]) == ""
    assert describe(captions("", " . ", "\n")) == ""
    assert describe(captions("the", "犬がいる")) == "the. 犬がいる"


def test_the_order_in_which_kinds_come_plays_no_part():
    signals = [
        *captions("a dog", "a cat", "a tree"),
        Signal("sound", "rain", "s"),
        Signal("title", "Joy", "item"),
    ]
    expected = describe(signals)
    for seed in range(10):
        mixed = signals.copy()
        random.Random(seed).shuffle(mixed)
        assert describe(mixed) == expected
