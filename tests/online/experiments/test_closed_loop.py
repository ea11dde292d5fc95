"""Experiments on the world: planted effects are there, nothing carries over, and files say what memory says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from captionary.errors import CaptionaryError

pytest.importorskip("tea_tasting", reason="experiments are analysed with tea-tasting")

from captionary.online.experiments.analysis import analyse
from captionary.online.experiments.closed_loop import ClosedLoop, Slate, blurred_oracle, planted
from captionary.online.experiments.comparison import compare
from captionary.online.experiments.looks import looks_of
from captionary.online.experiments.measures import Measures
from captionary.online.experiments.monitor import Monitor
from captionary.online.experiments.settings import Arm, Experiment, Metric, Monitoring
from captionary.world.market import World, WorldConfig

EXPERIMENT = Experiment(
    name="loop",
    arms=(Arm(name="control", share=0.5), Arm(name="treatment", share=0.5)),
    metrics=(Metric(name="responses", of="response", role="primary"),),
    covariate_days=4,
    monitoring=Monitoring(days=4, smallest_effect=0.1),
)


@pytest.fixture(scope="module")
def loop() -> ClosedLoop:
    config = WorldConfig(
        users=3000, items=200, broken_media=0, pictures=False, days=8, impressions=1000, compositions=12
    )
    return ClosedLoop(World(config), days=4, before=4, visits_per_day=6000, candidates=4)


@pytest.fixture(scope="module")
def arms(loop: ClosedLoop):
    return loop.show(blurred_oracle(2.0)), loop.show(blurred_oracle(planted(loop, 2.0, 0.1)))


def test_what_is_planted_is_there(loop: ClosedLoop, arms) -> None:
    assert loop.expected(arms[1]) / loop.expected(arms[0]) == pytest.approx(1.1, abs=1e-4)
    worse = loop.show(blurred_oracle(planted(loop, 2.0, -0.1)))
    assert loop.expected(worse) / loop.expected(arms[0]) == pytest.approx(0.9, abs=1e-4)
    best = loop.show(blurred_oracle(0.0))
    assert (best.chance >= arms[0].chance - 1e-6).all()  # who knows the truth is beaten on no visit
    with pytest.raises(CaptionaryError, match="what is there to gain"):
        planted(loop, 2.0, 3.0)


def test_a_run_is_the_same_again_and_another_is_not(loop: ClosedLoop, arms) -> None:
    first, again, other = (loop.run(EXPERIMENT, arms, number=number) for number in (1, 1, 2))
    entries = [run.measures.entries("response") for run in (first, again, other)]
    assert np.array_equal(entries[0].time, entries[1].time)
    assert np.array_equal(first.exposed.arm, again.exposed.arm)
    assert (first.exposed.arm == other.exposed.arm).mean() == pytest.approx(0.5, abs=0.05)
    assert first.responses != other.responses


def test_responses_come_at_the_rate_of_the_arm(loop: ClosedLoop, arms) -> None:
    ratio = []
    for number in range(10):
        run = loop.run(EXPERIMENT, arms, number=number)
        sample = run.measures.sample(EXPERIMENT.metrics[0], loop.end())
        ratio.append(compare(sample).effect)
        assert len(sample.arm) == loop.visitors
    assert np.mean(ratio) == pytest.approx(0.1, abs=4 * np.std(ratio) / np.sqrt(10))


def test_before_the_experiment_arms_are_alike(loop: ClosedLoop, arms) -> None:
    """The treatment is shown to nobody before the experiment begins; from then on it is."""
    entries = [
        loop.run(EXPERIMENT, both, number=3).measures.entries("response")
        for both in ((arms[0], arms[0]), arms)
    ]
    before, after = (
        [each.time[(each.time >= loop.start) == late] for each in entries] for late in (False, True)
    )
    assert np.array_equal(*before)
    assert not np.array_equal(*after)


def test_what_one_user_sees_is_nothing_to_another(loop: ClosedLoop, arms) -> None:
    """Whoever else has the treatment: a user's responses with the same arm are the same."""
    plain = loop.run(EXPERIMENT, (arms[0], arms[0]), number=3)
    lifted = loop.run(EXPERIMENT, arms, number=3)
    control = np.flatnonzero(plain.exposed.arm == 0)
    counts = [
        np.bincount(run.measures.entries("response").row, minlength=loop.visitors)[control]
        for run in (plain, lifted)
    ]
    assert np.array_equal(*counts)


def test_files_say_what_memory_says(loop: ClosedLoop, arms) -> None:
    run = loop.run(EXPERIMENT, arms, number=4)
    log = loop.to_log(run)
    assert looks_of(Measures(run.exposed, log, EXPERIMENT), EXPERIMENT, until=loop.end()) == looks_of(
        run.measures, EXPERIMENT, until=loop.end()
    )
    found = analyse(run.exposed, log, EXPERIMENT, until=loop.end())
    whole = compare(run.measures.sample(EXPERIMENT.metrics[0], loop.end()))
    assert found.metrics[0].p_value == whole.p_value


def test_a_range_takes_a_part_of_the_users(loop: ClosedLoop, arms) -> None:
    part = loop.run(replace(EXPERIMENT, range=(0, 2500)), arms, number=5)
    assert len(part.exposed.users) == pytest.approx(0.25 * loop.visitors, rel=0.15)


def test_equal_arms_differ_rarely_and_naive_peeking_finds_differences(loop: ClosedLoop, arms) -> None:
    """40 runs with seeds of their own; the benchmark makes hundreds."""
    end, peeked, planned = 0, 0, 0
    monitor = Monitor(replace(EXPERIMENT, monitoring=replace(EXPERIMENT.monitoring, harm_alpha=1e-9)))
    for number in range(40):
        run = loop.run(EXPERIMENT, (arms[0], arms[0]), number=100 + number)
        looks = looks_of(run.measures, EXPERIMENT, until=loop.end())["treatment"]
        z = [abs(look.effect / look.error) for look in looks]
        end += z[-1] > 1.96
        peeked += max(z) > 1.96
        planned += monitor.decide("treatment", looks).action in ("stop: success", "stop: harm")
    assert end <= 6  # 2 expected; more than 6 in less than 1 % of cases
    assert planned <= 6
    assert peeked > planned


def test_a_trained_model_comes_in_as_a_function(loop: ClosedLoop) -> None:
    def popular(slate: Slate) -> np.ndarray:
        assert slate.items.shape == slate.noise.shape == slate.logit.shape
        return loop.world.catalogue.quality[slate.items].mean(axis=2)

    assert loop.expected(loop.show(popular)) > loop.expected(loop.show(lambda slate: slate.noise))
    with pytest.raises(CaptionaryError, match="of the candidates' shape"):
        loop.show(lambda slate: slate.noise[:, 0])


def test_tasks_have_names(loop: ClosedLoop) -> None:
    with pytest.raises(CaptionaryError, match="one of comment, like"):
        ClosedLoop(loop.world, task="click")
