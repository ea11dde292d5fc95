"""The verdict in sentences: what the figures say, and what they do not."""

from __future__ import annotations

from collections.abc import Sequence

from captionary.evidence.compare import ALPHA, WORTH
from captionary.evidence.evaluate import Evaluation
from captionary.evidence.formats import count, interval, p_phrase, percent, share
from captionary.evidence.result import ArmResult, CaptionCounts, Contrast, Evidence, Outcome, RunInfo

__all__ = ["conclude"]


def conclude(
    evaluation: Evaluation,
    *,
    run: RunInfo,
    captions: CaptionCounts | None = None,
    left_out: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Evidence:
    """Put figures, provenance and verdict together.

    The outcome is ``gain`` only where the headline arm gains against the baseline, no placebo does, and it
    gains against every placebo that was run: a gain that meaningless tokens show too is not the captions'.

    Args:
        evaluation: what `captionary.evidence.evaluate.evaluate` returned.
        run: provenance.
        captions: counts of captions; None where the data set has no media.
        left_out: sentences on arms that could not be run, from `captionary.evidence.arms.default_arms`.
        warnings: sentences of other stages, put before those of the evaluation.
    """
    arms = {arm.name: arm for arm in evaluation.arms}
    headline = arms[evaluation.headline] if evaluation.headline else None
    outcome, verdict, remarks = _judge(evaluation, headline, run, left_out)
    remarks += [*_rivals(evaluation), *_dealt(evaluation)]
    return Evidence(
        outcome=outcome,
        verdict=verdict,
        remarks=tuple(remarks),
        baseline=evaluation.baseline,
        headline=evaluation.headline,
        run=run,
        tasks=evaluation.tasks,
        arms=evaluation.arms,
        against_placebos=evaluation.against_placebos,
        against_rivals=evaluation.against_rivals,
        ablation=evaluation.ablation,
        oracle=evaluation.oracle,
        captions=captions,
        left_out=tuple(left_out),
        warnings=(*warnings, *evaluation.warnings),
    )


def _judge(
    evaluation: Evaluation, headline: ArmResult | None, run: RunInfo, left_out: Sequence[str]
) -> tuple[Outcome, str, list[str]]:
    """(outcome, verdict, remarks)."""
    if headline is None:
        return "cannot tell", "Nothing to judge: no arm has caption features.", list(left_out)
    placebos = [arm for arm in evaluation.arms if arm.placebo]
    figures = _figures(headline, evaluation.baseline, run.subsets_of)
    if headline.verdict == "gain":
        outcome, opening, remarks = _judge_gain(headline, placebos, evaluation.against_placebos)
        oracle = evaluation.oracle
        if outcome == "gain" and oracle and oracle.auc_gain and oracle.auc_gain > 0:
            part = share(headline.auc_gain or 0.0, oracle.auc_gain)
            remarks.append(f"The gain is {part} of what the true probabilities would gain.")
        return outcome, f"{opening}: {figures}.", remarks
    if headline.verdict == "loss":
        return "loss", f"Captions hurt here: {figures}.", _alone(evaluation, headline)
    if headline.verdict == "no gain":
        bound = percent(WORTH, sign=False, digits=1)
        scope = ", for this one training" if headline.seeds == 1 else ""
        remarks = [f"A gain of {bound} or more is excluded{scope}.", *_alone(evaluation, headline)]
        return "no gain", f"Captions do not help here: {figures}.", remarks
    remarks = [*_limit(headline, run), *_need(evaluation, headline), *_alone(evaluation, headline)]
    return "cannot tell", f"Cannot tell whether captions help: {figures}.", remarks


def _judge_gain(
    headline: ArmResult, placebos: Sequence[ArmResult], contrasts: Sequence[Contrast]
) -> tuple[Outcome, str, list[str]]:
    """(outcome, opening words, what placebos add) for a headline arm that beats the baseline."""
    gaining = [arm for arm in placebos if arm.verdict == "gain"]
    unbeaten = [contrast for contrast in contrasts if contrast.verdict != "gain"]
    if not placebos:
        words = "No placebo was run, so whether it is what the captions say that helps is not shown."
        return "cannot tell", f"{_subject(headline, capital=True)} gains, for whatever reason", [words]
    if unbeaten:
        names = _listed([f"{contrast.placebo} ({p_phrase(contrast.p_value)})" for contrast in unbeaten])
        also = f"Placebo {_listed([arm.name for arm in gaining])} gains too. " if gaining else ""
        words = f"{also}It is not shown to beat the placebo {names}, so the gain may not be the captions'."
        return "cannot tell", "Not shown that captions help", [words]
    least = min(contrasts, key=lambda contrast: contrast.auc_gain or 0.0)
    if gaining:
        names = _listed([f"{arm.name} ({percent(arm.auc_gain)})" for arm in gaining])
        words = (
            f"Part of that is not theirs: placebo {names} gains too. Against placebo {least.placebo}, "
            f"the arm still cuts 1−AUC by {percent(least.auc_gain, sign=False)} ({p_phrase(least.p_value)})."
        )
        return "gain", "Captions help", [words]
    none = "The placebo does not" if len(placebos) == 1 else f"None of {len(placebos)} placebos does"
    words = (
        f"{none}; against the nearest of them, {least.placebo}, "
        f"the cut is {percent(least.auc_gain, sign=False)} ({p_phrase(least.p_value)})."
    )
    return "gain", "Captions help", [words]


def _figures(arm: ArmResult, baseline: str, unit: str) -> str:
    """What the arm does, with its interval, its p and its seeds."""
    gain = arm.auc_gain or 0.0
    size = percent(abs(gain), sign=False)
    if arm.auc_gain is None:
        change = "has no AUC to compare"
    elif size == percent(0.0, sign=False):
        change = "leaves 1−AUC as it is"
    else:
        change = f"cuts 1−AUC by {size}" if gain > 0 else f"raises 1−AUC by {size}"
    tested = f"too few {unit}s for a test"
    if arm.interval is not None:
        tested = (
            f"95 % interval {interval(arm.interval)}, {p_phrase(arm.p_value)} "
            f"over {arm.subsets} {unit}-disjoint subsets"
        )
    seeds = "one seed" if arm.seeds == 1 else f"{arm.seeds_agree} of {arm.seeds} seeds agree"
    return f"{_subject(arm)} {change} against {baseline} ({tested}; {seeds})"


def _rivals(evaluation: Evaluation) -> list[str]:
    """Which rivals the headline arm beats, which beat it, and which it cannot be told from."""
    if not evaluation.against_rivals:
        return []
    said: dict[str, list[str]] = {"is ahead of": [], "is behind": [], "cannot be told from": []}
    for contrast in evaluation.against_rivals:
        p = contrast.p_adjusted
        sure = contrast.verdict in ("gain", "loss") and p is not None and p < ALPHA
        words = "cannot be told from"
        if sure:
            words = "is ahead of" if contrast.verdict == "gain" else "is behind"
        said[words].append(f"{contrast.rival} ({percent(contrast.auc_gain)})")
    parts = [f"{words} {_listed(names)}" for words, names in said.items() if names]
    return [f"Beside rivals, the headline arm {'; '.join(parts)}."]


def _dealt(evaluation: Evaluation) -> list[str]:
    """Whether the captions of new items say anything, where that was tested."""
    tested = [arm for arm in evaluation.arms if arm.dealt_p_value is not None]
    if not tested:
        return []
    said = _listed(
        [f"{arm.name} by {percent(arm.dealt_gain)} ({p_phrase(arm.dealt_p_value)})" for arm in tested]
    )
    sure = any((arm.dealt_p_value or 1.0) < 0.01 for arm in tested)
    opening = (
        "Captions of the held-out items do say something" if sure else "What captions of held-out items say"
    )
    return [f"{opening}: against the same captions dealt anew among these items, 1−AUC falls in {said}."]


def _limit(arm: ArmResult, run: RunInfo) -> list[str]:
    """Why a test that says nothing says nothing."""
    if arm.detectable is None:
        return []
    seeds = "one seed" if arm.seeds == 1 else f"{arm.seeds} seeds"
    least = percent(arm.detectable, sign=False, digits=1)
    rows = count(run.eval_rows)
    return [f"With {rows} evaluation rows and {seeds}, only a gain of about {least} or more would be found."]


def _need(evaluation: Evaluation, arm: ArmResult) -> list[str]:
    """What would tell, by the variances seen here."""
    detail = evaluation.detail(arm.name)
    if detail is None or detail.need is None:
        return []
    plan = detail.need
    size = percent(plan.target, sign=False)
    if plan.enough:
        often = percent(plan.power, sign=False, digits=0)
        return [f"At this size, a gain of {size} would have been found {often} of the time."]
    return [f"Cannot tell at this size: a gain of {size} {plan.words}."]


def _alone(evaluation: Evaluation, headline: ArmResult) -> list[str]:
    """Single features that gain where the headline arm does not: said, with the caution that it needs."""
    others = [
        f"{arm.name} ({percent(arm.auc_gain)}, {p_phrase(arm.p_value)})"
        for arm in evaluation.arms
        if arm.captions
        and not (arm.placebo or arm.rival or arm.ablation)
        and arm.name != headline.name
        and arm.verdict == "gain"
        and (arm.p_adjusted is None or arm.p_adjusted < ALPHA)
    ]
    if not others:
        return []
    verb = "does" if len(others) == 1 else "do"
    return [f"On its own, {_listed(others)} {verb} gain; the best of several looks is worth less than one."]


def _subject(arm: ArmResult, *, capital: bool = False) -> str:
    joint = "tokens(" in arm.name and "profiles(" in arm.name
    return ("The " if capital else "the ") + ("joint arm" if joint else f"arm {arm.name}")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
