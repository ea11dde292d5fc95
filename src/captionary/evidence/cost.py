"""What captions cost: seconds, tokens and money to write them; speed and bytes to train and serve with them.

A ratio to the baseline carries its interval over paired rounds (seeds of training, rounds of serving), and a verdict:
``neutral`` where the whole interval lies within 2 % of 1, which is an equivalence test (Schuirmann 1987) and so cannot
be had by measuring too little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from captionary.errors import bad_value, nearest
from captionary.evidence.formats import UNKNOWN, count, decimal
from captionary.evidence.tables import md_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NEUTRAL", "ArmCost", "CaptionCost", "Cost", "Ratio", "caption_cost", "cost_of", "ratio_of"]

NEUTRAL = 0.02
"""A ratio within 1 ± 2 % is no change worth speaking of."""
Verdict = Literal["neutral", "better", "worse", "cannot tell"]
_MEASURES = ("samples_per_second", "p50_ms", "p99_ms", "bytes_read", "ranker_bytes")
_HIGHER_IS_BETTER = ("samples_per_second",)
_WORDS = {
    "samples_per_second": "Training, samples/s",
    "p50_ms": "Serving p50, ms",
    "p99_ms": "Serving p99, ms",
    "bytes_read": "Features, bytes/row",
    "ranker_bytes": "Ranker, bytes",
}


class Ratio(NamedTuple):
    """An arm's figure ÷ that of the baseline."""

    value: float
    """Geometric mean over paired rounds."""
    interval: tuple[float, float] | None
    """95 %, t-test of the logarithms; None with one round. Of a figure that is counted, not timed, the value twice."""
    verdict: Verdict


class ArmCost(NamedTuple):
    """What an arm costs to train and to serve; figures are means over rounds, None where not measured."""

    arm: str
    figures: dict[str, float | None]
    """samples_per_second, p50_ms, p99_ms, bytes_read (features of an impression), ranker_bytes."""
    ratios: dict[str, Ratio | None]
    """The same ÷ baseline; None for the baseline itself and where not measured."""


class CaptionCost(NamedTuple):
    """What the captions cost; money in the currency of the prices that were given."""

    items: int
    """With a caption, whichever run paid for it."""
    seconds: float | None
    """Of the captioner, summed over items; None where unknown, as of imported captions."""
    tokens: int | None
    """Read and written."""
    money: float | None
    """None without a price."""
    gain: float | None
    """AUC gain that they bought: a fraction, with its verdict ``gain``; else None."""

    def per_thousand(self, name: Literal["seconds", "tokens", "money"]) -> float | None:
        """Per 1,000 captioned items."""
        total = getattr(self, name)
        return None if total is None or not self.items else 1000 * total / self.items

    def per_point(self, name: Literal["seconds", "tokens", "money"]) -> float | None:
        """Per percentage point of AUC gain; None without a gain."""
        total = getattr(self, name)
        return None if total is None or self.gain is None or self.gain <= 0 else total / (100 * self.gain)


