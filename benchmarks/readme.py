"""Write README's table of results from benchmarks/results/demo.json: no figure there is typed by hand.

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


def _percent(value: float) -> str:
    return f"{100 * value:+.2f} %".replace("-", "−")


if __name__ == "__main__":
    readme = ROOT / "README.md"
    found = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(readme.relative_to(ROOT))
