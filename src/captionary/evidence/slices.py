"""Where does a gain come from? The same comparison within slices of the evaluation rows.

Captions should help most where ids know least: items without a past, users without one. A slice's gain is measured
among its own rows (a cold item is ranked against cold items), with its own interval over user-disjoint subsets and
seeds; and a slice that is too small for a figure says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.evidence.by_kind import is_continuous, kinds_of, known_rows
from captionary.evidence.compare import ALPHA, Comparison, Measured, Verdict, compare, measure
from captionary.evidence.multiplicity import holm
from captionary.spec import TaskKind

__all__ = ["ENOUGH", "HEAD_SHARE", "Slice", "SliceGain", "slice_gains", "slice_measures", "slices_by_history"]

ENOUGH = 50
"""A task is measured in a slice that holds at least this many positives and as many negatives of it."""
HEAD_SHARE = 0.2
"""Share of the items with a past that are called head: those shown most often in training."""

Flags = npt.NDArray[np.bool_]


class Slice(NamedTuple):
    """Some of the evaluation rows."""

    name: str
    """Short and unique: ``cold items``."""
    words: str
    """What is in it: ``items never shown in training``."""
    rows: Flags
    """[N]."""


class SliceGain(NamedTuple):
    """One arm against the baseline within one slice; None where the slice is too small."""

    name: str
    words: str
    rows: int
    """Evaluation rows in the slice."""
    share: float
    """Of all evaluation rows."""
    tasks: tuple[str, ...]
    """Tasks with enough rows of both classes: the figures are means over these."""
    auc_gain: float | None
    """On all rows of the slice, mean over seeds and tasks."""
    interval: tuple[float, float] | None
    """95 % interval over subsets and seeds."""
    p_value: float | None
    """Two-sided, subsets and seeds."""
    p_adjusted: float | None
    """The same, corrected for the number of slices (Holm 1979)."""
    verdict: Verdict
    """By the corrected p-value."""
    too_small: str
    """Why there is no figure, in words; empty where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict()


def slices_by_history(
    *,
    item_exposure: npt.NDArray[np.integer] | None = None,
    item: npt.NDArray[np.integer] | None = None,
    user_exposure: npt.NDArray[np.integer] | None = None,
    profile_length: npt.NDArray[np.integer] | None = None,
    captioned: Flags | None = None,
) -> tuple[Slice, ...]:
    """The slices of the report, of what is known about each evaluation row; all [N], what is None gives no slice.

    Args:
        item_exposure: training impressions of the row's item.
        item: index of the row's item, so that head and tail are cut among items and not among rows.
        user_exposure: training impressions of the row's user.
        profile_length: tokens in the user's profiles at the impression, all event types together.
        captioned: whether the row's item has a caption, which the gate may have decided.

    Raises:
        CaptionaryError: lengths that differ.
    """
    given = [x for x in (item_exposure, item, user_exposure, profile_length, captioned) if x is not None]
    if len({x.shape for x in given}) > 1:
        raise bad_value("shapes of slices", str([x.shape for x in given]), "all [N]")
    made: list[Slice] = []
    if item_exposure is not None:
        shown = item_exposure > 0
        if item is None:
            past = np.sort(item_exposure[shown])
        else:
            _, first = np.unique(item, return_index=True)
            past = np.sort(item_exposure[first][item_exposure[first] > 0])
        bound = past[math.floor((1 - HEAD_SHARE) * len(past))] if len(past) else 0
        head = shown & (item_exposure >= bound)
        made += [
            Slice("cold items", "items never shown in training", ~shown),
            Slice("tail items", f"items shown fewer than {bound:,} times in training", shown & ~head),
            Slice("head items", f"the fifth of items shown most, {bound:,} times or more", head),
        ]
    if user_exposure is not None:
        new = user_exposure == 0
        made += [
            Slice("new users", "users without a training impression", new),
            Slice("known users", "users with training impressions", ~new),
        ]
    if profile_length is not None:
        some = profile_length[profile_length > 0]
        middle = float(np.median(some)) if len(some) else 0.0
        full = profile_length > 0
        made += [
            Slice("no profile", "users without a profile token at that time", ~full),
            Slice("short profiles", f"1 to {middle:g} profile tokens", full & (profile_length <= middle)),
            Slice("long profiles", f"more than {middle:g} profile tokens", profile_length > middle),
        ]
    if captioned is not None:
        made += [
            Slice("captioned items", "items with a caption", captioned),
            Slice("items without caption", "items that failed or that the gate left out", ~captioned),
        ]
    return tuple(made)


