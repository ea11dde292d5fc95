"""Conditional invocation: which items are captioned, in which order, and why the rest are not (paper §3.2).

"The MM-LLM is invoked conditionally, triggering only when multimedia comprehension yields maximal marginal gain."

    gate(items, context, budget) -> GateDecision: rows to caption, in order + a reason for each of the rest

    always    every item, the most exposed first
    rules     new media only, text too thin, traffic above a threshold; all of them at once
    budget    the best expected marginal gain per unit of cost, until the budget is spent
    learned   the same, with a fitted model's word for what a caption is worth to an item's impressions
    random, popular   what any better policy has to beat

The gate is pure: what it knows is in its arguments, equal arguments give equal decisions, and nothing in them may be
later than the moment of the decision (`gate_context` sees to that).
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import bad_value
from captionary.understand.gate_forecast import Exposure
from captionary.understand.gate_lookalike import Neighbours
from captionary.understand.gate_settings import GateConfig

__all__ = ["FREE", "REASONS", "Budget", "Calls", "GateContext", "GateDecision", "gate", "worth"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

REASONS: dict[str, str] = {
    "gate_captioned": "its media has a caption already: nothing to pay",
    "gate_same_media": "another item with the same media is captioned, and this one shares its caption",
    "gate_no_media": "nothing in it that the captioner would be asked about",
    "gate_unread": "its media could not be read when the gate decided, and what they cost is not known",
    "gate_old_media": "rules: it came in more than `new_days` ago",
    "gate_text_enough": "rules: its text says as much as `thin_text` allows, or more",
    "gate_low_traffic": "rules: fewer than `min_traffic` impressions a day are expected",
    "gate_no_gain": "nothing is expected to be gained by captioning it",
    "gate_over_budget": "the budget is spent on items that are expected to gain more",
}
"""Why an item is not captioned."""

FREE = frozenset({"", "gate_captioned", "gate_same_media", "gate_no_media"})
"""Of the reasons, those of items that the caption stage may see: nothing is paid for them beyond what was decided."""


class Budget(NamedTuple):
    """What may be spent; None: no limit."""

    items: int | None = None
    seconds: float | None = None
    money: float | None = None

    @classmethod
    def of(cls, config: GateConfig, context: GateContext) -> Budget:
        """The limits of a config, its share turned into items."""
        limits = [] if config.items is None else [config.items]
        if config.share is not None:
            limits.append(round(config.share * len(_candidates(context))))
        return cls(min(limits) if limits else None, config.seconds, config.money)


class Calls(NamedTuple):
    """What captioning each of I items asks of the captioner, one caption for each picture."""

    most: Ints
    """[I] captions that are yet to be made, at most: the unit in which limits are held, forecast and audited."""
    bound: Ints
    """[I] of these, key frames of streams that were never unfolded: as many as there may be."""
    had: Ints
    """[I] pictures that the item's caption will be made of and that cost nothing more."""
    had_seconds: Floats
    """[I] what those took when they were captioned."""


class GateContext(NamedTuple):
    """What is known of I items at the moment of the decision."""

    cutoff: int
    """That moment, microseconds since 1970, UTC."""
    exposure: Exposure
    media: Ints
    """[I] number of the item's media contents; items of one number share a caption; -1: no picture to caption."""
    captioned: Flags
    """[I] whether all its media that would be captioned are."""
    seconds: Floats
    """[I] what captioning the media that are not takes; NaN where it was never measured."""
    money: Floats
    """[I] what captioning them costs."""
    said: Floats
    """[I] how much of what a caption would say the item's text says, 0 to 1."""
    age: Floats
    """[I] days since the item came in, negative for one that is announced; NaN: not known."""
    likeness: Neighbours
    """Who looks like whom."""
    events: Floats | None = None
    """[I] weight of the events that users' profiles are made of; None: as the past impressions."""
    gain: Floats | None = None
    """[I] what a caption is expected to gain an impression of the item, by a fitted model; None: no model."""
    calls: Calls | None = None
    """How many captions that is; None: one for each item."""
    unread: Flags | None = None
    """[I] whether media could not be read for now, so that nobody knows what they would cost; None: no such."""


