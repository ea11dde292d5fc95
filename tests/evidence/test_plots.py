"""Plots: everything in the picture is where its value is, and said in words."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.evidence.formats import percent
from captionary.evidence.plots import ceiling, forest, scale_of, table2_strips
from captionary.evidence.result import Evidence


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.booleans(), st.integers(4, 8))
def test_a_scale_holds_its_values_between_round_ticks(values: list[float], zero: bool, most: int) -> None:
    scale = scale_of(values, zero=zero, most_ticks=most)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= most
    labels = [f"{tick:.{scale.digits}f}" for tick in scale.ticks]
    assert len(set(labels)) == len(labels)
    assert (scale.at(scale.low), scale.at(scale.high)) == ("3.00%", "97.00%")
    if zero:
        assert any(abs(tick) < 1e-12 for tick in scale.ticks)


def test_ticks_are_round() -> None:
    assert scale_of([0.012, 0.048], zero=True).ticks == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05])
    assert scale_of([-0.0012, 0.0048], zero=True).ticks == pytest.approx([-0.002, 0, 0.002, 0.004, 0.006])


def strips(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_the_forest_has_a_row_for_each_arm_with_captions(evidence: Evidence) -> None:
    plot = forest(evidence)
    assert plot is not None
    assert [strip.label for strip in plot.strips] == [arm.name for arm in evidence.arms if arm.captions]
    assert [strip.group for strip in plot.strips][-3:] == ["placebo"] * 3
    joint = evidence.headline_arm
    svg = strips(plot.strips[3].svg)
    title = svg.find("title")
    assert title is not None
    assert percent(joint.auc_gain) in title.text
    marks = {mark.get("class"): mark for mark in svg}
    low, middle, high = (
        float(x[:-1]) for x in (marks["bar"].get("x1"), marks["dot"].get("cx"), marks["bar"].get("x2"))
    )
    assert low < middle < high
    assert middle - low == pytest.approx(high - middle, abs=0.02)  # a t interval is symmetric
    assert float(marks["whisker"].get("x1")[:-1]) <= low
    assert sum(mark.get("class") == "seed" for mark in svg) == joint.seeds


def test_positions_follow_values(evidence: Evidence) -> None:
    plot = forest(evidence)
    assert plot is not None
    dots = [float(re.search(r'class="dot" cx="([\d.]+)%"', strip.svg).group(1)) for strip in plot.strips]
    means = [arm.subset_gain for arm in evidence.arms if arm.captions]
    assert sorted(range(6), key=dots.__getitem__) == sorted(range(6), key=means.__getitem__)


def test_names_are_escaped(evidence: Evidence) -> None:
    arms = tuple(dataclasses.replace(arm, name=f'<b>"{arm.name}') for arm in evidence.arms)
    plot = forest(dataclasses.replace(evidence, arms=arms))
    assert plot is not None
    assert "<b>" not in plot.strips[0].svg
    assert strips(plot.strips[0].svg).find("title").text.startswith('<b>"+visual+tokens(A)')


def test_table_2_and_the_ceiling_have_a_row_for_each_task(evidence: Evidence) -> None:
    names = [task.name for task in evidence.tasks]
    changes, ceilings = table2_strips(evidence), ceiling(evidence)
    assert [strip.label for strip in changes.strips] == [strip.label for strip in ceilings.strips] == names
    words = strips(ceilings.strips[0].svg).find("title").text
    assert words == "comment: AUC of " + ", ".join(
        f"{name} {value:.4f}"
        for name, value in (
            ("ids", evidence.arms[0].auc["comment"]),
            ("+visual", evidence.arms[1].auc["comment"]),
            (evidence.headline, evidence.headline_arm.auc["comment"]),
            ("oracle", evidence.oracle.auc["comment"]),
        )
    )


def test_what_is_not_known_is_not_drawn(evidence: Evidence) -> None:
    assert forest(dataclasses.replace(evidence, arms=evidence.arms[:2], headline=None)) is None
    assert ceiling(dataclasses.replace(evidence, headline=None)) is None
    joint = evidence.headline_arm
    unknown = dataclasses.replace(
        joint,
        auc={**joint.auc, "like": None},
        task_ne_gain={**joint.task_ne_gain, "like": None},
        task_ne_interval={**joint.task_ne_interval, "like": None},
    )
    arms = tuple(unknown if arm.name == joint.name else arm for arm in evidence.arms)
    strip = table2_strips(dataclasses.replace(evidence, arms=arms)).strips[1]
    assert strip.figure == "–"
    assert "circle" not in strip.svg
    assert "not known" in strip.svg
