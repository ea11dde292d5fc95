"""From log to verdict: every figure against arithmetic on the same users, or tea-tasting on the whole table."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.analysis import analyse
from captionary.online.experiments.comparison import compare, sample_ratio_p
from captionary.online.experiments.exposure import Exposed
from captionary.online.experiments.guardrails import judge_guardrail
from captionary.online.experiments.history import look_back
from captionary.online.experiments.measures import DAY, Log, Measures, Sample
from captionary.online.experiments.settings import Arm, Experiment, Metric, Monitoring

tt = pytest.importorskip("tea_tasting", reason="experiments are analysed with tea-tasting")

START = 1_772_409_600 * 10**6  # 2026-03-02T00:00:00Z
HALVES = (Arm(name="control", share=0.5), Arm(name="treatment", share=0.5))
LIKES = Metric(name="likes", of="like", role="primary")


def exposed_of(arm: list[int] | np.ndarray, first: list[int] | np.ndarray | None = None) -> Exposed:
    arm = np.asarray(arm, np.int8)
    at = np.full(len(arm), START) if first is None else np.asarray(first)
    names = ("control", "treatment", "other")[: max(2, int(arm.max()) + 1)]
    return Exposed("x", names, pl.Series([str(u) for u in range(len(arm))]), arm, at, 0, 0, 0)


def table(user: Any, time: Any, **more: Any) -> pl.DataFrame:
    stamps = pl.Series(np.asarray(time, np.int64)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.DataFrame({"user_id": user, "timestamp": stamps, **more})


def drawn(users: int = 4000, lift: float = 0.0, seed: int = 0) -> tuple[Exposed, Log]:
    """Users with a rate of their own; likes among impressions over 7 days before and 7 days after exposure."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 2, users)
    rate = rng.gamma(4, 1.5, users)
    shown = [rng.poisson(rate), rng.poisson(rate)]
    liked = [rng.binomial(shown[0], 0.3), rng.binomial(shown[1], 0.3 * (1 + lift * arm))]
    parts: dict[str, list[np.ndarray]] = {"impressions": [], "events": []}
    for name, counts in (("impressions", shown), ("events", liked)):
        for period, number in enumerate(counts):
            user = np.repeat(np.arange(users), number)
            time = START + (period - 1) * 7 * DAY + rng.integers(0, 7 * DAY, len(user))
            parts[name].append(np.stack([user, time]))
    impressions = np.concatenate(parts["impressions"], axis=1)
    events = np.concatenate(parts["events"], axis=1)
    log = Log(
        table(events[0], events[1], event=["like"] * events.shape[1], value=np.full(events.shape[1], 0.5)),
        table(impressions[0], impressions[1]),
    )
    return exposed_of(arm), log


class TestMeasures:
    LOG = Log(
        table(
            [0, 0, 0, 1, 9],
            [START - 1, START, START + DAY, START + DAY + 5, START],
            event=["like", "like", "share", "like", "like"],
            value=[None, 2.0, 3.0, 4.0, 5.0],
        ),
        table([0, 1, 1], [START, START + 2 * DAY, START + 3 * DAY]),
        table(
            [0, 1, 1],
            [START, START + DAY, START + 2 * DAY],
            latency_ms=[10.0, 200.0, 30.0],
            error=[False, True, True],
        ),
    )
    EXPOSED = exposed_of([0, 1, 1], [START, START + DAY, START + DAY])

    def sums(self, metric: Metric, until: int) -> list[float]:
        experiment = Experiment(name="x", arms=HALVES, metrics=(replace(metric, role="primary"),))
        return Measures(self.EXPOSED, self.LOG, experiment).sample(metric, until).numerator.tolist()

    def test_what_counts_is_between_exposure_and_the_look(self) -> None:
        assert self.sums(LIKES, START + 3 * DAY) == [1, 1, 0]
        assert self.sums(LIKES, START + DAY + 5) == [1, 0, 0]
        assert self.sums(LIKES, START + DAY) == [1]  # the others were not exposed before

    def test_values_are_summed_where_asked(self) -> None:
        assert self.sums(replace(LIKES, value=True), START + 9 * DAY) == [2.0, 4.0, 0]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("impressions", [1, 2, 0]),
            ("requests", [1, 2, 0]),
            ("latency_ms", [10, 230, 0]),
            ("slow_requests", [0, 1, 0]),
            ("errors", [0, 2, 0]),
        ],
    )
    def test_tables_beside_the_events(self, name: str, expected: list[float]) -> None:
        assert self.sums(Metric(name=name, of=name), START + 9 * DAY) == expected

    def test_cuped_takes_the_days_before_each_users_exposure(self) -> None:
        experiment = Experiment(name="x", arms=HALVES, metrics=(LIKES,), covariate_days=1)
        sample = Measures(self.EXPOSED, self.LOG, experiment).sample(LIKES, START + 9 * DAY)
        assert sample.numerator_before is not None
        assert sample.numerator_before.tolist() == [1, 0, 0]
        alone = Log(self.LOG.events.filter(pl.col("timestamp").dt.epoch("us") >= START), self.LOG.impressions)
        assert Measures(self.EXPOSED, alone, experiment).sample(LIKES, START + DAY).numerator_before is None

    def test_mistakes(self) -> None:
        with pytest.raises(CaptionaryError, match=r"like .did you mean that"):
            self.sums(Metric(name="m", of="likes"), START)
        errors = Metric(name="m", of="errors", role="primary")
        experiment = Experiment(name="x", arms=HALVES, metrics=(errors,))
        with pytest.raises(CaptionaryError, match=r"requests == .absent."):
            Measures(self.EXPOSED, Log(self.LOG.events, self.LOG.impressions), experiment)


