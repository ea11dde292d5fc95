"""Always-valid inference: p values and intervals that hold at every moment, however often one looks.

The mixture sequential probability ratio test (Robbins 1970; for A/B tests Johari, Pekelis and Walsh 2015): where
there is no effect, the likelihood ratio averaged over effects θ ~ N(0, 1/ρ),

    M(S, V) = √(ρ ÷ (V + ρ)) · exp(S² ÷ (2(V + ρ))),        S = estimate · V,   V = 1 ÷ error²  (information)

is a martingale that begins at 1, so by Ville's inequality it ever reaches 1/α in at most α of cases. The estimates
that it does not refuse form a confidence sequence (Howard, Ramdas, McAuliffe and Sekhon 2021). With θ ~ |N(0, 1/ρ)| it
is the one-sided test, valid for every effect of 0 or less.

Estimates are asymptotically normal here, so it holds from some hundred users on (Waudby-Smith et al. 2021), and needs
what every sequential test needs: estimates of one constant effect, on a scale that does not grow with time. That is
why `looks.py` gives relative effects.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import optimize, special

from captionary.errors import bad_value

__all__ = ["Mixture", "mixture_precision"]


def mixture_precision(information: float, alpha: float, *, two_sided: bool = True) -> float:
    """The ρ that makes the boundary tightest at this information: −V ÷ (W₋₁(−α² ÷ e) + 1) (Howard et al. 2021, §3.5).

    One-sided, 2α stands for α: the one-sided test at α is nearly the two-sided one at 2α.

    Raises:
        CaptionaryError: information <= 0.
    """
    if not information > 0:
        raise bad_value("information", information, "> 0")
    level = alpha if two_sided else 2 * alpha
    return float(-information / (special.lambertw(-(level**2) / math.e, -1).real + 1))


class Mixture(NamedTuple):
    """A mixture test; the same before the first look and after the last, or it is not valid."""

    precision: float
    """ρ: 1 ÷ variance of the effects that it is mixed over. Which one costs power, never validity."""
    alpha: float
    """Chance that it ever refuses a true value."""
    two_sided: bool = True
    """False: effects above 0 only."""

    @classmethod
    def tuned(cls, information: float, alpha: float, *, two_sided: bool = True) -> Mixture:
        """The test that is sharpest at that information, such as what the experiment is planned to end with."""
        return cls(mixture_precision(information, alpha, two_sided=two_sided), alpha, two_sided)

    @classmethod
    def for_effect(cls, effect: float, alpha: float, *, two_sided: bool = True) -> Mixture:
        """The test that is sharpest where it finds an effect of this size with a chance of about 80 %."""
        z = cls.tuned(1.0, alpha, two_sided=two_sided).bound(1.0) + float(special.ndtri(0.8))
        return cls.tuned((z / effect) ** 2, alpha, two_sided=two_sided)

    def log_ratio(self, estimate: float, error: float, *, at: float = 0.0) -> float:
        """The logarithm of M for the hypothesis that the effect is `at` (one-sided: `at` or less)."""
        information = error**-2
        total = information + self.precision
        score = (estimate - at) * information
        value = 0.5 * math.log(self.precision / total) + score**2 / (2 * total)
        if self.two_sided:
            return value
        return value + math.log(2) + float(special.log_ndtr(score / math.sqrt(total)))

    def p_value(self, estimate: float, error: float, *, at: float = 0.0) -> float:
        """1 ÷ M, 1 at most. The always-valid p value of a sequence of looks is the smallest so far."""
        return math.exp(min(0.0, -self.log_ratio(estimate, error, at=at)))

    def bound(self, information: float) -> float:
        """The z at which M reaches 1/α when there is that much information."""
        total = information + self.precision
        if self.two_sided:
            squared = total * (math.log(total / self.precision) - 2 * math.log(self.alpha))
            return math.sqrt(squared / information)
        error = information**-0.5

        def short(z: float) -> float:
            return self.log_ratio(z * error, error) + math.log(self.alpha)

        return float(optimize.brentq(short, -1.0, 50.0 + 10 * math.sqrt(total / information), xtol=1e-10))

    def interval(self, estimate: float, error: float) -> tuple[float, float]:
        """What is not refused at this look; the truth is in the intervals of all looks with probability 1 − α."""
        half = self.bound(error**-2) * error
        return estimate - half, (estimate + half if self.two_sided else math.inf)
