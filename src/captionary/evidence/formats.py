"""Numbers as the report writes them: gains in percent, p values short, what is not known as a dash."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["UNKNOWN", "count", "decimal", "interval", "p_phrase", "p_text", "percent", "share", "unbroken"]

UNKNOWN = "–"
MINUS = "−"


def percent(fraction: float | None, *, sign: bool = True, digits: int = 2) -> str:
    """0.0035 → ``+0.35 %``; a change that rounds to nothing has no sign."""
    if fraction is None:
        return UNKNOWN
    rounded = round(fraction * 100, digits)
    lead = MINUS if rounded < 0 else "+" if sign and rounded > 0 else ""
    return f"{lead}{abs(rounded):.{digits}f} %"


def interval(bounds: Sequence[float] | None, *, digits: int = 2) -> str:
    """(0.012, 0.024) → ``1.20 … 2.40 %``."""
    if bounds is None:
        return UNKNOWN
    low, high = (percent(bound, sign=False, digits=digits).removesuffix(" %") for bound in bounds)
    return f"{low} … {high} %"


def p_text(p_value: float | None) -> str:
    """0.0000312 → ``3e-5``, 0.0042 → ``0.004``, 0.31 → ``0.31``; below 1e-12 the figure says nothing more."""
    if p_value is None:
        return UNKNOWN
    if p_value < 1e-12:
        return "< 1e-12"
    if p_value < 0.0005:
        digits, exponent = f"{p_value:.0e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def p_phrase(p_value: float | None) -> str:
    """``p = 3e-5``, ``p < 1e-12``, ``p unknown``."""
    if p_value is None:
        return "p unknown"
    text = p_text(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def decimal(value: float | None, digits: int = 4) -> str:
    """0.78214 → ``0.7821``."""
    return UNKNOWN if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """12345.6 → ``12,346``."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """1, 3 → ``33 %``; a share that is not 0 is never written 0."""
    if whole == 0:
        return UNKNOWN
    value = 100 * part / whole
    return f"{value:.0f} %" if value >= 1 or part == 0 else "< 1 %"


def unbroken(text: str) -> str:
    """The same sentence for a page, where no line may break inside ``8.1 %``, ``p < 0.01`` or ``1e-12``."""
    text = re.sub(r"(?<=\d) %", "\u00a0%", text)
    text = re.sub(r"\bp ([<=]) ", "p\u00a0\\1\u00a0", text)
    return re.sub(r"(?<=\de)-(?=\d)", MINUS, text)
