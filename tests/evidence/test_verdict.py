"""The verdict says what the figures say, and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from captionary.evidence.evaluate import Evaluation, evaluate
from captionary.evidence.result import ArmResult, Contrast, Evidence, OracleResult, RunInfo
from captionary.evidence.verdict import conclude

RUN = RunInfo(
    name="r",
    dataset="d",
    created_at="2026-01-01T00:00:00Z",
    train_rows=70,
    eval_rows=24_000,
    users=5,
    items=3,
)
JOINT = "+visual+tokens(A)+profiles(A)"


def arm(name: str, gain: float, verdict: str, **fields: object) -> ArmResult:
    made = ArmResult(
        name=name,
        feature="",
        description="",
        tokenizer="A",
        placebo=None,
        captions=True,
        auc={},
        ne={},
        calibration={},
        task_auc_gain={},
        task_ne_gain={},
        task_ne_interval={},
        seeds=3,
        samples_per_second=None,
        auc_gain=gain,
        p_value=3e-5,
        interval=(0.012, 0.024),
        subsets=20,
        seeds_agree=3,
        detectable=0.0061,
        verdict=verdict,  # type: ignore[arg-type]
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def verdict(
    joint: ArmResult, *others: ArmResult, contrasts: dict[str, str] | None = None, oracle: float | None = None
) -> Evidence:
    evaluation = Evaluation(
        baseline="+visual",
        headline=joint.name,
        tasks=(),
        arms=(joint, *others),
        against_placebos=tuple(
            Contrast(
                placebo=name,
                auc_gain=0.017 + 0.001 * (name != "shuffled"),
                p_value=1e-4,
                interval=None,
                verdict=outcome,
            )
            for name, outcome in (contrasts or {}).items()
        ),
        oracle=None if oracle is None else OracleResult(auc={}, ne={}, auc_gain=oracle, ne_gain=None),
        warnings=("Rough.",),
    )
    return conclude(evaluation, run=RUN, warnings=["Earlier."])


def placebo(name: str, gain: float, outcome: str) -> ArmResult:
    return arm(name, gain, outcome, placebo=name)


def test_a_gain_that_no_placebo_shows() -> None:
    made = verdict(
        arm(JOINT, 0.018, "gain"),
        placebo("shuffled", 0.0, "cannot tell"),
        placebo("random", -0.001, "no gain"),
        contrasts={"shuffled": "gain", "random": "gain"},
        oracle=0.036,
    )
    assert made.outcome == "gain"
    assert made.verdict == (
        "Captions help: the joint arm cuts 1−AUC by 1.80 % against +visual (95 % interval 1.20 … 2.40 %, "
        "p = 3e-5 over 20 user-disjoint subsets; 3 of 3 seeds agree)."
    )
    assert made.remarks == (
        "None of 2 placebos does; against the nearest of them, shuffled, the cut is 1.70 % (p = 1e-4).",
        "The gain is 50 % of what the true probabilities would gain.",
    )
    assert made.warnings == ("Earlier.", "Rough.")


def test_a_gain_that_a_placebo_shows_too_but_less() -> None:
    made = verdict(arm(JOINT, 0.018, "gain"), placebo("random", 0.001, "gain"), contrasts={"random": "gain"})
    assert made.outcome == "gain"
    assert "Part of that is not theirs: placebo random (+0.10 %) gains too." in made.statement


def test_a_gain_that_a_placebo_shows_as_well_is_not_the_captions() -> None:
    made = verdict(
        arm(JOINT, 0.018, "gain"), placebo("random", 0.017, "gain"), contrasts={"random": "cannot tell"}
    )
    assert made.outcome == "cannot tell"
    assert made.verdict.startswith("Not shown that captions help: the joint arm cuts 1−AUC by 1.80 %")
    assert "Placebo random gains too. It is not shown to beat the placebo random" in made.statement


def test_a_gain_without_placebos_is_not_shown_to_be_the_captions() -> None:
    made = verdict(arm("+visual+tokens(A)", 0.018, "gain"))
    assert made.outcome == "cannot tell"
    assert "The arm +visual+tokens(A) gains, for whatever reason" in made.verdict
    assert "No placebo was run" in made.statement


def test_a_loss_is_called_one() -> None:
    made = verdict(arm(JOINT, -0.004, "loss", interval=(-0.006, -0.002)))
    assert made.outcome == "loss"
    assert made.verdict.startswith(
        "Captions hurt here: the joint arm raises 1−AUC by 0.40 % against +visual "
        "(95 % interval −0.60 … −0.20 %"
    )


def test_no_gain_says_what_is_excluded() -> None:
    made = verdict(arm(JOINT, 0.00001, "no gain"))
    assert made.outcome == "no gain"
    assert "leaves 1−AUC as it is" in made.verdict
    assert made.remarks == ("A gain of 0.1 % or more is excluded.",)


def test_one_seed_excludes_for_one_training_only() -> None:
    made = verdict(arm(JOINT, 0.00001, "no gain", seeds=1, seeds_agree=1))
    assert "subsets; one seed)" in made.verdict
    assert made.remarks == ("A gain of 0.1 % or more is excluded, for this one training.",)


def test_cannot_tell_says_what_would_have_been_found() -> None:
    made = verdict(arm(JOINT, 0.002, "cannot tell", seeds_agree=2), arm("+visual+tokens(A)", 0.009, "gain"))
    assert made.outcome == "cannot tell"
    assert "2 of 3 seeds agree" in made.verdict
    assert made.remarks[0] == (
        "With 24,000 evaluation rows and 3 seeds, only a gain of about 0.6 % or more would be found."
    )
    assert made.remarks[1].startswith("On its own, +visual+tokens(A) (+0.90 %, p = 3e-5) does gain;")


def test_too_few_users_are_said() -> None:
    made = verdict(arm(JOINT, 0.002, "cannot tell", p_value=None, interval=None, detectable=None))
    assert "(too few users for a test; 3 of 3 seeds agree)" in made.verdict
    assert made.remarks == ()


def test_without_captions_there_is_nothing_to_judge() -> None:
    evaluation = Evaluation("ids", None, (), (), (), None, ())
    made = conclude(evaluation, run=RUN, left_out=["No captions: no arm."])
    assert made.statement == "Nothing to judge: no arm has caption features. No captions: no arm."
    assert made.outcome == "cannot tell"


@pytest.mark.parametrize(("strength", "outcome"), [(1.0, {"gain"}), (0.0, {"cannot tell", "no gain"})])
def test_the_whole_chain_finds_what_is_there_and_nothing_else(
    simulation: Callable, strength: float, outcome: set[str]
) -> None:
    made = conclude(evaluate(*simulation(strength=strength, rows=6000), subsets=10), run=RUN)
    assert made.outcome in outcome
    assert not [one.name for one in made.arms if one.placebo and one.verdict == "gain"]


def test_cannot_tell_says_what_would_tell(simulation: Callable) -> None:
    rows = simulation(strength=0.05, rows=3000, seeds=3)
    evaluation = evaluate(*rows, subsets=10, target=0.0016)
    made = conclude(evaluation, run=RUN)
    assert made.outcome == "cannot tell"
    detail = evaluation.detail(evaluation.headline or "")
    assert detail is not None
    assert detail.need is not None
    assert f"Cannot tell at this size: a gain of 0.16 % {detail.need.words}." in made.remarks
