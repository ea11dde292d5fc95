"""What captioning will cost and cover, said before anything is spent; and afterwards, what it did cost and cover."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.understand.gate import Budget, GateContext, GateDecision

__all__ = ["Audit", "Forecast", "audit", "forecast", "markdown", "read_forecast"]

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Forecast(NamedTuple):
    """Before spending."""

    policy: str
    items: int
    """Items that the captioner will be invoked for."""
    of: int
    """Items that have media and no caption yet."""
    seconds: float | None
    """Of the captioner; None where no latency was measured."""
    money: float
    described: float
    """Share of the impressions expected in the horizon whose item will have a caption, older captions included."""
    now: float
    """The same share as it is before anything is spent."""
    gain: float | None
    """Share of the worth of all captions that is told, look-alikes counted by `trust`: what the policy maximises. A
    cautious guess of the share of the gain that is kept; None for policies that do not estimate it."""
    reasons: dict[str, int]
    """Items that are left out, by reason."""
    horizon_days: float
    cutoff: int
    """The moment of the decision, microseconds since 1970, UTC."""
    budget: dict[str, float | None]
    """What may be spent at most."""
    rows: tuple[int, ...]
    """The chosen items' rows, in the order of invocation."""
    captions: int | None = None
    """That the captioner will make for them, one for each picture; at most, where some are a bound."""
    bound: int = 0
    """Of these captions, key frames of streams that are not unfolded yet: as many as there may be. Where there are any,
    seconds and money are bounds, too."""
    had: tuple[tuple[int, int, float], ...] = ()
    """(row, pictures, seconds) of chosen items of which some pictures cost nothing more: the audit takes them off."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return self._asdict()

    def save(self, path: Path) -> Path:
        """Write it where the audit finds it."""
        with atomic_file(path) as file:
            file.write(json.dumps(self.to_dict(), indent=1).encode())
        return path


class Audit(NamedTuple):
    """After spending, beside what was forecast."""

    forecast: Forecast
    items: int
    """Items that the captioner was invoked for and that have a caption."""
    failed: dict[str, int]
    """Of the chosen, those without one, by reason."""
    seconds: float
    """Of the captioner, as the captions' latencies have it."""
    captions: int
    """That the captioner made for them, as the forecast counts them."""
    tokens: int
    """Read and written by the captioner's language model."""
    money: float
    impressions: int
    """Shown in the horizon after the decision."""
    described: float | None
    """Share of these whose item has a caption by the captioner; None without impressions."""
    lent: float | None
    """Share of these whose item was lent tokens; None without impressions."""
    days: float
    """How much of the horizon the log covers."""

    def deviations(self) -> dict[str, float | None]:
        """Actual over forecast, minus 1; of shares the difference; None where nothing can be compared."""

        def ratio(actual: float, expected: float | None) -> float | None:
            return actual / expected - 1 if expected else None

        return {
            "items": ratio(self.items, self.forecast.items),
            "captions": ratio(self.captions, self.forecast.captions),
            "seconds": ratio(self.seconds, self.forecast.seconds),
            "money": ratio(self.money, self.forecast.money),
            "described": None if self.described is None else self.described - self.forecast.described,
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        left_out = {"rows", "had"}
        before = {name: value for name, value in self.forecast.to_dict().items() if name not in left_out}
        return self._asdict() | {"forecast": before, "deviations": self.deviations()}

    def to_markdown(self) -> str:
        """A table of forecast, actual and deviation."""
        before, off = self.forecast, self.deviations()
        rows = [
            ("items captioned", f"{before.items:,}", f"{self.items:,}", _signed(off["items"])),
            ("captions made", _captions(before), f"{self.captions:,}", _signed(off["captions"])),
            (
                "seconds of the captioner",
                _most(before, before.seconds),
                _number(self.seconds),
                _signed(off["seconds"]),
            ),
            ("money", _most(before, before.money), _number(self.money), _signed(off["money"])),
            ("tokens", "–", f"{self.tokens:,}", "–"),
            (
                "impressions described",
                _share(before.described),
                _share(self.described),
                _points(off["described"]),
            ),
            ("impressions with lent tokens", "–", _share(self.lent), "–"),
        ]
        lines = ["| | forecast | actual | deviation |", "|---|---:|---:|---:|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        days = f"{self.days:.1f} of {before.horizon_days:g} days"
        note = f"\n{self.impressions:,} impressions in {days} after the decision."
        if self.failed:
            note += (
                " Not captioned: "
                + ", ".join(f"{name} {n:,}" for name, n in sorted(self.failed.items()))
                + "."
            )
        return "\n".join(lines) + "\n" + note


def forecast(
    decision: GateDecision, context: GateContext, budget: Budget, *, horizon_days: float
) -> Forecast:
    """What carrying out a decision will cost and cover."""
    chosen, calls = decision.chosen, context.calls
    seconds = float(context.seconds[chosen].sum())
    ready = context.captioned | (
        np.isin(context.media, context.media[context.captioned]) & (context.media >= 0)
    )
    shares = context.exposure.shares
    open_ = (context.media >= 0) & ~context.captioned
    estimated = decision.policy in ("budget", "learned")
    return Forecast(
        policy=decision.policy,
        items=len(chosen),
        of=int(open_.sum()),
        seconds=None if math.isnan(seconds) else seconds,
        money=float(context.money[chosen].sum()),
        described=float(shares[decision.described(context)].sum()),
        now=float(shares[ready].sum()),
        gain=float(decision.gain.sum()) if estimated else None,
        reasons=dict(sorted(Counter(reason for reason in decision.reason if reason).items())),
        horizon_days=horizon_days,
        cutoff=context.cutoff,
        budget=dict(budget._asdict()),
        rows=tuple(chosen.tolist()),
        captions=None if calls is None else int(calls.most[chosen].sum()),
        bound=0 if calls is None else int(calls.bound[chosen].sum()),
        had=()
        if calls is None
        else tuple(
            (row, int(calls.had[row]), float(calls.had_seconds[row]))
            for row in chosen.tolist()
            if calls.had[row]
        ),
    )


def audit(
    before: Forecast,
    captions: pa.Table,
    item: Ints,
    timestamp: Ints,
    *,
    lent: Flags | None = None,
    price_per_item: float = 0.0,
    price_per_second: float = 0.0,
) -> Audit:
    """Hold a forecast against what happened.

    Args:
        before: the forecast.
        captions: the captions table of the caption stage, rows in the order of the items.
        item: row of the item of each logged impression, [N].
        timestamp: microseconds of each; those from the decision to the end of the horizon are looked at, [N].
        lent: which items were lent tokens, [I].
        price_per_item, price_per_second: as in the config.

    Raises:
        CaptionaryError: a forecast of other items.
    """
    rows = np.array(before.rows, np.int64)
    if len(rows) and rows.max() >= captions.num_rows:
        raise bad_value(
            "forecast", f"of item {rows.max()}", f"of the {captions.num_rows} items", todo="plan again"
        )
    views = np.nan_to_num(captions["views"].to_numpy(zero_copy_only=False).astype(np.float64))
    # What has a descriptor of its sounds alone has no caption, and cost the captioner nothing.
    told = (views > 0) & np.array([status == "ok" for status in captions["status"].to_pylist()], np.bool_)
    chosen = captions.take(pa.array(rows))
    done = told[rows]
    reasons = Counter(
        str(reason or "no_caption")
        for reason, ok in zip(chosen["reason"].to_pylist(), done.tolist(), strict=True)
        if not ok
    )
    latency = np.nan_to_num(chosen["latency_ms"].to_numpy(zero_copy_only=False).astype(np.float64)) / 1000
    # A captioner that answered with nothing was asked all the same.
    made = np.where(done, views[rows], latency > 0)
    had = {row: (pictures, seconds) for row, pictures, seconds in before.had}
    free = np.array([had.get(row, (0, 0.0)) for row in before.rows], np.float64).reshape(-1, 2)
    made = np.maximum(made - free[:, 0], 0)
    seconds = float(np.maximum(latency - free[:, 1], 0).sum())
    asked = made > 0
    end = before.cutoff + before.horizon_days * 86_400_000_000
    after = (timestamp >= before.cutoff) & (timestamp < end)
    shown = item[after]
    last = timestamp[after].max() if len(shown) else before.cutoff
    return Audit(
        forecast=before,
        items=int(done.sum()),
        failed=dict(reasons),
        seconds=seconds,
        captions=int(made.sum()),
        tokens=int(_sum(chosen, ("prompt_tokens", "output_tokens"), asked)),
        money=float(price_per_item * made.sum() + price_per_second * seconds),
        impressions=len(shown),
        described=float(told[shown].mean()) if len(shown) else None,
        lent=float((lent & ~told)[shown].mean()) if len(shown) and lent is not None else None,
        days=float((last - before.cutoff) / 86_400_000_000),
    )


def read_forecast(path: Path) -> Forecast:
    """Read what `Forecast.save` wrote.

    Raises:
        CaptionaryError: no such file, or no forecast.
    """
    todo = "run `captionary gate plan CONFIG` first"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        had = tuple((int(row), int(pictures), float(seconds)) for row, pictures, seconds in found["had"])
        return Forecast(**(found | {"rows": tuple(found["rows"]), "had": had}))
    except OSError as error:
        raise bad_value("forecast", str(path), "readable", where=error.strerror, todo=todo) from None
    except (ValueError, KeyError, TypeError):
        raise bad_value("forecast", str(path), "a forecast of this version", todo=todo) from None


def markdown(forecasts: Sequence[Forecast]) -> str:
    """Forecasts side by side, one row a policy."""
    lines = [
        "| policy | items | captions | seconds | money | impressions described | worth told |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in forecasts:
        cells = [
            each.policy,
            f"{each.items:,} of {each.of:,}",
            _captions(each),
            _most(each, each.seconds),
            _most(each, each.money),
            _share(each.described),
            _share(each.gain),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sum(table: pa.Table, columns: Sequence[str], chosen: Flags) -> float:
    total = 0.0
    for name in columns:
        values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        total += float(np.nansum(values[chosen]))
    return total


def _captions(before: Forecast) -> str:
    return "–" if before.captions is None else ("≤ " if before.bound else "") + f"{before.captions:,}"


def _most(before: Forecast, value: float | None) -> str:
    """A forecast that is a bound says so."""
    return ("≤ " if before.bound and value else "") + _number(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} %".replace("-", "−")


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} points".replace("-", "−")
