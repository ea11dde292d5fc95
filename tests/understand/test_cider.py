import math

import pytest

from captionary.understand.cider import CiderD

REFERENCES = [
    ["a dog runs", "the dog runs fast"],
    ["two cats sleep", "cats on a sofa"],
    ["a red car", "red car"],
]


def test_a_copy_of_the_only_reference_scores_ten() -> None:
    scorer = CiderD([["one black dog jumps over logs"], ["a cat"]])
    assert scorer.score("one black dog jumps over logs", 0) == pytest.approx(10.0)
    assert scorer.score("a cat", 0) == 0.0


def test_the_length_penalty_is_a_gaussian_of_six_words() -> None:
    """One unigram in common, no bigram said and one told: exp(-1/72), and of the four lengths of n-gram only one."""
    scorer = CiderD([["dog runs"], ["cat sleeps"]])
    log2 = math.log(2)
    cosine = log2 * log2 / (log2 * math.sqrt(2 * log2**2))
    assert scorer.score("dog", 0) == pytest.approx(10 * math.exp(-1 / 72) * cosine / 4)


def test_equals_the_public_scorer() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="the scorer is the extra `train`")
    said = ["a dog runs fast", "cats sleep on a sofa", "red red car car"]
    mean, each = cider.Cider().compute_score(
        dict(enumerate(REFERENCES)), {i: [s] for i, s in enumerate(said)}
    )
    ours = [CiderD(REFERENCES).score(line, row) for row, line in enumerate(said)]
    assert ours == pytest.approx(list(each))
    assert sum(ours) / 3 == pytest.approx(mean)