class GateDecision(NamedTuple):
    """What is captioned, and why the rest is not."""

    policy: str
    chosen: Ints
    """[K] rows of the items to caption, in the order of invocation: a job that is cut short did the best first."""
    gain: Floats
    """[K] expected marginal gain of each, in shares of what captioning everything would gain; 0 for other policies."""
    reason: tuple[str, ...]
    """[I] a key of `REASONS`, "" for the chosen."""

    def to_table(self, item_ids: pa.ChunkedArray) -> pa.Table:
        """One row an item: item_id, rank in the order of invocation (null: not invoked), gain, reason."""
        rank = np.full(len(self.reason), -1, np.int64)
        gain = np.zeros(len(self.reason))
        rank[self.chosen] = np.arange(len(self.chosen))
        gain[self.chosen] = self.gain
        columns = {
            "item_id": item_ids,
            "rank": pa.array(rank, mask=rank < 0),
            "gain": pa.array(gain, mask=rank < 0),
            "reason": pa.array([reason or None for reason in self.reason], pa.string()),
        }
        return pa.table(columns)

    @classmethod
    def from_table(cls, table: pa.Table, policy: str) -> GateDecision:
        """Read what `to_table` gave."""
        rank = table["rank"].fill_null(-1).to_numpy()
        chosen = np.flatnonzero(rank >= 0)
        chosen = chosen[np.argsort(rank[chosen])]
        gain = table["gain"].fill_null(0).to_numpy()[chosen]
        return cls(policy, chosen, gain, tuple(reason or "" for reason in table["reason"].to_pylist()))

    @property
    def invoked(self) -> Flags:
        """[I] whether the item is to be captioned."""
        flags = np.zeros(len(self.reason), np.bool_)
        flags[self.chosen] = True
        return flags

    def described(self, context: GateContext) -> Flags:
        """[I] whether the item has a caption after the decision: chosen, captioned before, or of the same media."""
        ready = context.captioned | self.invoked
        return ready | (np.isin(context.media, context.media[ready]) & (context.media >= 0))


def gate(
    items: pa.Table, context: GateContext, budget: Budget, config: GateConfig | None = None
) -> GateDecision:
    """Decide which items to caption.

    Args:
        items: I rows with `item_id`, in the order of the context; ties are broken by it, not by the order of rows.
        context: what is known of them.
        budget: what may be spent.
        config: the policy and its settings; default: policy `budget`.

    Raises:
        CaptionaryError: a context of other items, a budget in seconds where none were measured, or policy `learned`
            without a model, or in money by the second where no second was measured.
    """
    config = config or GateConfig(policy="budget")
    _check(items, context, budget, config)
    size = items.num_rows
    reason = np.full(size, "", object)
    reason[context.media < 0] = "gate_no_media"
    if context.unread is not None and any(limit is not None for limit in budget):
        # They may be there again when the captioner comes: what nobody counted must not be paid.
        reason[(context.media < 0) & context.unread] = "gate_unread"
    reason[context.captioned] = "gate_captioned"
    open_ = _candidates(context)
    tie = _ranks(items["item_id"])
    leader = _leaders(context, open_, tie)
    shares = (leader >= 0) & (leader != np.arange(size))
    reason[shares] = "gate_same_media"
    candidates = np.flatnonzero(leader == np.arange(size))
    if config.policy == "rules":
        candidates = _rules(context, config, candidates, leader, reason)
    if config.policy in ("budget", "learned"):
        order, gains = _greedy(context, budget, config, candidates, leader, tie)
    else:
        order = candidates[np.lexsort((tie[candidates], -_score(context, config, leader, tie)[candidates]))]
        gains = np.zeros(len(order))
    chosen, gained, reasons = _spend(context, budget, order, gains)
    left = np.setdiff1d(candidates, chosen)
    reason[left] = "gate_no_gain"
    reason[list(reasons)] = "gate_over_budget"
    # Whoever shares the media of an item that is not captioned has no caption either, and for the same reason.
    reason[shares] = np.where(
        np.isin(leader[shares], chosen), "gate_same_media", reason[np.maximum(leader[shares], 0)]
    )
    return GateDecision(config.policy, chosen, gained, tuple(reason.tolist()))


def worth(context: GateContext, config: GateConfig) -> Floats:
    """What a caption of each item would be worth, in shares that sum to 1, [I].

    Half for the impressions to come, which the caption would help to rank, a quarter for those of the past, from which
    the ranker learns what its words mean, a quarter for the events of which users' profiles are made. Its square root:
    the first items that show a thing teach more about it than the hundredth, and exposure is uncertain. What the text
    already says is taken off; an item that was never shown has nothing but its content. `learned` puts a model's word
    for the gain of an impression in the place of these last two.
    """
    past = context.exposure.past
    events = past if context.events is None else context.events
    exposed = 0.5 * context.exposure.shares
    exposed = exposed + 0.25 * (
        past / max(float(past.sum()), 1e-12) + events / max(float(events.sum()), 1e-12)
    )
    if config.policy == "learned" and context.gain is not None:
        value = np.sqrt(exposed * np.maximum(context.gain, 0))
    else:
        value = np.sqrt(exposed) * (1 - context.said) * (1 + config.cold * context.exposure.cold)
    value = np.where(context.media >= 0, value, 0.0)
    total = float(value.sum())
    return np.asarray(value / total if total > 0 else value, np.float64)


