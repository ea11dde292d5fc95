"""Optional sections: shown where they were measured, in the page, its Markdown and its JSON; absent where not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence import result
from captionary.evidence.budget import BudgetCurve, BudgetPoint
from captionary.evidence.calibration import calibration_curve, calibration_plot
from captionary.evidence.cards import ItemCard
from captionary.evidence.cost import CaptionCost, cost_of
from captionary.evidence.importance import FeatureWeight, Figure, Importance
from captionary.evidence.report import render, write_report
from captionary.evidence.result import Evidence
from captionary.evidence.sections import Happening, Sections, sheet_of

TITLES = (
    "Where the gain comes from",
    "What the ranker leans on",
    "What it costs",
    "Gain against budget",
    "Do predicted chances come true?",
    "What failed and why",
)


def figure(gain: float) -> Figure:
    return Figure(gain, gain / 2, (gain - 0.002, gain + 0.002), 0.001, {"like": gain, "share": None})


def weight(name: str, rank: int, gain: float, kind: str = "feature") -> FeatureWeight:
    retrained = figure(gain / 4) if name == "item tokens" else None
    percentile = 100.0 * (3 - rank) / 2
    return FeatureWeight(name, kind, (name,), figure(gain), figure(gain / 2), retrained, rank, percentile)  # type: ignore[arg-type]


def everything() -> Sections:
    rng = np.random.default_rng(0)
    chance = rng.beta(1, 4, 4000)
    labels = (rng.random(4000) < chance).astype(np.float32)
    point = BudgetPoint("budget", 0.25, True, 100.0, 0.6, 0.012, (0.011, 0.013), 0.0014, 0.6)
    rounds = {
        "+visual": {"samples_per_second": [48_000.0, 47_500.0], "p99_ms": [4.1, 4.2], "ranker_bytes": [2e6]},
        "+visual+tokens(A)+profiles(A)": {"samples_per_second": [40_000.0, 39_700.0], "p99_ms": [4.1, 4.25]},
    }
    weights = (
        weight("context.a|b <i>", 1, 0.05),
        weight("item tokens", 2, 0.02),
        weight("profile.like", 3, 0.01),
        weight("captions", 1, 0.03, "group"),
    )
    return Sections(
        importance=Importance(
            weights, ("like", "share"), 20_000, 3, 5, "look (cluster of the visual vectors)"
        ),
        cost=cost_of("+visual", rounds, captions=CaptionCost(3977, 1234.5, 81_000, 1.25, 0.02)),
        slices=[
            {
                "slice": "cold items",
                "rows": 1200,
                "auc_gain": 0.04,
                "interval": [0.02, 0.06],
                "p_value": 2e-5,
                "verdict": "gain",
            },
            {
                "slice": "head items",
                "rows": 9000,
                "auc_gain": 0.001,
                "interval": None,
                "p_value": None,
                "verdict": "cannot tell",
            },
        ],
        budget=BudgetCurve(
            point._replace(share=1.0, gain=0.02), (point, point._replace(share=1.0, gain=0.02)), 2
        ),
        calibration=[
            calibration_curve("like", "+visual", labels, 0.8 * chance),
            calibration_curve("like", "+visual+tokens(A)+profiles(A)", labels, chance),
        ],
        history=[Happening("caption", "captioner_error", "out of memory <b>", "2026-03-02T14:00:00Z", 7)],
        best=[
            ItemCard(
                "17", "Dogs <i>", caption_raw="two dogs", tokens={"A": ("dog",)}, note="loss 9.1 % lower"
            )
        ],
        worst=[ItemCard("4", caption_raw="a sofa", note="loss 2.0 % higher")],
    )


@pytest.fixture(scope="module")
def files(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory):
    return write_report(evidence, tmp_path_factory.mktemp("report"), sections=everything())


def test_every_section_is_in_the_page_after_the_tables(files) -> None:
    html = files.page.read_text(encoding="utf-8")
    places = [html.index(f">{title}</h2>") for title in TITLES]
    assert places == sorted(places)
    assert html.index('id="table1"') < html.index('id="attainable"') < places[0]
    for words in (
        "cold items",
        "2e-5",
        "item tokens: shuffled +2.00 %, 95 % interval 1.80 … 2.20 %; within strata +1.00 %; retrained without it",
        "context.a|b &lt;i&gt;",
        "Of 3,977 captioned items.",
        "0.835",  # 40,000 / 48,000 and 39,700 / 47,500, geometric mean
        "out of memory &lt;b&gt;",
        "Dogs &lt;i&gt;",
        "loss 9.1\u00a0% lower",
        ">Items that captions hurt most</h2>",
    ):
        assert words in html, words
    assert 'class="budget"' in html
    assert 'class="calibrated"' in html
    assert not re.search(r"https?://|@import|url\(|<script", html)


def test_the_markdown_and_the_json_hold_the_same(files, evidence: Evidence) -> None:
    text = files.markdown.read_text(encoding="utf-8")
    for words in (
        "## Slices",
        "## Feature importance",
        "## Cost",
        "## Gain against budget",
        "## Calibration",
        "## Items that captions helped most",
        "| 4 |  | a sofa | loss 2.0 % higher |",
    ):
        assert words in text
    assert "context.a\\|b \\<i\\>" in text
    assert "| cold items | 1,200 | +4.00 % | 2.00 … 6.00 % | 2e-5 | gain |" in text
    said = json.loads(files.evidence.read_text(encoding="utf-8"))
    schema = json.loads(Path(result.__file__).with_name("schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(said, schema, cls=jsonschema.Draft202012Validator)
    assert list(said["sections"]) == [
        "importance",
        "cost",
        "budget",
        "slices",
        "calibration",
        "history",
        "extremes",
    ]
    assert said["sections"]["extremes"]["best"][0]["tokens"] == {"A": ["dog"]}
    assert said["sections"]["importance"]["weights"][1]["shuffled"]["auc_gain"] == 0.02
    assert Evidence.from_json(files.evidence.read_text(encoding="utf-8")).sections == said["sections"]


def test_what_was_not_measured_has_no_section(evidence: Evidence) -> None:
    html = render(evidence)
    assert not [title for title in TITLES if f">{title}<" in html]
    assert Sections().to_dict() == {}
    assert Sections().to_markdown() == []


def test_bins_hold_equal_numbers_and_never_part_equal_predictions() -> None:
    labels = np.array([0, 1, 0, 1, 1, 1, 0, 1], np.float32)
    chance = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.6, 0.7, 0.8])
    bins = calibration_curve("like", "ids", labels, chance, bins=4).bins
    # The boundaries at 2 and 4 lie among equal predictions and move to their start, which is no boundary.
    assert [one.rows for one in bins] == [6, 2]
    assert bins[0].predicted == pytest.approx((5 * 0.1 + 0.6) / 6)
    assert bins[0].observed == pytest.approx(4 / 6)
    # Wilson: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
    z = 1.959964
    middle, scale = 4 / 6 + z**2 / 12, 1 + z**2 / 6
    reach = z * (4 / 6 * 2 / 6 / 6 + z**2 / 144) ** 0.5
    assert bins[0].interval == pytest.approx(((middle - reach) / scale, (middle + reach) / scale))
    assert sum(one.rows for one in bins) == 8


def test_a_calibrated_ranker_lies_on_the_line() -> None:
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    curve = calibration_curve("like", "ids", (rng.random(20_000) < chance).astype(float), chance)
    assert [one.rows for one in curve.bins] == [2000] * 10
    assert sum(one.interval[0] <= one.predicted <= one.interval[1] for one in curve.bins) >= 8
    assert "ids, predicted → observed" in calibration_plot([curve])
    assert calibration_plot([]) == ""


def test_mistakes_are_named() -> None:
    with pytest.raises(CaptionaryError, match="rows of labels and probabilities == 2 and 1"):
        calibration_curve("like", "ids", np.zeros(2), np.zeros(1))
    with pytest.raises(CaptionaryError, match="bins == 0"):
        calibration_curve("like", "ids", np.zeros(2), np.zeros(2), bins=0)


def test_mappings_become_a_table_whatever_their_order() -> None:
    sheet = sheet_of(
        [{"rows": 5, "slice": "a", "tasks": {"x": 1}, "share": 0.25}, {"slice": "b", "ne_gain": -0.001}]
    )
    assert sheet.head == ("Slice", "Rows", "Share", "NE gain")
    assert sheet.rows == (("a", "5", "25.00 %", "–"), ("b", "–", "–", "−0.10 %"))
    assert sheet.numeric == (False, True, True, True)
