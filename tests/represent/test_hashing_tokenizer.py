from __future__ import annotations

import doctest
import hashlib
from collections import Counter

from captionary.represent import hashing_tokenizer as module
from captionary.represent.hashing_tokenizer import HashTokenizer, bucket_of
from captionary.represent.tokenizers import TokenizerConfig


def tokenizer(**settings: object) -> HashTokenizer:
    return HashTokenizer(TokenizerConfig(kind="hash", **settings))  # type: ignore[arg-type]


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(module) == (0, 1)


def test_buckets_are_the_same_on_every_machine() -> None:
    """Written out, as no process can tell what another platform would give."""
    assert [bucket_of(run, 1000) for run in ("dog", "red sofa", "犬", "")] == [268, 727, 272, 520]
    digest = hashlib.blake2b(b"dog", digest_size=8).digest()
    assert bucket_of("dog", 1000) == 1 + int.from_bytes(digest, "little") % 999


def test_words_and_pairs_are_hashed_without_fitting() -> None:
    lists = tokenizer().encode(["Red sofa, red!", ""])
    size = 16_384
    runs = ("red", "sofa", "red", "red sofa", "sofa red")
    assert lists.row(0).tolist() == [bucket_of(run, size) for run in runs]
    assert lists.row(1).tolist() == []
    assert tokenizer(ngrams=1).encode(["red sofa"]).values.tolist() == lists.row(0)[:2].tolist()
    assert len(tokenizer(ngrams=3).encode(["a b c d"]).values) == 4 + 3 + 2


def test_fitting_changes_no_id_and_names_buckets() -> None:
    corpus = ["a red dog", "a red cat"]
    fitted = tokenizer(vocabulary_size=50).fit(corpus)
    assert (
        fitted.encode(corpus).values.tolist() == tokenizer(vocabulary_size=50).encode(corpus).values.tolist()
    )
    assert len(fitted.vocabulary) == 50
    assert fitted.decode([bucket_of("a", 50)]) == ["a"]
    assert fitted.document_frequency[bucket_of("red", 50)] == 2
    assert tokenizer(vocabulary_size=50).decode([7]) == ["#7"]


def test_buckets_fill_evenly_and_id_0_stays_free() -> None:
    counts = Counter(bucket_of(f"word{i}", 65) for i in range(64_000))
    assert set(counts) == set(range(1, 65))
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5