def _check(items: pa.Table, context: GateContext, budget: Budget, config: GateConfig) -> None:
    sizes = {
        name: len(getattr(context, name))
        for name in ("media", "captioned", "seconds", "money", "said", "age")
    }
    for name, size in (sizes | {"exposure": len(context.exposure.future)}).items():
        if size != items.num_rows:
            raise bad_value(f"{name} of the context", f"{size} rows", f"{items.num_rows}, one an item")
    for name, limit in budget._asdict().items():
        if limit is not None and limit < 0:
            raise bad_value(f"budget in {name}", limit, ">= 0")
    if budget.seconds is not None and np.isnan(context.seconds).any():
        todo = "give gate.seconds_per_item, or caption a few items first"
        raise bad_value(
            "budget in seconds", budget.seconds, "absent where no latency was measured", todo=todo
        )
    if budget.money is not None and config.price_per_second and np.isnan(context.seconds).any():
        todo = "give gate.seconds_per_item, or caption a few items first"
        raise bad_value(
            "budget in money", budget.money, "absent where seconds cost, and none was measured", todo=todo
        )
    if config.policy == "learned" and context.gain is None:
        raise bad_value("policy", "learned", "given a model", todo="run `captionary gate fit CONFIG` first")


def _candidates(context: GateContext) -> Ints:
    return np.flatnonzero((context.media >= 0) & ~context.captioned)


def _ranks(ids: pa.ChunkedArray) -> Ints:
    """The place of each item in the order of ids, which does not depend on the order of rows."""
    import pyarrow.compute as pc

    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _leaders(context: GateContext, candidates: Ints, tie: Ints) -> Ints:
    """For each candidate the first item of the same media, which is captioned for all of them; -1 for the rest."""
    leader = np.full(len(context.media), -1, np.int64)
    order = candidates[np.lexsort((tie[candidates], context.media[candidates]))]
    if len(order):
        _, first, group = np.unique(context.media[order], return_index=True, return_inverse=True)
        leader[order] = order[first][group]
    return leader


def _together(values: Floats, leader: Ints) -> Floats:
    """Sum over the items that a leader stands for, at the leader's row."""
    led = leader >= 0
    return np.bincount(leader[led], values[led], minlength=len(values)).astype(np.float64)


def _rules(
    context: GateContext, config: GateConfig, candidates: Ints, leader: Ints, reason: npt.NDArray[np.object_]
) -> Ints:
    """The candidates that pass every rule; the others are given the first rule that they fail."""
    traffic = _together(context.exposure.future, leader) / config.horizon_days
    old = np.zeros(len(reason), np.bool_)
    if config.new_days is not None:
        old = context.age > config.new_days  # NaN is not known to be old
    failed = np.zeros(len(reason), np.bool_)
    for name, broken in (
        ("gate_old_media", old),
        ("gate_text_enough", context.said >= config.thin_text),
        ("gate_low_traffic", traffic < config.min_traffic),
    ):
        mine = candidates[broken[candidates] & ~failed[candidates]]
        reason[mine] = name
        failed[mine] = True
    return candidates[~failed[candidates]]


def _score(context: GateContext, config: GateConfig, leader: Ints, tie: Ints) -> Floats:
    """What the plain policies order by, highest first, [I]."""
    if config.policy == "random":
        drawn = np.random.default_rng(config.seed).random(len(tie))
        return np.asarray(drawn[tie], np.float64)
    exposure = context.exposure
    return _together(exposure.past if config.policy == "popular" else exposure.future, leader)


def _unit_costs(context: GateContext, budget: Budget) -> Floats:
    """What an item takes of the tightest limit, as a share of it, [I]; 1 for all where nothing is limited."""
    costs = [np.full(len(context.media), 1 / max(budget.items, 1))] if budget.items is not None else []
    for name in ("seconds", "money"):
        limit = getattr(budget, name)
        if limit is not None:
            costs.append(getattr(context, name) / max(limit, 1e-12))
    if not costs:
        return np.ones(len(context.media))
    tight = max(costs, key=lambda cost: float(cost.sum()))
    return np.asarray(np.maximum(tight, 1e-15), np.float64)


