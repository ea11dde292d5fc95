from __future__ import annotations

import doctest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captionary.represent import words as module
from captionary.represent.words import NORMALIZER, Spellings, gather, words_of


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(module) == (0, 1)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=30))
def test_words_of_ascii_are_split_as_the_normalizer_splits(caption: str) -> None:
    assert words_of(caption) == NORMALIZER.normalize_str(caption).split()


def test_marks_belong_to_words_in_every_script() -> None:
    assert words_of("एक कुत्ता सोफे पर") == ["एक", "कुत्ता", "सोफे", "पर"]
    assert words_of("كَلْبٌ على أريكة") == ["كَلْبٌ", "على", "أريكة"]
    assert words_of("Straße, STRASSE; ǅ") == ["straße", "strasse", "dž"]


def test_each_word_is_spelt_once() -> None:
    asked: list[str] = []

    def spell(word: str) -> list[int]:
        asked.append(word)
        return [len(word)] * (len(word) - 1)

    lists = Spellings(spell).encode(["dog on dog", "", "a dog"])
    assert lists.values.tolist() == [3, 3, 2, 3, 3, 3, 3]
    assert lists.offsets.tolist() == [0, 5, 5, 7]
    assert asked == ["dog", "on", "a"]


def test_gather_of_nothing() -> None:
    assert gather([]).rows == 0
    assert gather([b""]).values.dtype == np.int32
