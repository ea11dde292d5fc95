"""How fast profiles are built, and beside it the same result by DuckDB's and Polars' as-of joins.

    python benchmarks/profiles.py            10 M events, 10 M impressions, 20 tokens an item; the others on 1 M rows
    python benchmarks/profiles.py --quick    200,000 and 20,000: that it runs, not how fast

The log is that of the simulated world (`captionary.world`), the items' tokens are drawn by Zipf's law. Each build reads
Parquet and writes Parquet, in a process of its own whose peak memory is reported; the first, which may compile the
kernels, is not counted. DuckDB and Polars compute the lists without caps for one event type: tokens of events joined to
impressions, decayed, summed, ranked by weight x idf. Every list is compared with ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from result import write_result

DAY = 86_400_000_000
TOP_K, HALF_LIFE, VOCABULARY, LENGTH, ITEMS = 24, 14, 8_000, 20, 3_006
CAPS: dict[str, dict[str, Any]] = {
    "without caps": {},
    "last 50 events of 30 days, 3 an item": {"last_events": 50, "last_days": 30.0, "per_item": 3},
}
PROBE = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from profiles import tokens_of
from captionary.represent.parquet import build_parquet
from captionary.represent.profiles import ProfileConfig
folder, caps = Path(sys.argv[2]), json.loads(sys.argv[3])
items, tokens, idf = tokens_of()
began = time.perf_counter()
built = build_parquet([folder / "events.parquet"], [folder / "impressions.parquet"], items, tokens,
                      ProfileConfig(top_k=24, half_life_days=14, **caps), folder / "out", idf)
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mb": peak, "events": built.events, "impressions": built.impressions,
                  "lists": built.lists, "steps": built.steps}))
"""


def tokens_of() -> tuple[Any, Any, Any]:
    """(item ids, 20 tokens an item, idf): the same in every process."""
    from captionary.represent.frequency import inverse_document_frequency
    from captionary.represent.jagged import Jagged

    shares = 1 / np.arange(1, VOCABULARY + 1)
    draw = np.random.default_rng(0).choice(VOCABULARY, ITEMS * LENGTH, p=shares / shares.sum())
    lists = Jagged(draw.astype(np.int32), np.arange(ITEMS + 1, dtype=np.int64) * LENGTH)
    idf = inverse_document_frequency(lists, np.ones(ITEMS, np.bool_), VOCABULARY)
    return np.arange(ITEMS), lists, idf


