from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.understand.gate import Budget, Calls, GateContext, gate
from captionary.understand.gate_audit import Forecast, audit, forecast, markdown, read_forecast
from captionary.understand.gate_forecast import DAY, Exposure
from captionary.understand.gate_lookalike import Neighbours
from captionary.understand.gate_settings import GateConfig

CUT = 50 * DAY


@pytest.fixture
def before() -> Forecast:
    """Items with 10, 20, 30, 40 impressions to come; the last two are chosen, at 2 s and 0.5 each.

    The last is a picture that is captioned, took 1 s, and has a stream of at most 4 key frames beside it.
    """
    future = np.array([10.0, 20, 30, 40])
    likeness = Neighbours(np.zeros(5, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    context = GateContext(
        CUT, Exposure(future, future, future, np.zeros(4, bool)), np.arange(4), np.zeros(4, bool),
        np.full(4, 2.0), np.full(4, 0.5), np.zeros(4), np.zeros(4), likeness,
        calls=Calls(np.array([1, 1, 1, 4]), np.array([0, 0, 0, 4]), np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1.0])),
    )  # fmt: skip
    budget = Budget(items=2)
    decision = gate(pa.table({"item_id": [1, 2, 3, 4]}), context, budget, GateConfig(policy="budget"))
    return forecast(decision, context, budget, horizon_days=7)


def captions() -> pa.Table:
    """Of the chosen items 3 and 2, the first was captioned and the second failed."""
    return pa.table(
        {
            "status": ["skipped", "skipped", "failed", "ok"],
            "reason": ["gate_over_budget", "gate_over_budget", "corrupt", None],
            "latency_ms": pa.array([None, None, None, 2500.0], pa.float32()),
            "prompt_tokens": pa.array([None, None, None, 10], pa.int32()),
            "output_tokens": pa.array([None, None, None, 6], pa.int32()),
            "views": pa.array([None, None, None, 4], pa.int32()),
        }
    )


def test_a_forecast_says_what_will_be_paid_and_covered(before: Forecast) -> None:
    assert (before.items, before.of, before.seconds, before.money) == (2, 4, 4.0, 1.0)
    assert before.described == pytest.approx((30 + 40) / 100)
    assert before.now == 0
    assert before.rows == (3, 2)
    assert (before.captions, before.bound, before.had) == (4 + 1, 4, ((3, 1, 1.0),))
    assert before.reasons == {"gate_over_budget": 2}


def test_an_audit_counts_what_was_paid_and_covered(before: Forecast) -> None:
    item = np.array([3, 3, 0, 1, 3, 3])
    times = CUT + DAY * np.array(
        [0, 1, 2, 6, 7, -1]
    )  # the last two are after the horizon and before the decision
    lent = np.array([True, False, False, True])
    found = audit(before, captions(), item, times, lent=lent, price_per_item=0.5, price_per_second=0.2)
    assert (found.items, found.failed, found.tokens, found.impressions) == (1, {"corrupt": 1}, 16, 4)
    assert found.captions == 4 - 1
    assert found.seconds == pytest.approx(2.5 - 1)
    assert found.money == pytest.approx(3 * 0.5 + 0.2 * 1.5)
    assert found.described == pytest.approx(2 / 4)
    assert found.lent == pytest.approx(1 / 4)
    assert found.days == pytest.approx(6)
    off = found.deviations()
    assert off["items"] == pytest.approx(1 / 2 - 1)
    assert off["captions"] == pytest.approx(3 / 5 - 1)
    assert off["seconds"] == pytest.approx(1.5 / 4 - 1)
    assert off["described"] == pytest.approx(0.5 - 0.7)
    assert "corrupt 1" in found.to_markdown()
    assert "−20.0 points" in found.to_markdown()
    assert "| captions made | ≤ 5 | 3 | −40.0 % |" in found.to_markdown()
    assert "| seconds of the captioner | ≤ 4.00 | 1.50 |" in found.to_markdown()
    assert not {"rows", "had"} & found.to_dict()["forecast"].keys()


def test_a_captioner_that_said_nothing_was_asked_and_sounds_cost_it_nothing(before: Forecast) -> None:
    table = captions().to_pydict()
    table["status"][0], table["reason"][0] = "ok", None  # described by what is heard in it
    table["reason"][2], table["latency_ms"][2] = "empty_caption", 500.0
    found = audit(before, pa.table(table), np.array([0, 3]), np.array([CUT, CUT]), price_per_item=0.5)
    assert (found.items, found.captions, found.failed) == (1, 3 + 1, {"empty_caption": 1})
    assert found.seconds == pytest.approx(2.5 - 1 + 0.5)
    assert found.money == pytest.approx(4 * 0.5)
    assert found.described == pytest.approx(1 / 2)


def test_without_impressions_after_it_nothing_is_known(before: Forecast) -> None:
    found = audit(before, captions(), np.array([3]), np.array([CUT - 1]))
    assert found.described is None
    assert found.deviations()["described"] is None
    assert "–" in found.to_markdown()


def test_a_forecast_survives_its_file(before: Forecast, tmp_path: Path) -> None:
    assert read_forecast(before.save(tmp_path / "forecast.json")) == before
    (tmp_path / "else.json").write_text("{}")
    for name in ("else.json", "absent.json"):
        with pytest.raises(CaptionaryError, match="captionary gate plan"):
            read_forecast(tmp_path / name)


def test_other_items_are_refused(before: Forecast) -> None:
    with pytest.raises(CaptionaryError, match="plan again"):
        audit(before, captions().slice(0, 2), np.array([0]), np.array([CUT]))


def test_forecasts_side_by_side(before: Forecast) -> None:
    lines = markdown([before, before._replace(policy="random", seconds=None, gain=None)]).splitlines()
    assert lines[2] == "| budget | 2 of 4 | ≤ 5 | ≤ 4.00 | ≤ 1.00 | 70.0 % | " + lines[2].split("| ")[-1]
    assert lines[3] == "| random | 2 of 4 | ≤ 5 | – | ≤ 1.00 | 70.0 % | – |"
