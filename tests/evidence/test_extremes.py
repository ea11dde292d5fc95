"""Items that captions helped and hurt most: by arithmetic on a handful of rows."""

from __future__ import annotations

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.extremes import extremes, row_losses

LABELS = np.array([[1], [0], [1], [1]], np.float32)
ITEM = np.array([0, 0, 2, 3])
BEFORE = np.full((1, 4, 1), 0.5)
AFTER = np.array([0.9, 0.1, 0.4, 0.5]).reshape(1, 4, 1)


def test_items_are_ranked_by_what_their_rows_gain_together() -> None:
    found = extremes(LABELS, BEFORE, AFTER, ITEM, count=5)
    [best], [worst] = found
    assert (best.item, best.rows) == (0, 2)
    assert best.relative == pytest.approx(2 * (-np.log(0.9) + np.log(0.5)) / (-2 * np.log(0.5)))
    assert (worst.item, worst.rows) == (2, 1)
    assert worst.words == f"loss {100 * (np.log(0.4) / np.log(0.5) - 1):.1f} % higher over 1 evaluation row"
    assert extremes(LABELS, BEFORE, AFTER, ITEM, count=0) == ((), ())


def test_a_rare_task_counts_as_much_as_a_common_one() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 1]], np.float32)
    before = np.full((2, 4, 2), 0.5)
    before[:, :, 1] = 0.001
    before[:, 3, 1] = 0.3  # the second task's one positive: its mean loss is the smaller one
    after = before.copy()
    after[:, 0, 0] = 0.75  # item 0 better at the first
    after[:, 3, 1] = 0.42  # item 3 better at the second
    best = extremes(labels, before, after, np.arange(4), count=2).best
    usual = np.array([-np.log(0.5), (-np.log(0.3) - 3 * np.log(0.999)) / 4])
    assert np.log(0.75 / 0.5) > np.log(0.42 / 0.3)
    assert np.log(0.75 / 0.5) / usual[0] < np.log(0.42 / 0.3) / usual[1]
    assert [one.item for one in best] == [3, 0]


def test_missing_labels_and_amounts() -> None:
    labels = np.array([[np.nan, 7.0], [1.0, 0.0]], np.float32)
    made = row_losses(labels, np.array([[[0.3, 3.0], [0.5, 0.0]]]), ("binary", "huber_log"))
    assert np.isnan(made[0, 0])
    assert made[1] == pytest.approx([-np.log(0.5), 0.0])
    assert made[0, 1] == pytest.approx((np.log(4) - np.log(8)) ** 2)


def test_items_that_may_not_be_shown_are_passed_over() -> None:
    among = np.array([False, True, True, True])
    assert extremes(LABELS, BEFORE, AFTER, ITEM, count=5, among=among).best == ()


def test_shapes_are_checked() -> None:
    with pytest.raises(CaptionaryError, match="shapes of two arms and of items"):
        extremes(LABELS, BEFORE, AFTER[:, :3], ITEM, count=1)
