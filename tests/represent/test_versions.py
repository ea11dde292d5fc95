"""Vocabularies that grow: no token is renumbered, and a ranker of an older one reads on."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rank.conftest import small_data
from tests.represent.llama import llama2

from captionary.errors import CaptionaryError
from captionary.rank.features import FeatureSet
from captionary.rank.settings import RankerConfig
from captionary.represent.jagged import Jagged
from captionary.represent.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    make_tokenizer,
)
from captionary.represent.versions import clip, respell

_OLD = ["dog", "cat", "sofa", "bed", "red", "brown", "tree", "palm", "skateboard", "surfer", "car", "kitchen"]
_NEW = ["zebra", "drone", "skateboarder", "giraffe", "hoverboard", "kitchenette"]


def _captions(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        f"a {rng.choice(words)} {rng.choice(words)} on a {rng.choice(words)} near a {rng.choice(_OLD)}"
        for _ in range(count)
    ]


FIRST, SECOND, THIRD = (
    _captions(_OLD, 120, 1),
    _captions(_OLD + _NEW[:3], 80, 2),
    _captions(_OLD + _NEW, 80, 3),
)


@pytest.fixture(scope="module", params=[*sorted(TOKENIZERS), "concepts unk", "phrases unk", "hf drop"])
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    """Three versions of a tokenizer of each kind."""
    kind, _, oov = request.param.partition(" ")
    if kind == "hf":
        kind = f"hf:{llama2(tmp_path_factory.mktemp('hf'), [*FIRST, *THIRD], 500)}"
    size = 60 if kind in ("wordpiece", "bpe", "unigram") else None
    fitted = make_tokenizer(TokenizerConfig(kind=kind, vocabulary_size=size, oov=oov or None)).fit(FIRST)
    second = fitted.grow(SECOND)
    return [fitted, second, second.grow(THIRD)]


def _rows(lists: Jagged) -> list[list[int]]:
    return [lists.row(row).tolist() for row in range(lists.rows)]


def test_growth_adds_tokens_and_renumbers_none(versions: list[Tokenizer]) -> None:
    fitted, second, third = versions
    if fitted.kind != "hash":
        assert len(fitted.vocabulary) < len(second.vocabulary) < len(third.vocabulary)
    assert third.vocabulary[: len(second.vocabulary)] == second.vocabulary
    assert second.vocabulary[: len(fitted.vocabulary)] == fitted.vocabulary
    assert third.sizes == [len(each.vocabulary) for each in versions]
    assert len(set(third.vocabulary)) == len(third.vocabulary) == len(third.idf())
    assert fitted.sizes == third.sizes[:1]  # the old version is left as it was


def test_what_was_learnt_of_old_words_holds(versions: list[Tokenizer]) -> None:
    for caption in (" ".join(_OLD), *_OLD):
        before = versions[0].encode([caption]).values
        after = versions[2].encode([caption]).values
        assert set(before[before > 0]) <= set(after)
    if versions[0].kind not in ("concepts", "phrases"):  # those may see old words in new phrases
        assert _rows(versions[2].encode(FIRST)) == _rows(versions[0].encode(FIRST))


def test_new_words_become_tokens(versions: list[Tokenizer]) -> None:
    fitted, second, _ = versions
    if fitted.kind == "hash" or fitted.kind.startswith("hf"):
        return  # a bucket and the pieces of a pretrained vocabulary are there already
    (spelt,) = _rows(second.encode(["zebra"]))
    assert [token.strip("▁") for token in second.decode(spelt)] == ["zebra"]
    assert spelt[0] >= fitted.sizes[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_projected_it_is_what_the_older_version_encodes(
    versions: list[Tokenizer], data: st.DataObject
) -> None:
    words = st.sampled_from([*_OLD, *_NEW, "a", "on", "near", "犬", "xylophone"])
    captions = data.draw(st.lists(st.lists(words, max_size=8).map(" ".join), max_size=5))
    for newer in range(3):
        for older in range(newer + 1):
            projected = versions[newer].project(versions[newer].encode(captions), older)
            assert _rows(projected) == _rows(versions[older].encode(captions))


def test_growth_survives_its_file(versions: list[Tokenizer], tmp_path: Path) -> None:
    third = versions[2]
    third.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint() == third.fingerprint() != versions[1].fingerprint()
    lists = loaded.encode(THIRD)
    assert _rows(lists) == _rows(third.encode(THIRD))
    assert _rows(loaded.project(lists, 0)) == _rows(versions[0].encode(THIRD))
    assert loaded.grow(THIRD).sizes[:3] == third.sizes


def test_growth_counts_the_new_captions(versions: list[Tokenizer]) -> None:
    fitted, second, _ = versions
    assert second.documents == len(FIRST) + len(SECOND)  # type: ignore[attr-defined]
    lists = second.encode(SECOND)
    held = Counter(token for row in range(lists.rows) for token in set(lists.row(row).tolist()))
    for token in range(1, len(fitted.vocabulary)):
        expected = fitted.document_frequency[token] + held[token]  # type: ignore[attr-defined]
        assert second.document_frequency[token] == expected  # type: ignore[attr-defined]


def test_growth_can_be_bounded() -> None:
    fitted = make_tokenizer(TokenizerConfig()).fit(FIRST)
    assert len(fitted.grow(SECOND, most=2).vocabulary) == len(fitted.vocabulary) + 2
    assert fitted.grow(SECOND, most=2).vocabulary == fitted.grow(SECOND).vocabulary[: fitted.sizes[0] + 2]
    assert fitted.grow([]).vocabulary == fitted.vocabulary
    with pytest.raises(CaptionaryError, match="most == -1, must be >= 0"):
        fitted.grow(SECOND, most=-1)
    with pytest.raises(CaptionaryError, match=r"version == 1, must be in 0\.\.0"):
        fitted.project(fitted.encode(FIRST), 1)


def test_a_frozen_ranker_meets_a_newer_vocabulary() -> None:
    """It gives the very predictions that it gave before, and breaks on nothing."""
    from captionary.rank.train import predict, train_ranker

    data = small_data()
    fitted = make_tokenizer(TokenizerConfig(max_df=1.0)).fit(FIRST)
    captions = [*FIRST[:60], *THIRD[:60]]
    features = FeatureSet(tokens="A")
    quick = RankerConfig(epochs=1, batch_size=512, embedding_dim=4, top=(8,), tower=4)
    old = dataclasses.replace(data, item_tokens={"A": fitted.encode(captions)}, profiles={})
    ranker = train_ranker(old, features, quick, 0).model
    before = predict(ranker, old, features)

    grown = fitted.grow(THIRD)
    newer = grown.encode(captions)
    assert newer.values.max() >= len(fitted.vocabulary)
    with pytest.raises(CaptionaryError, match="vocabulary == "):
        predict(ranker, dataclasses.replace(old, item_tokens={"A": newer}), features)
    projected = dataclasses.replace(old, item_tokens={"A": grown.project(newer, 0)})
    np.testing.assert_array_equal(predict(ranker, projected, features), before)
    clipped = dataclasses.replace(old, item_tokens={"A": clip(newer, ranker.schema.vocabulary)})
    assert np.isfinite(predict(ranker, clipped, features)).all()


def test_clip_maps_to_unknown_or_drops() -> None:
    lists = Jagged.from_lists([[7, 3], [5], [], [1]])
    assert _rows(clip(lists, 5)) == [[0, 3], [0], [], [1]]
    assert _rows(clip(lists, 5, drop=True)) == [[3], [], [], [1]]
    assert clip(lists, 8) is lists
    with pytest.raises(CaptionaryError, match="size == 0, must be >= 1"):
        clip(lists, 0)


def test_weights_are_shared_by_what_stands_for_a_token() -> None:
    lists = Jagged.from_lists([[7, 3], [6], [9]])._replace(weights=np.array([0.5, 0.5, 1, 1], np.float32))
    spelt = respell(lists, 5, {7: [2, 4], 9: []}, [0])
    assert _rows(spelt) == [[2, 4, 3], [0], []]
    assert spelt.weights is not None
    assert spelt.weights.tolist() == [0.5 / 2, 0.5 / 2, 0.5, 1]
    assert spelt.values.dtype == np.int32