class Cost(NamedTuple):
    """All that is known of costs."""

    baseline: str
    captions: CaptionCost | None
    arms: tuple[ArmCost, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that some arm has, in order."""
        return tuple(
            name for name in _MEASURES if any(arm.figures.get(name) is not None for arm in self.arms)
        )

    def arm(self, name: str) -> ArmCost:
        """One arm.

        Raises:
            CaptionaryError: there is none of that name.
        """
        for one in self.arms:
            if one.arm == name:
                return one
        raise bad_value("arm", name, nearest(name, [one.arm for one in self.arms]))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        captions = self.captions
        plain = None
        if captions is not None:
            plain = captions._asdict()
            for name in ("seconds", "tokens", "money"):
                plain[f"{name}_per_1000_items"] = captions.per_thousand(name)
                plain[f"{name}_per_point_of_gain"] = captions.per_point(name)
        arms = [
            one._asdict()
            | {"ratios": {name: None if r is None else r._asdict() for name, r in one.ratios.items()}}
            for one in self.arms
        ]
        return {"baseline": self.baseline, "captions": plain, "arms": arms}

    def caption_rows(self) -> list[tuple[str, str, str, str]]:
        """(what, in all, per 1,000 items, per point of AUC gain) as text."""
        found = self.captions
        if found is None:
            return []
        rows = []
        for name, words in (("seconds", "Captioner, seconds"), ("tokens", "Tokens"), ("money", "Money")):
            if (total := getattr(found, name)) is not None:
                thousand, point = found.per_thousand(name), found.per_point(name)  # type: ignore[arg-type]
                rows.append((words, _short(total), _short(thousand), _short(point)))
        return rows

    def arm_rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """(arm, measure, figure, ÷ baseline, 95 % interval, verdict) as text."""
        rows = []
        for one in self.arms:
            for name in self.measures:
                if (figure := one.figures.get(name)) is None:
                    continue
                ratio = one.ratios.get(name)
                bounds = None if ratio is None else ratio.interval
                rows.append(
                    (
                        one.arm,
                        _WORDS[name],
                        _short(figure),
                        UNKNOWN if ratio is None else f"{ratio.value:.3f}",
                        UNKNOWN if bounds is None else f"{bounds[0]:.3f} … {bounds[1]:.3f}",
                        "baseline"
                        if one.arm == self.baseline
                        else UNKNOWN
                        if ratio is None
                        else ratio.verdict,
                    )
                )
        return rows

    def to_markdown(self) -> str:
        """The two tables."""
        parts = []
        if found := self.caption_rows():
            assert self.captions is not None
            head = ("Captions", "In all", "Per 1,000 items", "Per point of AUC gain")
            parts.append("\n".join(md_table(head, found)))
            parts.append(f"Of {count(self.captions.items)} captioned items.")
        if rows := self.arm_rows():
            ahead = ("Arm", "Measure", "Figure", "÷ baseline", "95 % interval", "Verdict")
            parts.append("\n".join(md_table(ahead, rows)))
            parts.append(
                f"`neutral`: the whole interval lies within {100 * NEUTRAL:.0f} % of {self.baseline}."
            )
        return "\n\n".join(parts)


def ratio_of(
    arm: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool, counted: bool = False
) -> Ratio:
    """An arm ÷ the baseline, round by round.

    With rₛ = arm / baseline of round s, the value is exp(mean log rₛ) and the interval exp(mean ± t·sd/√S).

    Args:
        arm: figure of each round, > 0, [S].
        baseline: the same of the same rounds.
        higher_is_better: decides between better and worse.
        counted: figures are counts without noise; one round then says all.

    Raises:
        CaptionaryError: other numbers of rounds, or a figure that is not above 0.
    """
    if len(arm) != len(baseline) or not len(arm):
        raise bad_value(
            "rounds", f"{len(arm)} and {len(baseline)}", "the same number of the arm and the baseline, >= 1"
        )
    for value in (*arm, *baseline):
        if not (math.isfinite(value) and value > 0):
            raise bad_value("figure of cost", value, "> 0")
    logs = np.log(np.asarray(arm, np.float64) / np.asarray(baseline, np.float64))
    middle = float(logs.mean())
    if counted:
        reach = 0.0
    elif len(logs) < 2:
        return Ratio(math.exp(middle), None, "cannot tell")
    else:
        reach = float(stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs))
    low, high = math.exp(middle - reach), math.exp(middle + reach)
    return Ratio(math.exp(middle), (low, high), _verdict(low, high, higher_is_better))


def cost_of(
    baseline: str,
    rounds: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    captions: CaptionCost | None = None,
) -> Cost:
    """Costs of the arms against the baseline.

    Args:
        baseline: name of an arm.
        rounds: arm → measure → its figure in each round: of `samples_per_second` a round is a seed, of `p50_ms` and
            `p99_ms` (see `captionary.evidence.serving`) one of serving; `bytes_read` and `ranker_bytes` have one.
        captions: see `caption_cost`.

    Raises:
        CaptionaryError: an unknown baseline or measure, rounds that cannot be paired, figures not above 0.
    """
    if baseline not in rounds:
        raise bad_value("baseline", baseline, nearest(baseline, rounds))
    arms = []
    for name, measures in rounds.items():
        figures: dict[str, float | None] = {}
        ratios: dict[str, Ratio | None] = {}
        for measure, values in measures.items():
            if measure not in _MEASURES:
                raise bad_value("measure", measure, nearest(measure, _MEASURES), where=f"arm {name}")
            base = rounds[baseline].get(measure)
            figures[measure] = float(np.mean(values))
            ratios[measure] = None
            if name != baseline and base is not None:
                ratios[measure] = ratio_of(
                    values,
                    base,
                    higher_is_better=measure in _HIGHER_IS_BETTER,
                    counted=measure.endswith(("bytes", "bytes_read")),
                )
        arms.append(ArmCost(name, figures, ratios))
    return Cost(baseline, captions, tuple(arms))


def caption_cost(
    captions: pa.Table,
    *,
    gain: float | None,
    price_per_item: float | None = None,
    price_per_second: float | None = None,
    price_per_token: float | None = None,
) -> CaptionCost:
    """Add up the captions table of a run.

    What a caption cost is written beside it and goes with it to a later run, so this is what the captions cost, not
    what the last run paid. An item that was lent the caption of another (`reused_from`) cost nothing.

    Args:
        captions: the captions table, see `captionary.understand.caption.CAPTIONS_SCHEMA`.
        gain: AUC gain of the run, where its verdict is ``gain``; else None.
        price_per_item, price_per_second, price_per_token: in money; None of them: no money is named.

    Raises:
        CaptionaryError: a price below 0.
    """
    prices = {
        "price_per_item": price_per_item,
        "price_per_second": price_per_second,
        "price_per_token": price_per_token,
    }
    for name, price in prices.items():
        if price is not None and not price >= 0:
            raise bad_value(name, price, ">= 0")
    told = [status == "ok" for status in captions["status"].to_pylist()]
    own = list(told)
    if "reused_from" in captions.column_names:
        own = [
            ok and source is None
            for ok, source in zip(told, captions["reused_from"].to_pylist(), strict=True)
        ]

    def total(*names: str) -> float | None:
        known = [
            value
            for name in names
            if name in captions.column_names
            for value, paid in zip(captions[name].to_pylist(), own, strict=True)
            if paid and value is not None
        ]
        return float(sum(known)) if known else None

    milliseconds, tokens = total("latency_ms"), total("prompt_tokens", "output_tokens")
    seconds = None if milliseconds is None else milliseconds / 1000
    money = None
    if any(price is not None for price in prices.values()):
        money = (price_per_item or 0.0) * sum(own) + (price_per_second or 0.0) * (seconds or 0.0)
        money += (price_per_token or 0.0) * (tokens or 0.0)
    return CaptionCost(sum(told), seconds, None if tokens is None else int(tokens), money, gain)


def _verdict(low: float, high: float, higher_is_better: bool) -> Verdict:
    if low >= 1 - NEUTRAL and high <= 1 + NEUTRAL:
        return "neutral"
    if low > 1 + NEUTRAL or high < 1 - NEUTRAL:
        return "better" if (low > 1) == higher_is_better else "worse"
    return "cannot tell"


def _short(value: float | None) -> str:
    """Three figures that matter: 12,346 · 4.57 · 0.0123."""
    if value is None:
        return UNKNOWN
    if value >= 100 or value == 0:
        return count(value)
    return decimal(value, max(1, 2 - math.floor(math.log10(abs(value)))))
