"""The call that the pipeline makes: every arm, the oracle, placebos, and words for what cannot be known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.arms import Arm
from captionary.evidence.evaluate import evaluate
from captionary.evidence.metrics import auc, normalized_entropy

IDS, VISUAL = Arm(name="ids"), Arm(name="+visual", visual=True)
TOKENS = Arm(name="+visual+tokens(A)", visual=True, tokens="A")


def predictions(rows: int, tasks: int, *arms: Arm, seeds: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {arm.name: rng.random((seeds, rows, tasks), dtype=np.float32) for arm in arms}


def test_every_arm_is_measured_on_all_rows_and_against_the_baseline(simulation: Callable) -> None:
    rows = simulation()
    result = evaluate(*rows, subsets=10, seed=3, samples_per_second={"+visual": 123.0})
    assert [arm.name for arm in result.arms] == [arm.name for arm in rows.arms]
    assert (result.baseline, result.headline) == ("+visual", "+visual+tokens(A)+profiles(A)")
    base, joint = result.arms[1], result.arms[5]
    seeds = [auc(rows.labels[:, 1], rows.predictions[joint.name][s, :, 1]) for s in range(2)]
    assert joint.auc["like"] == pytest.approx(np.mean(seeds))
    tasks = [(joint.auc[t] - base.auc[t]) / (1 - base.auc[t]) for t in rows.task_names]
    assert joint.auc_gain == pytest.approx(np.mean(tasks))
    assert joint.ne_gain == pytest.approx(np.mean([1 - joint.ne[t] / base.ne[t] for t in rows.task_names]))
    assert (joint.verdict, joint.direction, joint.seeds_agree, joint.subsets) == ("gain", "up", 2, 10)
    assert joint.interval is not None
    assert joint.interval[0] < joint.subset_gain < joint.interval[1]
    assert joint.combined_p_value >= joint.p_value
    assert (base.verdict, base.auc_gain, base.p_value, base.samples_per_second) == (
        "baseline",
        0.0,
        None,
        123.0,
    )
    assert result.arms[0].direction == "down"
    assert not any(arm.verdict == "gain" for arm in result.arms if arm.placebo)


def test_the_headline_arm_is_compared_with_each_placebo(simulation: Callable) -> None:
    contrasts = evaluate(*simulation(seeds=3), subsets=10).against_placebos
    assert [contrast.placebo for contrast in contrasts] == ["shuffled", "random", "constant"]
    assert {contrast.verdict for contrast in contrasts} == {"gain"}


def test_the_oracle_is_above_all_arms_and_its_gain_is_against_the_baseline(simulation: Callable) -> None:
    rows = simulation()
    result = evaluate(*rows, subsets=10)
    assert result.oracle is not None
    assert result.oracle.ne["share"] == pytest.approx(normalized_entropy(rows.labels[:, 2], rows.truth[:, 2]))
    base = result.arms[1]
    gains = [(result.oracle.auc[t] - base.auc[t]) / (1 - base.auc[t]) for t in rows.task_names]
    assert result.oracle.auc_gain == pytest.approx(np.mean(gains))
    assert result.oracle.auc_gain > max(arm.auc_gain for arm in result.arms)


def test_a_task_without_truth_has_no_oracle(simulation: Callable) -> None:
    rows = simulation()
    truth = rows.truth.copy()
    truth[7, 0] = np.nan
    oracle = evaluate(*rows._replace(truth=truth), subsets=10).oracle
    assert oracle is not None
    assert (oracle.auc["comment"], oracle.ne["comment"]) == (None, None)
    assert oracle.auc["like"] is not None


def test_ids_are_the_baseline_where_nothing_is_visual() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (400, 1)).astype(np.float32)
    tokens = Arm(name="+tokens(A)", tokens="A")
    result = evaluate(labels, np.arange(400), ["like"], predictions(400, 1, IDS, tokens), [IDS, tokens])
    assert (result.baseline, result.headline) == ("ids", "+tokens(A)")


def test_ids_alone_have_no_headline() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (400, 1)).astype(np.float32)
    result = evaluate(labels, np.arange(400), ["like"], predictions(400, 1, IDS), [IDS])
    assert (result.headline, result.against_placebos, result.oracle) == (None, (), None)


class TestWarnings:
    @staticmethod
    def result(labels: np.ndarray, users: np.ndarray, seeds: int = 2, subsets: int = 4):
        tasks = [f"t{t}" for t in range(labels.shape[1])]
        made = predictions(len(labels), len(tasks), VISUAL, TOKENS, seeds=seeds)
        return evaluate(labels.astype(np.float32), users, tasks, made, [VISUAL, TOKENS], subsets=subsets)

    def test_a_task_with_one_class_is_dropped_and_named(self) -> None:
        labels = np.zeros((400, 2))
        labels[::2, 0] = 1
        result = self.result(labels, np.arange(400))
        arm = result.arms[1]
        assert (arm.auc["t1"], arm.ne["t1"], arm.task_auc_gain["t1"], arm.task_ne_interval["t1"]) == (
            None,
        ) * 4
        assert arm.auc_gain == arm.task_auc_gain["t0"]
        assert result.tasks[1].positives == result.tasks[1].subsets == 0
        assert [w for w in result.warnings if "one class only in the evaluation rows" in w and "Task t1" in w]

    def test_a_rare_task_is_counted_by_subset_and_named(self) -> None:
        labels = np.zeros((400, 2))
        labels[::2, 0] = 1
        labels[:3, 1] = 1  # one user
        users = np.repeat(np.arange(40), 10)
        result = self.result(labels, users)
        assert [task.subsets for task in result.tasks] == [4, 1]
        assert [task.positives for task in result.tasks] == [200, 3]
        text = " ".join(result.warnings)
        assert "Task t1 has only 3 positives" in text
        assert "Task t1 has one class only in 3 of 4 subsets" in text
        assert result.arms[1].task_ne_interval["t1"] is None
        assert result.arms[1].subsets == 4

    def test_positives_may_be_the_common_class(self) -> None:
        labels = np.ones((400, 1))
        labels[::40] = 0
        assert "only 10 negatives" in " ".join(self.result(labels, np.arange(400)).warnings)

    def test_one_seed_is_named(self) -> None:
        labels = np.arange(400)[:, None] % 2
        assert "One seed" in " ".join(self.result(labels, np.arange(400), seeds=1).warnings)
        assert "One seed" not in " ".join(self.result(labels, np.arange(400)).warnings)

    def test_fewer_users_than_subsets_are_named(self) -> None:
        labels = np.arange(400)[:, None] % 2
        result = self.result(labels, np.arange(400) % 3, subsets=20)
        assert result.warnings[0] == "There are only 3 users to evaluate, so 3 subsets instead of 20."
        assert result.arms[1].subsets == 3

    def test_one_user_tests_nothing(self) -> None:
        labels = np.arange(400)[:, None] % 2
        arm = self.result(labels, np.zeros(400, int)).arms[1]
        assert (arm.verdict, arm.p_value, arm.interval, arm.direction) == ("cannot tell", None, None, "none")
        assert arm.auc_gain is not None


class TestBadInput:
    LABELS = np.arange(40, dtype=np.float32)[:, None] % 2

    def test_an_arm_without_predictions(self) -> None:
        with pytest.raises(CaptionaryError, match=r"must be given for arm \+visual"):
            evaluate(self.LABELS, np.arange(40), ["t"], predictions(40, 1, IDS), [IDS, VISUAL])

    def test_a_prediction_that_is_no_probability_names_arm_task_and_seed(self) -> None:
        made = predictions(40, 1, VISUAL, seeds=2)
        made["+visual"][1, 3, 0] = 1.5
        with pytest.raises(CaptionaryError, match=r"1\.5, must be in 0…1.*task 0, seed 1; arm \+visual"):
            evaluate(self.LABELS, np.arange(40), ["t"], made, [VISUAL])

    def test_labels_and_users_of_different_lengths(self) -> None:
        with pytest.raises(
            CaptionaryError, match=r"shape of labels == \(40, 1\), must be \[39 users, 1 tasks\]"
        ):
            evaluate(self.LABELS, np.arange(39), ["t"], predictions(40, 1, IDS), [IDS])

    def test_truth_of_another_shape(self) -> None:
        with pytest.raises(CaptionaryError, match="shape of truth"):
            evaluate(self.LABELS, np.arange(40), ["t"], predictions(40, 1, IDS), [IDS], np.ones((40, 2)))


class TestDetails:
    def test_tasks_are_corrected_for_their_number(self, simulation: Callable) -> None:
        detail = evaluate(*simulation(seeds=3), subsets=10).detail("+visual+tokens(A)+profiles(A)")
        assert detail is not None
        raw, corrected = detail.task_p_value, detail.task_p_adjusted
        least = min(raw, key=lambda task: raw[task])
        assert corrected[least] == pytest.approx(min(1, 5 * raw[least]))
        assert all(corrected[task] >= raw[task] for task in raw)
        assert detail.task_verdict[least] == "gain"
        assert detail.to_dict()["need"]["words"].startswith("needs")

    def test_masked_labels_and_weights_are_as_rows_left_out_and_repeated(self, simulation: Callable) -> None:
        rows = simulation(rows=2000)
        mask = np.ones(rows.labels.shape, bool)
        mask[:500] = False
        labels = rows.labels.copy()
        labels[:500] = np.nan
        hidden = evaluate(*rows._replace(labels=labels, truth=None), subsets=10, mask=mask)
        weights = (np.arange(2000) >= 500).astype(float)
        weightless = evaluate(*rows._replace(truth=None), subsets=10, weights=weights)
        for one, other in zip(hidden.arms, weightless.arms, strict=True):
            assert one.auc == pytest.approx(other.auc)
            assert one.ne == pytest.approx(other.ne)
            assert one.auc_gain == pytest.approx(other.auc_gain)
        assert hidden.tasks[1].positives == int(rows.labels[500:, 1].sum())
        assert hidden.tasks[1].base_rate == pytest.approx(rows.labels[500:, 1].mean())
