"""Two runs side by side: differences with errors that a reader can redo, and what keeps runs from being compared."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from captionary.commands.report import report
from captionary.errors import CaptionaryError
from captionary.evidence.result import Evidence
from captionary.evidence.side_by_side import Difference, SideBySide, read_evidence, side_by_side

JOINT = "+visual+tokens(A)+profiles(A)"


@pytest.fixture(scope="module")
def other(concluded: Callable, simulation: Callable) -> Evidence:
    """The same market with captions that say nothing, under another name and seed."""
    rows = simulation(rows=20_000, users=1000, strength=0.05, seed=5)
    return concluded(
        rows, name="weak", config={"world": {"seed": 8, "semantic_strength": 1.0}, "extra": [1, 2]}
    )


@pytest.fixture(scope="module")
def found(evidence: Evidence, other: Evidence) -> SideBySide:
    return side_by_side(evidence, other)


def changed(evidence: Evidence, **fields: object) -> Evidence:
    """The evidence with its joint arm changed."""
    arms = tuple(dataclasses.replace(arm, **fields) if arm.name == JOINT else arm for arm in evidence.arms)
    return dataclasses.replace(evidence, arms=arms)


def test_the_error_of_the_difference_can_be_redone(evidence: Evidence) -> None:
    # t of 19 degrees of freedom is 2.093: an interval of ± 0.02093 is a standard error of 0.01.
    given = {"auc_gain": 0.05, "subsets": 20, "interval": (0.05 - 0.0209302, 0.05 + 0.0209302)}
    a = changed(evidence, **given, seeds=2, seed_auc_gains=(0.05 - 0.01, 0.05 + 0.01))
    b = changed(evidence, **(given | {"auc_gain": 0.08}), seeds=1, seed_auc_gains=(0.08,))
    pair = side_by_side(a, b).arm(JOINT)
    # The seeds of A: sd = 0.01·√2, of the mean 0.01. So A's variance is 0.01² + 0.01², B's 0.01².
    assert pair.error == pytest.approx(math.sqrt(0.0003), rel=1e-5)
    assert pair.difference == pytest.approx(0.03)
    # Satterthwaite: A (2e-4)² / (1e-8/19 + 1e-8/1) = 3.8; both (3e-4)² / ((2e-4)²/3.8 + (1e-4)²/19) = 8.14.
    freedom = 9e-8 / (4e-8 / 3.8 + 1e-8 / 19)
    from scipy import stats

    assert pair.p_value == pytest.approx(2 * stats.t.sf(0.03 / math.sqrt(0.0003), freedom), rel=1e-4)
    assert pair.word == "no clear difference"


def test_a_clear_difference_is_said_and_has_a_direction(
    found: SideBySide, evidence: Evidence, other: Evidence
) -> None:
    pair = found.arm(JOINT)
    assert pair.difference == other.arm(JOINT).auc_gain - evidence.arm(JOINT).auc_gain
    assert pair.interval[1] < 0
    assert pair.word == "more in A"
    assert JOINT in found.sentence
    assert side_by_side(other, evidence).arm(JOINT).word == "more in B"
    assert pair.auc["like"] == other.arm(JOINT).auc["like"] - evidence.arm(JOINT).auc["like"]


def test_a_run_does_not_differ_from_itself(evidence: Evidence) -> None:
    same = side_by_side(evidence, evidence)
    assert all(one.difference == 0 for one in same.arms)
    assert same.sentence.startswith("No arm gains clearly more")
    assert same.settings == same.provenance == same.warnings == ()
    assert same.arm("+visual").word == "not tested"  # the baseline gains nothing over itself


def test_settings_that_differ_are_named_by_their_keys(found: SideBySide) -> None:
    assert found.settings == (
        Difference("world.seed", "7", "8"),
        Difference("evidence.subsets", "20", None),
        Difference("evidence.seeds", "3", None),
        Difference("extra", None, "[1, 2]"),
    )


def test_arms_of_one_run_are_named(evidence: Evidence) -> None:
    fewer = dataclasses.replace(evidence, arms=evidence.arms[:-1])
    found = side_by_side(evidence, fewer)
    assert found.only_a == ("constant",)
    assert "Only in A: constant." in found.notes
    with pytest.raises(CaptionaryError, match="arm == constant, must be one of"):
        found.arm("constant")


@pytest.mark.parametrize(
    ("of_run", "words"),
    [
        ({"dataset": "oasis"}, "between data as well as between runs"),
        ({"fingerprints": {"data": "x"}}, "one name and different content"),
        ({"eval_rows": 7}, "B has 7"),
        ({"subsets_of": "item"}, "B's over items"),
    ],
)
def test_runs_on_other_data_are_warned_of(evidence: Evidence, of_run: dict, words: str) -> None:
    b = dataclasses.replace(evidence, run=dataclasses.replace(evidence.run, **of_run))
    assert any(words in warning for warning in side_by_side(evidence, b).warnings)


def test_other_baselines_and_tasks_are_warned_of(evidence: Evidence) -> None:
    b = dataclasses.replace(evidence, baseline="ids", tasks=evidence.tasks[:2])
    warnings = " ".join(side_by_side(evidence, b).warnings)
    assert "B's against ids" in warnings
    assert "other tasks" in warnings


def test_what_is_not_known_is_not_tested(evidence: Evidence) -> None:
    pair = side_by_side(evidence, changed(evidence, auc_gain=None, interval=None)).arm(JOINT)
    assert (pair.difference, pair.error, pair.p_value, pair.word) == (None, None, None, "not tested")


def test_the_command_writes_three_files_that_say_the_same(
    evidence: Evidence, other: Evidence, tmp_path: Path
) -> None:
    run = tmp_path / "strong" / "report"
    run.mkdir(parents=True)
    (run / "evidence.json").write_text(evidence.to_json(), encoding="utf-8")
    (tmp_path / "b.json").write_text(other.to_json(), encoding="utf-8")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        report,
        [str(tmp_path / "strong"), str(tmp_path / "b.json"), "--out", str(out)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert JOINT in result.output
    said = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    joint = next(arm for arm in said["arms"] if arm["name"] == JOINT)
    assert joint["word"] == "more in A"
    html, text = ((out / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    assert "world.seed" in html
    assert "world.seed" in text
    assert "<script" not in html
    assert f"{100 * abs(joint['difference']):.2f} %" in text
    assert f"{100 * abs(joint['difference']):.2f} %" in html


def test_names_are_data(evidence: Evidence) -> None:
    evil = "<script>alert(1)</script>"
    b = dataclasses.replace(evidence, run=dataclasses.replace(evidence.run, name=evil))
    assert "<script" not in side_by_side(evidence, b).to_html()


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CaptionaryError, match=r"must be a folder with report/evidence\.json; run `captionary evidence"
    ):
        read_evidence(tmp_path)
    with pytest.raises(CaptionaryError, match=r"run == .*nowhere"):
        read_evidence(tmp_path / "nowhere")