class TestComparison:
    RNG = np.random.default_rng(3)
    ARM = RNG.integers(0, 2, 3000).astype(np.int8)
    SHOWN = RNG.poisson(8, 3000).astype(float)
    LIKED = RNG.binomial(SHOWN.astype(int), 0.3 + 0.02 * ARM).astype(float)
    BEFORE = LIKED + RNG.normal(0, 1, 3000)

    def test_means_are_welchs_test(self) -> None:
        found = compare(Sample(self.ARM, self.LIKED))
        control, treatment = (self.LIKED[arm == self.ARM] for arm in (0, 1))
        assert found.p_value == pytest.approx(stats.ttest_ind(treatment, control, equal_var=False).pvalue)
        assert found.effect == pytest.approx(treatment.mean() / control.mean() - 1)
        parts = [arm.var(ddof=1) / len(arm) / arm.mean() ** 2 for arm in (control, treatment)]
        assert found.log_error == pytest.approx(np.sqrt(sum(parts)))
        assert found.log_effect == pytest.approx(np.log(treatment.mean() / control.mean()))

    def test_ratios_are_by_the_delta_method(self) -> None:
        """Linearised: the ratio's error is that of the mean of (likes − ratio · impressions) ÷ mean impressions."""
        found = compare(Sample(self.ARM, self.LIKED, self.SHOWN))
        parts = []
        for arm in (0, 1):
            liked, shown = self.LIKED[arm == self.ARM], self.SHOWN[arm == self.ARM]
            ratio = liked.sum() / shown.sum()
            rest = (liked - ratio * shown) / shown.mean()
            parts.append(rest.var(ddof=1) / len(rest) / ratio**2)
        assert found.log_error == pytest.approx(np.sqrt(sum(parts)))

    def test_cuped_is_a_regression_on_the_past(self) -> None:
        found = compare(Sample(self.ARM, self.LIKED, None, self.BEFORE))
        slope = np.cov(self.LIKED, self.BEFORE)[0, 1] / self.BEFORE.var(ddof=1)
        taken = self.LIKED - slope * (self.BEFORE - self.BEFORE.mean())
        control, treatment = (taken[arm == self.ARM] for arm in (0, 1))
        assert (found.control, found.treatment) == pytest.approx((control.mean(), treatment.mean()))
        assert found.p_value == pytest.approx(stats.ttest_ind(treatment, control, equal_var=False).pvalue)
        rho = np.corrcoef(self.LIKED, self.BEFORE)[0, 1]
        assert found.variance_left == pytest.approx(1 - rho**2, rel=0.05)

    def test_it_is_what_tea_tasting_says_of_the_table(self) -> None:
        frame = pl.DataFrame(
            {"variant": self.ARM, "liked": self.LIKED, "shown": self.SHOWN, "before": self.BEFORE}
        )
        metrics = {"mean": tt.Mean("liked", "before"), "ratio": tt.RatioOfMeans("liked", "shown")}
        theirs = tt.Experiment(metrics).analyze(frame)
        mean = compare(Sample(self.ARM, self.LIKED, None, self.BEFORE))
        ratio = compare(Sample(self.ARM, self.LIKED, self.SHOWN))
        assert mean.result == pytest.approx(theirs["mean"])
        assert ratio.result == pytest.approx(theirs["ratio"])

    def test_none_against_many_is_a_finding_and_none_against_none_is_not(self) -> None:
        ones = np.where(self.ARM == 1, 0.3, 0.0)
        found = compare(Sample(self.ARM, ones, self.SHOWN))
        assert found.p_value < 1e-4
        assert found.effect > 100
        nothing = compare(Sample(self.ARM, np.zeros(3000), self.SHOWN))
        assert nothing.p_value > 0.9
        assert np.isfinite([nothing.effect, *nothing.interval, nothing.log_error]).all()

    def test_sample_ratio(self) -> None:
        expected = 2 * stats.norm.sf((abs(5200 - 5000) - 0.5) / np.sqrt(10_000 * 0.25))
        assert sample_ratio_p([4800, 5200], [0.5, 0.5]) == pytest.approx(expected)
        assert sample_ratio_p([9000, 1000], [0.9, 0.1]) == 1

    def test_mistakes(self) -> None:
        with pytest.raises(CaptionaryError, match="2 at least"):
            compare(Sample(np.zeros(10, np.int8), np.ones(10)))
        with pytest.raises(CaptionaryError, match="there is no relative effect"):
            compare(Sample(self.ARM, -self.LIKED))


