"""Is a gain real? Paired tests over user-disjoint subsets of the evaluation rows, and over training seeds.

Two things move a figure: which users happen to be evaluated, and how one training happened to go. The paper
tests the first (§4.2: "paired t-tests across multiple non-overlapping … evaluation subsets"); the spread
over seeds shows the second. A verdict needs both, and where they leave it open it says how many rows and
seeds would settle it (`captionary.evidence.power`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from captionary.errors import CaptionaryError, bad_value
from captionary.evidence.by_kind import figures, kinds_of, known_rows
from captionary.evidence.hashing import hash_ids
from captionary.evidence.metrics import auc_gain, ne_gain
from captionary.evidence.multiplicity import holm
from captionary.evidence.power import PAPER_GAIN, POWER, Components, Need, Spread, components, need
from captionary.spec import TaskKind

__all__ = [
    "ALPHA",
    "WORTH",
    "Comparison",
    "Estimate",
    "Measured",
    "compare",
    "estimate",
    "measure",
    "subsets",
]

ALPHA = 0.01
"""Level of the tests behind a verdict (paper §4.2: p < 0.01)."""
WORTH = 0.001
"""The smallest AUC gain worth having (paper, Table 1: +0.1 % "is considered significant")."""

Ids = npt.NDArray[np.integer | np.str_ | np.object_]
Floats = npt.NDArray[np.float64]
Verdict = Literal["gain", "loss", "no gain", "cannot tell"]


class Measured(NamedTuple):
    """Metrics of one arm: S seeds, T tasks, K subsets; ``nan`` where the rows hold one class only."""

    auc: Floats
    """On all rows, [S, T]."""
    ne: Floats
    """On all rows, [S, T]."""
    calibration: Floats
    """On all rows, [S, T]."""
    subset_auc: Floats
    """Within each subset, [S, K, T]."""
    subset_ne: Floats
    """Within each subset, [S, K, T]."""
    rows: int = 0
    """Evaluation rows N; 0: not said."""


class Estimate(NamedTuple):
    """A mean with its uncertainty, tested against 0."""

    mean: float
    error: float
    """Standard error of the mean."""
    freedom: float
    """Degrees of freedom of the t distribution; of several `parts`, Satterthwaite's, for orientation."""
    p_value: float
    """Two-sided; the direction is the sign of the mean."""
    parts: Spread | None = None
    """Where the error has several sources: these decide instead of `freedom`."""

    @property
    def spread(self) -> Spread:
        """The error with its sources."""
        return self.parts or Spread(((self.error**2, self.freedom),))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval, (low, high)."""
        reach = self.spread.quantile((1 + level) / 2) * self.error
        return self.mean - reach, self.mean + reach

    def detectable(self, *, alpha: float = ALPHA, power: float = POWER) -> float:
        """The effect that a two-sided test at `alpha` with this error would find with this power."""
        return self.spread.detectable(alpha=alpha, power=power)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """For JSON."""
        bounds = self.interval(level)
        return {"mean": self.mean, "error": self.error, "p_value": self.p_value, "interval": bounds}


class Comparison(NamedTuple):
    """One arm against another. Gains are fractions: 0.0035 is the paper's 0.35 %."""

    auc_gain: float
    """On all rows, mean over seeds and tasks."""
    ne_gain: float
    """On all rows, mean over seeds and tasks."""
    task_auc_gain: Floats
    """On all rows, mean over seeds, [T]."""
    task_ne_gain: Floats
    """On all rows, mean over seeds, [T]."""
    task_ne: tuple[Estimate | None, ...]
    """NE gain of each task over the subsets, [T]; None where fewer than 2 subsets have both classes."""
    subset_gains: Floats
    """AUC gain of each subset that has a task with both classes, mean over seeds and tasks, [<= K]."""
    over_subsets: Estimate | None
    """The paper's paired t-test; None with fewer than 2 subsets."""
    seed_gains: Floats
    """AUC gain of each seed on all rows, mean over tasks, [S]."""
    over_seeds: Estimate | None
    """The t-test over seeds; None with one seed."""
    combined: Estimate | None
    """Both sources of error added up; equals `over_subsets` with one seed."""
    verdict: Verdict
    """What the tests say together."""
    task_auc: tuple[Estimate | None, ...] = ()
    """AUC gain of each task, both sources of error added up, [T]; None where it cannot be tested."""
    task_p_adjusted: tuple[float | None, ...] = ()
    """Their p-values corrected for the number of tasks (Holm 1979), [T]."""
    task_verdicts: tuple[Verdict, ...] = ()
    """Verdict of each task by the corrected p-value, [T]."""
    sources: Components | None = None
    """Where the variance of the gain comes from; None with fewer than 2 subsets."""
    need: Need | None = None
    """Rows and seeds that would find the target; None where the rows are not known or nothing can be tested."""

    @property
    def seeds_agree(self) -> int:
        """How many seeds point where the mean over subsets points."""
        direction = np.sign(self.over_subsets.mean) if self.over_subsets else np.sign(self.auc_gain)
        return int(np.sum(np.sign(self.seed_gains) == direction))


