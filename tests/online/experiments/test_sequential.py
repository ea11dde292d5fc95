"""Always-valid tests: against published values, and against random walks that are watched all the time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.sequential import Mixture, mixture_precision


class TestPublished:
    """Values of Howard et al.'s own software (confseq), which takes a slightly rounder ρ at V = 100, α = 0.05."""

    RHO = 12.60056

    def test_the_ratio(self) -> None:
        test = Mixture(self.RHO, 0.05)
        assert test.log_ratio(10 / 100, 100**-0.5) == pytest.approx(-0.6510052, abs=1e-6)

    def test_the_boundary(self) -> None:
        assert Mixture(self.RHO, 0.05).bound(100) * math.sqrt(100) == pytest.approx(30.35209, abs=1e-4)

    def test_our_precision_is_the_best_there(self) -> None:
        best = mixture_precision(100, 0.05)
        assert best == pytest.approx(self.RHO, rel=0.05)
        bounds = [Mixture(best * factor, 0.05).bound(100) for factor in (0.98, 1.0, 1.02)]
        assert min(bounds) == bounds[1]


class TestMixture:
    def test_the_ratio_is_an_average_of_likelihood_ratios(self) -> None:
        rho, estimate, error = 3.0, 0.4, 0.5
        theta = np.linspace(-8, 8, 200_001) / math.sqrt(rho)
        ratio = np.exp((theta * estimate - theta**2 / 2) / error**2)
        prior = stats.norm.pdf(theta, scale=rho**-0.5)
        step = theta[1] - theta[0]
        assert math.exp(Mixture(rho, 0.05).log_ratio(estimate, error)) == pytest.approx(
            (ratio * prior).sum() * step
        )
        above = theta >= 0
        one = 2 * (ratio * prior)[above].sum() * step
        assert math.exp(Mixture(rho, 0.05, two_sided=False).log_ratio(estimate, error)) == pytest.approx(
            one, rel=1e-3
        )

    @pytest.mark.parametrize("two_sided", [True, False])
    def test_bound_p_value_and_interval_agree(self, two_sided: bool) -> None:
        test = Mixture.for_effect(0.02, 0.05, two_sided=two_sided)
        error = 0.007
        edge = test.bound(error**-2) * error
        assert test.p_value(edge, error) == pytest.approx(0.05)
        assert test.p_value(edge * 1.01, error) < 0.05 < test.p_value(edge * 0.99, error)
        assert test.interval(edge, error)[0] == pytest.approx(0, abs=1e-12)
        assert test.p_value(edge + 0.3, error, at=0.3) == pytest.approx(0.05)

    @pytest.mark.parametrize("two_sided", [True, False])
    def test_watched_all_the_time_it_errs_rarely(self, two_sided: bool) -> None:
        """2,000 walks, each looked at 300 times; the naive test is beyond 1.96 in far more than 5 % of them."""
        rng = np.random.default_rng(1)
        information = np.arange(20, 320)
        walks = rng.normal(size=(2000, 320)).cumsum(axis=1)[:, 19:319]
        z = walks / np.sqrt(information)
        test = Mixture.tuned(160, 0.05, two_sided=two_sided)
        bound = np.array([test.bound(float(v)) for v in information])
        seen = np.abs(z) if two_sided else z
        assert (seen > bound).any(axis=1).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
        assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.2

    def test_it_finds_its_effect_as_often_as_promised(self) -> None:
        test = Mixture.for_effect(0.02, 0.05)
        z = test.bound(1.0 / 0.005**2)
        assert z > stats.norm.ppf(0.975)
        needed = mixture_at(test, 0.02)
        assert stats.norm.sf(test.bound(needed) - 0.02 * math.sqrt(needed)) == pytest.approx(0.8, abs=0.01)

    def test_precision_needs_information(self) -> None:
        with pytest.raises(CaptionaryError, match="information == 0"):
            mixture_precision(0, 0.05)


def mixture_at(test: Mixture, effect: float) -> float:
    """The information at which the chance of the effect is 80 %."""
    for information in np.geomspace(1, 100, 4000) / effect**2:
        if effect * math.sqrt(information) - test.bound(float(information)) > stats.norm.ppf(0.8):
            return float(information)
    raise AssertionError