class TestAnalysis:
    METRICS = (
        LIKES,
        Metric(name="liked", of="like", per="impressions"),
        Metric(name="seen", of="impressions", role="guardrail", margin=0.1),
    )
    EXPERIMENT = Experiment(
        name="x", arms=HALVES, metrics=METRICS, covariate_days=7, monitoring=Monitoring(days=7)
    )

    def test_a_planted_effect_is_found(self) -> None:
        found = analyse(*drawn(lift=0.15), self.EXPERIMENT)
        assert [(each.metric, each.found) for each in found.metrics] == [
            ("likes", "better"),
            ("liked", "better"),
        ]
        for result in found.metrics:
            assert result.interval[0] < 0.15 < result.interval[1]
        assert found.metrics[0].variance_left < 0.9
        assert found.guardrails[0].state == "safe"
        assert found.verdict.startswith("treatment is better on likes: +")

    def test_equal_arms_show_nothing(self) -> None:
        found = analyse(*drawn(seed=5), self.EXPERIMENT)
        assert {each.found for each in found.metrics} == {"nothing shown"}
        assert "no effect on likes is shown" in found.verdict

    def test_less_may_be_better(self) -> None:
        less = replace(self.EXPERIMENT, metrics=(replace(LIKES, better="less"),))
        assert analyse(*drawn(lift=0.15), less).metrics[0].found == "worse"

    def test_secondary_metrics_are_a_family(self) -> None:
        names = ("a", "b", "c")
        metrics = (
            LIKES,
            *(Metric(name=name, of="like", per="impressions", cuped=name != "b") for name in names),
        )
        exposed, log = drawn(lift=0.03)
        for correction, rule in (("holm", [3, 2, 1]), ("bh", [3 / 1, 3 / 2, 3 / 3])):
            experiment = replace(self.EXPERIMENT, metrics=metrics, correction=correction)
            found = [each for each in analyse(exposed, log, experiment).metrics if each.role == "secondary"]
            ps = sorted(each.p_value for each in found)
            plain = [min(p * factor, 1) for p, factor in zip(ps, rule, strict=True)]
            if correction == "holm":
                expected = np.maximum.accumulate(plain)
            else:
                expected = np.minimum.accumulate(plain[::-1])[::-1]
            assert sorted(each.p_adjusted for each in found) == pytest.approx(sorted(expected))

    def test_a_broken_split_comes_first(self) -> None:
        exposed, log = drawn(lift=0.15)
        kept = np.flatnonzero((exposed.arm == 0) | (np.arange(len(exposed.arm)) % 4 > 0))
        fewer = exposed._replace(users=exposed.users[kept], arm=exposed.arm[kept], first=exposed.first[kept])
        found = analyse(fewer, log, self.EXPERIMENT)
        assert found.sample_ratios[0].mismatch
        assert found.verdict.startswith("The split is not what was asked for")

    def test_several_arms(self) -> None:
        exposed, log = drawn(users=6000, lift=0.15)
        arm = np.where((exposed.arm == 1) & (np.arange(6000) % 2 == 0), 2, exposed.arm).astype(np.int8)
        arms = tuple(
            Arm(name=n, share=s) for n, s in (("control", 0.5), ("treatment", 0.25), ("other", 0.25))
        )
        experiment = replace(self.EXPERIMENT, arms=arms)
        found = analyse(exposed._replace(arm=arm, arms=("control", "treatment", "other")), log, experiment)
        assert [(each.metric, each.arm) for each in found.metrics[:2]] == [
            ("likes", "treatment"),
            ("likes", "other"),
        ]
        assert not any(ratio.mismatch for ratio in found.sample_ratios)
        assert max(each.p_adjusted for each in found.metrics[:2]) >= max(
            each.p_value for each in found.metrics[:2]
        )

    def test_it_can_be_read(self) -> None:
        exposed, log = drawn(lift=0.15)
        found = analyse(exposed._replace(contaminated=40, forced=2), log, self.EXPERIMENT)
        assert json.loads(found.to_json())["metrics"][0]["metric"] == "likes"
        for text in (found.to_string(), found.to_markdown()):
            assert "likes (primary)" in text
            assert "left out: 40 users seen in two arms, 2 with a forced arm" in text
            assert "a salt was changed" in text

    def test_too_early_is_said(self) -> None:
        assert any(
            "of 7 planned days" in note
            for note in analyse(*drawn(), self.EXPERIMENT, until=START + 3 * DAY).warnings
        )


