from __future__ import annotations

import doctest
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.represent import normalize as module
from captionary.represent.normalize import NORMALIZER_STEPS, normalize

# Captions that look like captions, so that the rare branches are met, beside any text at all.
_PIECES = st.sampled_from(
    [
        "a", "dog", "on", "sofa", "A picture of", "an image showing", "there is", "there are",
        "this is", "In this photo", "we see", "the", ".", ",", " ,", "!!", "...", "\n", "\t",
        "\u00a0", "\u200b", "\x00", '"', "'", "-", "犬", "がいる", "。", "कुत्ता", "\u0301", "İ", "ﬁ",
        "ǅ", "собака", "(", ")", "?", ":", ";", "*", "…", "’", "3.5", "12:30",
    ]
)  # fmt: skip
CAPTIONS = st.one_of(
    st.lists(_PIECES, max_size=14).map(" ".join),
    st.lists(_PIECES, max_size=14).map("".join),
    st.text(max_size=40),
)


def test_the_examples_of_the_docstrings() -> None:
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried >= len(NORMALIZER_STEPS) + 1  # every step shows one


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("A picture of  a Dog a dog on a sofa .", "a dog on a sofa"),
        ("This is a photo of two cats", "two cats"),
        ("In this image, we see a man. There are two dogs.", "a man. two dogs"),
        ("The image shows a cat", "a cat"),
        ("a close-up picture of a rose", "a rose"),
        ("a dog, a cat, a dog", "a dog, a cat"),
        ("a man. a man, waving. Smiling, a man!", "a man, waving. smiling, a man"),
        ("a very very big dog", "a very big dog"),
        ("red car, red car, red car", "red car"),
        ("a dog on a sofa a dog on a sofa a dog on a sofa", "a dog on a sofa"),
        ("a dog next to a dog", "a dog next to a dog"),
        ("a man and a man and a woman", "a man and a woman"),
        ('"a dog , a cat !! "', "a dog, a cat"),
        ("3,000 people at 12:30", "3,000 people at 12:30"),
        ("Ｄｏｇ\u00a0ｏｎ\ufeff sofa\x07", "dog on sofa"),
        ("a dog\non a\tsofa", "a dog on a sofa"),
        ("it is raining", "it is raining"),
        ("this picture is nice", "this picture is nice"),
        ("a man in the picture of a cat", "a man in the picture of a cat"),
        ("a picture of", "a picture of"),
        ("犬がいます。犬がいます。", "犬がいます"),
        ("धीरे धीरे", "धीरे धीरे"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_normalize(raw: str, expected: str) -> None:
    assert normalize(raw) == expected


@given(CAPTIONS)
@example("there is there is a dog")
@example("a dog a dog a cat a dog a dog a cat")
def test_normalize_is_idempotent(caption: str) -> None:
    once = normalize(caption)
    assert normalize(once) == once


@given(CAPTIONS)
def test_no_letter_of_another_script_is_lost(caption: str) -> None:
    kept = set(normalize(caption))
    letters = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).lower()).lower()
    for letter in set(letters):
        if unicodedata.category(letter).startswith("L") and not unicodedata.name(letter, "").startswith(
            "LATIN"
        ):
            assert letter in kept


@given(CAPTIONS, st.sets(st.sampled_from(sorted(NORMALIZER_STEPS))))
def test_any_choice_of_steps_is_idempotent(caption: str, steps: set[str]) -> None:
    once = normalize(caption, steps)
    assert normalize(once, steps) == once


def test_steps_can_be_left_out_and_run_in_their_own_order() -> None:
    assert normalize("There is a Dog .", ["lower"]) == "there is a dog ."
    assert normalize("There is a Dog .", ["punctuation", "boilerplate"]) == "a Dog"
    assert normalize("A  Dog", []) == "A  Dog"
    assert normalize("There IS a Dog a dog", ["repeats", "lower"]) == "there is a dog"


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(CaptionaryError, match="normalizer step == lowercase, must be lower"):
        normalize("a dog", ["lowercase"])
