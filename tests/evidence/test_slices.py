"""Slices: who is in them, what they gain, and which are too small to say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.compare import compare, measure, subsets
from captionary.evidence.evaluate import evaluate
from captionary.evidence.slices import Slice, slice_gains, slice_measures, slices_by_history


def test_rows_fall_where_their_history_puts_them() -> None:
    made = slices_by_history(
        item_exposure=np.array([0, 1, 2, 3, 4, 50, 50]),
        item=np.array([0, 1, 2, 3, 4, 5, 5]),
        user_exposure=np.array([0, 0, 1, 1, 1, 1, 9]),
        profile_length=np.array([0, 1, 2, 3, 4, 0, 5]),
        captioned=np.array([True, True, False, True, True, True, True]),
    )
    rows = {one.name: np.flatnonzero(one.rows).tolist() for one in made}
    assert rows == {
        "cold items": [0],
        "tail items": [1, 2, 3, 4],
        "head items": [5, 6],  # one of five items with a past
        "new users": [0, 1],
        "known users": [2, 3, 4, 5, 6],
        "no profile": [0, 5],
        "short profiles": [1, 2, 3],
        "long profiles": [4, 6],
        "captioned items": [0, 1, 3, 4, 5, 6],
        "items without caption": [2],
    }


def test_what_is_not_known_makes_no_slice() -> None:
    assert slices_by_history() == ()
    assert slices_by_history(item_exposure=np.zeros(3, int))[0].name == "cold items"
    with pytest.raises(CaptionaryError, match="shapes of slices"):
        slices_by_history(item_exposure=np.zeros(3, int), user_exposure=np.zeros(4, int))


def test_a_slice_is_compared_as_its_rows_alone_are(simulation: Callable) -> None:
    rows = simulation(rows=6000, seeds=3)
    half = Slice("half", "every second row", np.arange(6000) % 2 == 0)
    made = evaluate(*rows, subsets=10, slices=[half], seed=3)
    detail = made.detail("+visual+tokens(A)+profiles(A)")
    assert detail is not None
    found = detail.slices[0]
    kept, dealt = half.rows, subsets(rows.users, 10, 3)[half.rows]
    enough = [1, 3, 4]  # like, time spent, consumption have 50 positives for sure; others are asked
    names = [name for name in rows.task_names if name in found.tasks]
    assert set(np.array(rows.task_names)[enough]) <= set(names)
    columns = [rows.task_names.index(name) for name in names]
    joint, base = (
        measure(rows.labels[kept][:, columns], rows.predictions[name][:, kept][:, :, columns], dealt)
        for name in (detail.name, "+visual")
    )
    expected = compare(joint, base)
    assert found.auc_gain == pytest.approx(expected.auc_gain)
    assert expected.combined is not None
    assert found.interval == pytest.approx(expected.combined.interval())
    assert (found.rows, found.share, found.too_small) == (3000, 0.5, "")
    assert detail.to_dict()["slices"][0]["name"] == "half"


def test_a_small_slice_says_so(simulation: Callable) -> None:
    rows = simulation(rows=3000)
    few = Slice("few", "the first forty", np.arange(3000) < 40)
    none = Slice("none", "nothing", np.zeros(3000, bool))
    detail = evaluate(*rows, subsets=10, slices=[few, none]).details[0]
    for one, count in zip(detail.slices, (40, 0), strict=True):
        assert (one.auc_gain, one.interval, one.p_value, one.verdict) == (None, None, None, "cannot tell")
        assert one.too_small == f"Too small: no task has 50 positives and 50 negatives among {count} rows."


def test_the_gain_is_found_where_it_is() -> None:
    rng = np.random.default_rng(0)
    users, cold = rng.integers(0, 300, 12_000), rng.random(12_000) < 0.5
    signal = rng.normal(0, 1.5, 12_000)
    labels = (rng.random(12_000) < 1 / (1 + np.exp(-signal)))[:, None].astype(np.float32)
    noise = rng.normal(0, 0.5, (2, 3, 12_000))
    base = 1 / (1 + np.exp(-(0.3 * signal + noise[0])))[:, :, None]
    arm = 1 / (1 + np.exp(-(np.where(cold, 1.5, 0.3) * signal + noise[1])))[:, :, None]
    slices = [Slice("cold", "", cold), Slice("warm", "", ~cold)]
    dealt = subsets(users, 20, 0)
    both = [slice_measures(slices, labels, scores, dealt) for scores in (arm, base)]
    found = slice_gains(slices, labels, ["like"], *both)
    assert [one.verdict for one in found] == ["gain", found[1].verdict]
    assert found[1].verdict != "gain"
    assert found[0].p_adjusted == pytest.approx(2 * found[0].p_value)


def test_a_slice_of_another_length_is_refused() -> None:
    with pytest.raises(CaptionaryError, match="slice odd"):
        slice_measures(
            [Slice("odd", "", np.ones(3, bool))],
            np.zeros((4, 1), np.float32),
            np.zeros((1, 4, 1)),
            np.zeros(4, np.int64),
        )
