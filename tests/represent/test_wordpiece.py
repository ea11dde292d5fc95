from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captionary.represent.tokenizers import TokenizerConfig, load_tokenizer
from captionary.represent.wordpiece import WordPieceTokenizer

_NOUNS = [
    "dog", "cat", "cow", "horse", "skateboarder", "skateboard", "surfer", "surfboard", "kitchen", "mountain",
]  # fmt: skip
CORPUS = [f"A {a}, next to a {b}." for a in _NOUNS for b in _NOUNS]


def fitted(captions: list[str], size: int = 120) -> WordPieceTokenizer:
    return WordPieceTokenizer(TokenizerConfig(kind="wordpiece", vocabulary_size=size)).fit(captions)


def test_words_come_whole_or_in_pieces_without_punctuation() -> None:
    tokenizer = fitted(CORPUS)
    assert len(tokenizer.vocabulary) <= 120
    assert tokenizer.vocabulary[0] == "[UNK]"
    pieces = tokenizer.decode(tokenizer.encode(["A DOG, next-to the surfers!"]).values)
    assert pieces[:2] == ["a", "dog"]
    assert "".join(piece.removeprefix("##") for piece in pieces) == "adognexttothesurfers"


def test_a_letter_never_seen_makes_the_word_unknown() -> None:
    tokenizer = fitted(CORPUS)
    assert tokenizer.encode(["犬", "", "a 犬 dog"]).lengths.tolist() == [1, 0, 3]
    assert tokenizer.encode(["犬"]).values.tolist() == [0]


def test_the_vocabulary_is_the_same_in_any_order_and_any_process() -> None:
    shuffled = CORPUS.copy()
    random.Random(1).shuffle(shuffled)
    tokenizer = fitted(CORPUS)
    assert fitted(shuffled).vocabulary == tokenizer.vocabulary
    script = (
        "import sys; from captionary.represent.wordpiece import *;"
        "from captionary.represent.tokenizers import TokenizerConfig as C;"
        "c = sys.stdin.read().splitlines();"
        "print(WordPieceTokenizer(C(kind='wordpiece', vocabulary_size=120)).fit(c).fingerprint())"
    )
    again = subprocess.run(
        [sys.executable, "-c", script], input="\n".join(CORPUS), capture_output=True, text=True, check=True
    )
    assert again.stdout.strip() == tokenizer.fingerprint()


def test_document_frequency_counts_captions() -> None:
    tokenizer = fitted(["dog dog", "dog cat", "cat", "cat cat"] * 2)
    counts = dict(zip(tokenizer.vocabulary, tokenizer.document_frequency.tolist(), strict=True))
    assert (counts["dog"], counts["cat"]) == (4, 6)
    assert tokenizer.idf()[tokenizer.vocabulary.index("cat")] == np.float32(np.log((1 + 8) / (1 + 6)) + 1)


_TOKENIZER = fitted([*CORPUS, "собака на диване", "कुत्ता"] * 2, 200)


@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(st.sampled_from([*_NOUNS, "a", "собака", "ｄｏｇ", "!?"])).map(" ".join),
    )
)
def test_encode_is_what_hugging_face_s_own_call_gives(caption: str) -> None:
    own = _TOKENIZER._model.encode(caption, add_special_tokens=False).ids
    assert _TOKENIZER.encode([caption, caption]).row(1).tolist() == own


def test_saved_and_loaded_it_encodes_alike(tmp_path: Path) -> None:
    tokenizer = fitted(CORPUS)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.fingerprint() == tokenizer.fingerprint()
    probe = [*CORPUS[:5], "unseen words"]
    assert loaded.encode(probe).values.tolist() == tokenizer.encode(probe).values.tolist()


def test_an_empty_corpus_gives_an_empty_vocabulary() -> None:
    tokenizer = fitted([])
    assert tokenizer.vocabulary == ["[UNK]"]
    assert tokenizer.encode(["a dog"]).values.tolist() == [0, 0]


def test_more_letters_than_room_leave_room_for_pieces() -> None:
    tokenizer = fitted(["".join(map(chr, range(0x4E00, 0x4E40)))] * 2, 21)
    assert len(tokenizer.vocabulary) <= 21
