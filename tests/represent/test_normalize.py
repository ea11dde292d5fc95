from __future__ import annotations

import ast
import doctest
import re
import unicodedata
from pathlib import Path

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
        "ǅ", "собака", "(", ")", "?", ":", ";", "*", "…", "’", "3.5", "12:30", "&amp;", "&lt;b&gt;", "<b>", "</b>",
        "**", "__", "<|end|>", "caption:", "Sure!", "Here is a caption:",
        "\u0e19\u0e49\u0e33", "\u0e4d\u0e32", "&amp;amp;",
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
        ("<s>A <b>dog</b> &amp;amp; a cat</s>", "a dog & a cat"),
        ("Caption: a dog", "a dog"),
        ("Sure! Here is a caption for the image: a dog", "a dog"),
        ("a man is sure of himself", "a man is sure of himself"),
        ("a sign says answer: no", "a sign says answer: no"),
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
    normal = normalize(caption)
    kept = set(normal) | set(unicodedata.normalize("NFKC", normal))
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


@pytest.mark.parametrize(
    "caption",
    [
        "一只狗在沙发上", "犬がソファの上にいる", "소파 위의 개", "كَلْبٌ عَلَى أَرِيكَة", "سگ روی مبل می\u200cنشیند",
        "सोफ़े पर एक कुत्ता", "ஒரு நாய்", "หมาบนโซฟาสีน้ำตาล", "ein süßer hund auf der straße", "kanepede bir köpek ışıl",
        "собака на диване", "σκύλος στον καναπέ", "כלב על הספה", "\u0601٢٣", "ʻōlelo hawaiʻi", "chó trên ghế",
        "👩\u200d🍳 🏴",
    ],
)  # fmt: skip
def test_captions_of_other_languages_are_left_as_they_are(caption: str) -> None:
    decomposed = unicodedata.normalize("NFD", caption)
    composed = normalize(decomposed)
    assert normalize(caption) == composed
    assert unicodedata.normalize("NFC", composed) == unicodedata.normalize("NFC", caption)


@given(CAPTIONS)
def test_no_combining_mark_is_lost_that_follows_a_letter_of_its_script(caption: str) -> None:
    hindi = f"कुत्ता {caption} كَلْبٌ"
    kept = normalize(hindi, ["markup", "unicode", "lower", "whitespace", "punctuation"])
    assert kept.startswith("कुत्ता")
    assert "كَلْبٌ" in unicodedata.normalize("NFKC", kept)


def _examples() -> list[tuple[str, str, str]]:
    page = Path(__file__).parents[2] / "docs" / "normalisation.md"
    rows = re.findall(
        r"^\| `(\w+)` \| `(\".*?\")` \| `(\".*?\")` \|", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [(step, ast.literal_eval(before), ast.literal_eval(after)) for step, before, after in rows]


@pytest.mark.parametrize(("step", "before", "after"), _examples())
def test_the_examples_of_the_page(step: str, before: str, after: str) -> None:
    assert normalize(before, [step]) == after


def test_the_page_shows_every_step_in_order() -> None:
    assert list(dict.fromkeys(step for step, _, _ in _examples())) == list(NORMALIZER_STEPS)


def test_steps_can_be_left_out_and_run_in_their_own_order() -> None:
    assert normalize("There is a Dog .", ["lower"]) == "there is a dog ."
    assert normalize("There is a Dog .", ["punctuation", "boilerplate"]) == "a Dog"
    assert normalize("A  Dog", []) == "A  Dog"
    assert normalize("There IS a Dog a dog", ["repeats", "lower"]) == "there is a dog"


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(CaptionaryError, match="normalizer step == lowercase, must be lower"):
        normalize("a dog", ["lowercase"])
