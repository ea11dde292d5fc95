from __future__ import annotations

from captionary.represent.tokenizers import TokenizerConfig
from captionary.represent.unigram import UnigramTokenizer

CORPUS = ["a skateboarder on a skateboard", "a surfer on a surfboard", "a board", "a dog"] * 9
# What holds of bpe as well is in test_bpe.py.


def test_a_piece_that_begins_a_word_is_another_than_one_within() -> None:
    tokenizer = UnigramTokenizer(TokenizerConfig(kind="unigram", vocabulary_size=40)).fit(CORPUS)
    assert tokenizer.decode(tokenizer.encode(["a board"]).values)[:2] == ["▁a", "▁board"]
    inside = tokenizer.decode(tokenizer.encode(["surfboard"]).values)
    assert inside[0].startswith("▁")
    assert not any(piece.startswith("▁") for piece in inside[1:])


def test_scores_are_log_probabilities_that_follow_frequency() -> None:
    tokenizer = UnigramTokenizer(TokenizerConfig(kind="unigram", vocabulary_size=40)).fit(CORPUS)
    scores = dict(zip(tokenizer.vocabulary, tokenizer._scores, strict=True))
    assert all(score < 0 for token, score in scores.items() if token != "[UNK]")
    assert scores["▁a"] > scores["▁dog"]
