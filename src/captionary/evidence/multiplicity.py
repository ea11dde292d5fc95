"""Several tests, one claim: p-values corrected so that the chance of *any* false one stays at the level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from captionary.errors import bad_value

__all__ = ["holm", "holm_by_name"]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values: at level α, claiming all with p̃ <= α errs at all with chance <= α.

    Sorted p₁ <= … <= pₘ become p̃ᵢ = max over j <= i of min(1, (m − j + 1)·pⱼ) (Holm 1979). It needs no independence,
    which tasks of one impression do not have, and always rejects at least what Bonferroni's correction does.

    Args:
        p_values: None where a test could not be made: stays None and is not counted.

    Raises:
        CaptionaryError: a p-value outside 0…1.
    """
    known = [index for index, p in enumerate(p_values) if p is not None]
    values = np.array([p_values[index] for index in known], dtype=np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise bad_value("p value", float(values[~((values >= 0) & (values <= 1))][0]), "in 0…1")
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    adjusted: list[float | None] = [None] * len(p_values)
    for place, value in zip(order, stepped, strict=True):
        adjusted[known[place]] = float(value)
    return adjusted


def holm_by_name(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The same for named tests, in their order."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))
