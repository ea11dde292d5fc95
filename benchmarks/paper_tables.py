"""The paper's tables on what is here: Table 1 and Table 2 of the world, of posters, of photographs and of short videos.

    python benchmarks/paper_tables.py --data DIR --work DIR [--share 0.25] [--workers 1] [NAME ...]

DIR of --data holds the folders movielens_posters, oasis and kuairand_pure as they were published; what WORK/data has
already is not converted again. NAME is a config under configs/ (default: all of them, the captioner adapted for the two
that want it). Posters are run on the ratings of a share of the users, so that everything is done in half an hour on one
thread; --share 1 takes all. Every run continues where it was stopped, and what is done is not done again. Writes
benchmarks/results/paper_tables.json (verdict, tables, rivals, ablation, warnings; nothing of the data) and
docs/results.md; with --dry neither.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from result import RESULTS, read_result, write_result

from captionary.contract import open_dataset, write_spec, write_table
from captionary.evidence.formats import UNKNOWN, interval, p_text, percent
from captionary.evidence.hashing import hash_ids
from captionary.evidence.result import Evidence
from captionary.evidence.tables import md_table, table1, table2

ROOT = Path(__file__).parent.parent
SOURCES = {
    "movielens": ("movielens-posters", "movielens_posters"),
    "oasis": ("oasis", "oasis"),
    "kuairand": ("kuairand", "kuairand_pure"),
}
CONFIGS = (
    *("paper-world", "oasis", "oasis-on-visual", "kuairand"),
    *("movielens-warm", "movielens-cold", "movielens-warm-adapted", "movielens-cold-adapted"),
)
REFERENCES = {
    "oasis": {
        "of": "AUC of beautiful (beauty >= 5), whole themes held out, simple models",
        "user only": 0.691,
        "shared appeal by ridge on image features": 0.749,
        "eight ImageNet labels as tokens": 0.744,
        "shuffled labels": 0.682,
    },
    "movielens-cold": {
        "of": "AUC of like (rating >= 4), a fifth of the movies held out, simple models; second: with item effects",
        "user only": "0.691",
        "true genres": "0.709 / 0.718",
        "genres that a linear probe reads off the posters": "0.696 / 0.699",
        "32 principal components of EfficientNet-Lite0 features of the posters": "0.700 / 0.713",
        "plot text by LSA": "0.693",
        "genres read from plots": "– / 0.701",
        "shuffled posters": "0.691",
    },
}
"""What simpler models reach there, measured beforehand on the same splits."""
LEFT_OUT = ("sections", "run")
ABOUT_RUN = (
    *("name", "dataset", "split", "source", "license", "train_rows", "eval_rows", "subsets_of"),
    *("users", "items", "captioner"),
)
COLUMNS = ("AUC gain", "NE gain", "p", "corrected", "Seeds (sd, agreeing)", "Verdict")
HEAD = """# The paper's tables on public data

As it came out, also where captions do not help; the rankers were not tuned on these evaluation rows beyond what
[the diary](diary.md) says. Gains are relative decreases of 1 − AUC (NE) against the run's baseline, mean over tasks and
seeds; *p* is the paper's paired t-test, *corrected* the test over subsets and seeds, corrected for the number of arms.
*Dealt anew*: the same ranker with the captions of the held-out items dealt anew among them; its p is over items and
asks whether captions of items that the ranker has never met say anything. Rivals and placebos: [Evidence](evidence.md),
[Vectors](vectors.md). Written by `python benchmarks/paper_tables.py`.

