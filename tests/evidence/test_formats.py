"""Numbers as people read them."""

from __future__ import annotations

import pytest

from captionary.evidence.formats import count, decimal, interval, p_phrase, p_text, percent, share, unbroken


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0035, "+0.35 %"), (-0.0035, "−0.35 %"), (0.0, "0.00 %"), (-0.00001, "0.00 %"), (None, "–")],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.12e-5, "3e-5"), (0.0042, "0.004"), (0.314, "0.31"), (1.0, "1.00"), (1e-40, "< 1e-12"), (None, "–")],
)
def test_p(value: float | None, text: str) -> None:
    assert p_text(value) == text


def test_p_in_a_sentence() -> None:
    assert (p_phrase(0.0), p_phrase(0.02), p_phrase(None)) == ("p < 1e-12", "p = 0.020", "p unknown")


def test_other_figures() -> None:
    assert interval((-0.001, 0.024)) == "−0.10 … 2.40 %"
    assert decimal(0.78214) == "0.7821"
    assert count(12345.6) == "12,346"
    assert (share(1, 3), share(1, 1000), share(0, 3), share(0, 0)) == ("33 %", "< 1 %", "0 %", "–")


def test_no_line_breaks_inside_a_figure() -> None:
    assert unbroken("8.1 % (p < 1e-12)") == "8.1\u00a0% (p\u00a0<\u00a01e−12)"
