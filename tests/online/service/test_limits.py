import asyncio
import math
import threading

import pytest

from captionary.online.service.limits import OverloadedError, Pool, RateLimits, TokenBucket


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario(), 10))


def test_work_runs_in_threads_and_errors_come_back():
    async def scenario():
        pool = Pool("rank", 2, 4, wait=1, most=1)
        assert await pool.run(threading.current_thread) is not threading.main_thread()
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0)
        assert (pool._free, pool.inside) == (2, 0)
        pool.close()

    run(scenario)


def test_who_waits_longer_than_the_limit_is_refused_and_the_next_is_served():
    async def scenario():
        pool, go = Pool("rank", 1, 8, wait=0.02, most=5), threading.Event()
        first = asyncio.create_task(pool.run(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="free sooner") as caught:
            await pool.run(print)
        assert caught.value.reason == "rank_waited"
        go.set()
        assert await first
        assert await pool.run(lambda: 7) == 7
        assert (pool._free, len(pool._queue)) == (1, 0)
        pool.close()

    run(scenario)


def test_places_are_bounded_and_come_back():
    pool = Pool("rank", 1, 1, wait=1, most=1)
    with pool.place(), pool.place():
        with pytest.raises(OverloadedError, match="2 requests") as caught, pool.place():
            pass
        assert caught.value.reason == "rank_full"
    with pytest.raises(KeyError), pool.place():
        raise KeyError
    assert pool.inside == 0
    pool.close()


def test_slow_work_is_given_up_and_keeps_its_thread_until_it_is_done():
    async def scenario():
        pool, go = Pool("rank", 1, 8, wait=0.02, most=0.02), threading.Event()
        with pytest.raises(OverloadedError, match="done by then") as caught:
            await pool.run(go.wait)
        assert caught.value.reason == "rank_slow"
        with pytest.raises(OverloadedError, match="free sooner"):
            await pool.run(print)
        go.set()
        while not pool._free:
            await asyncio.sleep(0.001)
        assert await pool.run(lambda: 7) == 7
        pool.close()

    run(scenario)


def test_a_time_limit_inside_the_work_is_its_own_error():
    async def scenario():
        pool = Pool("rank", 1, 1, wait=1, most=1)

        def slow():
            raise TimeoutError("of the work")

        with pytest.raises(TimeoutError, match="of the work"):
            await pool.run(slow)
        pool.close()

    run(scenario)


def test_cancelled_requests_leave_no_thread_behind():
    async def scenario():
        pool, go = Pool("rank", 1, 50, wait=5, most=5), threading.Event()
        first = asyncio.create_task(pool.run(go.wait))
        waiting = [asyncio.create_task(pool.run(lambda: 7)) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in waiting[::2]:
            task.cancel()
        go.set()
        await first
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [d for d in done if d == 7] == [7] * 5
        while not pool._free:
            await asyncio.sleep(0.001)
        assert (pool._free, len(pool._queue)) == (1, 0)
        pool.close()

    run(scenario)


def test_a_thread_that_comes_as_its_request_goes_is_passed_on():
    async def scenario():
        pool = Pool("rank", 1, 8, wait=5, most=5)
        await pool._thread()
        going, staying = (asyncio.create_task(pool.run(lambda: 7)) for _ in range(2))
        await asyncio.sleep(0)
        pool._release()  # it is given to the first, who hears of it too late
        going.cancel()
        assert await staying == 7
        assert going.cancelled()
        while not pool._free:
            await asyncio.sleep(0.001)
        pool.close()

    run(scenario)


def test_work_without_a_place_is_bounded_too():
    async def scenario():
        pool, go = Pool("write", 1, 2, wait=5, most=5), threading.Event()
        tasks = [asyncio.create_task(pool.run(go.wait)) for _ in range(4)]  # 1 in its thread, 3 in the queue
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            await pool.run(print)
        go.set()
        await asyncio.gather(*tasks)
        pool.close()

    run(scenario)


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = TokenBucket(per_second=10, burst=3)
    start = bucket._at
    assert [bucket.take(start) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(start) == pytest.approx(1 / 10)
    assert bucket.take(start + 0.05) == pytest.approx(0.05)
    assert bucket.take(start + 0.11) == 0
    assert [bucket.take(start + 100) for _ in range(4)][:3] == [0, 0, 0]


def test_a_rate_belongs_to_a_key():
    rates = RateLimits()
    assert [rates.take("a", 0.001, 2) > 0 for _ in range(3)] == [False, False, True]
    assert rates.take("b", 0.001, 2) == 0
    assert rates.take("a", 5, 9) == 0  # the key was given another rate
    assert all(rates.take("c", math.inf, 1) == 0 for _ in range(100))