Posters carry their titles in print, which the built-in captioner cannot read: its captions are of what is drawn. A
captioner that reads would name the movie, and a name says nothing of a movie that the ranker has never met; the rival
`text` (the plot) shows what words about a movie are worth at best.
"""


def captionary(*words: str, cwd: Path) -> None:
    """Run one verb; its output goes to the terminal."""
    subprocess.run([sys.executable, "-m", "captionary", *words], cwd=cwd, check=True)


def prepared(work: Path, data: Path, names: list[str], share: float, workers: int) -> None:
    """Data sets converted and thinned, configs copied with the paths and workers of this run."""
    for key in sorted({name.split("-")[0] for name in names} & set(SOURCES)):
        if not (work / "data" / key).exists():
            adapter, source = SOURCES[key]
            captionary("data", adapter, "--from", str(data / source), "--out", f"data/{key}", cwd=work)
    thinned = f"movielens-{share:g}"
    if share < 1 and any(name.startswith("movielens") for name in names):
        thin(work / "data" / "movielens", work / "data" / thinned, share)
    (work / "configs").mkdir(exist_ok=True)
    for name in names:
        config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
        config["workers"] = workers
        # What is not in the tables is not computed.
        config.setdefault("evidence", {}).update(importance=0, requests=0)
        if share < 1 and name.startswith("movielens"):
            config["data"]["path"] = f"../data/{thinned}"
        (work / "configs" / f"{name}.yaml").write_text(
            yaml.safe_dump(config, sort_keys=False), encoding="utf-8"
        )


def thin(source: Path, out: Path, share: float) -> None:
    """The same data set with the events and impressions of a share of the users, those of the lowest hashes."""
    if (out / "dataset.yaml").exists():
        return
    dataset = open_dataset(source)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("events", dataset.events()), ("impressions", dataset.impressions())):
        users, member = np.unique(table["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)
        kept = hash_ids(users, 0) < np.uint64(share * 2.0**64)
        write_table(table.filter(pa.array(kept[member])), out / f"{name}.parquet")
    pq.write_table(dataset.items(), out / "items.parquet")
    write_spec(dataset.spec, out)  # last: with it the folder is a data set


def kept(evidence: dict[str, Any], name: str) -> dict[str, Any]:
    """What of the evidence is written down: no path, no row of data."""
    found = {key: value for key, value in evidence.items() if key not in LEFT_OUT}
    found["run"] = {key: evidence["run"][key] for key in ABOUT_RUN}
    # The verdict's slices are figures, the other sections name items or this machine.
    found["slices"] = evidence["sections"].get("slices", [])
    found["created_at"] = evidence["run"]["created_at"]
    if name in REFERENCES:
        found["references"] = REFERENCES[name]
    return found


def page(result: dict[str, Any]) -> str:
    """The text of docs/results.md."""
    parts = [HEAD]
    for name, figures in result["figures"].items():
        run = figures["run"]
        shared = {
            key: value
            for key, value in figures.items()
            if key not in ("slices", "references", "created_at", "seconds")
        }
        evidence = Evidence.from_json(
            json.dumps({**shared, "run": {**run, "created_at": figures["created_at"]}})
        )
        parts += [
            f"## `configs/{name}.yaml`\n",
            f"{run['train_rows']:,} rows to learn from, {run['eval_rows']:,} to evaluate, {run['users']:,} users, "
            f"{run['items']:,} items. {evidence.statement}\n",
            *md_table(
                ("Arm", "Tokenizer", "AUC", *COLUMNS, "Dealt anew", "p"),
                [_row(place, evidence) for place in range(len(evidence.arms))],
            ),
            "",
        ]
        if evidence.headline:
            head = (
                "Task",
                "ΔNE (↓)",
                "95 % interval",
                "AUC gain",
                "p, corrected",
                "Verdict",
                "Base rate",
                "Positives",
            )
            parts += [
                f"Change of NE by task, `{evidence.headline}`:\n",
                *md_table(head, table2(evidence)),
                "",
            ]
        for contrast in evidence.against_rivals:
            parts.append(
                f"- against the rival `{contrast.rival}`: {percent(contrast.auc_gain)} "
                f"({interval(contrast.interval)}, p corrected {p_text(contrast.p_adjusted)}; {contrast.verdict})"
            )
        if references := figures.get("references"):
            parts.append(f"\nBeside it, {references['of']}:\n")
            parts += [f"- {key}: {value}" for key, value in references.items() if key != "of"]
        if notes := [*evidence.left_out, *evidence.warnings]:
            parts += ["\nTo know before believing:\n", *(f"- {note}" for note in notes)]
        parts.append("")
    parts.append(
        f"{result['hardware']}; commit {result['commit']}, {result['date'][:10]}, `{result['command']}`."
    )
    return "\n".join(parts) + "\n"


def _row(place: int, evidence: Evidence) -> tuple[str, ...]:
    arm, row = evidence.arms[place], table1(evidence)[place]
    known = [value for value in arm.auc.values() if value is not None]
    dealt = arm.dealt_p_value is not None
    return (
        *(arm.name, row.tokenizer.removeprefix("Tokenizer "), f"{sum(known) / len(known):.4f}"),
        *(row.auc_gain, row.ne_gain, row.p_value, row.p_adjusted, row.seeds, row.verdict),
        percent(arm.dealt_gain) if dealt else UNKNOWN,
        p_text(arm.dealt_p_value),
    )


def main() -> None:
    """Prepare, run what is asked for, and write the result and its page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.25, help="of MovieLens' users, > 0 and <= 1")
    parser.add_argument("--workers", type=int, default=1, help="trainings side by side")
    parser.add_argument("--minutes", type=float, default=3.0, help="to adapt the captioner in")
    parser.add_argument("--dry", action="store_true", help="run, but write no result and no page")
    parser.add_argument("names", nargs="*", default=list(CONFIGS))
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepared(work, options.data.resolve(), options.names, options.share, options.workers)
    figures = read_result("paper_tables")["figures"] if (RESULTS / "paper_tables.json").exists() else {}
    for name in options.names:
        began = time.monotonic()
        if name.endswith("-adapted") and not (work / "adapted" / "checkpoint").is_dir():
            words = ("captioner", "adapt", "data/movielens", "--split", "cold", "--text", "genres")
            captionary(
                *words, "--out", "adapted", "--minutes", f"{options.minutes:g}", "--threads", "1", cwd=work
            )
        captionary("run", f"configs/{name}.yaml", cwd=work)
        text = (work / "runs" / name / "report" / "evidence.json").read_text(encoding="utf-8")
        figures[name] = kept(json.loads(text), name)
        figures[name]["seconds"] = round(time.monotonic() - began, 1)
        print(f"{name}: {figures[name]['seconds']} s", flush=True)
        if options.dry:
            print(
                page(
                    {
                        "figures": {name: figures[name]},
                        "hardware": "",
                        "commit": "",
                        "date": "",
                        "command": "",
                    }
                )
            )
            continue
        figures = {one: figures[one] for one in CONFIGS if one in figures}
        result = write_result("paper_tables", figures)
        cleaned = result.read_text(encoding="utf-8")
        for path in (work, options.data.resolve()):
            cleaned = re.sub(re.escape(str(path)) + r"(?=[/\"])", path.name, cleaned)
        result.write_text(cleaned, encoding="utf-8")
        (ROOT / "docs" / "results.md").write_text(page(read_result("paper_tables")), encoding="utf-8")


if __name__ == "__main__":
    main()
