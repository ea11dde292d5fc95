"""Table 1 and 2, and the same figures for a terminal and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from captionary.evidence.formats import percent
from captionary.evidence.result import Evidence
from captionary.evidence.tables import absolute, attainable, markdown, print_tables, table1, table2


def test_table_1_has_the_papers_columns_and_sets_placebos_apart(evidence: Evidence) -> None:
    rows = table1(evidence)
    assert [row.group for row in rows] == [
        *["reference"] * 2,
        *["feature"] * 3,
        *["joint", "ablation"],
        *["placebo"] * 3,
    ]
    profiles = rows[4]
    assert profiles.feature == "MM-LLM User Interest Profile Features"
    assert profiles.description == "Aggregated token id lists based on different user engagement events"
    assert profiles.tokenizer == "Tokenizer A"
    assert profiles.auc_gain == percent(evidence.arms[4].auc_gain)
    assert profiles.seeds.endswith("2 of 2")
    assert (rows[1].auc_gain, rows[1].p_value, rows[1].verdict) == ("–", "–", "baseline")


def test_a_row_that_cannot_tell_says_what_it_would_have_found(evidence: Evidence) -> None:
    def shown(place: int) -> str:
        unsure = dataclasses.replace(evidence.arms[place], verdict="cannot tell", detectable=0.0042)
        return table1(dataclasses.replace(evidence, arms=(*evidence.arms[:place], unsure)))[place].limit

    plan = evidence.arms[2]
    assert shown(2) == f"finds 0.4 % or more; for {percent(plan.target, sign=False)} {plan.needs}"
    assert shown(9) == "finds 0.4 % or more"  # of a placebo nobody wants a plan
    assert "rows" in plan.needs
    assert table1(evidence)[5].limit == ""


def test_table_2_turns_the_sign_as_lower_is_better(evidence: Evidence) -> None:
    joint = evidence.headline_arm
    assert joint is not None
    row = table2(evidence)[1]
    low, high = joint.task_ne_interval["like"]
    assert row.task == "like"
    assert row.change == percent(-joint.task_ne_gain["like"])
    assert row.change.startswith("−")
    assert row.interval == f"{percent(-high)[:-2]} … {percent(-low)}"


def test_absolute_figures_end_with_the_oracle(evidence: Evidence) -> None:
    rows = absolute(evidence)
    assert [row.name for row in rows][-1] == "oracle"
    base = rows[1]
    assert base.cells[0][0] == f"{evidence.arms[1].auc['comment']:.4f}"
    assert (base.ratio, rows[2].speed, rows[2].ratio) == ("1.00 ×", "46,600", f"{46_600 / 47_300:.2f} ×")


def test_the_terminal_shows_both_tables_aligned(evidence: Evidence) -> None:
    text = print_tables(evidence)
    assert text.startswith("Captions help: the joint arm cuts 1−AUC")
    lines = text.split("\n")
    start = lines.index("Table 1. Gains against +visual")
    header, joint = (
        lines[start + 1],
        next(line for line in lines if line.startswith("+visual+tokens(A)+prof")),
    )
    end = header.index("AUC gain") + len("AUC gain")
    assert joint[:end].endswith(percent(evidence.headline_arm.auc_gain))
    assert header.index("verdict") == joint.index("gain", end)
    assert sum(line.startswith("───") for line in lines) == 3
    assert "Table 2. Change of NE by task" in text
    assert max(map(len, lines)) <= 110


def test_the_terminal_shows_no_table_2_without_captions(evidence: Evidence) -> None:
    text = print_tables(dataclasses.replace(evidence, headline=None, arms=evidence.arms[:2]))
    assert "Table 1." in text
    assert "Table 2." not in text


def test_markdown_shows_names_as_they_are(concluded: Callable, simulation: Callable) -> None:
    made = concluded(simulation(rows=600, users=60), name="a|b <script> *c*", source="two\nlines")
    text = markdown(made)
    assert "# a\\|b \\<script\\> \\*c\\*: what captions are worth" in text
    assert "- Source: two lines" in text
    tables = [line for line in text.split("\n") if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {
        12,  # Table 1
        9,  # Table 2
        7,  # every arm by task
        8,  # ablation, power, calibration
        10,  # AUC / NE
        5,  # attainable
    }  # columns + 1 of each table
    assert "- media: cannot identify image file: 7" in text


def test_markdown_has_the_verdict_first_and_every_arm(evidence: Evidence) -> None:
    text = evidence.to_markdown()
    assert (
        text.index("Captions help") < text.index("Table 1") < text.index("Table 2") < text.index("Provenance")
    )
    assert all(arm.name.replace("_", "\\_") in text for arm in evidence.arms)


def test_the_share_of_the_attainable_is_of_the_oracles_gain(evidence: Evidence) -> None:
    rows = {row.name: row for row in attainable(evidence)}
    assert list(rows) == [arm.name for arm in evidence.arms if arm.captions]
    joint, oracle = evidence.headline_arm, evidence.oracle
    assert joint is not None
    assert oracle is not None
    assert joint.combined_interval is not None
    low, high = (bound / oracle.auc_gain for bound in joint.combined_interval)
    row = rows[joint.name]
    assert row.share == f"{100 * joint.auc_gain / oracle.auc_gain:.0f} %"
    assert row.interval == f"{100 * low:.0f} … {100 * high:.0f} %"
    assert "## Share of the attainable" in markdown(evidence)


def test_without_the_truth_nothing_is_a_share(evidence: Evidence) -> None:
    unknown = dataclasses.replace(evidence, oracle=None)
    assert attainable(unknown) == []
    assert "attainable" not in markdown(unknown).split("## ", 1)[1]
    nothing = dataclasses.replace(evidence.oracle, auc_gain=0.0)
    assert attainable(dataclasses.replace(evidence, oracle=nothing)) == []
