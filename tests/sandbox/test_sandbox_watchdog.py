"""A watchdog calls once for what is late, never for what came in time."""

from __future__ import annotations

import asyncio

from palmette.sandbox.watchdog import Watchdog


async def test_what_comes_in_time_is_forgotten():
    late: list[float] = []
    watchdog = Watchdog(lambda: late.append(0.0) or 0.0)
    for _ in range(1000):
        watchdog.forget(watchdog.watch(0.01))
    await asyncio.sleep(0.05)
    assert late == []


async def test_what_is_late_is_told_once_and_the_earliest_first():
    loop = asyncio.get_running_loop()
    began, late = loop.time(), []
    watchdog = Watchdog(lambda: late.append(loop.time() - began) or 0.0)
    in_time = watchdog.watch(0.2)
    watchdog.watch(0.1)
    watchdog.watch(0.05)
    watchdog.forget(in_time)
    await asyncio.sleep(0.3)
    assert len(late) == 2
    assert late[0] >= 0.05
    assert late[1] >= 0.1


async def test_more_time_can_be_given_and_taken():
    given = [0.05, 0.05, 0.0]
    watchdog = Watchdog(lambda: given.pop(0))
    watchdog.watch(0.02)
    await asyncio.sleep(0.3)
    assert given == []
    forgotten = Watchdog(lambda: given.append(1.0) or 0.0)
    forgotten.watch(0.02)
    forgotten.close()
    await asyncio.sleep(0.05)
    assert given == []