def _greedy(
    context: GateContext, budget: Budget, config: GateConfig, candidates: Ints, leader: Ints, tie: Ints
) -> tuple[Ints, Floats]:
    """Candidates by falling marginal gain per unit of cost, and their gains; those that gain nothing are left out.

    The expected gain of a set S is Σ_j worth_j · max_{i ∈ S} u(i, j), with u = 1 for an item's own caption and
    `trust` · similarity for a look-alike's: the facility location function. It is submodular, so at equal costs
    the greedy order is within 1 − 1/e of the best set (Nemhauser et al. 1978), and gains need to be looked at again
    only where they lead (lazy evaluation, Minoux 1978; by cost: Leskovec et al. 2007).
    """
    value, cost = worth(context, config), _unit_costs(context, budget)
    audience = _audiences(context, config, candidates, leader)
    reached = _told_already(context, config)

    def gain(row: int) -> float:
        who, told = audience[row]
        return float(value[who] @ np.maximum(told - reached[who], 0))

    heap = [(-gain(row) / cost[row], int(tie[row]), int(row)) for row in candidates]
    heapq.heapify(heap)
    order: list[int] = []
    gains: list[float] = []
    limit = len(heap) if budget.items is None else budget.items
    while heap and len(order) < limit:
        _, place, row = heapq.heappop(heap)
        now = gain(row)
        if heap and -now / cost[row] > heap[0][0]:
            heapq.heappush(heap, (-now / cost[row], place, row))
            continue
        if now <= 0:
            break
        who, told = audience[row]
        reached[who] = np.maximum(reached[who], told)
        order.append(row)
        gains.append(now)
    if len(order) == limit:  # the rest gains something too, but it is not affordable: to be told from no gain
        rest = sorted((entry for entry in heap if gain(entry[2]) > 0), key=lambda entry: entry[:2])
        order += [row for *_, row in rest]
        gains += [0.0] * len(rest)
    return np.array(order, np.int64), np.array(gains)


def _audiences(
    context: GateContext, config: GateConfig, candidates: Ints, leader: Ints
) -> dict[int, tuple[Ints, Floats]]:
    """For each candidate, the items that its caption would tell something of, and how much of it."""
    offsets, lender, similarity = context.likeness
    size = len(context.media)
    to = np.repeat(np.arange(size), np.diff(offsets))
    told = config.trust * np.clip(similarity.astype(np.float64), 0, 1)
    if not config.lend:
        to, lender, told = to[:0], lender[:0], told[:0]
    led = np.flatnonzero(leader >= 0)
    by = np.concatenate([lender, leader[led]])
    to, told = np.concatenate([to, led]), np.concatenate([told, np.ones(len(led))])
    order = np.argsort(by, kind="stable")
    by, to, told = by[order], to[order], told[order]
    starts, ends = np.searchsorted(by, candidates), np.searchsorted(by, candidates, "right")
    return {int(row): (to[a:b], told[a:b]) for row, a, b in zip(candidates, starts, ends, strict=True)}


def _told_already(context: GateContext, config: GateConfig) -> Floats:
    """How much of each item's caption is told by captions that are there: it is worth nothing more, [I]."""
    told = context.captioned.astype(np.float64)
    if config.lend:
        offsets, lender, similarity = context.likeness
        by = context.captioned[lender]
        to = np.repeat(np.arange(len(told)), np.diff(offsets))[by]
        np.maximum.at(told, to, config.trust * np.clip(similarity[by].astype(np.float64), 0, 1))
    return told


def _spend(context: GateContext, budget: Budget, order: Ints, gains: Floats) -> tuple[Ints, Floats, set[int]]:
    """Take items in order as long as they fit every limit; where a dear one does not fit, a cheaper one may."""
    chosen: list[int] = []
    gained: list[float] = []
    over: set[int] = set()
    seconds = money = 0.0
    for row, gain in zip(order.tolist(), gains.tolist(), strict=True):
        fits = budget.items is None or len(chosen) < budget.items
        fits &= budget.seconds is None or seconds + context.seconds[row] <= budget.seconds * (1 + 1e-12)
        fits &= budget.money is None or money + context.money[row] <= budget.money * (1 + 1e-12)
        if not fits:
            over.add(row)
            continue
        seconds += 0.0 if math.isnan(context.seconds[row]) else context.seconds[row]
        money += context.money[row]
        chosen.append(row)
        gained.append(gain)
    return np.array(chosen, np.int64), np.array(gained), over