def slice_measures(
    slices: Sequence[Slice],
    labels: npt.NDArray[np.float32],
    predictions: npt.NDArray[np.floating],
    subset: npt.NDArray[np.int64],
    weights: npt.NDArray[np.floating] | None = None,
    mask: Flags | None = None,
    kinds: Sequence[TaskKind] = (),
) -> dict[str, Measured]:
    """Metrics of one arm within each slice, by name; arguments as `captionary.evidence.compare.measure`.

    A task with fewer than `ENOUGH` rows of either class in a slice has no figure there.

    Raises:
        CaptionaryError: a slice of another length; as `measure`.
    """
    found = {}
    for one in slices:
        if one.rows.shape != (len(labels),) or one.rows.dtype != np.bool_:
            raise bad_value(
                f"slice {one.name}", f"{one.rows.dtype} {one.rows.shape}", f"bool ({len(labels)},)"
            )
        rows = np.flatnonzero(one.rows)
        masked = None if mask is None else mask[rows]
        enough = _enough(labels[rows], masked, kinds)
        if not enough.any():
            continue
        measured = measure(
            labels[np.ix_(rows, np.flatnonzero(enough))],
            predictions[:, rows][:, :, enough],
            subset[rows],
            None if weights is None else weights[rows],
            None if masked is None else masked[:, enough],
            tuple(kind for kind, kept in zip(kinds_of(kinds, len(enough)), enough, strict=True) if kept),
        )
        found[one.name] = _padded(measured, enough, int(subset.max()) + 1)
    return found


def slice_gains(
    slices: Sequence[Slice],
    labels: npt.NDArray[np.float32],
    task_names: Sequence[str],
    arm: Mapping[str, Measured],
    baseline: Mapping[str, Measured],
    mask: Flags | None = None,
    *,
    alpha: float = ALPHA,
    kinds: Sequence[TaskKind] = (),
) -> tuple[SliceGain, ...]:
    """One arm against the baseline within each slice, from `slice_measures` of both."""
    compared = {
        one.name: compare(arm[one.name], baseline[one.name], alpha=alpha) if one.name in arm else None
        for one in slices
    }
    tests = {name: found.combined if found else None for name, found in compared.items()}
    adjusted = dict(
        zip(tests, holm([test.p_value if test else None for test in tests.values()]), strict=True)
    )
    return tuple(
        _gain(one, labels, task_names, compared[one.name], adjusted[one.name], mask, alpha, kinds)
        for one in slices
    )


def _gain(
    one: Slice,
    labels: npt.NDArray[np.float32],
    task_names: Sequence[str],
    found: Comparison | None,
    adjusted: float | None,
    mask: Flags | None,
    alpha: float,
    kinds: Sequence[TaskKind],
) -> SliceGain:
    rows = np.flatnonzero(one.rows)
    enough = _enough(labels[rows], None if mask is None else mask[rows], kinds)
    test = found.combined if found else None
    small = ""
    if found is None:
        small = f"Too small: no task has {ENOUGH} positives and {ENOUGH} negatives among {len(rows):,} rows."
    elif test is None:
        small = f"Too few users for a test among {len(rows):,} rows."
    verdict: Verdict = "cannot tell"
    if found is not None and test is not None and adjusted is not None:
        verdict = found.verdict
        if verdict in ("gain", "loss") and adjusted >= alpha:
            verdict = "cannot tell"
    return SliceGain(
        name=one.name,
        words=one.words,
        rows=len(rows),
        share=len(rows) / max(len(labels), 1),
        tasks=tuple(name for name, kept in zip(task_names, enough, strict=True) if kept),
        auc_gain=found.auc_gain if found is not None and math.isfinite(found.auc_gain) else None,
        interval=test.interval() if test else None,
        p_value=test.p_value if test else None,
        p_adjusted=adjusted,
        verdict=verdict,
        too_small=small,
    )


def _enough(labels: npt.NDArray[np.float32], mask: Flags | None, kinds: Sequence[TaskKind]) -> Flags:
    """Which tasks [T] have rows enough: of both classes, or with a different amount on both sides of the middle."""
    there = known_rows(labels, mask)
    kept = np.zeros(labels.shape[1], bool)
    for task, kind in enumerate(kinds_of(kinds, labels.shape[1])):
        known = labels[there[:, task], task]
        middle = np.median(known) if len(known) and is_continuous(kind) else 0.5
        kept[task] = min((known > middle).sum(), (known <= middle).sum()) >= ENOUGH
    return kept


def _padded(measured: Measured, enough: Flags, subsets: int) -> Measured:
    """The same with NaN for the tasks that were left out and for trailing subsets without rows."""
    seeds, tasks = len(measured.auc), len(enough)
    whole = np.full((3, seeds, tasks), np.nan)
    whole[:, :, enough] = measured[:3]
    parts = np.full((2, seeds, subsets, tasks), np.nan)
    seen = measured.subset_auc.shape[1]
    parts[:, :, :seen, enough] = np.stack(measured[3:5])
    return Measured(whole[0], whole[1], whole[2], parts[0], parts[1], measured.rows)
