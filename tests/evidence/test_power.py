"""Power: components of variance, tails of few seeds, and plans that keep their word."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.evidence.power import Components, Need, Spread, components, need


def tables(draws: int, seeds: int, subsets: int, training: float, users: float, rest: float, seed: int = 0):
    """[draws, S, K] of standard deviations given."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, training, (draws, seeds, 1))
        + rng.normal(0, users, (draws, 1, subsets))
        + rng.normal(0, rest, (draws, seeds, subsets))
    )


class TestComponents:
    def test_they_are_found_again(self) -> None:
        found = [components(table) for table in tables(300, 5, 20, 1.0, 2.0, 1.5)]
        assert np.mean([c.training for c in found]) == pytest.approx(1.0**2, rel=0.1)
        assert np.mean([c.users for c in found]) == pytest.approx(2.0**2, rel=0.1)
        assert np.mean([c.rest for c in found]) == pytest.approx(1.5**2, rel=0.1)

    def test_the_error_of_the_mean_is_the_spread_of_means(self) -> None:
        drawn = tables(2000, 4, 10, 1.0, 2.0, 1.5)
        error = Components(1.0**2, 2.0**2, 1.5**2, 4, 10).spread().error
        assert drawn.mean(axis=(1, 2)).std() == pytest.approx(error, rel=0.05)

    def test_more_rows_do_not_help_against_training(self) -> None:
        found = Components(1.0, 2.0, 3.0, 5, 20)
        assert found.spread(rows=1e12).error == pytest.approx(np.sqrt(1.0 / 5))
        assert found.spread(rows=4, seeds=10).error ** 2 == pytest.approx(1 / 10 + (2 + 3 / 10) / (4 * 20))

    def test_one_seed_says_nothing_of_training(self) -> None:
        found = components(np.array([[1.0, 2.0, 4.0]]))
        assert found is not None
        assert (found.training, found.rest) == (None, 0.0)
        assert found.spread().error == pytest.approx(stats.sem([1.0, 2.0, 4.0]))

    def test_what_cannot_be_estimated_is_none(self) -> None:
        assert components(np.ones((3, 1))) is None
        assert components(np.full((3, 4), np.nan)) is None


class TestSpread:
    def test_one_part_is_the_t_test(self) -> None:
        spread = Spread(((4.0, 7.0),))
        assert spread.p_value(5.0) == pytest.approx(2 * stats.t.sf(5 / 2, 7))
        assert spread.quantile(0.975) == pytest.approx(stats.t.ppf(0.975, 7))

    def test_two_parts_lie_between(self) -> None:
        spread = Spread(((1.0, 19.0), (3.0, 2.0)))
        expected = (1 * stats.t.ppf(0.975, 19) + 3 * stats.t.ppf(0.975, 2)) / 4
        assert spread.quantile(0.975) == pytest.approx(expected)
        assert spread.p_value(expected * 2) == pytest.approx(0.05)  # the error is √(1 + 3)

    def test_nothing_and_no_error(self) -> None:
        assert Spread(((0.0, 5.0),)).p_value(0.0) == 1.0
        assert Spread(((0.0, 5.0),)).p_value(0.1) == 0.0
        assert Spread(((1.0, 19.0), (1.0, 2.0))).p_value(0.0) == pytest.approx(1.0)

    @pytest.mark.parametrize(("training", "rest"), [(0.0, 1.0), (0.3, 1.0), (2.0, 1.0), (0.1, 4.0)])
    def test_a_false_verdict_is_as_rare_as_it_says(self, training: float, rest: float) -> None:
        draws = 1500
        found = 0
        for table in tables(draws, 3, 20, training, 1.0, rest, seed=7):
            sources = components(table)
            assert sources is not None
            found += sources.spread().p_value(float(table.mean())) < 0.05
        assert found <= stats.binom.ppf(0.999, draws, 0.06)
        assert found >= stats.binom.ppf(0.001, draws, 0.02)  # nor is it so cautious that it finds nothing

    def test_satterthwaite_alone_would_err_more(self) -> None:
        """Why the quantile is not that of one t distribution."""
        false = 0
        for table in tables(1500, 3, 20, 2.0, 1.0, 1.0, seed=7):
            users, training = table.mean(axis=0).var(ddof=1) / 20, table.mean(axis=1).var(ddof=1) / 3
            freedom = (users + training) ** 2 / (users**2 / 19 + training**2 / 2)
            false += 2 * stats.t.sf(abs(table.mean()) / np.sqrt(users + training), min(freedom, 19)) < 0.01
        assert false > stats.binom.ppf(0.999, 1500, 0.01)


class TestNeed:
    FOUND = Components(0.001**2, 0.004**2, 0.004**2, 3, 20)

    def test_with_what_it_asks_for_the_gain_is_found(self) -> None:
        plan = need(self.FOUND, 20_000, 0.0016, alpha=0.01, assurance=0.5)
        assert plan.rows is not None
        assert plan.seeds is not None
        factor = plan.rows / 20_000
        drawn = 0.0016 + tables(
            1000, plan.seeds, 20, 0.001, 0.004 / np.sqrt(factor), 0.004 / np.sqrt(factor), seed=3
        )
        p = [components(table).spread().p_value(float(table.mean())) for table in drawn]  # type: ignore[union-attr]
        assert 0.72 < np.mean(np.array(p) < 0.01) < 0.9

    def test_a_tenth_of_the_gain_needs_far_more(self) -> None:
        small, large = (need(self.FOUND, 20_000, gain, alpha=0.01) for gain in (0.0016, 0.016))
        assert small.rows is not None
        assert large.rows is not None
        assert small.rows * small.seeds**2 > 20 * large.rows * large.seeds**2  # type: ignore[operator]

    def test_what_there_is_may_be_enough(self) -> None:
        plan = need(self.FOUND, 20_000, 0.2, alpha=0.01)
        assert plan.enough
        assert (plan.rows, plan.seeds) == (20_000, 3)

    def test_assurance_asks_for_more(self) -> None:
        plain, sure = (need(self.FOUND, 20_000, alpha=0.01, assurance=a) for a in (0.5, 0.8))
        assert sure.rows * sure.seeds**2 > plain.rows * plain.seeds**2  # type: ignore[operator]

    def test_one_seed_asks_for_three_at_least(self) -> None:
        plan = need(Components(None, 0.004**2, 0.0, 1, 20), 20_000, alpha=0.01)
        assert plan.seeds is not None
        assert plan.seeds >= 3
        assert not plan.enough

    def test_no_number_of_rows_beats_wild_training(self) -> None:
        plan = need(Components(1.0, 0.004**2, 0.0, 3, 20), 20_000, alpha=0.01)
        assert plan.rows is None
        assert "more seeds than are practical" in plan.words

    def test_words_round_upwards(self) -> None:
        assert Need(0.0016, 337_214, 8, 1, 3, 0.01, 0.8).words == "needs about 340,000 rows / 8 seeds"

    def test_no_gain_cannot_be_planned_for(self) -> None:
        with pytest.raises(CaptionaryError, match="target == 0, must be > 0"):
            need(self.FOUND, 20_000, 0, alpha=0.01)