def subsets(user_ids: Ids, k: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal the users into k subsets of equal numbers of users, in the order of a seeded hash of their ids.

    All rows of a user fall into one subset, so rows of different subsets share no user and are as
    independent as rows of one data set can be.

    Args:
        user_ids: the user of each row, integers or strings, [N].
        k: number of subsets, 2 … number of users.
        seed: another seed deals other subsets.

    Returns:
        The subset of each row, 0 … k − 1, [N].

    Raises:
        CaptionaryError: k is below 2 or above the number of users.
    """
    users, rows = np.unique(user_ids, return_inverse=True)
    if not 2 <= k <= len(users):
        raise bad_value("subsets", k, f"in 2…{len(users)}, the number of users in the evaluation rows")
    dealt = np.empty(len(users), dtype=np.int64)
    dealt[np.argsort(hash_ids(users, seed), kind="stable")] = np.arange(len(users)) % k
    return dealt[rows]


def measure(
    labels: npt.NDArray[np.float32],
    predictions: npt.NDArray[np.floating],
    subset: npt.NDArray[np.int64],
    weights: npt.NDArray[np.floating] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    kinds: Sequence[TaskKind] = (),
) -> Measured:
    """All metrics of one arm.

    Args:
        labels: 0 or 1, of continuous tasks amounts >= 0, NaN where there is none, [N, T].
        predictions: probabilities (amounts) of S trainings, [S, N, T].
        subset: the subset of each row, [N].
        weights: importance of each row, >= 0, [N]; None: each row counts 1.
        mask: which rows have a label of which task, [N, T]; None: all whose label is not NaN.
        kinds: of the tasks, [T]; (): all binary. See `captionary.evidence.by_kind` for what is measured.

    Raises:
        CaptionaryError: shapes that do not fit, a prediction that is not a probability (or not an amount).
    """
    if predictions.ndim != 3 or predictions.shape[1:] != labels.shape or len(predictions) == 0:
        raise bad_value("shape of predictions", str(predictions.shape), f"[seeds >= 1, {labels.shape}]")
    if mask is not None and mask.shape != labels.shape:
        raise bad_value("shape of mask", str(mask.shape), f"that of the labels, {labels.shape}")
    groups = int(subset.max(initial=0)) + 1
    members = subset.astype(np.int32)
    seeds, _, tasks = predictions.shape
    whole = np.full((3, seeds, tasks), np.nan)
    parts = np.full((2, seeds, groups, tasks), np.nan)
    importance = None if weights is None else np.asarray(weights, np.float64)
    for task, kind in enumerate(kinds_of(kinds, tasks)):
        there = known_rows(labels[:, task], None if mask is None else mask[:, task])
        kept: Any = slice(None) if there.all() else there
        target, within = labels[kept, task], members[kept]
        weighed = None if importance is None else importance[kept]
        for seed in range(seeds):
            try:
                found = figures(kind, target, predictions[seed, kept, task], within, groups, weighed)
            except CaptionaryError as error:
                raise CaptionaryError(f"{error}; task {task}, seed {seed}") from None
            whole[:, seed, task] = [each[-1] for each in found]
            parts[:, seed, :, task] = found.auc[:-1], found.ne[:-1]
    return Measured(whole[0], whole[1], whole[2], parts[0], parts[1], len(labels))


def compare(
    treatment: Measured,
    baseline: Measured,
    *,
    alpha: float = ALPHA,
    worth: float = WORTH,
    target: float | None = None,
) -> Comparison:
    """One arm against another, seed s against seed s and subset k against subset k.

    With A and B the AUC of treatment and baseline and B̄ₜ the baseline's AUC of task t on all rows, mean
    over seeds, every AUC gain here is a mean of (A − B) / (1 − B̄ₜ):

    - on all rows, mean over seeds and tasks: `auc_gain`; of one seed, mean over tasks: `seed_gains`;
    - within subset k, mean over seeds, then over the tasks that have both classes there: `subset_gains`.

    The denominator is that of all rows, not of the subset: of three positives a baseline may rank all
    right, and a relative gain over 1 − 1 is no number. So each gain on all rows is exactly the mean of its
    seeds, and a rare task weighs in every subset what it weighs in the whole. A task with one class only in
    a subset is left out of both arms there. Testing the differences against 0 is the paired t-test. NE
    gains are plain ratios, within the subset too: log loss is never near 0 there.

    The verdict: ``gain`` (``loss``) where p < `alpha` over subsets (the paper's test) and p < `alpha` also with
    the error of training added (`combined`, for two seeds and more); otherwise ``no gain`` where the 95 %
    interval of `combined` ends below `worth`; otherwise ``cannot tell``, and `need` says what would tell. That
    all seeds point the same way is not asked for: where a plan needs twelve seeds, some will point the other way.

    Args:
        treatment: the arm.
        baseline: what it is compared with.
        alpha: level of the two-sided tests.
        worth: smallest AUC gain worth having.
        target: AUC gain that `need` is for; None: the gain seen where it is above `PAPER_GAIN`, else that.

    Raises:
        CaptionaryError: the arms have different numbers of seeds, tasks or subsets.
    """
    if treatment.subset_auc.shape != baseline.subset_auc.shape:
        shapes = f"{treatment.subset_auc.shape} and {baseline.subset_auc.shape}"
        raise bad_value("[seeds, subsets, tasks] of two arms", shapes, "the same")
    base = baseline.auc.mean(axis=0)  # [T]
    headroom = np.where(base < 1, 1 - base, np.nan)
    task_auc_gain = auc_gain(treatment.auc.mean(axis=0), base)
    task_ne_gain = ne_gain(treatment.ne.mean(axis=0), baseline.ne.mean(axis=0))
    seed_gains = _mean_known((treatment.auc - baseline.auc) / headroom)  # [S]
    cells = (treatment.subset_auc - baseline.subset_auc) / headroom  # [S, K, T]
    table = _mean_known(cells)  # [S, K]
    table = table[:, ~np.isnan(table).any(axis=0)]
    subset_gains = _mean_known(cells.mean(axis=0))
    subset_gains = subset_gains[~np.isnan(subset_gains)]
    subset_ne_gain = ne_gain(treatment.subset_ne.mean(axis=0), baseline.subset_ne.mean(axis=0))  # [K, T]
    over_subsets, over_seeds = estimate(subset_gains), estimate(seed_gains)
    sources = components(table)
    combined = _combined(over_subsets, sources)
    task_auc = tuple(_of_task(cells[:, :, task]) for task in range(len(base)))
    adjusted = holm([test.p_value if test else None for test in task_auc])
    gain = float(_mean_known(task_auc_gain[None])[0])
    wanted = max(gain, PAPER_GAIN) if target is None else target
    rows = min(treatment.rows, baseline.rows)
    return Comparison(
        auc_gain=gain,
        ne_gain=float(_mean_known(task_ne_gain[None])[0]),
        task_auc_gain=task_auc_gain,
        task_ne_gain=task_ne_gain,
        task_ne=tuple(estimate(column[~np.isnan(column)]) for column in subset_ne_gain.T),
        subset_gains=subset_gains,
        over_subsets=over_subsets,
        seed_gains=seed_gains,
        over_seeds=over_seeds,
        combined=combined,
        verdict=_verdict(over_subsets, combined, alpha, worth),
        task_auc=task_auc,
        task_p_adjusted=tuple(adjusted),
        task_verdicts=tuple(
            _verdict(test, None if test is None or p is None else test._replace(p_value=p), alpha, worth)
            for test, p in zip(task_auc, adjusted, strict=True)
        ),
        sources=sources,
        need=need(sources, rows, wanted, alpha=alpha) if sources and rows else None,
    )


def estimate(values: Floats) -> Estimate | None:
    """The mean of independent values [K] and its one-sample t-test against 0; None with fewer than 2 values.

    Values that are all alike have no error: p is 1 where they are 0, else 0.
    """
    if len(values) < 2 or np.isnan(values).any():
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    return _tested(mean, error, len(values) - 1.0)


def _tested(mean: float, error: float, freedom: float) -> Estimate:
    if error == 0:
        return Estimate(mean, 0.0, freedom, 1.0 if mean == 0 else 0.0)
    return Estimate(mean, error, freedom, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def _combined(over_subsets: Estimate | None, sources: Components | None) -> Estimate | None:
    """The subsets' estimate with the error of training added in squares."""
    if over_subsets is None or sources is None or sources.training is None:
        return over_subsets
    training = sources.spread().parts[1]
    if training[0] <= 0:
        return over_subsets
    spread = Spread(((over_subsets.error**2, over_subsets.freedom), training))
    freedom = spread.error**4 / sum(variance**2 / freedom for variance, freedom in spread.parts)
    mean = over_subsets.mean
    # Satterthwaite may find more freedom in two parts than in one.
    return Estimate(
        mean,
        spread.error,
        min(freedom, over_subsets.freedom),
        max(spread.p_value(mean), over_subsets.p_value),
        spread,
    )


def _of_task(cells: Floats) -> Estimate | None:
    """The combined test of one task from its gains by seed and subset [S, K]."""
    cells = cells[:, ~np.isnan(cells).any(axis=0)]
    return _combined(estimate(cells.mean(axis=0)), components(cells)) if len(cells) else None


def _verdict(over_subsets: Estimate | None, combined: Estimate | None, alpha: float, worth: float) -> Verdict:
    if over_subsets is None or combined is None:
        return "cannot tell"
    if over_subsets.p_value < alpha and combined.p_value < alpha:
        return "gain" if over_subsets.mean > 0 else "loss"
    return "no gain" if combined.interval()[1] < worth else "cannot tell"


def _mean_known(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    count = known.sum(axis=-1)
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean
