"""How long a ranking request takes over loopback, what caption features cost of it, and what overload looks like.

    python benchmarks/service.py            500 candidates at 20 requests a second, 60 s, then overload
    python benchmarks/service.py --quick    6 s of it, a small store: does it run

`captionary serve` runs in a process of its own on a free loopback port, with two exported rankers of random weights
(with captions and profiles, and with neither), an LMDB store, and a pool of candidates that is larger than any cache of
the processor. Load is open-loop: requests are sent when they are due, whatever became of those before, and a latency
counts from the moment that a request was due. Every request is asked twice, once of each arm, in turns.
Overload asks for many times what the service can do, and looks at how soon the rest is told so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from result import write_result

from captionary.online.items import ItemRecord
from captionary.online.log import EventMessage
from captionary.online.service.keys import KeyFile, new_key
from captionary.online.store import open_store
from captionary.online.updates import ItemUpdate, apply_events, put_items
from captionary.rank.artefact import Artefact, write_artefact
from captionary.rank.data import RankingData
from captionary.rank.export import RawKeys, artefact_of
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.served import ServingRanker
from captionary.rank.settings import RankerConfig
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileConfig
from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer

EVENTS = ("like", "comment", "share")
TASKS = ("like", "comment", "share", "click", "seconds")
CONTEXT = {"tab": "home", "hour": 9}
ARMS = ("captions", "none")
VOCABULARY = 8000


class Answer(NamedTuple):
    due: float
    done: float
    status: int
    arm: str
    retry_after: bool


def main() -> None:
    """Measure, print, and write benchmarks/results/service.json unless --quick."""
    options = argparse.ArgumentParser(description="Load a ranking service over loopback.")
    options.add_argument("--quick", action="store_true", help="A few seconds; no result file.")
    options.add_argument("--seconds", type=float, default=60.0, help="Of steady load, up to 600.")
    options.add_argument("--rate", type=float, default=20.0, help="Requests a second, up to 200.")
    options.add_argument("--candidates", type=int, default=500, help="Of a request, up to 1,000.")
    given = options.parse_args()
    seconds = min(6.0 if given.quick else given.seconds, 600.0)
    rate, candidates = min(given.rate, 200.0), min(given.candidates, 1000)
    items, users = (3000, 200) if given.quick else (20_000, 2000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        key = prepare(folder, items, users)
        process, port = start(folder)
        try:
            figures = asyncio.run(measure(port, key, process.pid, items, users, candidates, rate, seconds))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    figures = {
        "items": items,
        "users": users,
        "candidates": candidates,
        "requests_per_second": rate,
        **figures,
    }
    print(json.dumps(figures, indent=1))
    if not given.quick:
        print(write_result("service", figures))


def prepare(folder: Path, items: int, users: int) -> str:
    """Rankers, tokenizer, store, experiments, key: a service's folder; returns the key."""
    rng = np.random.default_rng(0)
    tokenizer = make_tokenizer(TokenizerConfig(kind="phrases", phrases=False, min_df=1, max_df=1.0))
    words = np.array([f"{a}{b}" for a in _SYLLABLES for b in _SYLLABLES])
    tokenizer.fit([" ".join(row) for row in rng.choice(words, (4000, 8))])
    tokenizer.save(folder / "tokenizer")
    known = len(tokenizer.vocabulary)
    tokens = Jagged.from_lists([rng.choice(known, 8, replace=False).tolist() for _ in range(items)])
    folders = {}
    for name, features in {
        "captions": FeatureSet(visual=True, tokens="A", profiles="A"),
        "none": FeatureSet(visual=True),
    }.items():
        parts = exported(features, tokens, known, users)
        write_artefact(parts, folder / name)
        folders[name] = ServingRanker.load(folder / name)
    profiles = ProfileConfig(event_types=EVENTS)
    with open_store(str(folder / "online" / "store"), profiles, tokenizer.idf()) as store:
        for first in range(0, items, 1000):
            ids = np.arange(first, min(first + 1000, items))
            rows = {ranker.version: ranker.rows(ids) for ranker in folders.values()}
            put_items(
                store,
                [
                    ItemUpdate(
                        ItemRecord(
                            item_id=int(item),
                            status="ok",
                            tokens=tokens.row(int(item)).astype("<i4").tobytes(),
                        ),
                        {version: of[place] for version, of in rows.items()},
                    )
                    for place, item in enumerate(ids)
                ],
            )
        now = time.time_ns() // 1000
        when = rng.integers(1, 30 * 86_400, (users, 40))
        apply_events(
            store,
            [
                EventMessage(
                    user_id=int(user),
                    item_id=int(rng.integers(items)),
                    event=EVENTS[place % 3],
                    timestamp=int(now - when[user, place] * 1_000_000),
                )
                for user in range(users)
                for place in range(40)
            ],
        )
    key, secret = new_key("benchmark", ["admin"], per_second=None)
    KeyFile(keys=(key,)).write(folder / "online" / "keys.json")
    (folder / "experiments.yaml").write_text(
        json.dumps(
            {
                "salt": "s",
                "layers": [
                    {
                        "name": "rankers",
                        "experiments": [
                            {"name": "captions", "arms": [{"name": a, "share": 0.5} for a in ARMS]}
                        ],
                    }
                ],
            }
        )
    )
    (folder / "serve.yaml").write_text(
        json.dumps(
            {
                "rankers": {name: name for name in folders},
                "default": "captions",
                "tokenizer": "tokenizer",
                "profiles": {"event_types": list(EVENTS)},
                "experiments": "experiments.yaml",
                "arms": {"captions": {name: name for name in ARMS}},
                "port": 0,
            }
        )
    )
    return secret


_SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nr"][:90]


def exported(features: FeatureSet, tokens: Jagged, vocabulary: int, users: int) -> Artefact:
    """A ranker of the default sizes with random weights."""
    rng = np.random.default_rng(1)
    items, rows = tokens.rows, 2 * max(tokens.rows, users)
    user, item = np.arange(rows) % users, np.arange(rows) % items
    lists = Jagged(
        rng.integers(0, vocabulary, rows * 4).astype(np.int32),
        np.arange(rows + 1) * 4,
        np.full(rows * 4, 0.25, np.float32),
    )
    tab = rng.choice(["home", "search"], rows).tolist()
    genre = rng.choice([f"g{k}" for k in range(20)], items).tolist()
    data = RankingData.from_arrays(
        tasks=TASKS,
        task_kinds=("binary",) * 4 + ("weighted_logistic",),
        users=user.tolist(),
        item=item,
        items=items,
        item_keys=np.arange(items),
        labels=rng.integers(0, 2, (rows, len(TASKS))).astype(np.float32),
        train=np.arange(rows - 100),
        eval=np.arange(rows - 100, rows),
        context_categorical={"tab": tab},
        context_numeric={"hour": rng.integers(0, 24, rows).astype(np.float64)},
        item_categorical={"genre": genre},
        item_numeric={"age": rng.random(items)},
        events=EVENTS,
        activity=rng.random((rows, 3)).astype(np.float32),
        visual=rng.normal(size=(items, 64)).astype(np.float32),
        item_tokens={"A": tokens},
        profiles={"A": dict.fromkeys(EVENTS, lists)},
    )
    ranker = Ranker(RankerConfig(), Schema.of(data, features), 0).eval()
    keys = RawKeys(
        items=np.arange(items), users=user.tolist(), context={"tab": tab}, item_categories={"genre": genre}
    )
    return artefact_of(ranker, data, features, keys)


def start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """The service's process and port."""
    words = [
        sys.executable,
        "-c",
        "from captionary.commands.serve import serve; serve()",
        str(folder / "serve.yaml"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    shown = ""
    for line in process.stderr:
        shown += line
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1])
    raise SystemExit(f"the service did not start:\n{shown}")


