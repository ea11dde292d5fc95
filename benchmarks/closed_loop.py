"""Whether the analysis of experiments keeps its word, on users whose responses are known.

    python benchmarks/closed_loop.py            # about three minutes on one core
    python benchmarks/closed_loop.py --quick    # 40 runs of each kind; figures are printed, not written
    python benchmarks/closed_loop.py --page     # what was written into docs/experiments.md; every full run does it too
    python benchmarks/closed_loop.py --run demo.yaml --control ids --treatment captions   # rankers that a run trained

Users of the simulated world respond to what the ranker of their arm shows (an oracle behind noise). Every run deals the
users anew and draws every response anew. Asked are: how often two equal arms are said to differ, at the end and under
daily looks; how often a planted effect is found at the planned size; how soon harm is stopped.

With --run the rankers are two that `captionary export` wrote of a run on the demo's world, whose users live on after
the run's log: what is the offline gain worth to them, and what do experiments with all of them say?
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from captionary.evidence.formats import interval, percent
from captionary.online.experiments.closed_loop import ClosedLoop, Ranker, Shown, blurred_oracle, planted
from captionary.online.experiments.comparison import compare, sample_ratio_p
from captionary.online.experiments.looks import looks_of
from captionary.online.experiments.monitor import Monitor
from captionary.online.experiments.plan import users_needed
from captionary.online.experiments.settings import BUCKETS, Arm, Experiment, Metric, Monitoring
from captionary.world.market import World, WorldConfig

PAGE = Path(__file__).parent.parent / "docs" / "experiments.md"
MARKS = ("<!-- closed-loop -->", "<!-- /closed-loop -->")
TRAINED_MARKS = ("<!-- closed-loop-trained -->", "<!-- /closed-loop-trained -->")
TRAINED_RUNS, TRAINED_VISITS = 100, 4_000
RUNS, QUICK = 300, 40
UPLIFT, HARM, BLUR = 0.02, -0.05, 2.0
RULES = Monitoring(days=14, smallest_effect=UPLIFT)


def main() -> None:
    """Run everything; write benchmarks/results/closed_loop.json and the table of docs/experiments.md."""
    from result import read_result, write_result

    if "--page" in sys.argv:
        page = with_table(PAGE.read_text(encoding="utf-8"), read_result("closed_loop"))
        PAGE.write_text(with_trained(page, read_result("closed_loop_trained")))
        return
    if "--run" in sys.argv:
        made = trained_rankers(*(Path(option(name)) for name in ("--run", "--control", "--treatment")))
        print(made)
        if "--quick" not in sys.argv:
            print(write_result("closed_loop_trained", made))
            PAGE.write_text(
                with_trained(PAGE.read_text(encoding="utf-8"), read_result("closed_loop_trained"))
            )
        return
    quick = "--quick" in sys.argv
    runs = QUICK if quick else RUNS
    config = WorldConfig(users=72_000, items=2_000, broken_media=0, pictures=False, days=8, impressions=1_000)
    loop = ClosedLoop(World(config), days=14, before=14, visits_per_day=72_000)
    control = loop.show(blurred_oracle(BLUR))
    sharper = planted(loop, BLUR, UPLIFT)
    better = loop.show(blurred_oracle(sharper))
    worse = loop.show(blurred_oracle(planted(loop, BLUR, HARM)))
    pilot = loop.run(experiment(1.0), (control, control), number=10**6)
    found = compare(pilot.measures.sample(pilot.measures.primary, loop.end()))
    size = {power: users_needed(UPLIFT, found.variation, power=power) for power in (0.8, 0.9)}
    figures: dict[str, Any] = {
        "visitors": loop.visitors,
        "impressions_of_a_run": int((loop.time >= loop.start).sum()),
        "cv_with_cuped_taken_off": round(found.variation, 4),
        "variance_left_by_cuped": round(found.variance_left or 1.0, 4),
        "true_uplift": round(loop.expected(better) / loop.expected(control) - 1, 5),
        "offline_auc": {
            name: offline_auc(loop, blurred_oracle(blur))
            for name, blur in (("control", BLUR), ("treatment", sharper))
        },
        "users_per_arm_planned": {f"power {power}": round(users) for power, users in size.items()},
    }
    small = experiment(2 * size[0.8] / loop.visitors)
    figures["two equal arms"] = equal_arms(loop, small, control, runs)
    print(figures)
    for power, users in size.items():
        wide = experiment(2 * users / loop.visitors)
        hits = 0
        for number in range(runs):
            run = loop.run(wide, (control, better), number=2 * 10**6 + number)
            seen = compare(run.measures.sample(run.measures.primary, loop.end()))
            hits += seen.p_value < RULES.alpha and seen.effect > 0
        figures[f"+2 % planned at power {power}"] = {"found at the end": rate(hits, runs)}
        print(figures[f"+2 % planned at power {power}"])
    figures["+2 % watched daily, group-sequential"] = watched(loop, size[0.9], (control, better), runs // 4)
    figures["−5 % watched daily, group-sequential"] = watched(loop, size[0.9], (control, worse), runs // 4)
    print(figures)
    if not quick:
        print(write_result("closed_loop", figures))
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_result("closed_loop")))


def option(name: str) -> str:
    """The word after a name in the command line."""
    if name not in sys.argv[:-1]:
        raise SystemExit(f"{name} is missing")
    return sys.argv[sys.argv.index(name) + 1]


def trained_rankers(config: Path, control: Path, treatment: Path) -> dict[str, Any]:
    """What two trained rankers are worth to users, and what experiments find of it."""
    from captionary.online.experiments.trained import interests_of, trained, world_of
    from captionary.settings import load_run

    quick = "--quick" in sys.argv
    run = load_run(config)
    loop = ClosedLoop(world_of(run), days=14, before=14, visits_per_day=TRAINED_VISITS // (8 if quick else 1))
    interests = interests_of(run, loop)
    rankers = {
        name: trained(folder, interests, loop.world.users)
        for name, folder in (("control", control), ("treatment", treatment))
    }
    shown = {name: loop.show(ranker) for name, ranker in rankers.items()}
    shown |= {"chance": loop.show(blurred_oracle(1e6)), "truth": loop.show(blurred_oracle(0.0))}
    expected = {name: loop.expected(one) for name, one in shown.items()}
    everybody, runs = experiment(1.0), QUICK // 4 if quick else TRAINED_RUNS
    arms = (shown["control"], shown["treatment"])
    found = [
        compare(made.measures.sample(made.measures.primary, loop.end()))
        for made in (loop.run(everybody, arms, number=4 * 10**6 + number) for number in range(runs))
    ]
    significant = [one for one in found if one.p_value < RULES.alpha]
    return {
        "arms": {"control": control.name, "treatment": treatment.name},
        "visitors": loop.visitors,
        "impressions_of_a_run": int((loop.time >= loop.start).sum()),
        "responses_over_chance": {
            name: round(value / expected["chance"] - 1, 5)
            for name, value in expected.items()
            if name != "chance"
        },
        "true_uplift": round(expected["treatment"] / expected["control"] - 1, 5),
        "offline_auc": {name: offline_auc(loop, ranker) for name, ranker in rankers.items()},
        "mean_effect_found": round(statistics.mean(one.effect for one in found), 5),
        "found better": rate(sum(one.effect > 0 for one in significant), runs),
        "found worse": rate(sum(one.effect < 0 for one in significant), runs),
    }


def offline_auc(loop: ClosedLoop, ranker: Ranker) -> float:
    """AUC of the ranker on candidates drawn as for visits: what it would be worth to an offline evaluation."""
    rng = np.random.default_rng(7)
    scores, labels = [], []
    for slate in loop.slates[-3:]:
        scores.append(ranker(slate)[:, 0])
        labels.append(rng.random(len(slate.user)) < expit(slate.logit[:, 0]))
    positive = np.concatenate(labels)
    rank = stats.rankdata(np.concatenate(scores))
    count = int(positive.sum())
    area = (rank[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count))
    return round(float(area), 5)


def experiment(share: float) -> Experiment:
    """An experiment with that part of all users."""
    if share > 1:
        raise SystemExit(f"{share:.2f} of the users are needed: make the world larger")
    return Experiment(
        name="loop",
        arms=(Arm(name="control", share=0.5), Arm(name="treatment", share=0.5)),
        range=(0, math.ceil(BUCKETS * share)),
        metrics=(Metric(name="responses", of="response", role="primary"),),
        covariate_days=14,
        monitoring=RULES,
    )


def equal_arms(loop: ClosedLoop, small: Experiment, control: Shown, runs: int) -> dict[str, Any]:
    """How often an effect is claimed that is not there."""
    # The stop for harm has an alpha of its own: out of the way where the test of the primary metric is asked.
    alone = {
        method: Monitor(replace(small, monitoring=replace(RULES, method=method, harm_alpha=1e-12)))
        for method in ("group-sequential", "always-valid")
    }
    names = [
        "one test at the end",
        "naive peeking",
        *alone,
        "stop for harm",
        "stop for the split",
        "split at the end",
    ]
    hits = dict.fromkeys(names, 0)
    for number in range(runs):
        run = loop.run(small, (control, control), number=number)
        hits["one test at the end"] += (
            compare(run.measures.sample(run.measures.primary, loop.end())).p_value < RULES.alpha
        )
        looks = looks_of(run.measures, small, until=loop.end())["treatment"]
        hits["naive peeking"] += any(abs(look.effect / look.error) > stats.norm.ppf(0.975) for look in looks)
        for method, monitor in alone.items():
            hits[method] += monitor.decide("treatment", looks).action in ("stop: success", "stop: harm")
        decision = Monitor(replace(small, monitoring=replace(RULES, alpha=1e-12))).decide("treatment", looks)
        hits["stop for harm"] += decision.action == "stop: harm"
        hits["stop for the split"] += decision.action == "stop: broken"
        counts = run.exposed.counts
        hits["split at the end"] += (
            sample_ratio_p([counts["control"], counts["treatment"]], (0.5, 0.5)) < 0.05
        )
    return {"looks of a run": 14} | {name: rate(number, runs) for name, number in hits.items()}


def watched(loop: ClosedLoop, users: float, arms: tuple[Shown, ...], runs: int) -> dict[str, Any]:
    """What daily looks decide, and when."""
    wide = experiment(2 * users / loop.visitors)
    monitor = Monitor(wide)
    made = []
    for number in range(runs):
        run = loop.run(wide, arms, number=3 * 10**6 + number)
        made.append(monitor.decide("treatment", looks_of(run.measures, wide, until=loop.end())["treatment"]))
    actions = [decision.action for decision in made]
    result: dict[str, Any] = {action: rate(actions.count(action), runs) for action in sorted(set(actions))}
    result["median day of the decision"] = round(statistics.median(decision.day for decision in made), 1)
    return result


def with_table(page: str, result: dict[str, Any]) -> str:
    """The page with the figures of a result between its marks."""
    figures = result["figures"]

    def cell(each: dict[str, Any]) -> str:
        low, high = each["interval"]
        return f"{percent(each['share'], sign=False, digits=1)} | {interval((low, high), digits=1)} | {each['of']} |"

    lines = ["| asked | share of runs | 95 % interval | runs |", "|---|---:|---:|---:|"]
    for name, each in figures["two equal arms"].items():
        if isinstance(each, dict):
            lines.append(f"| two equal arms: {name} | {cell(each)}")
    for name, group in figures.items():
        if isinstance(group, dict) and name != "two equal arms":
            rates = {key: each for key, each in group.items() if isinstance(each, dict)}
            lines += [f"| {name}: {key} | {cell(each)}" for key, each in rates.items()]
    planned = figures["users_per_arm_planned"]
    auc = figures["offline_auc"]
    gain = (auc["treatment"] - auc["control"]) / (1 - auc["control"])
    medians = [
        f"{name}: day {group['median day of the decision']:g}"
        for name, group in figures.items()
        if isinstance(group, dict) and "median day of the decision" in group
    ]
    lines += [
        "",
        f"Planned for +2 %, {', '.join(f'{name}: {users:,} users an arm' for name, users in planned.items())}, at a CV "
        f"of {figures['cv_with_cuped_taken_off']:.2f} with CUPED taken off. Median day of the decision, "
        f"{'; '.join(medians)}. The two rankers' offline AUC gain is {percent(gain)}, for "
        f"{percent(figures['true_uplift'])} online.",
        "",
        f"({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`.)",
    ]
    begin, end = (page.index(mark) for mark in MARKS)
    return page[: begin + len(MARKS[0])] + "\n" + "\n".join(lines) + "\n" + page[end:]


def with_trained(page: str, result: dict[str, Any]) -> str:
    """The page with the figures of trained rankers between their marks."""
    figures = result["figures"]
    over, auc = figures["responses_over_chance"], figures["offline_auc"]
    gain = (auc["treatment"] - auc["control"]) / (1 - auc["control"])
    better, worse = figures["found better"], figures["found worse"]
    low, high = better["interval"]
    lines = [
        f"Two rankers of the demo run, `{figures['arms']['control']}` and `{figures['arms']['treatment']}`, exported "
        f"and scored as they are served, show each of {figures['visitors']:,} users one of six candidates a visit "
        f"after the run's log has ended. Responses over those to chance: {percent(over['control'])} and "
        f"{percent(over['treatment'])}, of {percent(over['truth'])} for who knows the truth. So captions are worth "
        f"{percent(figures['true_uplift'])} online here, for an AUC gain of {percent(gain)} on the same candidates. Of "
        f"{better['of']} experiments with all users over two weeks {percent(better['share'], sign=False, digits=0)} "
        f"({interval((low, high), digits=0)}) find the better one, "
        f"{percent(worse['share'], sign=False, digits=0)} the other; the mean of their effects is "
        f"{percent(figures['mean_effect_found'])}.",
        "",
        f"({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`.)",
    ]
    begin, end = (page.index(mark) for mark in TRAINED_MARKS)
    return page[: begin + len(TRAINED_MARKS[0])] + "\n" + "\n".join(lines) + "\n" + page[end:]


def rate(hits: int, runs: int) -> dict[str, Any]:
    """A share with its exact 95 % binomial interval (Clopper and Pearson 1934)."""
    bounds = stats.binomtest(hits, runs).proportion_ci(0.95)
    return {"of": runs, "share": hits / runs, "interval": [round(bounds.low, 4), round(bounds.high, 4)]}


if __name__ == "__main__":
    main()