def write_log(folder: Path, rows: int, users: int) -> None:
    """`rows` events and as many impressions of a world, in order of time, in row groups of a quarter million."""
    from captionary.contract import open_dataset
    from captionary.world.market import make_world
    from captionary.world.settings import WorldConfig

    # About one impression in two leaves an event: every second impression is read for.
    world = make_world(
        WorldConfig(pictures=False, users=users, impressions=round(rows * 2.1)), folder / "world"
    )
    data = open_dataset(world)
    for name, columns in (
        ("events", ["user_id", "item_id", "event", "timestamp", "value"]),
        ("impressions", ["impression_id", "user_id", "timestamp"]),
    ):
        table = getattr(data, name)(columns)
        step = max(1, len(table) // rows)
        table = table.take(np.arange(0, len(table), step)[:rows])
        pq.write_table(table.sort_by("timestamp"), folder / f"{name}.parquet", row_group_size=1 << 18)
    shutil.rmtree(folder / "world")


def ours(folder: Path, caps: dict[str, Any], runs: int) -> dict[str, Any]:
    """The best of some runs, each in a process of its own; one more before them may compile."""
    done = []
    for _ in range(runs + 1):
        words = [sys.executable, "-c", PROBE, str(Path(__file__).parent), str(folder), json.dumps(caps)]
        done.append(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    best = min(done[1:], key=lambda run: float(run["seconds"]))
    best["events_per_second"] = round(best["events"] / best["seconds"])
    return best | {"seconds": round(best["seconds"], 2), "peak_mb": round(best["peak_mb"])}


def beside(folder: Path) -> dict[str, Any]:
    """The lists of likes by three roads, each from Parquet to a table in memory."""
    from captionary.represent.profiles import ProfileConfig, build_profiles

    items, tokens, idf = tokens_of()
    config = ProfileConfig(event_types=("like",), top_k=TOP_K, half_life_days=HALF_LIFE)
    pq.write_table(
        pa.table({"item_id": np.repeat(items, LENGTH), "token": tokens.values, "idf": idf[tokens.values]}),
        folder / "tokens.parquet",
    )

    def by_us() -> Any:
        log, reads = (pq.read_table(folder / f"{name}.parquet") for name in ("events", "impressions"))
        return build_profiles(log, reads, items, tokens, config, idf)["like"]

    by_us()  # compiles
    figures: dict[str, Any] = {}
    results = {}
    for name, road in (
        ("captionary", by_us),
        ("DuckDB", lambda: by_duckdb(folder)),
        ("Polars", lambda: by_polars(folder)),
    ):
        began = time.perf_counter()
        results[name] = road()
        figures[name] = {"seconds": round(time.perf_counter() - began, 2)}
    likes = int(np.sum(np.asarray(pq.read_table(folder / "events.parquet")["event"].to_pylist()) == "like"))
    reads = pq.read_metadata(folder / "impressions.parquet").num_rows
    for name in ("DuckDB", "Polars"):
        figures[name] |= compare(results["captionary"], results[name], folder)
        figures[name]["times_slower"] = round(
            figures[name]["seconds"] / max(figures["captionary"]["seconds"], 0.01), 1
        )
    return {"likes": likes, "impressions": reads, **figures}


# An as-of join gives the last change of a (user, token) before a read; what a token weighs then is a running sum in
# units of 2^(t / half-life), taken at that change. Ten months fit into a double.
WEIGHTS = f"""
    with likes as (
        select user_id, timestamp as moment, token, idf,
               coalesce(value, 1) * pow(2, epoch_us(timestamp) / {HALF_LIFE * DAY}.0 - 1430) as amount
        from 'FOLDER/events.parquet' join 'FOLDER/tokens.parquet' using (item_id) where event = 'like'
    ),
    steps as (
        select user_id, moment, token, idf,
               sum(sum(amount)) over (partition by user_id, token order by moment) as weight
        from likes group by user_id, moment, token, idf
    ),
    pairs as (select distinct user_id, token from steps),
    reads as (
        select impression_id, user_id, token, timestamp from 'FOLDER/impressions.parquet' join pairs using (user_id)
    ),
    seen as (
        select impression_id, reads.token, weight, weight * idf as score
        from reads asof join steps
        on reads.user_id = steps.user_id and reads.token = steps.token and reads.timestamp > steps.moment
    ),
    best as (
        select * from seen qualify row_number() over (partition by impression_id order by score desc, token) <= {TOP_K}
    )
    select impression_id, token, score, weight / sum(weight) over (partition by impression_id) as share from best
"""


def by_duckdb(folder: Path) -> pl.DataFrame:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"set temp_directory = '{folder / 'spill'}'")
        return pl.from_arrow(connection.sql(WEIGHTS.replace("FOLDER", str(folder))).arrow())  # type: ignore[return-value]


def by_polars(folder: Path) -> pl.DataFrame:
    """The same in parts of the users: pairs of impression and token of all at once do not fit into memory."""
    log, reads, tokens = (
        pl.read_parquet(folder / f"{name}.parquet") for name in ("events", "impressions", "tokens")
    )
    exponent = pl.col("timestamp").dt.epoch("us") / (HALF_LIFE * DAY) - 1430
    log = log.filter(pl.col("event").cast(pl.String) == "like").with_columns(
        amount=pl.col("value").fill_null(1.0) * (exponent * np.log(2)).exp()
    )
    parts = []
    for part in range(16):
        mine = log.filter(pl.col("user_id") % 16 == part).join(tokens, on="item_id")
        steps = (
            mine.group_by("user_id", "token", "idf", "timestamp")
            .agg(pl.col("amount").sum())
            .sort("timestamp")
        )
        steps = steps.with_columns(weight=pl.col("amount").cum_sum().over("user_id", "token"))
        asked = reads.filter(pl.col("user_id") % 16 == part).join(
            steps.select("user_id", "token").unique(), on="user_id"
        )
        seen = asked.sort("timestamp").join_asof(
            steps.select("user_id", "token", "timestamp", "weight", "idf"),
            on="timestamp", by=["user_id", "token"], strategy="backward", allow_exact_matches=False,
        ).drop_nulls("weight")  # fmt: skip
        seen = seen.with_columns(score=pl.col("weight") * pl.col("idf")).sort(
            ["impression_id", "score", "token"], descending=[False, True, False]
        )
        best = seen.group_by("impression_id", maintain_order=True).head(TOP_K)
        share = pl.col("weight") / pl.col("weight").sum().over("impression_id")
        parts.append(best.select("impression_id", "token", "score", share=share))
    return pl.concat(parts)


def compare(made: Any, other: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """How many lists are the same: tokens and shares within 1e-4; the last places of near ties may go either way."""
    lists = made.lists
    ids = pq.read_table(folder / "impressions.parquet", columns=["impression_id"])["impression_id"].to_numpy()
    mine = pl.DataFrame(
        {"impression_id": np.repeat(ids, lists.lengths), "token": lists.values, "own": lists.weights}
    )
    both = mine.join(other, on=["impression_id", "token"], how="full", coalesce=True)
    differ = both.filter(
        pl.col("own").is_null() | pl.col("share").is_null() | ((pl.col("own") - pl.col("share")).abs() > 1e-4)
    )["impression_id"].n_unique()
    return {"lists": int((lists.lengths > 0).sum()), "lists_that_differ": differ}


def main() -> None:
    """Measure, compare and write benchmarks/results/profiles.json; with --quick only print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    quick = parser.parse_args().quick
    rows, joined, users = (200_000, 20_000, 2_000) if quick else (10_000_000, 1_000_000, 40_000)
    figures: dict[str, Any] = {"tokens_per_item": LENGTH, "users": users, "top_k": TOP_K}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_log(folder, rows, users)
        for name, caps in CAPS.items():
            figures[name] = ours(folder, caps, 1 if quick else 3)
            print(name, figures[name], flush=True)
        shutil.rmtree(folder / "out")
        write_log(folder, joined, users)
        figures["beside as-of joins"] = beside(folder)
        print(figures["beside as-of joins"], flush=True)
    if not quick:
        print(write_result("profiles", figures))


if __name__ == "__main__":
    main()
