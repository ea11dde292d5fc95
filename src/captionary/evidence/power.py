"""How much evidence a question needs: the error of a gain by rows and seeds, and the rows and seeds a target asks for.

The gains of S trainings within K user-disjoint subsets form a table G [S, K], taken as

    G[s, k] = gain + training[s] + users[k] + rest[s, k]

a two-way layout with random effects, one observation a cell (Searle, Casella and McCulloch 1992, ch. 4). Its mean has
the variance  σ²(training)/S + σ²(users)/K + σ²(rest)/(S·K).  More rows are more users in each subset: with r times the
rows the last two are divided by r. More seeds divide the first and the last. So neither alone brings the error to 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from captionary.errors import bad_value

__all__ = ["ASSURANCE", "PAPER_GAIN", "POWER", "Components", "Need", "Spread", "components", "need"]

Floats = npt.NDArray[np.float64]

PAPER_GAIN = 0.0016
"""An AUC gain of the size that the paper reports: the default target of `need`."""
POWER = 0.8
"""Chance of finding a gain of the target size."""
ASSURANCE = 0.8
"""Confidence that a variance is not above what is planned with (Browne 1995)."""
MOST_SEEDS = 100
"""More trainings than this are not proposed."""


class Spread(NamedTuple):
    """The variance of a mean, in independent parts, each estimated with its own degrees of freedom.

    The quantile of (mean − truth) ÷ error is that of Cochran and Cox (1950): the mean of the parts' t quantiles,
    weighted by their variances. It is that of the seeds alone (few degrees of freedom, far tails) where training
    rules, and of the subsets where users do. Satterthwaite's single t, which is usual, takes a spread over three seeds
    that came out small by luck for small, and then errs several times as often as it says.
    """

    parts: tuple[tuple[float, float], ...]
    """(variance, degrees of freedom) each."""

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(sum(variance for variance, _ in self.parts))

    def quantile(self, level: float) -> float:
        """Of (mean − truth) ÷ error, for a level above one half."""
        total = sum(variance for variance, _ in self.parts)
        if total == 0:
            return 0.0
        return sum(v * float(special.stdtrit(freedom, level)) for v, freedom in self.parts if v > 0) / total

    def p_value(self, mean: float) -> float:
        """Two-sided, of a mean of 0."""
        if self.error == 0:
            return 1.0 if mean == 0 else 0.0
        seen = abs(mean) / self.error
        kept = [(variance, freedom) for variance, freedom in self.parts if variance > 0]
        if len(kept) == 1:
            return float(2 * special.stdtr(kept[0][1], -seen))
        total = sum(variance for variance, _ in kept)

        def beyond(log_p: float) -> float:
            tail = math.exp(log_p) / 2
            return sum(-v * float(special.stdtrit(freedom, tail)) for v, freedom in kept) / total - seen

        if beyond(0.0) >= 0:
            return 1.0
        lowest = -600.0
        return math.exp(lowest if beyond(lowest) <= 0 else optimize.brentq(beyond, lowest, 0.0, xtol=1e-10))

    def detectable(self, *, alpha: float, power: float = POWER) -> float:
        """The effect that a two-sided test at `alpha` finds with this power."""
        return (self.quantile(1 - alpha / 2) + self.quantile(power)) * self.error


class Components(NamedTuple):
    """Where the variance of a gain comes from."""

    training: float | None
    """Variance between trainings that all users see alike; None with one seed."""
    users: float
    """Variance between subsets that all trainings see alike; with one seed, with `rest`."""
    rest: float
    """Variance of a cell beside both: how a training treats a subset's users. 0 with one seed."""
    seeds: int
    """S of the table that this was estimated from."""
    subsets: int
    """K of that table."""

    def spread(self, *, rows: float = 1.0, seeds: int | None = None) -> Spread:
        """The variance of the mean of all cells with `rows` times the rows and with that many seeds.

        From three seeds on, the part of `rest` that the seeds' spread holds too is counted once. With two seeds it is
        counted twice: one degree of freedom is too few to take anything off.
        """
        count = self.seeds if seeds is None else seeds
        users = (self.users + self.rest / count) / (self.subsets * rows)
        if self.training is None:
            return Spread(((users, self.subsets - 1.0),))
        twice = self.rest / (self.subsets * rows) if count == 2 else 0.0
        return Spread(((users, self.subsets - 1.0), ((self.training + twice) / count, count - 1.0)))

    def cautious(self, assurance: float = ASSURANCE) -> Components:
        """The same with each variance at its upper confidence limit, as a plan should have it (Browne 1995).

        A plan made with the estimate itself is too small half of the time: the estimates of a few seeds are skewed.
        """
        over_users = _upper(self.subsets - 1.0, assurance)
        if self.training is None:
            return self._replace(users=self.users * over_users)
        over_rest = _upper((self.subsets - 1.0) * (self.seeds - 1.0), assurance)
        # Seeds vary by training + rest/K, which is what S − 1 degrees of freedom are of.
        between = self.training + self.rest / self.subsets
        training = max(between * _upper(self.seeds - 1.0, assurance) - self.rest / self.subsets, 0.0)
        return self._replace(training=training, users=self.users * over_users, rest=self.rest * over_rest)


