"""Group-sequential boundaries against published tables, and their error rates by arithmetic that can be redone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.spending import FAR, boundaries, crossing, sample_inflation, spent

FIFTHS = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]


class TestPublished:
    def test_obrien_fleming_spending(self) -> None:
        """`ldBounds` of R's ldbounds (Casper and Perez), two-sided 0.05."""
        assert boundaries(FIFTHS) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)

    def test_obrien_fleming_one_sided(self) -> None:
        """SeqBounds.jl's documentation: one-sided 0.05 at quarters."""
        found = boundaries([0.25, 0.5, 0.75, 1.0], two_sided=False)
        assert found == pytest.approx([3.74955, 2.53993, 2.01604, 1.72014], abs=1e-4)

    def test_pocock_spending(self) -> None:
        found = boundaries(FIFTHS, kind="pocock")
        assert found == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=1e-4)

    @pytest.mark.parametrize(
        ("looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)]
    )
    def test_pococks_constants(self, looks: int, constant: float) -> None:
        """Jennison and Turnbull 2000, table 2.1: the same boundary at every look errs in 5 % of cases."""
        assert crossing([constant] * looks, range(1, looks + 1)).sum() == pytest.approx(0.05, abs=1e-4)

    @pytest.mark.parametrize(
        ("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)]
    )
    def test_obrien_and_flemings_constants(self, looks: int, constant: float) -> None:
        """Jennison and Turnbull 2000, table 2.3: z beyond C·√(K ÷ k)."""
        bounds = [constant * np.sqrt(looks / k) for k in range(1, looks + 1)]
        assert crossing(bounds, range(1, looks + 1)).sum() == pytest.approx(0.05, abs=1e-4)

    @pytest.mark.parametrize(("looks", "error"), [(2, 0.083), (5, 0.142), (10, 0.193)])
    def test_naive_peeking(self, looks: int, error: float) -> None:
        """Armitage, McPherson and Rowe 1969: |z| > 1.96 at any of so many looks."""
        assert crossing([stats.norm.ppf(0.975)] * looks, range(1, looks + 1)).sum() == pytest.approx(
            error, abs=6e-4
        )


class TestCrossing:
    def test_one_look_is_the_plain_test(self) -> None:
        assert crossing([1.5], [7.0]) == pytest.approx([2 * stats.norm.sf(1.5)])
        assert crossing([1.5], [7.0], drift=0.7, two_sided=False) == pytest.approx([stats.norm.sf(1.5 - 0.7)])

    def test_walks_agree(self) -> None:
        """A hundred thousand random walks with drift, looked at unevenly."""
        information, bounds, drift = np.array([1.0, 2.0, 5.0, 6.0]), [2.5, 1.2, 2.0, 1.9], 1.5
        rng = np.random.default_rng(0)
        steps = np.diff(information, prepend=0)
        mean = drift * steps / np.sqrt(information[-1])
        z = np.cumsum(mean + rng.normal(size=(100_000, 4)) * np.sqrt(steps), axis=1) / np.sqrt(information)
        first = np.argmax(np.c_[np.abs(z) > bounds, np.ones(len(z), bool)], axis=1)
        seen = np.bincount(first, minlength=5)[:4] / len(z)
        assert crossing(bounds, information, drift=drift) == pytest.approx(seen, abs=0.005)

    def test_all_of_alpha_is_spent_and_no_more(self) -> None:
        days = np.arange(1, 29) / 28
        information = days**0.7  # what few visits a user tell grows slower than time
        bounds = boundaries(days, information=information, alpha=0.03)
        assert crossing(bounds, information).cumsum() == pytest.approx(
            [spent(day, 0.03) if bound < FAR else 0 for day, bound in zip(days, bounds, strict=True)],
            abs=1e-8,
        )
        assert bounds[0] == FAR

    def test_a_boundary_does_not_know_what_comes_later(self) -> None:
        assert boundaries([0.3, 0.7])[:2] == pytest.approx(boundaries([0.3, 0.7, 1.0])[:2])

    def test_watching_costs_little(self) -> None:
        """Jennison and Turnbull 2000, table 2.4: R_B(5, 0.05, 0.8) = 1.028 for O'Brien and Fleming's own boundaries."""
        bounds = [2.040 * np.sqrt(5 / k) for k in range(1, 6)]
        assert sample_inflation(bounds, FIFTHS) == pytest.approx(1.028, abs=1e-3)

    @pytest.mark.parametrize("fractions", [[0.5, 0.5], [0.0, 1.0], [0.5, 0.2]])
    def test_looks_go_forward(self, fractions: list[float]) -> None:
        with pytest.raises(CaptionaryError, match="growing"):
            boundaries(fractions)

    def test_alpha_is_a_chance(self) -> None:
        with pytest.raises(CaptionaryError, match=r"alpha == 1\.5"):
            boundaries([1.0], alpha=1.5)
