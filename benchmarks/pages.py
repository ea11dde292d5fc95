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


def similar_table(result: dict[str, Any]) -> str:
    """Copies found and pictures mistaken at a threshold of 4 bits, collection by collection."""
    collections = {name: of for name, of in result["figures"].items() if "edited copies found, share" in of}
    edits = list(next(iter(collections.values()))["edited copies found, share"])
    rows = [
        "At `similar=4`: pairs of different pictures taken for one, by the hash alone and by hash and colours; and "
        "the share of edited copies that are found.\n",
        "| pictures | pairs | hash alone | taken for one | " + " | ".join(edits) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(edits),
    ]
    for name, of in collections.items():
        found = " | ".join(f"{100 * of['edited copies found, share'][edit]['4']:.0f} %" for edit in edits)
        alone, both = (
            of[key]["4"] for key in ("pairs taken for one by the hash alone", "pairs taken for one")
        )
        rows.append(f"| {name}, {of['pictures']:,} | {of['pairs']:,} | {alone} | {both} | {found} |")
    return "\n".join([*rows, "", where(result)])


def training_table(result: dict[str, Any]) -> str:
    """Samples a second of every contender, and the ratios that the bars are about."""
    figures = result["figures"]
    rows = [
        f"One thread, {figures['rounds']} rounds of {figures['seconds_a_turn']:g} s a turn.\n",
        "| rows | trainer | samples/s |",
        "|---|---|---:|",
    ]
    for part, contenders in figures.items():
        for name, each in contenders.items() if "rows" in part and "÷" not in part else ():
            if isinstance(each, dict) and "median" in each:
                rows.append(f"| {part} | {name} | {each['median']:,} |")
    rows += ["", "| ratio | median | 95 % interval | bar |", "|---|---:|---:|---:|"]
    for name, each in figures.items():
        if "÷" in name:
            low, high = each["interval"]
            bar = figures["bars"].get(name)
            rows.append(f"| {name} | {each['median']:.2f} | {low:.2f} … {high:.2f} | {bar or '–'} |")
    return "\n".join([*rows, "", where(result)])


def serving_table(result: dict[str, Any]) -> str:
    """A request of the exported ranker, in-process, arm by arm; the engines; parity."""
    figures = result["figures"]
    arms = list(figures["requests"])
    rows = [
        f"A request of {figures['candidates']} candidates, in-process, one thread; parity: the largest difference "
        f"from the training model on {figures['rows']:,} rows.\n",
        "| arm | p50 | p90 | p99 | bytes an item | parity |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in arms:
        each = figures["requests"][arm]
        shown = " | ".join(f"{each[name]:.2f} ms" for name in ("p50_ms", "p90_ms", "p99_ms"))
        parity = figures[arm]["parity"]["float32"]
        rows.append(f"| `{arm}` | {shown} | {figures[arm]['bytes_per_item']} | {parity:.1g} |")
    over = figures["captions_over_without"]
    rows += [
        "",
        f"With captions ÷ without: p50 {over['p50']:.2f} ({over['p50_range'][0]:.2f} … {over['p50_range'][1]:.2f} "
        f"over rounds), p99 {over['p99']:.2f}. The scoring alone, by engine:\n",
        "| engine | " + " | ".join(f"`{arm}` p50" for arm in arms) + " |",
        "|---|" + "---:|" * len(arms),
    ]
    for engine in figures["engines"][arms[0]]:
        cells = " | ".join(f"{figures['engines'][arm][engine]['p50_ms']:.2f} ms" for arm in arms)
        rows.append(f"| {engine} | {cells} |")
    return "\n".join([*rows, "", where(result)])


def service_table(result: dict[str, Any]) -> str:
    """The service over loopback at a steady rate, and beyond what it can do."""
    figures = result["figures"]
    steady, over = figures["steady"], figures["overload"]
    ratio = steady["captions_over_none"]
    rows = [
        f"{figures['candidates']} candidates a request, {figures['items']:,} items in the store, open loop: latency "
        "is measured from the moment a request was due.\n",
        "| load | answers | p50 | p90 | p99 | most |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, load, times in (
        (f"{figures['requests_per_second']:g} requests/s", steady["statuses"], steady["ms"]),
        (
            f"{over['requests_per_second']:g} requests/s, refused",
            {"503": over["statuses"]["503"]},
            over["refused_ms"],
        ),
        ("afterwards", {"200": ""}, over["afterwards_ms"]),
    ):
        shown = " | ".join(f"{times[each]:.1f} ms" for each in ("p50", "p90", "p99", "max"))
        answers = ", ".join(f"{code}: {count}".rstrip(": ") for code, count in load.items())
        rows.append(f"| {name} | {answers} | {shown} |")
    rows += [
        "",
        f"With captions ÷ without: {ratio['median']:.3f} ({ratio['interval_95'][0]:.3f} … "
        f"{ratio['interval_95'][1]:.3f}). Memory {over['memory_mb_before']} MB before the overload, "
        f"{over['memory_mb_after']} MB after. {where(result)}",
    ]
    return "\n".join(rows)
