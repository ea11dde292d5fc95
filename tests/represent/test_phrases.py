from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionary.represent.phrases import PhraseTokenizer, collocations, npmi
from captionary.represent.tokenizers import TokenizerConfig
from captionary.represent.words import words_of

CORPUS = [
    "a hot dog on a plate", "a hot dog in a bun", "a palm tree on a beach", "a dog near a tree",
    "a man on a beach", "a hot day", "a woman eats a hot dog", "a palm tree at night", "a plate on a bun",
    "new york city at night", "a man in new york city", "new york city in snow",
]  # fmt: skip


def fitted(**settings: object) -> PhraseTokenizer:
    config = TokenizerConfig(kind="phrases", **{"max_df": 0.9, **settings})  # type: ignore[arg-type]
    return PhraseTokenizer(config).fit(CORPUS)


def test_npmi() -> None:
    # ln(p(ab) / (p(a) p(b))) / -ln p(ab) with 4, 5 and 2 of 100 words
    assert npmi(4, 5, 2, 100) == pytest.approx(math.log(0.02 / (0.04 * 0.05)) / -math.log(0.02))
    assert npmi(2, 2, 2, 100) == pytest.approx(1.0)  # never apart
    assert npmi(10, 10, 1, 100) == pytest.approx(0.0)  # as by chance


def test_collocations_are_listed_beside_their_words() -> None:
    tokenizer = fitted(min_npmi=0.6)
    told = tokenizer.decode(tokenizer.encode(["A hot dog, under a palm tree!"]).values)
    assert told == ["a", "hot", "dog", "a", "palm", "tree", "hot dog", "palm tree"]
    assert "new york city" in tokenizer.vocabulary
    assert "on a" not in tokenizer.vocabulary
    assert " " not in "".join(fitted(phrases=False).vocabulary)
    assert "new york city" not in fitted(ngrams=2).vocabulary


def test_a_long_run_belongs_together_wherever_it_is_cut() -> None:
    # "x new york" is not among them: x is seldom before "new york" among all its 309.
    times = {"x new york": 9, "new york": 9, "p q r": 9, "x": 300, "w": 900}
    found = collocations(times, 3, least=2, min_npmi=0.5)
    assert {"p q", "q r", "p q r", "new york"} == found


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "hot", "dog", "palm", "tree", "on"]), max_size=7).map(" ".join),
        max_size=25,
    ),
    st.sampled_from([0.1, 0.3, 0.6]),
)
def test_pairs_are_those_of_gensim(captions: list[str], threshold: float) -> None:
    """gensim's own score, asked for every pair; a score at the threshold is enough here."""
    models = pytest.importorskip(
        "gensim.models.phrases", reason="gensim is not installed: nothing to compare with"
    )
    times = Counter(captions)
    ours = collocations(times, 2, least=2, min_npmi=threshold)
    reference = models.Phrases(
        [words_of(caption) for caption in captions], min_count=2, threshold=-1, scoring="npmi", delimiter=" "
    )
    scores = {
        pair: reference.scoring(
            worda_count=reference.vocab[pair.split()[0]],
            wordb_count=reference.vocab[pair.split()[1]],
            bigram_count=count,
            len_vocab=len(reference.vocab),
            min_count=2,
            corpus_word_count=reference.corpus_word_count,
        )
        for pair, count in reference.vocab.items()
        if " " in pair and count >= 2
    }
    assert ours == {pair for pair, score in scores.items() if score > threshold - 1e-12}


def test_other_languages_have_collocations_too() -> None:
    corpus = ["горячая собака", "горячая собака на пляже", "собака на диване", "пальма на пляже"] * 3
    tokenizer = PhraseTokenizer(TokenizerConfig(kind="phrases", max_df=1.0)).fit(corpus)
    assert "горячая собака" in tokenizer.vocabulary
