"""Holm's correction: worked by hand, against its definition, and by what it promises."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.evidence.multiplicity import holm, holm_by_name


def test_it_steps_down() -> None:
    # Sorted .01, .03, .04 · 3, 2, 1 = .03, .06, .04; the third may not be below the second.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([2 * 0.03, 3 * 0.01, 2 * 0.03])


def test_what_was_not_tested_is_not_counted() -> None:
    assert holm([0.02, None, 0.4]) == pytest.approx([0.04, None, 0.4])
    assert holm_by_name({"like": 0.02, "share": None}) == {"like": 0.02, "share": None}
    assert holm([]) == []


def test_no_p_value_is_above_one() -> None:
    assert holm([0.7, 0.8, 0.9]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(CaptionaryError, match="p value"):
        holm([p, 0.5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_it_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """Marcus, Peritz and Gabriel 1976: a hypothesis falls where every set that holds it falls."""
    closed = []
    for one in range(len(p_values)):
        others = [i for i in range(len(p_values)) if i != one]
        sets = [(one, *rest) for size in range(len(p_values)) for rest in combinations(others, size)]
        closed.append(min(1.0, max(len(members) * min(p_values[i] for i in members) for members in sets)))
    assert holm(p_values) == pytest.approx(closed)


def test_five_true_nulls_seldom_show_one_false_claim() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 1))
    from scipy import stats

    p = 2 * stats.norm.sf(np.abs(np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=(4000, 5))))
    claimed = np.mean([min(x for x in holm(list(row)) if x is not None) <= 0.05 for row in p])
    assert 0.02 < claimed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.mean(p.min(axis=1) <= 0.05) > 0.1  # what would be claimed without it