class Need(NamedTuple):
    """What a gain of `target` asks for, by the variances seen."""

    target: float
    """AUC gain that is to be found."""
    rows: int | None
    """Evaluation rows, together with `seeds`; None where no number of rows would do."""
    seeds: int | None
    """Trainings of each arm."""
    rows_now: int
    seeds_now: int
    alpha: float
    power: float
    """Chance that such a gain is then found, with `ASSURANCE` that it is at least this."""

    @property
    def enough(self) -> bool:
        """Whether what there is would do."""
        return self.rows is not None and self.rows <= self.rows_now and self.seeds == self.seeds_now

    @property
    def words(self) -> str:
        """``needs about 340,000 rows / 8 seeds``."""
        if self.rows is None or self.seeds is None:
            return "needs more seeds than are practical: training noise is larger than the gain"
        return f"needs about {_round(self.rows):,} rows / {self.seeds} seeds"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "words": self.words}


def components(table: Floats) -> Components | None:
    """Components of variance of gains [S, K] by the method of moments; None with fewer than 2 subsets.

    Negative estimates, which moments allow, become 0.
    """
    if table.ndim != 2 or table.shape[1] < 2 or not table.shape[0] or np.isnan(table).any():
        return None
    seeds, subsets = table.shape
    by_subset = table.mean(axis=0)
    between_subsets = float(by_subset.var(ddof=1))  # σ²(users) + σ²(rest)/S
    if seeds == 1:
        return Components(None, between_subsets, 0.0, seeds, subsets)
    by_seed = table.mean(axis=1)
    left = table - by_seed[:, None] - by_subset[None] + table.mean()
    rest = float(np.sum(left**2) / ((seeds - 1) * (subsets - 1)))
    # The variance of the mean keeps what the subsets show, whatever the split between users and rest.
    users = max(between_subsets - rest / seeds, 0.0)
    rest = min(rest, between_subsets * seeds) if users == 0 else rest
    training = max(float(by_seed.var(ddof=1)) - rest / subsets, 0.0)
    return Components(training, users, rest, seeds, subsets)


def need(
    found: Components,
    rows: int,
    target: float = PAPER_GAIN,
    *,
    alpha: float,
    power: float = POWER,
    assurance: float = ASSURANCE,
) -> Need:
    """The cheapest plan that finds `target`, never with fewer rows or seeds than there are.

    The price is taken as rows · seeds²: a further seed trains every arm once more, a further row is only scored.
    With one seed the noise of training is not known, and the plan asks for three at least.

    Args:
        found: variances at `rows` evaluation rows.
        rows: evaluation rows N that they were seen at.
        target: AUC gain, > 0.
        alpha: level of the two-sided test.
        power: chance of finding it.
        assurance: confidence that the variances are not larger than planned with; 0.5 and below take the estimates.

    Raises:
        CaptionaryError: target <= 0.
    """
    if not target > 0:
        raise bad_value("target", target, "> 0")
    plan = found.cautious(assurance) if assurance > 0.5 else found
    fewest = found.seeds if found.training is not None else max(found.seeds, 3)
    seeds = np.arange(fewest, max(MOST_SEEDS, fewest) + 1)[:, None]  # [S', 1]
    factor = np.geomspace(1.0, 1e6, 700)[None]  # [1, R], in steps of 2 %
    users = (plan.users + plan.rest / seeds) / (plan.subsets * factor)
    twice = np.where(seeds == 2, plan.rest / (plan.subsets * factor), 0.0)
    training = np.zeros_like(users) if plan.training is None else (plan.training + twice) / seeds
    reach_users = _reach(plan.subsets - 1.0, alpha, power)
    reach_seeds = _reach(np.maximum(seeds - 1.0, 1.0), alpha, power)
    total = users + training
    finds = np.divide(
        users * reach_users + training * reach_seeds,
        np.sqrt(total),
        out=np.zeros_like(total),
        where=total > 0,
    )
    cost = np.where(finds <= target, seeds**2 * factor, np.inf)
    if not np.isfinite(cost).any():
        return Need(target, None, None, rows, found.seeds, alpha, power)
    best = np.unravel_index(int(np.argmin(cost)), cost.shape)
    wanted = math.ceil(round(float(factor[0, best[1]]) * rows, 6))
    return Need(target, wanted, int(seeds[best[0], 0]), rows, found.seeds, alpha, power)


def _reach(freedom: Any, alpha: float, power: float) -> Any:
    """Standard errors between 0 and an effect that is found with this power."""
    return special.stdtrit(freedom, 1 - alpha / 2) + special.stdtrit(freedom, power)


def _upper(freedom: float, assurance: float) -> float:
    """What to multiply a variance estimate with to reach its upper confidence limit."""
    return freedom / float(special.chdtri(freedom, assurance))


def _round(rows: int) -> int:
    """Two digits, upwards: 337,214 → 340,000."""
    unit: int = 10 ** max(len(str(rows)) - 2, 0)
    return math.ceil(rows / unit) * unit
