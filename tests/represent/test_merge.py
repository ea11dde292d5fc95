from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.represent import merge as module
from captionary.represent.merge import merge_captions, similarity

WORDS = st.sampled_from(["a", "dog", "cat", "on", "sofa", "red", "big", "snow", "犬", "in", "🐶"])
CAPTIONS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=6)


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(module) == (0, 1)


@pytest.mark.parametrize(
    ("captions", "merged"),
    [
        ([], ""),
        (["", " . "], ""),
        (["a dog", "a dog"], "a dog"),
        (["a dog", "a cat"], "a dog. a cat"),
        (["a dog", "a cat", "a red dog"], "a red dog. a cat"),
        (["a dog. a cat", "a cat"], "a dog. a cat"),
        (["a dog", "a cat", "a dog and a cat"], "a dog and a cat"),
        (["a black dog on a big green sofa", "a white dog on a big green sofa"],
         "a black dog on a big green sofa. a white dog on a big green sofa"),
        (["a dog on the big red sofa at night", "a dog on a big red sofa at night"],
         "a dog on the big red sofa at night"),
        (["犬がいる", "猫がいる", "犬がいる"], "犬がいる. 猫がいる"),
        (["赤い犬が公園にいる", "大きな赤い犬が公園にいる"], "大きな赤い犬が公園にいる"),
        (["🐶", "🐱"], "🐶. 🐱"),
    ],
)  # fmt: skip
def test_merge(captions: list[str], merged: str) -> None:
    assert merge_captions(captions) == merged


@given(CAPTIONS)
def test_merging_again_changes_nothing_and_no_word_is_lost(captions: list[str]) -> None:
    once = merge_captions(captions)
    assert merge_captions([once]) == once
    assert merge_captions([*captions, *captions]) == once
    strict = merge_captions(captions, near=1.0)
    assert set(" ".join(captions).split()) == set(strict.replace(".", " ").split())


def test_similarity_is_jaccard() -> None:
    assert similarity("a red dog", "a blue dog") == 2 / 4
    assert similarity("a dog", "dog a") == 1
    for near in (0, 1.1):
        with pytest.raises(CaptionaryError, match="near == "):
            merge_captions(["a"], near=near)
