"""Ablation both ways and the headline arm against rivals, on scores whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from captionary.evidence.ablation import ablations
from captionary.evidence.arms import default_arms
from captionary.evidence.compare import compare, measure
from captionary.evidence.evaluate import evaluate


def test_each_feature_is_added_to_what_lacks_it_and_taken_from_the_headline_arm(evidence) -> None:
    rows = {row.feature: row for row in evidence.ablation}
    assert {name: (row.added, row.removed) for name, row in rows.items()} == {
        "visual vector": ("+visual", "+tokens(A)+profiles(A)"),
        "tokens": ("+visual+tokens(A)", "+visual+profiles(A)"),
        "profiles": ("+visual+profiles(A)", "+visual+tokens(A)"),
        "captions": ("+visual+tokens(A)+profiles(A)", "+visual"),
    }
    arms = {arm.name: arm for arm in evidence.arms}
    assert rows["tokens"].added_gain == arms["+visual+tokens(A)"].auc_gain
    assert rows["captions"].added_gain == rows["captions"].removed_gain == evidence.headline_arm.auc_gain
    joint, without = (arms[name].auc for name in ("+visual+tokens(A)+profiles(A)", "+visual+profiles(A)"))
    expected = np.mean([(joint[t] - without[t]) / (1 - without[t]) for t in joint])
    assert rows["tokens"].removed_gain == pytest.approx(expected)
    low, high = rows["tokens"].removed_interval
    assert low < expected < high


def test_beside_the_visual_vector_it_is_no_feature(simulation: Callable) -> None:
    arms = default_arms(visual=True, tokens=("A",), profiles=("A",), on_visual=False).arms
    made = simulation(rows=600, users=60)
    measured = {arm.name: measure(made.labels, made.predictions["ids"], made.users % 5) for arm in arms}
    found = ablations(arms[4], arms, lambda a, b: compare(measured[a.name], measured[b.name]))
    assert [(row.feature, row.added, row.removed) for row in found] == [
        ("tokens", "+tokens(A)", "+profiles(A)"),
        ("profiles", "+profiles(A)", "+tokens(A)"),
        ("captions", "+tokens(A)+profiles(A)", "ids"),
    ]


def test_rivals_are_compared_with_the_headline_arm_and_corrected(simulation: Callable) -> None:
    made = simulation(rows=8_000, users=600, seeds=3, noise=0.02)
    arms = default_arms(visual=True, tokens=("A", "B"), profiles=("A",), rivals=("items", "category")).arms
    weak, strong = "+visual+tokens(items)+profiles(items)", "+visual+tokens(category)+profiles(category)"
    predictions = made.predictions | {
        weak: made.predictions["+visual+tokens(B)"],
        strong: made.truth.astype(np.float32)[None].repeat(3, axis=0),
    }
    found = evaluate(made.labels, made.users, made.task_names, predictions, arms, subsets=20)
    assert found.headline == "+visual+tokens(A)+profiles(A)"
    assert [(one.rival, one.verdict) for one in found.against_rivals] == [(weak, "gain"), (strong, "loss")]
    one, other = sorted(found.against_rivals, key=lambda row: row.p_value)
    assert one.p_adjusted == pytest.approx(2 * one.p_value)
    assert other.p_adjusted == pytest.approx(max(one.p_adjusted, other.p_value))
    by = {arm.name: arm for arm in found.arms}
    assert (by[weak].rival, by["+visual"].p_adjusted, by["shuffled"].p_adjusted) == ("items", None, None)
    claims = [arm.combined_p_value for arm in found.arms if arm.p_adjusted is not None]
    assert len(claims) == 6  # four of captions, two rivals; no reference, ablation or placebo
    least = min(
        (arm for arm in found.arms if arm.p_adjusted is not None), key=lambda arm: arm.combined_p_value
    )
    assert least.p_adjusted == pytest.approx(min(1.0, 6 * min(claims)))
