"""Write README's table from benchmarks/results/demo.json, and those of docs/ from the others: none typed by hand.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import (
    listed,
    percent,
    power_table,
    service_table,
    serving_table,
    similar_table,
    training_table,
    where,
)

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"


def with_table(text: str, result: dict[str, Any]) -> str:
    """README with the table of `result` between the markers."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table(result)}\n{END}{after}"


def table(result: dict[str, Any]) -> str:
    """Table 1 of the demo and of the null world side by side, and what the run took."""
    demo, null = (result["figures"][name] for name in ("demo", "null-world"))
    rows = [
        "| arm | AUC gain | NE gain | p | verdict | AUC gain, no semantics | verdict |",
        "|---|---:|---:|---:|---|---:|---|",
    ]
    other = {arm["name"]: arm for arm in null["evidence"]["arms"]}
    for arm in demo["evidence"]["arms"]:
        twin = other[arm["name"]]
        name = f"*{arm['name']}* (placebo)" if arm["placebo"] else f"`{arm['name']}`"
        if arm["p_value"] is None:
            rows.append(f"| {name} | – | – | – | baseline | – | baseline |")
            continue
        cells = [
            name,
            percent(arm["auc_gain"]),
            percent(arm["ne_gain"]),
            f"{arm['p_value']:.1g}",
            arm["verdict"],
        ]
        rows.append("| " + " | ".join([*cells, percent(twin["auc_gain"]), twin["verdict"]]) + " |")
    oracle = demo["evidence"]["oracle"]
    run, first, second = demo["evidence"]["run"], demo["first"], demo["second"]
    rows += [
        "",
        f"AUC gain is the relative decrease of 1 − AUC against `+visual`, mean over "
        f"{len(demo['evidence']['tasks'])} tasks and "
        f"{demo['evidence']['arms'][0]['seeds']} seeds; p is the paired t-test over user-disjoint subsets of "
        f"{run['eval_rows']:,} evaluation rows. The oracle, which knows the true probabilities, would gain "
        f"{percent(oracle['auc_gain'])}. The whole run took {first['seconds']:.0f} s and {first['peak_gb']:.1f} GB, "
        f"the second "
        f"run {second['seconds']:.0f} s ({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, "
        f"`{result['command']}`).",
    ]
    return "\n".join(rows)


def adapt_table(result: dict[str, Any]) -> str:
    """What adapting to posters gave, for docs/captioner.md."""
    figures = result["figures"]
    was, now, drawn, probe = (figures[name] for name in ("as_it_was", "adapted", "drawn", "probe"))
    rows = [
        f"Genres in captions of {figures['held_out_items']:,} posters that were held out, learnt from "
        f"{figures['training_items']:,} others in at most {figures['minutes']:g} minutes; average precision, a said word counting by "
        "its place (the first 1, the second 1/2, …); *drawn*: by the share of 32 captions drawn from the captioner that say it:\n",
        "| genre | posters | as it was | adapted | adapted, drawn | linear probe |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for i, word in enumerate(now["words"]):
        if now["counts"][i]:
            cells = " | ".join(f"{each['values'][i]:.3f}" for each in (was, now, drawn, probe))
            rows.append(f"| {word} | {now['counts'][i]} | {cells} |")
    micro = " | ".join(f"**{each['micro']:.3f}**" for each in (was, now, drawn, probe))
    rows += [
        f"| all | {sum(now['counts'])} | {micro} |",
        "",
        f"The adapted captioner reaches {100 * figures['drawn_over_probe']:.0f} % of the probe, its one caption "
        f"{100 * figures['adapted_over_probe']:.0f} % ({result['hardware']}; commit "
        f"{result['commit']}, {result['date'][:10]}, `{result['command']}`).",
    ]
    return "\n".join(rows)


def captioning_table(result: dict[str, Any]) -> str:
    """The captioner's speed beside transformers' own loop, with its own captions and with long ones."""
    figures = result["figures"]
    lengths = {"its own": figures, "32 tokens": figures["32 tokens a caption"]}
    rows = [
        "| captions | | images/s | tokens/s | s per 1,000 items | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for length, of in lengths.items():
        for name in ("captionary", "transformers generate"):
            each = of[name]
            rows.append(
                f"| {length} | {name} | {each['median_images_per_second']} | {each['tokens_per_second']:,} | "
                f"{each['seconds_per_1000_items']} | {each['peak_mb']:,} MB |"
            )
    times = " and ".join(f"{of['times_as_fast']} ({length})" for length, of in lengths.items())
    rows += [
        "",
        f"{times} times as fast with the same weights on {figures['images']} world scenes; its own captions, of a dozen "
        f"tokens, are the same for {figures['same_captions']} (8-bit and bf16 here, float32 there). {where(result)}",
    ]
    return "\n".join(rows)


def gate_table(result: dict[str, Any]) -> str:
    """The gain against the budget, and whether `budget` was ahead at 20 %."""
    from captionary.evidence.budget import BudgetCurve

    figures = result["figures"]
    many = BudgetCurve.from_dict(figures["at_20_percent"])
    ahead = ", ".join(
        f"{percent(found['mean'])} ± {percent(found['standard_error']).removeprefix('+')} against {name} "
        f"(ahead with {found['seeds_ahead']} seeds of {many.seeds})"
        for name, found in figures["ahead_of"].items()
    )
    return "\n".join(
        [
            BudgetCurve.from_dict(figures["curve"]).to_markdown(),
            "",
            f"At 20 %, over {many.seeds} seeds, `budget` keeps {100 * figures['kept_by_budget_at_20_percent']:.0f} % of the gain. "
            f"Seed by seed, mean ± standard error, in AUC gain: {ahead}. {where(result)}",
        ]
    )


def fill(page: Path, mark: str, text: str) -> None:
    """Put `text` between the comments `<!-- mark -->` and `<!-- /mark -->` of a page."""
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {mark} -->")
    after = rest.split(f"<!-- /{mark} -->")[1]
    page.write_text(f"{before}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{after}", encoding="utf-8")


PAGES = (
    ("captioner.md", "adapt", adapt_table),
    ("captioner.md", "captioning", captioning_table),
    ("profiles.md", "profiles", listed),
    ("captions.md", "store", listed),
    ("captions.md", "decoding", listed),
    ("captions.md", "similar", similar_table),
    ("gate.md", "gate", gate_table),
    ("metrics.md", "metrics", listed),
    ("evidence.md", "evidence_power", power_table),
    ("training.md", "training", training_table),
    ("training.md", "training_accelerator", listed),
    ("serving.md", "serving", serving_table),
    ("service.md", "service", service_table),
    ("ingest.md", "ingest", listed),
    ("ingest.md", "online_store", listed),
    ("pretraining.md", "preset", listed),
)
"""(page, name of the result and of the mark, what it looks like)."""


if __name__ == "__main__":
    results = ROOT / "benchmarks" / "results"
    readme = ROOT / "README.md"
    found = json.loads((results / "demo.json").read_text())
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    for name, mark, shown in PAGES:
        if (results / f"{mark}.json").exists():
            fill(ROOT / "docs" / name, mark, shown(json.loads((results / f"{mark}.json").read_text())))
