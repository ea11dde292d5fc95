"""Semantic ids on planted clusters: found, used, counted, and the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.semantic_ids import SemanticIdConfig, SemanticIds

CONFIG = SemanticIdConfig(levels=2, codes=8)


def planted(per: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """8 coarse clusters, each of 8 fine ones with the same offsets, [64 · per, 16]; and the pair of each row."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.normal(size=(8, 16)) * 10, rng.normal(size=(8, 16))
    pairs = rng.permutation(np.repeat(np.arange(64), per))
    points = coarse[pairs // 8] + fine[pairs % 8] + rng.normal(size=(len(pairs), 16)) * 0.01
    return points.astype(np.float32), np.stack([pairs // 8, pairs % 8], 1)


def test_planted_clusters_are_found_level_by_level() -> None:
    vectors, truth = planted()
    ids = SemanticIds.fit(vectors, CONFIG)
    codes = ids.assign(vectors)
    for level in range(2):  # codes and clusters are one to one
        assert len(np.unique(np.stack([codes[:, level], truth[:, level]]), axis=1).T) == 8
    report = ids.report(vectors)
    assert [level.used for level in report.levels] == [8, 8]
    assert [level.entropy for level in report.levels] == pytest.approx([3.0, 3.0])  # log2 8: all alike
    assert report.levels[0].evenness == pytest.approx(1.0)
    assert report.levels[0].explained > 0.95
    assert report.levels[1].explained > 0.999
    assert (report.items, report.distinct, report.colliding, report.largest) == (1280, 64, 1280, 20)


def test_the_same_vectors_give_the_same_ids_and_another_seed_may_not() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    first, again, other = (
        SemanticIds.fit(vectors, SemanticIdConfig(levels=2, codes=8, seed=seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.codebooks, again.codebooks)
    assert not np.array_equal(first.codebooks, other.codebooks)


def test_a_prefix_is_a_token_and_one_unseen_is_left_out() -> None:
    prefixes = [np.array([0, 3]), np.array([0 * 8 + 1, 3 * 8 + 5])]  # (0) and (3); (0, 1) and (3, 5)
    ids = SemanticIds(CONFIG, np.zeros((2, 8, 1), np.float32), prefixes)
    lists = ids.tokens(np.array([[0, 1], [3, 5], [3, 1], [2, 1], [-1, -1]], np.int32))
    assert [lists.row(row).tolist() for row in range(5)] == [[1, 3], [2, 4], [2], [], []]
    assert ids.vocabulary == 1 + 2 + 2


def test_fitting_knows_the_prefixes_of_what_it_was_given() -> None:
    vectors = planted()[0]
    ids = SemanticIds.fit(vectors, CONFIG)
    lists = ids.tokens(ids.assign(vectors))
    assert ids.vocabulary == 1 + 8 + 64
    assert np.array_equal(np.unique(lists.values), np.arange(1, 1 + 8 + 64))
    assert (lists.lengths == 2).all()


def test_levels_have_ids_of_their_own() -> None:
    vectors = planted()[0]
    ids = SemanticIds.fit(vectors, SemanticIdConfig(levels=2, codes=8, encoding="level"))
    lists = ids.tokens(np.array([[7, 0], [-1, -1], [0, 7]], np.int32))
    assert [lists.row(row).tolist() for row in range(3)] == [[1 + 7, 1 + 8 + 0], [], [1 + 0, 1 + 8 + 7]]
    assert ids.vocabulary == 1 + 8 + 8


def test_absent_vectors_have_no_codes() -> None:
    vectors = planted()[0]
    ids = SemanticIds.fit(vectors, CONFIG)
    present = np.arange(len(vectors)) % 2 == 0
    vectors[~present] = np.nan
    codes = ids.assign(vectors, present)
    assert (codes[~present] == -1).all()
    assert (codes[present] >= 0).all()
    assert (ids.tokens(codes).lengths == 2 * present).all()
    assert ids.report(vectors, present).items == present.sum()


def test_dead_codes_are_moved_to_where_points_are(monkeypatch) -> None:
    """From centres that all lie on one spot, each code but one is dead; after four steps none is."""
    vectors = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    monkeypatch.setattr(
        "captionary.represent.semantic_ids._plus_plus",
        lambda points, count, rng: np.repeat(points[:1], count, axis=0),
    )
    ids = SemanticIds.fit(vectors, SemanticIdConfig(levels=1, codes=16, iterations=4))
    assert ids.report(vectors).levels[0].used == 16


def test_fewer_distinct_vectors_than_codes() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    report = SemanticIds.fit(vectors, SemanticIdConfig(levels=2, codes=4)).report(vectors)
    assert [level.used for level in report.levels] == [3, 1]
    assert report.levels[0].entropy == pytest.approx(math.log2(3))
    assert report.levels[1].entropy == 0
    assert report.levels[0].explained == pytest.approx(1)
    assert report.colliding == 15


def test_report_in_words() -> None:
    vectors = np.array([[0, 0], [0, 0], [4, 0], [0, 8]], np.float32)
    report = SemanticIds.fit(vectors, SemanticIdConfig(levels=1, codes=4)).report(vectors)
    assert report.to_markdown().splitlines()[2:] == [
        "| 1 | 3 of 4 | 1.50 of 2.00 | 75.0% | 100.0% |",  # 1/2 · 1 + 2 · 1/4 · 2 bits
        "",
        "4 items have 3 different ids; 2 (50.0%) share theirs with another item, at most 2 one id.",
    ]
    assert report.to_dict()["levels"][0]["evenness"] == pytest.approx(0.75)


def test_saved_and_read(tmp_path) -> None:
    vectors = planted()[0]
    ids = SemanticIds.fit(vectors, CONFIG)
    again = SemanticIds.load(ids.save(tmp_path / "semantic.npz"))
    assert again.config == ids.config
    codes = ids.assign(vectors)
    assert np.array_equal(again.assign(vectors), codes)
    assert np.array_equal(again.tokens(codes).values, ids.tokens(codes).values)
    (tmp_path / "semantic.npz").write_bytes(b"PK nothing")
    with pytest.raises(CaptionaryError, match=r"SemanticIds\.save"):
        SemanticIds.load(tmp_path / "semantic.npz")


def test_mistakes_are_named() -> None:
    with pytest.raises(CaptionaryError, match="levels == 8, must be <= 7"):
        SemanticIdConfig(levels=8, codes=256)
    with pytest.raises(CaptionaryError, match=r"shape of vectors == \(0, 3\)"):
        SemanticIds.fit(np.zeros((0, 3), np.float32))
    with pytest.raises(CaptionaryError, match="row 1"):
        SemanticIds.fit(np.array([[0.0], [np.nan]], np.float32))
    with pytest.raises(CaptionaryError, match=r"must be \(I, 16\)"):
        SemanticIds.fit(planted()[0], CONFIG).assign(np.zeros((2, 3), np.float32))