class TestGuardrails:
    METRIC = Metric(
        name="slow", of="slow_requests", per="requests", role="guardrail", better="less", margin=0.1
    )

    @pytest.mark.parametrize(("lift", "state"), [(0.0, "safe"), (0.12, "open"), (0.5, "broken")])
    def test_it_is_a_question_of_how_much(self, lift: float, state: str) -> None:
        rng = np.random.default_rng(0)
        arm = np.repeat([0, 1], 5000).astype(np.int8)
        requests = rng.poisson(20, 10_000).astype(float)
        slow = rng.binomial(requests.astype(int), 0.05 * (1 + lift * arm)).astype(float)
        found = compare(Sample(arm, slow, requests))
        assert judge_guardrail(self.METRIC, "t", found, 0.01).state == state
        watched = judge_guardrail(self.METRIC, "t", found, 0.01, always_valid=True)
        assert watched.interval[0] < judge_guardrail(self.METRIC, "t", found, 0.01).interval[0]

    def test_more_may_be_better(self) -> None:
        arm = np.repeat([0, 1], 500).astype(np.int8)
        values = np.random.default_rng(0).normal(10 - 3 * arm, 1)
        metric = Metric(name="m", of="m", role="guardrail", margin=0.1)
        found = judge_guardrail(metric, "t", compare(Sample(arm, values)), 0.01)
        assert found.state == "broken"
        assert found.harm == pytest.approx(10 / 7 - 1, rel=0.05)


def test_history_is_what_a_plan_needs() -> None:
    log = drawn(users=3000)[1]
    found = look_back(log, LIKES, days=7, covariate_days=7)
    end = log.impressions["timestamp"].dt.epoch("us").max() + 1
    shown, liked = (frame.with_columns(time=pl.col("timestamp").dt.epoch("us")) for frame in log[:2][::-1])
    first = dict(
        shown.filter(pl.col("time") >= end - 7 * DAY)
        .group_by("user_id")
        .agg(pl.col("time").min())
        .iter_rows()
    )
    now, past = dict.fromkeys(first, 0), dict.fromkeys(first, 0)
    for user, time in liked.select("user_id", "time").iter_rows():
        if user in first:
            now[user] += first[user] <= time < end
            past[user] += first[user] - 7 * DAY <= time < first[user]
    counts, before = np.array(list(now.values())), np.array(list(past.values()))
    assert found.users == len(first)
    assert found.mean == pytest.approx(counts.mean())
    assert found.cv == pytest.approx(counts.std(ddof=1) / counts.mean())
    assert found.rho == pytest.approx(np.corrcoef(counts, before)[0, 1])
    ratio = look_back(log, replace(LIKES, per="impressions"), days=7, covariate_days=7)
    assert ratio.cv < found.cv
