from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.represent.bpe import BpeTokenizer
from captionary.represent.pieces import PieceTokenizer
from captionary.represent.tokenizers import TokenizerConfig
from captionary.represent.unigram import UnigramTokenizer

_NOUNS = [
    "dog", "cat", "cow", "horse", "skateboarder", "skateboard", "surfer", "surfboard", "kitchen", "mountain",
]  # fmt: skip
CORPUS = [f"A {a}, next to a {b}." for a in _NOUNS for b in _NOUNS]


def fitted(kind: type[PieceTokenizer], captions: list[str], size: int = 80) -> PieceTokenizer:
    name = {BpeTokenizer: "bpe", UnigramTokenizer: "unigram"}[kind]
    return kind(TokenizerConfig(kind=name, vocabulary_size=size)).fit(captions)


KINDS = pytest.mark.parametrize("kind", [BpeTokenizer, UnigramTokenizer])


@KINDS
def test_words_come_whole_or_in_pieces_without_punctuation(kind: type[PieceTokenizer]) -> None:
    tokenizer = fitted(kind, CORPUS)
    assert 30 < len(tokenizer.vocabulary) <= 80
    pieces = tokenizer.decode(tokenizer.encode(["A DOG, next-to the surfers!"]).values)
    assert "".join(pieces).replace("##", "").replace("▁", "") == "adognexttothesurfers"
    assert len(pieces) < len("adognexttothesurfers") / 1.5


@KINDS
def test_the_vocabulary_is_the_same_in_any_order_and_any_process(kind: type[PieceTokenizer]) -> None:
    shuffled = CORPUS.copy()
    random.Random(1).shuffle(shuffled)
    tokenizer = fitted(kind, CORPUS)
    assert fitted(kind, shuffled).fingerprint() == tokenizer.fingerprint()
    script = (
        "import sys; from captionary.represent.tokenizers import make_tokenizer, TokenizerConfig as C;"
        f"t = make_tokenizer(C(kind='{tokenizer.kind}', vocabulary_size=80));"
        "print(t.fit(sys.stdin.read().splitlines()).fingerprint())"
    )
    again = subprocess.run(
        [sys.executable, "-c", script], input="\n".join(CORPUS), capture_output=True, text=True, check=True
    )
    assert again.stdout.strip() == tokenizer.fingerprint()


_FITTED = [
    fitted(kind, [*CORPUS, "собака на диване", "कुत्ता", "▁"] * 2, 160)
    for kind in (BpeTokenizer, UnigramTokenizer)
]


@given(
    st.sampled_from(_FITTED),
    st.one_of(
        st.text(max_size=30),
        st.lists(st.sampled_from([*_NOUNS, "a", "собака", "ｄｏｇ", "!?", "犬", "▁x", "surferboards"])).map(
            " ".join
        ),
    ),
)
def test_encode_is_what_hugging_face_s_own_call_gives(tokenizer: PieceTokenizer, caption: str) -> None:
    own = tokenizer._model.encode(caption, add_special_tokens=False).ids
    assert tokenizer.encode([caption, caption]).row(1).tolist() == own


@KINDS
def test_a_letter_never_seen_is_unknown_and_the_rest_of_its_word_is_spelt(kind: type[PieceTokenizer]) -> None:
    tokenizer = fitted(kind, CORPUS)
    ids = tokenizer.encode(["dog犬dog"]).values.tolist()
    assert ids.count(0) == 1
    assert tokenizer.unknown(["dog", "犬"]) > 0


@KINDS
def test_more_letters_than_room_leave_room_for_pieces(kind: type[PieceTokenizer]) -> None:
    tokenizer = fitted(kind, ["".join(map(chr, range(0x4E00, 0x4E40)))] * 2 + CORPUS, 60)
    assert len(tokenizer.vocabulary) <= 60
