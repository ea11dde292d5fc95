"""A paper calculation, nothing is measured here: what captioning a billion items takes, by the number of GPUs.

    python benchmarks/scale.py [--images-per-gpu 1000] [--gpu-hour 3.5] …

It multiplies the assumptions below, each an option, and writes the table of docs/scale.md and
benchmarks/results/scale.json. The rate of a store is read from benchmarks/results/store.json where that is there.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from result import RESULTS, write_result

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
GPUS = (1, 8, 64, 512, 4096)
RATES = (250.0, 1000.0, 4000.0)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the table rests on."""

    items: float = 1e9
    """Items of one picture each."""
    captioned: float = 0.9
    """Share that is neither a copy, nor a near-duplicate, nor unreadable: what the captioner is asked for."""
    images_per_gpu: float = 1000.0
    """Pictures a second of one GPU: the aim for the 1.5 B preset on an H200-class card, not measured."""
    pictures_per_core: float = 100.0
    """Pictures a second that one CPU core reads, checks, decodes and shrinks; benchmarks/decoding.py measures it."""
    kilobytes: float = 200.0
    """Of a media file; it is read twice, once for its digest."""
    node_gbit: float = 25.0
    """Network of a node of 8 GPUs, Gbit/s."""
    storage_gbit: float = 400.0
    """What the storage of the media gives to all nodes together, Gbit/s."""
    store_records: float = 5000.0
    """Records a second that one caption store takes in flushed batches."""
    record_bytes: float = 900.0
    """Of a record in the store, with its sign, without a vector."""
    slice_items: float = 2e7
    """Items of one job: its driver holds their names and digests, about 500 bytes each."""
    gpu_hour: float = 3.5
    """Dollars."""
    core_hour: float = 0.04
    """Dollars."""
    million_reads: float = 0.4
    """Dollars for a million requests to object storage."""


def plan(given: Assumptions, gpus: int) -> dict[str, Any]:
    """Time, cost and the tightest part with that many GPUs."""
    wanted = given.captioned * given.items
    rates = {  # captions a second that each part can bear
        "GPUs": gpus * given.images_per_gpu,
        "network": math.ceil(gpus / 8) * given.node_gbit * 1e6 / 8 / (2 * given.kilobytes) * given.captioned,
        "storage": given.storage_gbit * 1e6 / 8 / (2 * given.kilobytes) * given.captioned,
    }
    limit = min(rates, key=lambda part: rates[part])
    rate = rates[limit]
    seconds = wanted / rate
    cores = rate / given.captioned / given.pictures_per_core
    cost = {
        "GPUs": gpus * seconds / 3600 * given.gpu_hour,
        "cores": cores * seconds / 3600 * given.core_hour,
        "requests": 2 * given.items / 1e6 * given.million_reads,
    }
    return {
        "gpus": gpus,
        "captions a second": rate,
        "limited by": limit,
        "hours": seconds / 3600,
        "cores that decode": math.ceil(cores),
        "jobs at once": math.ceil(rate / given.store_records),
        "dollars": sum(cost.values()),
        "dollars by part": cost,
        "GPUs busy": rate / rates["GPUs"],
    }


def table(given: Assumptions) -> str:
    """The table of the page."""
    lines = [
        f"A GPU at {given.images_per_gpu:,.0f} pictures a second:",
        "",
        "| GPUs | captions a second | time | cost | limited by | GPUs busy | cores that decode | jobs at once |",
        "|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for gpus in GPUS:
        row = plan(given, gpus)
        hours = row["hours"]
        time = f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} h"
        lines.append(
            f"| {gpus:,} | {row['captions a second']:,.0f} | {time} | ${row['dollars']:,.0f} | {row['limited by']} | "
            f"{row['GPUs busy']:.0%} | {row['cores that decode']:,} | {row['jobs at once']} |"
        )
    return "\n".join(lines)


def assumed(given: Assumptions) -> str:
    """The assumptions as a table, with the words of the class above."""
    source = Path(__file__).read_text(encoding="utf-8").split("class Assumptions")[1]
    lines = ["| assumption | value | |", "|---|---:|---|"]
    for each in fields(given):
        words = source.split(f"    {each.name}: float")[1].split('"""')[1]
        lines.append(f"| `--{each.name.replace('_', '-')}` | {getattr(given, each.name):,g} | {words} |")
    return "\n".join(lines)


def sizes(given: Assumptions) -> str:
    """What has to fit where, in a sentence."""
    slices = math.ceil(given.items / given.slice_items)
    driver, index = given.slice_items * 500 / 1e9, given.slice_items * given.captioned * 80 / 1e9
    stores = given.items * given.record_bytes / 1e12
    return (
        f"{slices:,} slices of {given.slice_items:,.0f} items: {driver:,.0f} GB of memory for a slice's driver, "
        f"{index:,.1f} GB in each actor where near-duplicates are looked for, {stores:,.1f} TB for all stores together."
    )


def main() -> None:
    """Write the page's tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="as always: it takes no time")
    for each in fields(Assumptions):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float)
    options = vars(parser.parse_args())
    given = Assumptions()
    measured = RESULTS / "store.json"
    if measured.exists():
        found = json.loads(measured.read_text())["figures"]
        rate = next(value for name, value in found.items() if "32 at a time" in name)
        given = replace(given, store_records=float(rate))
    given = replace(given, **{each.name: options[each.name] for each in fields(given) if options[each.name]})
    rates = sorted({*RATES, given.images_per_gpu})
    variants = [replace(given, images_per_gpu=rate) for rate in rates]
    written = "\n\n".join([assumed(given), *map(table, variants), sizes(given)])
    start, end = "<!-- written by benchmarks/scale.py -->", "<!-- end -->"
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(start)[0], page.split(end)[1]
    PAGE.write_text(f"{before}{start}\n{written}\n{end}{after}", encoding="utf-8")
    plans = {
        f"{rate:g}": [plan(one, gpus) for gpus in GPUS] for rate, one in zip(rates, variants, strict=True)
    }
    print(written)
    print(write_result("scale", {"assumptions": asdict(given), "plans by images per GPU": plans}))


if __name__ == "__main__":
    main()
