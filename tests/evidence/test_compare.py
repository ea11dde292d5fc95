"""Comparisons: what is averaged over what, and when a verdict is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.evidence.compare import Measured, compare, estimate, measure, subsets
from captionary.evidence.metrics import auc, normalized_entropy

NAN = math.nan


def measured(auc_all: list, subset_auc: list, ne_all: list | None = None) -> Measured:
    """auc_all [S, T], subset_auc [S, K, T]; NE 1 where not given."""
    whole, parts = np.array(auc_all, float), np.array(subset_auc, float)
    ne = np.ones_like(whole) if ne_all is None else np.array(ne_all, float)
    return Measured(whole, ne, np.ones_like(whole), parts, np.where(np.isnan(parts), NAN, 1.0))


class TestSubsets:
    @pytest.mark.parametrize("kind", ["int", "str"])
    def test_no_user_is_in_two_subsets_and_users_are_dealt_evenly(self, kind: str) -> None:
        users = np.random.default_rng(0).integers(0, 103, 2000).astype("int64" if kind == "int" else "U8")
        dealt = subsets(users, 20, seed=1)
        homes = {}
        for user, subset in zip(users.tolist(), dealt.tolist(), strict=True):
            assert homes.setdefault(user, subset) == subset
        sizes = np.bincount(list(homes.values()), minlength=20)
        assert sizes.sum() == 103
        assert set(sizes.tolist()) == {5, 6}  # 103 = 17 · 5 + 3 · 6

    def test_the_seed_deals_and_the_order_of_rows_does_not(self) -> None:
        users = np.arange(200)
        dealt = subsets(users, 10, seed=1)
        assert subsets(users[::-1], 10, seed=1).tolist() == dealt[::-1].tolist()
        assert subsets(users, 10, seed=2).tolist() != dealt.tolist()

    def test_neighbouring_ids_are_not_dealt_in_turn(self) -> None:
        dealt = subsets(np.arange(1000), 10, seed=0)
        assert len(set(dealt[:10].tolist())) < 10 or dealt[:20].tolist() != [*range(10), *range(10)]
        assert 60 < np.sum(dealt[1:] == dealt[:-1]) < 140  # chance: 999 / 10

    @pytest.mark.parametrize("k", [0, 1, 4])
    def test_too_few_or_too_many_subsets_are_refused(self, k: int) -> None:
        with pytest.raises(CaptionaryError, match=f"subsets == {k}, must be in 2…3"):
            subsets(np.array([1, 2, 3, 3]), k, seed=0)


class TestMeasure:
    def test_each_seed_task_and_subset_is_measured_on_its_own_rows(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, (60, 2)).astype(np.float32)
        predictions = rng.random((3, 60, 2), dtype=np.float32)
        subset = rng.integers(0, 4, 60)
        result = measure(labels, predictions, subset)
        assert result.auc.shape == (3, 2)
        assert result.subset_auc.shape == (3, 4, 2)
        assert result.ne[2, 1] == pytest.approx(normalized_entropy(labels[:, 1], predictions[2, :, 1]))
        rows = subset == 3
        assert result.subset_auc[1, 3, 0] == auc(labels[rows, 0], predictions[1, rows, 0])
        assert result.subset_ne[1, 3, 0] == pytest.approx(
            normalized_entropy(labels[rows, 0], predictions[1, rows, 0])
        )

    def test_a_subset_with_one_class_has_no_metric(self) -> None:
        labels = np.array([[0], [0], [1], [0]], np.float32)
        result = measure(labels, np.full((1, 4, 1), 0.3, np.float32), np.array([0, 0, 1, 1]))
        assert np.isnan(result.subset_auc[0, :, 0]).tolist() == [True, False]

    @pytest.mark.parametrize("shape", [(4, 1), (0, 4, 1), (1, 3, 1), (1, 4, 2)])
    def test_predictions_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(CaptionaryError, match="shape of predictions"):
            measure(np.zeros((4, 1), np.float32), np.zeros(shape, np.float32), np.zeros(4, np.int64))


class TestEstimate:
    def test_it_is_scipys_paired_t_test(self) -> None:
        rng = np.random.default_rng(0)
        treatment, baseline = rng.normal(0.3, 1, 20), rng.normal(0, 1, 20)
        result = estimate(treatment - baseline)
        expected = stats.ttest_rel(treatment, baseline)
        assert result is not None
        assert result.p_value == pytest.approx(expected.pvalue)
        assert result.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))

    def test_what_is_detectable_is_detected_four_times_in_five(self) -> None:
        rng = np.random.default_rng(0)
        one = estimate(rng.normal(0, 1, 20))
        assert one is not None
        effect = one.detectable() / one.error / math.sqrt(20)  # in standard deviations
        draws = rng.normal(effect, 1, (4000, 20))
        found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.01)
        assert 0.75 < found < 0.85

    def test_one_value_or_an_unknown_one_is_not_tested(self) -> None:
        assert estimate(np.array([0.1])) is None
        assert estimate(np.array([0.1, NAN])) is None

    @pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
    def test_values_all_alike_have_no_error(self, value: float, p_value: float) -> None:
        result = estimate(np.full(4, value))
        assert result is not None
        assert (result.p_value, result.interval(), result.detectable()) == (p_value, (value, value), 0.0)


class TestCompare:
    def test_gains_are_averaged_over_seeds_and_tasks(self) -> None:
        baseline = measured([[0.7, 0.9], [0.7, 0.9]], [[[0.7, 0.9]] * 2] * 2)
        treatment = measured([[0.73, 0.91], [0.76, 0.93]], [[[0.7, 0.9], [0.76, 0.92]]] * 2)
        result = compare(treatment, baseline)
        # Tasks have 1 − AUC of .3 and .1 to cut.
        assert result.seed_gains == pytest.approx(
            [(0.03 / 0.3 + 0.01 / 0.1) / 2, (0.06 / 0.3 + 0.03 / 0.1) / 2]
        )
        assert result.auc_gain == pytest.approx(np.mean(result.seed_gains))
        assert result.task_auc_gain == pytest.approx([0.045 / 0.3, 0.02 / 0.1])
        assert result.subset_gains == pytest.approx([0.0, (0.06 / 0.3 + 0.02 / 0.1) / 2])

    def test_the_denominator_is_the_baselines_on_all_rows(self) -> None:
        # The rare task's few rows are ranked perfectly by the baseline in subset 0.
        baseline = measured([[0.8]], [[[1.0], [0.7]]])
        treatment = measured([[0.82]], [[[0.9], [0.85]]])
        assert compare(treatment, baseline).subset_gains == pytest.approx([-0.1 / 0.2, 0.15 / 0.2])

    def test_a_task_with_one_class_in_a_subset_is_left_out_there_only(self) -> None:
        baseline = measured([[0.7, 0.9]], [[[0.7, NAN], [0.7, 0.9], [NAN, NAN]]])
        treatment = measured([[0.73, 0.92]], [[[0.73, NAN], [0.73, 0.92], [NAN, NAN]]])
        result = compare(treatment, baseline)
        assert result.subset_gains == pytest.approx([0.03 / 0.3, (0.03 / 0.3 + 0.02 / 0.1) / 2])

    def test_a_task_with_one_class_everywhere_is_in_no_mean(self) -> None:
        baseline = measured([[0.7, NAN]], [[[0.7, NAN], [0.7, NAN]]])
        treatment = measured([[0.76, NAN]], [[[0.76, NAN], [0.73, NAN]]])
        result = compare(treatment, baseline)
        assert result.auc_gain == pytest.approx(0.06 / 0.3)
        assert math.isnan(result.task_auc_gain[1])
        assert result.task_ne[1] is None

    def test_ne_gain_is_the_relative_decrease(self) -> None:
        baseline = measured([[0.7]], [[[0.7], [0.7]]], ne_all=[[0.8]])
        treatment = measured([[0.7]], [[[0.7], [0.7]]], ne_all=[[0.76]])
        assert compare(treatment, baseline).ne_gain == pytest.approx((0.80 - 0.76) / 0.80)

    def test_arms_of_different_seeds_do_not_compare(self) -> None:
        with pytest.raises(CaptionaryError, match="must be the same"):
            compare(measured([[0.7]], [[[0.7]]]), measured([[0.7], [0.7]], [[[0.7]], [[0.7]]]))


class TestVerdict:
    @staticmethod
    def verdict(seed_gains: list[float], spread: float, count: int = 20) -> str:
        """Of a treatment with these gains per seed, which vary over subsets by `spread`."""
        waves = spread * np.sin(np.arange(count))
        waves -= waves.mean()
        base = np.full((len(seed_gains), 1), 0.5)
        gains = np.array(seed_gains)[:, None] * 0.5
        ones = np.ones((len(seed_gains), count, 1)) * 0.5
        baseline = measured(base.tolist(), ones.tolist())
        treatment = measured(
            (base + gains).tolist(), (ones + gains[:, None] + 0.5 * waves[None, :, None]).tolist()
        )
        return compare(treatment, baseline).verdict

    def test_a_clear_gain_and_a_clear_loss(self) -> None:
        assert self.verdict([0.02, 0.021, 0.019], 0.01) == "gain"
        assert self.verdict([-0.02, -0.021, -0.019], 0.01) == "loss"

    def test_seeds_that_scatter_are_no_gain_though_users_are_sure(self) -> None:
        assert self.verdict([0.04, 0.001], 0.001) == "cannot tell"
        assert self.verdict([0.02, 0.02, -0.015], 0.001) == "cannot tell"

    def test_many_seeds_need_not_all_agree(self) -> None:
        # One of twelve points the other way: t = mean ÷ (sd ÷ √12) is above 9 all the same.
        assert self.verdict([0.02] * 11 + [-0.0001], 0.001) == "gain"

    def test_users_that_scatter_are_no_gain_though_seeds_are_sure(self) -> None:
        assert self.verdict([0.02, 0.02, 0.02], 0.2) == "cannot tell"

    def test_nothing_measured_precisely_is_no_gain(self) -> None:
        assert self.verdict([0.0001, -0.0001, 0.0], 0.0005) == "no gain"
        assert self.verdict([0.0, 0.0], 0.0) == "no gain"

    def test_the_same_nothing_measured_roughly_cannot_be_told(self) -> None:
        assert self.verdict([0.0001, -0.0001, 0.0], 0.05) == "cannot tell"

    def test_one_subset_tests_nothing(self) -> None:
        assert self.verdict([0.5], 0.0, count=1) == "cannot tell"

    def test_rankers_that_differ_by_luck_seldom_gain(self, simulation: Callable) -> None:
        verdicts = []
        for world in range(10):
            rows = simulation(rows=1500, users=150, strength=0.0, noise=0.3, seed=world)
            dealt = subsets(rows.users, 10, seed=0)
            arms = [measure(rows.labels, rows.predictions[arm.name], dealt) for arm in rows.arms[:5]]
            verdicts += [compare(arm, arms[0]).verdict for arm in arms[1:]]
        # 40 comparisons at half of a two-sided 1 %: more than 3 gains have a chance below 1 in 10,000.
        assert verdicts.count("gain") <= 3
        assert verdicts.count("loss") <= 3
