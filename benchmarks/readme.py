"""Write README's table from benchmarks/results/demo.json and docs/results.md from public.json: none typed by hand.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
            _percent(arm["auc_gain"]),
            _percent(arm["ne_gain"]),
            f"{arm['p_value']:.1g}",
            arm["verdict"],
        ]
        rows.append("| " + " | ".join([*cells, _percent(twin["auc_gain"]), twin["verdict"]]) + " |")
    oracle = demo["evidence"]["oracle"]
    run, first, second = demo["evidence"]["run"], demo["first"], demo["second"]
    rows += [
        "",
        f"AUC gain is the relative decrease of 1 − AUC against `+visual`, mean over "
        f"{len(demo['evidence']['tasks'])} tasks and "
        f"{demo['evidence']['arms'][0]['seeds']} seeds; p is the paired t-test over user-disjoint subsets of "
        f"{run['eval_rows']:,} evaluation rows. The oracle, which knows the true probabilities, would gain "
        f"{_percent(oracle['auc_gain'])}. The whole run took {first['seconds']:.0f} s and {first['peak_gb']:.1f} GB, "
        f"the second "
        f"run {second['seconds']:.0f} s ({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, "
        f"`{result['command']}`).",
    ]
    return "\n".join(rows)


RESULTS_HEAD = """# What captions are worth on public data

As it came out, with the built-in captioner, whose words are those of photographs of people and dogs; the rankers were not tuned
on these evaluation rows beyond what [the diary](diary.md) says. Gains are relative decreases of 1 − AUC against the run's baseline,
mean over tasks and seeds. *Dealt anew*: the same ranker with the captions of the held-out items dealt anew among them; its p is
over items and asks whether captions of items that the ranker has never met say anything. Written by `python benchmarks/readme.py`.
"""


def public_page(result: dict[str, Any]) -> str:
    """The text of docs/results.md."""
    parts = [RESULTS_HEAD]
    for name, evidence in result["figures"].items():
        run = evidence["run"]
        parts += [
            f"## `configs/{name}.yaml`\n",
            f"{run['train_rows']:,} rows to learn from, {run['eval_rows']:,} to evaluate, {run['items']:,} items. "
            f"{evidence['verdict']} {' '.join(evidence['remarks'])}\n",
            "| arm | AUC | AUC gain | p | seeds (sd) | dealt anew | p |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for arm in evidence["arms"]:
            known = [value for value in arm["auc"].values() if value is not None]
            cells = [
                f"*{arm['name']}*" if arm["placebo"] else f"`{arm['name']}`",
                f"{sum(known) / len(known):.4f}",
            ]
            if arm["p_value"] is None:
                cells += ["baseline", "", "", "", ""]
            else:
                spread = "" if arm["seed_sd"] is None else f" ({100 * arm['seed_sd']:.2f})"
                cells += [_percent(arm["auc_gain"]), f"{arm['p_value']:.1g}", f"{arm['seeds']}{spread}"]
                dealt = arm["dealt_p_value"]
                cells += ["", ""] if dealt is None else [_percent(arm["dealt_gain"]), f"{dealt:.2g}"]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    parts.append(
        f"{result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`."
    )
    return "\n".join(parts) + "\n"


def adapt_table(result: dict[str, Any]) -> str:
    """What adapting to posters gave, for docs/captioner.md."""
    figures = result["figures"]
    was, now, drawn, probe = (figures[name] for name in ("as_it_was", "adapted", "drawn", "probe"))
    rows = [
        f"Genres in captions of {figures['held_out_items']:,} posters that were held out, learnt from "
        f"{figures['training_items']:,} others in {figures['minutes']:g} minutes; average precision, a said word counting by "
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


def _percent(value: float) -> str:
    return f"{100 * value:+.2f} %".replace("-", "−")


def captioning_table(result: dict[str, Any]) -> str:
    """The captioner's speed beside transformers' own loop."""
    figures = result["figures"]
    rows = ["| | images/s | tokens/s | s per 1,000 items | peak memory |", "|---|---:|---:|---:|---:|"]
    for name in ("captionary", "transformers generate"):
        each = figures[name]
        rows.append(
            f"| {name} | {each['median_images_per_second']} | {each['tokens_per_second']} | "
            f"{each['seconds_per_1000_items']} | {each['peak_mb']:,} MB |"
        )
    rows += [
        "",
        f"{figures['times_as_fast']} times as fast with the same weights on {figures['images']} world scenes; the captions are the "
        f"same for {figures['same_captions']} (bf16 here, float32 there). {_where(result)}",
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

    return "\n".join([*lines(result["figures"], 0), "", _where(result)])


def gate_table(result: dict[str, Any]) -> str:
    """The gain against the budget, and whether `budget` was ahead at 20 %."""
    from captionary.evidence.budget import BudgetCurve

    figures = result["figures"]
    ahead = ", ".join(f"{_percent(value)} against {name}" for name, value in figures["ahead_of"].items())
    return "\n".join(
        [
            BudgetCurve.from_dict(figures["curve"]).to_markdown(),
            "",
            f"At 20 % `budget` keeps {100 * figures['kept_by_budget_at_20_percent']:.0f} % of the gain; beside the others there: {ahead} "
            f"(of AUC gain). {_where(result)}",
        ]
    )


def _where(result: dict[str, Any]) -> str:
    return f"({result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`.)"


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
    ("gate.md", "gate", gate_table),
    ("metrics.md", "metrics", listed),
    ("pretraining.md", "preset", listed),
)
"""(page, name of the result and of the mark, what it looks like)."""


if __name__ == "__main__":
    results = ROOT / "benchmarks" / "results"
    readme = ROOT / "README.md"
    found = json.loads((results / "demo.json").read_text())
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    public = json.loads((results / "public.json").read_text())
    (ROOT / "docs" / "results.md").write_text(public_page(public), encoding="utf-8")
    for name, mark, shown in PAGES:
        if (results / f"{mark}.json").exists():
            fill(ROOT / "docs" / name, mark, shown(json.loads((results / f"{mark}.json").read_text())))
