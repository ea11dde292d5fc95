"""One cap for several captioners: in threads, in processes, and after one of them has died."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
from PIL import Image
from tests.understand.servers import serving

from captionary.errors import CaptionaryError
from captionary.understand import spending_shared
from captionary.understand.captioner import StoppedError
from captionary.understand.endpoint import EndpointConfig
from captionary.understand.spending import Account, CapReachedError, Reserve, Spent
from captionary.understand.spending_shared import Ledger, SharedCap

MOST = 500


def account_of(most: int | None = MOST, reserve: int = 10, **settings: object) -> Account:
    return Account(EndpointConfig(max_output_tokens=most, input_tokens=3, **settings), reserve)


def begin_together(barrier: threading.Barrier) -> None:
    global together
    together = barrier


def spend(path: Path, seed: int) -> int:
    """Ask and settle with 1 to 10 tokens until the cap; what it used."""

    async def work() -> int:
        cap, rng, used = SharedCap(Ledger(path, "job", account_of())), random.Random(seed), 1
        first = await cap.reserve()
        together.wait(60)
        await cap.settle(first, Reserve(3, used))

        async def one() -> None:
            nonlocal used
            while True:
                try:
                    name = await cap.reserve()
                except CapReachedError:
                    return
                written = rng.randint(1, 10)
                used += written
                await cap.settle(name, Reserve(3, written))

        await asyncio.gather(*(one() for _ in range(4)))
        return used

    return asyncio.run(work())


def test_two_processes_spend_under_one_cap_to_its_end(tmp_path):
    path = tmp_path / "spending.sqlite"
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, begin_together, (context.Barrier(2),)) as pool:
        used = pool.starmap(spend, [(path, 1), (path, 2)], chunksize=1)
    ledger = Ledger(path, "job", account_of())
    assert sum(used) == ledger.spent().output_tokens
    assert MOST - 10 < sum(used) <= MOST


def ask_and_die(path: Path) -> None:
    assert Ledger(path, "job", account_of()).ask("mine")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_had_set_aside_counts_as_spent(tmp_path, monkeypatch):
    path = tmp_path / "spending.sqlite"
    dying = multiprocessing.get_context("spawn").Process(target=ask_and_die, args=(path,))
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    ledger = Ledger(path, "job", account_of(most=19))
    assert ledger.spent() == Spent(requests=1)
    assert not ledger.ask("other")  # 10 are in flight, and might come in below: wait
    late = spending_shared.time.time() + 60 + spending_shared._GRACE + 1
    monkeypatch.setattr(spending_shared.time, "time", lambda: late)
    assert ledger.spent() == Spent(1, 3, 10)
    with pytest.raises(CapReachedError, match="10 were written and one more answer may have 10"):
        ledger.ask("other")
    ledger.settle("mine", Reserve(3, 1))  # a ghost: it is booked already
    assert ledger.spent() == Spent(1, 3, 10)


def test_calls_that_are_repeated_count_once(tmp_path):
    ledger = Ledger(tmp_path / "spending.sqlite", "job", account_of())
    assert ledger.ask("a")
    assert ledger.ask("a")
    ledger.settle("a", Reserve(3, 4))
    ledger.settle("a", Reserve(3, 4))
    assert ledger.spent() == Spent(1, 3, 4)


def test_a_job_begins_with_what_its_captioner_has_spent_and_leaves_nothing(tmp_path):
    path, begun = tmp_path / "spending.sqlite", account_of(most=20)
    begun.ask("before")
    begun.settle("before", Reserve(3, 6))
    one, other = Ledger(path, "one", begun), Ledger(path, "other", account_of(most=20))
    assert one.ask("a")
    assert not one.ask("b")  # 6 + 10 + 10
    assert other.ask("a")
    assert other.ask("b")  # another job's account
    ended = one.end()
    assert ended.spent == Spent(2, 6, 16)  # what was in flight, in full
    assert begun.spent == Spent(1, 3, 6)
    jobs = sqlite3.connect(path).execute("SELECT job FROM accounts").fetchall()
    assert jobs == [("other",)]


def test_a_file_that_is_no_ledger(tmp_path):
    path = tmp_path / "spending.sqlite"
    path.write_text("no database, and long enough to be told from one" * 20)
    with pytest.raises(CaptionaryError, match="must be a writable ledger"):
        Ledger(path, "job", account_of())


def test_two_captioners_under_one_cap(tmp_path):
    pytest.importorskip("aiohttp", reason="the extra captionary[endpoint] is not installed")
    from captionary.understand.openai import EndpointCaptioner

    config = EndpointConfig(max_requests=7, concurrency=3, timeout_s=5.0, backoff_s=0.01)
    got: list[int] = []

    def work(server, colour: int) -> None:
        captioner = EndpointCaptioner(f"{server.url}#tiny", max_new_tokens=8, config=config)
        captioner.share(SharedCap(Ledger(tmp_path / "spending.sqlite", "job", captioner.account)))
        with pytest.raises(StoppedError, match=r"max_requests == 7, .*; 7 were made") as stop:
            captioner.caption([Image.new("RGB", (8, 8), (10 * i, colour, 0)) for i in range(10)])
        got.append(sum(answer is not None for answer in stop.value.answered))
        assert captioner.spent.requests == 7

    with serving(lambda request: request.say("a cat")) as server:
        threads = [threading.Thread(target=work, args=(server, colour)) for colour in (0, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 7
    assert sum(got) == 7
