"""Tasks of amounts beside tasks of 0 and 1, with labels missing, from the metrics to the tables."""

from __future__ import annotations

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.arms import Arm
from captionary.evidence.by_kind import extras, figures, kinds_of, known_rows, order_of
from captionary.evidence.compare import measure
from captionary.evidence.continuous import concordance, normalized_squared_error
from captionary.evidence.evaluate import evaluate
from captionary.evidence.metrics import auc, normalized_entropy
from captionary.evidence.result import RunInfo
from captionary.evidence.tables import by_task, markdown, table2
from captionary.evidence.verdict import conclude

VISUAL = Arm(name="+visual", visual=True)
TOKENS = Arm(name="+visual+tokens(A)", visual=True, tokens="A")
KINDS = ("binary", "huber_log")
USERS = np.random.default_rng(0).integers(300, size=6000)


def watched(seen: float, seeds: int = 2, rows: int = 6000):
    """(labels of like and seconds, a third of each missing; predictions of an arm that sees that much of a taste)."""
    rng = np.random.default_rng(1)
    taste = rng.normal(size=rows)
    like = (rng.random(rows) < 1 / (1 + np.exp(1 - taste))).astype(np.float32)
    seconds = np.exp(2 + 0.8 * taste + 0.5 * rng.normal(size=rows)).astype(np.float32)
    labels = np.stack([like, seconds], axis=1)
    labels[rng.random(labels.shape) < 1 / 3] = np.nan
    luck = 0.1 * np.random.default_rng(7).normal(size=(seeds, rows))
    logit = seen * taste + luck - 1
    predictions = np.stack([1 / (1 + np.exp(-logit)), np.exp(2.3 + 0.8 * (seen * taste + luck))], axis=2)
    return labels, predictions.astype(np.float32)


def test_each_task_is_measured_by_its_kind_and_missing_labels_are_left_out() -> None:
    labels, predictions = watched(0.5)
    subset = USERS % 10
    found = measure(labels, predictions, subset, kinds=KINDS)
    there = known_rows(labels)
    like, seconds = there[:, 0], there[:, 1]
    assert found.auc[1, 0] == auc(labels[like, 0], predictions[1, like, 0])
    assert found.ne[0, 0] == pytest.approx(normalized_entropy(labels[like, 0], predictions[0, like, 0]))
    assert found.auc[1, 1] == concordance(labels[:, 1], predictions[1, :, 1])
    assert found.ne[0, 1] == pytest.approx(
        normalized_squared_error(labels[seconds, 1], predictions[0, seconds, 1])
    )
    mine = seconds & (subset == 3)
    assert found.subset_auc[0, 3, 1] == pytest.approx(concordance(labels[mine, 1], predictions[0, mine, 1]))
    ratio = predictions[0, seconds, 1].sum(dtype=float) / labels[seconds, 1].sum(dtype=float)
    assert found.calibration[0, 1] == pytest.approx(ratio)
    assert order_of("huber_log", labels[:, 1], predictions[0, :, 1]) == found.auc[0, 1]
    assert order_of("binary", labels[:, 0], predictions[0, :, 0]) == found.auc[0, 0]


def test_a_gain_in_seconds_is_a_gain_with_the_same_signs() -> None:
    labels, weak = watched(0.5, seeds=4)
    _, strong = watched(1.0, seeds=4)
    found = evaluate(
        labels,
        USERS,
        ("like", "seconds"),
        {VISUAL.name: weak, TOKENS.name: strong},
        [VISUAL, TOKENS],
        kinds=KINDS,
    )
    task = found.tasks[1]
    assert (task.kind, task.rows) == ("huber_log", int((~np.isnan(labels[:, 1])).sum()))
    assert task.mean == pytest.approx(np.nanmean(labels[:, 1].astype(float)))
    arm = found.arms[1]
    assert arm.task_verdict == {"like": "gain", "seconds": "gain"}
    assert arm.task_auc_gain["seconds"] > 0 < arm.task_ne_gain["seconds"]
    assert (arm.ece["seconds"], arm.recalibrated_ne["seconds"]) == (None, None)
    assert arm.gauc["seconds"] > found.arms[0].gauc["seconds"]
    run = RunInfo(name="r", dataset="d", created_at="", train_rows=1, eval_rows=6000, users=300, items=1)
    evidence = conclude(found, run=run)
    row = table2(evidence)[1]
    assert row.base_rate == f"mean {task.mean:.2f}"
    assert row.change.startswith("−")
    assert by_task(evidence)[0].cells[1].verdict == "gain"
    assert "| seconds |" in markdown(evidence)


def test_gauc_of_amounts_is_the_mean_within_users_by_their_rows() -> None:
    labels = np.array([1, 2, 3, 5, 5, 4, 9], np.float32)
    predictions = np.array([1, 2, 1.5, 7, 8, 1, 2], np.float32)
    users = np.array(["a", "a", "a", "b", "b", "c", "c"])
    found = extras("weighted_logistic", labels, predictions, users)
    assert found.gauc == pytest.approx((3 * 2 / 3 + 2 * 1.0) / 5)  # b has one amount only
    assert found.users == 2


def test_amounts_have_no_probability_to_be() -> None:
    labels, predictions = watched(0.5)
    with pytest.raises(CaptionaryError, match="must be 0 or 1"):
        measure(labels, predictions, USERS % 10)
    with pytest.raises(CaptionaryError, match=r"prediction of a continuous task == -1\.0.*task 1, seed 0"):
        measure(labels, np.where(predictions > 3, -1, predictions), USERS % 10, kinds=KINDS)
    with pytest.raises(CaptionaryError, match="kinds of tasks == 1, must be one for each of 2 tasks"):
        kinds_of(("binary",), 2)


def test_weights_count_as_rows_repeated() -> None:
    labels, predictions = np.array([1.0, 4, 2, 8]), np.array([2.0, 1, 3, 9])
    weights = np.array([2.0, 1, 1, 3])
    whole = figures("huber_log", labels, predictions, weights=weights)
    again = np.repeat(np.arange(4), weights.astype(int))
    repeated = figures("huber_log", labels[again], predictions[again])
    for one, other in zip(whole, repeated, strict=True):
        assert one == pytest.approx(other)


def test_a_task_without_a_label_says_so() -> None:
    labels, predictions = watched(0.5, rows=6000)
    labels[:, 1] = np.nan
    found = evaluate(labels, USERS, ("like", "seconds"), {VISUAL.name: predictions}, [VISUAL], kinds=KINDS)
    assert found.arms[0].auc["seconds"] is None
    assert "Task seconds has no label in the evaluation rows: it is left out of every mean." in found.warnings
