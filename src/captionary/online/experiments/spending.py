"""Group-sequential boundaries: how far z must go at each planned look, so that all looks together err in α of cases.

    α spent until information fraction t  ──Lan and DeMets 1983──▶  a boundary for z at each look

Under a constant effect the statistics z₁ … z_K of the looks are jointly normal with corr(z_j, z_k) = √(I_j ÷ I_k), I
being the information 1 ÷ error² (Jennison and Turnbull 2000, ch. 3). The chance of a first crossing is a recursive
integral over the values that have not crossed (Armitage, McPherson and Rowe 1969), here by Gauss–Legendre quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from captionary.errors import bad_value

__all__ = ["FAR", "Spending", "boundaries", "crossing", "sample_inflation", "spent"]

Floats = npt.NDArray[np.float64]
Spending = Literal["obrien-fleming", "pocock"]

FAR = 8.0
"""A boundary beyond that is put here: chance alone never gets so far."""
_NODES_PER_STEP, _FEWEST_NODES, _MOST_NODES = 5, 40, 600
_STEPS_AT_ONCE = 8  # so that looks at even distances share their nodes


def spent(
    fraction: float, alpha: float, *, kind: Spending = "obrien-fleming", two_sided: bool = True
) -> float:
    """The part of `alpha` that may be used up when this fraction of the plan has passed (Lan and DeMets 1983).

    The type of O'Brien and Fleming, 2 − 2Φ(z ÷ √t) for each side, leaves nearly all of it for the end; the type of
    Pocock, α·ln(1 + (e − 1)·t), spends evenly.

    Args:
        fraction: of the plan, 0 to 1; beyond 1 everything is spent.
        alpha: of both sides together, where there are two.
        kind: which spending function.
        two_sided: whether `alpha` is shared by two sides.
    """
    t = min(fraction, 1.0)
    if t <= 0:
        return 0.0
    if kind == "pocock":
        return alpha * math.log(1 + (math.e - 1) * t)
    sides = 2 if two_sided else 1
    z = -float(special.ndtri(alpha / sides / 2))
    return sides * 2 * float(special.ndtr(-z / math.sqrt(t)))


def crossing(
    bounds: Sequence[float], information: Sequence[float], *, drift: float = 0.0, two_sided: bool = True
) -> Floats:
    """The chance that look k is the first at which z goes beyond its boundary, [K].

    Args:
        bounds: boundaries for z, [K], each > 0.
        information: 1 ÷ error² at each look, growing, in any unit, [K].
        drift: the mean of z at the last look; that of look k is drift · √(I_k ÷ I_K).
        two_sided: whether z < −boundary counts as well.

    Raises:
        CaptionaryError: boundaries and information are not equally many, or information does not grow.
    """
    walk = _Walk(_fractions(information, len(bounds)), drift, two_sided)
    return np.array([walk.go(bound) for bound in bounds])


def boundaries(
    fractions: Sequence[float],
    *,
    alpha: float = 0.05,
    information: Sequence[float] | None = None,
    kind: Spending = "obrien-fleming",
    two_sided: bool = True,
) -> Floats:
    """Boundaries for z at looks that were made at these fractions of the plan, [K]; an early one may be `FAR`.

    A boundary depends on the looks until then and on no later one, so looks need not be planned: only the length of
    the whole, and how α is spent over it.

    Args:
        fractions: of the plan, by which α is spent, e.g. days passed ÷ days planned; growing, > 0.
        alpha: chance that any look, of all that are made, goes beyond its boundary where there is no effect.
        information: 1 ÷ error² at each look, where it does not grow as the fractions do.
        kind: how α is spent.
        two_sided: a boundary on either side, α shared, or only one above.

    Raises:
        CaptionaryError: fractions or information that do not grow; alpha not within 0 and 1.
    """
    if not 0 < alpha < 1:
        raise bad_value("alpha", alpha, "> 0 and < 1")
    if any(b <= a for a, b in zip((0.0, *fractions), fractions, strict=False)):
        raise bad_value("fractions", list(fractions), "growing, the first > 0")
    walk = _Walk(
        _fractions(fractions if information is None else information, len(fractions)), 0.0, two_sided
    )
    found, used = [], 0.0
    for fraction in fractions:
        left = spent(fraction, alpha, kind=kind, two_sided=two_sided) - used
        bound = _bound(walk, left)
        used += walk.go(bound)
        found.append(bound)
    return np.array(found)


def sample_inflation(
    bounds: Sequence[float],
    information: Sequence[float],
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    two_sided: bool = True,
) -> float:
    """How many times the sample of a single test at the end is needed to have its power with these boundaries."""

    def short(drift: float) -> float:
        return power - float(crossing(bounds, information, drift=drift, two_sided=two_sided).sum())

    single = -special.ndtri(alpha / (2 if two_sided else 1)) + special.ndtri(power)
    return float((optimize.brentq(short, 0.1, 30.0, xtol=1e-6) / single) ** 2)


def _fractions(information: Sequence[float], looks: int) -> Floats:
    values = np.asarray(information, np.float64)
    if len(values) != looks or not looks:
        raise bad_value("information", f"{len(values)} looks", f"that of {looks}, one at least")
    if not (values[0] > 0 and (np.diff(values) > 0).all()):
        raise bad_value("information", [float(value) for value in values], "growing, the first > 0")
    return np.asarray(values / values[-1])


def _bound(walk: _Walk, left: float) -> float:
    """The boundary whose chance of a crossing is `left`."""
    if left <= walk.beyond(FAR):
        return FAR
    return float(optimize.brentq(lambda bound: walk.beyond(bound) - left, 1e-6, FAR, xtol=1e-9))


@lru_cache(maxsize=64)
def _gauss_legendre(count: int) -> tuple[Floats, Floats]:
    at, weight = np.polynomial.legendre.leggauss(count)
    return at, weight


class _Walk:
    """The density of B = z·√t among the paths that have not crossed, on quadrature nodes, look by look."""

    def __init__(self, times: Floats, drift: float, two_sided: bool) -> None:
        self._times, self._drift, self._two_sided = times, drift, two_sided
        self._look = 0
        self._nodes = np.zeros(1)  # before the first look all of it is at 0
        self._mass = np.ones(1)  # density × weight of quadrature

    def beyond(self, bound: float) -> float:
        """The chance to be beyond `bound` at the next look and at none before."""
        edge, step, mean = self._step(bound)
        above = special.ndtr((self._nodes + mean - edge) / step)
        if self._two_sided:
            above = above + special.ndtr((-edge - self._nodes - mean) / step)
        return float(self._mass @ above)

    def go(self, bound: float) -> float:
        """Make the next look with that boundary; the chance that it is crossed."""
        chance = self.beyond(bound)
        edge, step, mean = self._step(bound)
        reach = FAR * math.sqrt(self._times[self._look]) + abs(self._drift) * self._times[self._look]
        low, high = (-edge if self._two_sided else -max(reach, edge)), min(edge, reach)
        steps = math.ceil((high - low) / step / _STEPS_AT_ONCE) * _STEPS_AT_ONCE
        count = min(max(_FEWEST_NODES, _NODES_PER_STEP * steps), _MOST_NODES)
        at, weight = _gauss_legendre(count)
        nodes = low + (high - low) * (at + 1) / 2
        gap = (nodes[:, None] - self._nodes[None] - mean) / step  # [after, before]
        density = np.exp(-(gap**2) / 2) @ self._mass / (step * math.sqrt(2 * math.pi))
        self._nodes, self._mass = nodes, density * weight * (high - low) / 2
        self._look += 1
        return chance

    def _step(self, bound: float) -> tuple[float, float, float]:
        """(edge of B, standard deviation of its step, mean of its step) at the next look."""
        now = self._times[self._look]
        before = self._times[self._look - 1] if self._look else 0.0
        return bound * math.sqrt(now), math.sqrt(now - before), self._drift * (now - before)
