"""Assignment: uniform, independent between layers, never flipping, and the same on every machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.assignment import NOBODY, Assigner, Assignment, uniform, user_keys
from captionary.online.experiments.settings import Arm, Experiment, Experiments, Layer, RampStep

N = 200_000
HALVES = (Arm(name="control", share=0.5), Arm(name="treatment", share=0.5))


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return user_keys(range(N))


def of(*layers: Layer, **more: float) -> Assigner:
    return Assigner(Experiments(salt="test", layers=layers, **more))


def one(**more: object) -> Assigner:
    return of(Layer(name="ranking", experiments=(Experiment(name="x", arms=HALVES, **more),)))


class TestHash:
    def test_it_is_the_same_for_ever(self) -> None:
        """Whoever changes these numbers deals every user of every running experiment anew."""
        assert user_keys([17, "17", "Zoë"]).tolist() == [
            13005073621571156256,
            13005073621571156256,
            11135694976992124792,
        ]
        assert uniform(user_keys(["a", "b"]), "salt").tolist() == [0.22953941958218937, 0.5542963174793345]

    def test_another_process_says_the_same(self) -> None:
        code = (
            "from captionary.online.experiments.assignment import *; "
            "print(uniform(user_keys(range(50)), 's').tolist())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(uniform(user_keys(range(50)), "s").tolist())

    @pytest.mark.parametrize("salt", ["a", "b", "test/layer/ranking/bucket"])
    def test_buckets_are_equally_full(self, keys: np.ndarray, salt: str) -> None:
        buckets = (uniform(keys, salt) * 1000).astype(int)
        assert stats.chisquare(np.bincount(buckets, minlength=1000)).pvalue > 1e-3

    def test_salts_are_independent(self, keys: np.ndarray) -> None:
        rows, columns = ((uniform(keys, salt) * 20).astype(int) for salt in ("one", "two"))
        table = np.zeros((20, 20))
        np.add.at(table, (rows, columns), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


class TestArms:
    def test_they_have_their_shares(self, keys: np.ndarray) -> None:
        arms = tuple(Arm(name=name, share=share) for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)))
        assigner = of(Layer(name="l", experiments=(Experiment(name="x", arms=arms),)))
        found = assigner.assign_many(range(N), "x", keys=keys)
        expected = N * np.array([0.5, 0.3, 0.2])
        assert stats.chisquare(np.bincount(found.arm), expected).pvalue > 1e-3

    def test_layers_are_independent(self, keys: np.ndarray) -> None:
        """Who has the treatment of one layer has each arm of the other as often as anybody."""
        layers = [Layer(name=name, experiments=(Experiment(name=name, arms=HALVES),)) for name in ("p", "q")]
        arms = [of(*layers).assign_many(range(N), name, keys=keys).arm for name in ("p", "q")]
        table = np.zeros((2, 2))
        np.add.at(table, tuple(arms), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3

    def test_experiments_of_a_layer_share_nobody(self, keys: np.ndarray) -> None:
        layer = Layer(
            name="l",
            experiments=(
                Experiment(name="x", arms=HALVES, range=(0, 3000)),
                Experiment(name="y", arms=HALVES, range=(3000, 10_000)),
            ),
        )
        x, y = (of(layer).assign_many(range(N), name, keys=keys).arm != NOBODY for name in ("x", "y"))
        assert not (x & y).any()
        assert (x | y).all()
        assert x.mean() == pytest.approx(3000 / 10_000, abs=4 * np.sqrt(0.3 * 0.7 / N))

    def test_one_user_is_as_in_the_crowd(self) -> None:
        assigner = one(range=(0, 7000), ramp=(RampStep(at="2026-01-01T00:00:00Z", share=0.6),))
        many = assigner.assign_many(range(200), "x")
        for user in range(200):
            arm = None if many.arm[user] == NOBODY else many.arms[many.arm[user]]
            expected = Assignment("x", arm, many.reasons[many.reason_code[user]])
            assert assigner.assign(str(user), "x") == expected == assigner.assign_all(user)["x"]


class TestRamp:
    def test_nobody_flips_and_nobody_leaves(self, keys: np.ndarray) -> None:
        days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
        steps = tuple(RampStep(at=at, share=s) for at, s in zip(days, (0.01, 0.1, 0.5, 1), strict=True))
        before = np.full(N, NOBODY, np.int8)
        for at, share in zip(days, (0.01, 0.1, 0.5, 1.0), strict=True):
            arm = one(ramp=steps).assign_many(range(N), "x", at, keys=keys).arm
            there = before != NOBODY
            assert (arm[there] == before[there]).all()
            assert (arm != NOBODY).mean() == pytest.approx(share, abs=0.004)
            # Who joins at each step is dealt evenly too.
            joined = arm[(arm != NOBODY) & ~there]
            assert stats.binomtest(int(joined.sum()), len(joined)).pvalue > 1e-3
            before = arm

    def test_before_the_ramp_and_after_the_end_nobody_is_in(self) -> None:
        assigner = one(
            ramp=(RampStep(at="2026-01-01T00:00:00+01:00", share=1.0),), end="2026-02-01T00:00:00Z"
        )
        for at in (datetime(2025, 12, 31, 22, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)):
            assert assigner.assign("u", "x", at).reason == "not joined"
        assert assigner.assign("u", "x", datetime(2025, 12, 31, 23, tzinfo=UTC)).reason == "assigned"

    def test_a_wider_range_flips_nobody(self, keys: np.ndarray) -> None:
        narrow, wide = (one(range=(0, end)).assign_many(range(N), "x", keys=keys).arm for end in (1000, 9000))
        assert (wide[narrow != NOBODY] == narrow[narrow != NOBODY]).all()


class TestOutside:
    def test_the_global_holdout_is_in_no_layer(self, keys: np.ndarray) -> None:
        layers = [Layer(name=name, experiments=(Experiment(name=name, arms=HALVES),)) for name in ("p", "q")]
        found = [of(*layers, holdout=0.05).assign_many(range(N), name, keys=keys) for name in ("p", "q")]
        out = [many.arm == NOBODY for many in found]
        assert (out[0] == out[1]).all()
        assert out[0].mean() == pytest.approx(0.05, abs=0.003)
        assert set(found[0].counts) == {"control", "treatment", "holdout"}

    def test_a_layers_holdout_is_its_own(self, keys: np.ndarray) -> None:
        p = Layer(name="p", experiments=(Experiment(name="p", arms=HALVES),), holdout=0.1)
        q = Layer(name="q", experiments=(Experiment(name="q", arms=HALVES),))
        assert of(p, q).assign_many(range(N), "p", keys=keys).counts["layer holdout"] == pytest.approx(
            0.1 * N, rel=0.05
        )
        assert "layer holdout" not in of(p, q).assign_many(range(N), "q", keys=keys).counts

    def test_forced_beats_everything_even_a_stop(self) -> None:
        layer = Layer(
            name="l",
            experiments=(Experiment(name="x", arms=HALVES, range=(0, 1), forced={"qa": "treatment"}),),
        )
        config = Experiments(salt="s", layers=(layer,), holdout=0.5)
        assert Assigner(config, stopped={"x"}).assign("qa", "x") == Assignment("x", "treatment", "forced")

    def test_a_stopped_experiment_has_nobody(self) -> None:
        config = one().experiments
        counts = Assigner(config, stopped=["x"]).assign_many(range(100), "x").counts
        assert counts == {"control": 0, "treatment": 0, "stopped": 100}

    def test_another_salt_deals_anew(self, keys: np.ndarray) -> None:
        arms = [one(salt=salt).assign_many(range(N), "x", keys=keys).arm for salt in (None, "again")]
        assert (arms[0] == arms[1]).mean() == pytest.approx(0.5, abs=0.005)

    def test_an_unknown_experiment_names_the_nearest(self) -> None:
        config = of(Layer(name="l", experiments=(Experiment(name="captions", arms=HALVES),)))
        with pytest.raises(CaptionaryError, match=r"captions .did you mean that"):
            config.assign("u", "caption")

    def test_assigners_remember_nothing(self) -> None:
        config = one().experiments
        copied = replace(config)
        assert [Assigner(c).assign(7, "x").arm for c in (config, copied)] == [one().assign(7, "x").arm] * 2
