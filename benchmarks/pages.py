"""What the result files look like in docs/: a function a page, none of their numbers typed by hand."""

from __future__ import annotations

from typing import Any


def where(result: dict[str, Any]) -> str:
    """Provenance in brackets."""
    return f"({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`.)"


def percent(value: float, digits: int = 2) -> str:
    """A signed percentage with a real minus."""
    return f"{100 * value:+.{digits}f} %".replace("-", "−")


def power_table(result: dict[str, Any]) -> str:
    """False verdicts, the power curve, and whether plans keep their word, for docs/evidence.md."""
    figures = result["figures"]
    seeds = list(figures["false_verdicts"])
    rows = [
        "How often a gain is claimed in worlds that have none:\n",
        "| test | " + " | ".join(seeds) + " | expected |",
        "|---|" + "---:|" * (len(seeds) + 1),
    ]
    for name, first in figures["false_verdicts"][seeds[0]].items():
        found = [figures["false_verdicts"][each][name] for each in seeds]
        cells = " | ".join(f"{100 * each['share']:.1f} %" for each in found)
        low, high = first["interval"]
        rows.append(
            f"| {name} | {cells} | {100 * first['expected']:g} % ({100 * low:.1f} … {100 * high:.1f}) |"
        )
    worlds = figures["false_verdicts"][seeds[0]][name]["worlds"]
    rows += [
        "",
        f"{worlds} worlds each; in brackets the 95 % binomial interval of so many worlds. "
        "How often a planted gain is found:\n",
        "| planted AUC gain | rows | seeds | verdict gain | cannot tell | no gain |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for each in figures["power_curve"]:
        said = [f"{each['verdicts'].get(verdict, 0)}" for verdict in ("gain", "cannot tell", "no gain")]
        rows.append(
            f"| {percent(each['auc_gain'])} | {each['rows']:,} | {each['seeds']} | " + " | ".join(said) + " |"
        )
    plans = figures["plans"]
    told = ", ".join(f"`{verdict}` {count}" for verdict, count in plans["verdicts_as_asked"].items())
    less = ", ".join(
        f"`{verdict}` {count}" for verdict, count in plans["verdicts_with_a_tenth_of_the_rows"].items()
    )
    rows += [
        "",
        f"An effect of the paper's size, {percent(plans['auc_gain'])}, in {plans['worlds']} worlds: a pilot of "
        f"{plans['pilot']['rows']:,} rows and {plans['pilot']['seeds']} seeds cannot tell and asks for more (median "
        f"{plans['asked_rows']['median']:,} rows, {plans['asked_seeds']['median']} seeds). With what it asked for: "
        f"{told}; with a tenth of the rows: {less}. {where(result)}",
    ]
    return "\n".join(rows)


def listed(result: dict[str, Any]) -> str:
    """Any figures, as an indented list."""

    def lines(figures: dict[str, Any], depth: int) -> list[str]:
        found = []
        for name, value in figures.items():
            if isinstance(value, dict):
                found += [f"{'  ' * depth}- {name}", *lines(value, depth + 1)]
            else:
                shown = ", ".join(map(str, value)) if isinstance(value, list) else value
                found.append(f"{'  ' * depth}- {name}: {shown}")
        return found

    return "\n".join([*lines(result["figures"], 0), "", where(result)])
