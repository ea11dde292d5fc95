"""Costs add up, ratios are paired, and `neutral` has to be earned."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.cost import CaptionCost, caption_cost, cost_of, ratio_of

TABLE = pa.table(
    {
        "item_id": [1, 2, 3, 4],
        "status": ["ok", "ok", "failed", "ok"],
        "latency_ms": [400.0, 600.0, 9000.0, 5000.0],
        "prompt_tokens": pa.array([100, 100, 100, 100], pa.int32()),
        "output_tokens": pa.array([10, 20, 5, 10], pa.int32()),
        "reused_from": [None, None, None, "9"],
    }
)
ROUNDS = {
    "ids": {"samples_per_second": [100.0, 110.0, 90.0], "bytes_read": [50.0]},
    "joint": {"samples_per_second": [50.0, 56.0, 45.5], "bytes_read": [100.0], "p50_ms": [3.0, 3.1]},
}


def test_the_captions_table_adds_up() -> None:
    found = caption_cost(TABLE, gain=0.004, price_per_item=0.01, price_per_second=0.5, price_per_token=0.001)
    # Failed items have no caption, and that of item 4 is another's: 1 and 2 were paid for, 1, 2 and 4 have one.
    assert (found.items, found.seconds, found.tokens) == (3, 1.0, 230)
    assert found.money == pytest.approx(2 * 0.01 + 1.0 * 0.5 + 230 * 0.001)
    assert found.per_thousand("seconds") == pytest.approx(1000 / 3)
    assert found.per_point("tokens") == pytest.approx(230 / 0.4)  # 0.004 is 0.4 points


def test_without_a_gain_or_a_price_nothing_is_divided() -> None:
    found = caption_cost(TABLE, gain=None)
    assert found.money is None
    assert found.per_point("seconds") is None
    assert caption_cost(TABLE, gain=-0.01).per_point("seconds") is None
    assert caption_cost(TABLE, gain=None, price_per_item=0.0).money == 0
    imported = TABLE.select(["status"])
    assert caption_cost(imported, gain=0.1)[:4] == (3, None, None, None)
    assert CaptionCost(0, 1.0, None, None, None).per_thousand("seconds") is None


def test_a_ratio_is_paired_by_round() -> None:
    # The rounds differ tenfold, the ratio hardly: unpaired, nothing could be said.
    found = ratio_of([50.0, 505.0, 5.0], [100.0, 1000.0, 10.0], higher_is_better=True)
    logs = np.log([0.5, 0.505, 0.5])
    half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert found.interval == pytest.approx((math.exp(logs.mean() - half), math.exp(logs.mean() + half)))
    assert found.verdict == "worse"


@pytest.mark.parametrize(
    ("arm", "higher", "verdict"),
    [
        ([100.0, 100.5, 99.5], True, "neutral"),
        ([100.0, 104.0, 97.0], True, "cannot tell"),  # noisy: no difference is not equivalence
        ([101.9, 102.0, 102.1], True, "cannot tell"),  # at the bound
        ([110.0, 110.1, 109.9], True, "better"),
        ([110.0, 110.1, 109.9], False, "worse"),
        ([90.0, 90.1, 89.9], False, "better"),
        ([100.0], True, "cannot tell"),
    ],
)
def test_the_verdict_is_that_of_the_interval(arm, higher, verdict) -> None:
    assert ratio_of(arm, [100.0] * len(arm), higher_is_better=higher).verdict == verdict


def test_counts_need_one_round() -> None:
    assert ratio_of([100.0], [100.0], higher_is_better=False, counted=True) == (1.0, (1.0, 1.0), "neutral")


def test_arms_against_the_baseline() -> None:
    found = cost_of("ids", ROUNDS, captions=caption_cost(TABLE, gain=0.004))
    assert found.arm("ids").ratios == {"samples_per_second": None, "bytes_read": None}
    joint = found.arm("joint")
    assert joint.figures["samples_per_second"] == pytest.approx((50 + 56 + 45.5) / 3)
    assert joint.ratios["samples_per_second"].verdict == "worse"
    assert joint.ratios["bytes_read"] == (2.0, (2.0, 2.0), "worse")
    assert joint.ratios["p50_ms"] is None  # the baseline was not timed
    assert found.measures == ("samples_per_second", "p50_ms", "bytes_read")


def test_tables_and_json_say_the_same() -> None:
    found = cost_of("ids", ROUNDS, captions=caption_cost(TABLE, gain=0.004, price_per_item=0.01))
    text = found.to_markdown()
    assert "| Captioner, seconds | 1.00 | 333 | 2.50 |" in text
    assert "| Money | 0.0200 | 6.67 | 0.0500 |" in text
    assert "| joint | Features, bytes/row | 100 | 2.000 | 2.000 … 2.000 | worse |" in text
    assert "| ids | Training, samples/s | 100 | – | – | baseline |" in text
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["captions"]["tokens_per_point_of_gain"] == pytest.approx(575)
    assert plain["arms"][1]["ratios"]["bytes_read"]["verdict"] == "worse"
    assert cost_of("ids", {"ids": {}}).to_markdown() == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cost_of("id", ROUNDS), r"baseline == id, must be ids"),
        (lambda: cost_of("ids", {"ids": {"p50": [1.0]}}), "measure == p50, must be p50_ms"),
        (lambda: ratio_of([1.0], [1.0, 2.0], higher_is_better=True), "rounds == 1 and 2"),
        (lambda: ratio_of([0.0], [1.0], higher_is_better=True), "figure of cost == 0.0, must be > 0"),
        (lambda: caption_cost(TABLE, gain=None, price_per_item=-1.0), "price_per_item == -1.0"),
        (lambda: cost_of("ids", ROUNDS).arm("join"), "arm == join, must be joint"),
    ],
)
def test_mistakes_are_named(call, words) -> None:
    with pytest.raises(CaptionaryError, match=words):
        call()