async def measure(
    port: int, key: str, pid: int, items: int, users: int, candidates: int, rate: float, seconds: float
) -> dict[str, Any]:
    """Warm up, steady load, overload."""
    rng = np.random.default_rng(2)
    count = int(rate * seconds) // 2 * 2

    def body(number: int) -> tuple[str, bytes]:
        # Both arms of a pair are asked the same, first the one, then the other.
        if number % 2 == 0:
            body.last = (int(rng.integers(users)), rng.choice(items, candidates, replace=False).tolist())  # type: ignore[attr-defined]
        user, chosen = body.last  # type: ignore[attr-defined]
        arm = ARMS[(number + number // 2) % 2]
        asked = {"user": user, "items": chosen, "context": CONTEXT, "variant": {"captions": arm}}
        return arm, json.dumps(asked).encode()

    client = Client(port, key)
    await client.load([body(number) for number in range(60)], 20)
    found = await client.load([body(number) for number in range(count)], rate)
    steady = summary(found)
    steady["captions_over_none"] = ratio(found)
    before = memory(pid)
    over = await client.load([body(number) for number in range(600)], 400)
    after = await client.load([body(number) for number in range(40)], 20)
    refused = np.array([one.done - one.due for one in over if one.status == 503]) * 1e3
    client.close()
    return {
        "steady": steady,
        "overload": {
            "requests_per_second": 400,
            "requests": len(over),
            "statuses": dict(Counter(str(one.status) for one in over)),
            "refused_with_retry_after": int(sum(one.retry_after for one in over if one.status == 503)),
            "refused_ms": _quantiles(refused),
            "memory_mb_before": before,
            "memory_mb_after": memory(pid),
            "afterwards_ms": _quantiles(np.array([one.done - one.due for one in after]) * 1e3),
        },
    }


class Client:
    """Sends when it is due, over as many connections as it takes; knows as much HTTP as our own server speaks."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def load(self, bodies: list[tuple[str, bytes]], rate: float) -> list[Answer]:
        """One request each 1/rate seconds."""
        began, tasks = time.perf_counter() + 0.05, []
        for number, (arm, body) in enumerate(bodies):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self.ask(due, arm, body)))
        return await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def ask(self, due: float, arm: str, body: bytes) -> Answer:
        used = bool(self.free)
        reader, writer = self.free.pop() if used else await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"POST /rank HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = re.search(r"content-length: (\d+)", answer)
            await reader.readexactly(int(length[1]) if length else 0)
            done, status = time.perf_counter(), int(answer.split(" ", 2)[1])
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            if used:  # the server had closed it meanwhile
                return await self.ask(due, arm, body)
            return Answer(due, time.perf_counter(), 0, arm, False)
        if "connection: close" in answer:
            writer.close()
        else:
            self.free.append((reader, writer))
        return Answer(due, done, status, arm, "retry-after:" in answer)

    def close(self) -> None:
        for _, writer in self.free:
            writer.close()


def summary(found: list[Answer]) -> dict[str, Any]:
    milliseconds = np.array([one.done - one.due for one in found]) * 1e3
    return {
        "requests": len(found),
        "statuses": dict(Counter(str(one.status) for one in found)),
        "ms": _quantiles(milliseconds),
        **{f"{arm}_ms": _quantiles(milliseconds[[one.arm == arm for one in found]]) for arm in ARMS},
    }


def ratio(found: list[Answer]) -> dict[str, Any]:
    """Median latency with captions ÷ without, and its interval by the bootstrap over pairs."""
    table = pl.DataFrame(
        {"arm": [one.arm for one in found], "ms": [(one.done - one.due) * 1e3 for one in found]}
    )
    arms = [table.filter(pl.col("arm") == arm)["ms"].to_numpy() for arm in ARMS]
    rng, pairs = np.random.default_rng(3), min(map(len, arms))
    draws = rng.integers(0, pairs, (2000, pairs))
    ratios = np.median(arms[0][draws], axis=1) / np.median(arms[1][draws], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    median = np.median(arms[0]) / np.median(arms[1])
    return {"median": round(float(median), 4), "interval_95": [round(float(low), 4), round(float(high), 4)]}


def memory(pid: int) -> int:
    """Resident, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def _quantiles(milliseconds: Any) -> dict[str, float]:
    if not len(milliseconds):
        return {}
    levels = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(float(np.quantile(milliseconds, level)), 2) for name, level in levels.items()}


if __name__ == "__main__":
    main()
