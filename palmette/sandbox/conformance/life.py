"""Start, end, and what must not outlive it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from palmette.sandbox.api import Host, Limits, Sandbox, SandboxLost, Spec
from palmette.sandbox.conformance.box import box, raised
from palmette.sandbox.conformance.processes import processes_with, unique_seconds, until


async def check_senseless_specs_are_refused(host: Host) -> None:
    good = Spec()
    bad = [replace(good, limits=replace(Limits(), **{name: 0})) for name in ("memory_mb", "pids", "disk_mb", "inodes")]
    bad += [replace(good, limits=Limits(output_bytes=-1)), replace(good, ttl_s=0), replace(good, workdir="app")]
    bad += [replace(good, workdir="/"), replace(good, workdir="/a/../b"), replace(good, readonly=("relative",))]
    for spec in bad:
        try:
            sandbox = await host.start(spec)
        except ValueError:
            continue
        await sandbox.close()
        raise AssertionError(f"started: {spec}")


async def check_ids_differ(host: Host) -> None:
    async with box(host) as one, box(host) as two:
        assert len({one.id, two.id, ""}) == 3


async def check_many_at_once(host: Host) -> None:
    sandboxes = await asyncio.gather(*(host.start(Spec()) for _ in range(24)))
    try:
        await asyncio.gather(*(s.write("mine", s.id.encode()) for s in sandboxes))
        answers = await asyncio.gather(*(s.exec("cat mine") for s in sandboxes))
        assert [a.stdout.decode() for a in answers] == [s.id for s in sandboxes]
    finally:
        await asyncio.gather(*(s.close() for s in sandboxes))


async def check_close_is_idempotent(host: Host) -> None:
    sandbox = await host.start(Spec())
    await asyncio.gather(sandbox.close(), sandbox.close())
    await sandbox.close()


async def check_use_after_close_is_lost(host: Host) -> None:
    sandbox = await host.start(Spec())
    await sandbox.close()
    await _all_lost(sandbox)


async def check_close_ends_running_commands(host: Host) -> None:
    sandbox = await host.start(Spec())
    task = asyncio.ensure_future(sandbox.exec("sleep 30"))
    await asyncio.sleep(0.1)
    await sandbox.close()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(result, SandboxLost), result


async def check_nothing_survives_close(host: Host) -> None:
    mark = unique_seconds()
    sandbox = await host.start(Spec())
    await sandbox.exec(
        f"sleep {mark} & (setsid sleep {mark} &); setsid sh -c 'trap \"\" TERM HUP; sleep {mark}' & true"
    )
    assert await until(lambda: processes_with(mark) >= 3)
    await sandbox.close()
    assert processes_with(mark) == 0


async def check_commands_do_not_survive_close(host: Host) -> None:
    mark = unique_seconds()
    sandbox = await host.start(Spec())
    task = asyncio.ensure_future(sandbox.exec(f"sleep {mark} & sleep {mark}"))
    assert await until(lambda: processes_with(mark) >= 2)
    await sandbox.close()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert processes_with(mark) == 0


async def check_the_time_to_live_ends_it(host: Host) -> None:
    mark = unique_seconds()
    sandbox = await host.start(Spec(ttl_s=0.6))
    began = time.monotonic()
    reason = await raised(sandbox.exec(f"sleep {mark}"), SandboxLost)
    assert "time to live" in reason, reason
    assert 0.3 < time.monotonic() - began < 5
    await _all_lost(sandbox)
    await sandbox.close()
    await asyncio.sleep(0.05)
    assert processes_with(mark) == 0


async def check_orphans_are_reaped(host: Host) -> None:
    async with box(host) as sandbox:
        for _ in range(30):
            await sandbox.exec("(sh -c 'true &' &)")
        await asyncio.sleep(0.1)
        result = await sandbox.exec("cat /proc/[0-9]*/stat")
        states = [line.rpartition(b")")[2].split()[0] for line in result.stdout.splitlines()]
        assert b"Z" not in states, states
        assert len(states) <= 4, states


async def _all_lost(sandbox: Sandbox) -> None:
    actions = (
        lambda: sandbox.exec("true"),
        lambda: sandbox.read("x"),
        lambda: sandbox.write("x", b""),
        lambda: sandbox.upload(b""),
        lambda: sandbox.download(),
    )
    for action in actions:
        await raised(action(), SandboxLost, "a closed sandbox answered")


CHECKS = {
    "": (
        check_senseless_specs_are_refused,
        check_ids_differ,
        check_many_at_once,
        check_close_is_idempotent,
        check_use_after_close_is_lost,
        check_close_ends_running_commands,
        check_commands_do_not_survive_close,
        check_the_time_to_live_ends_it,
    ),
    "processes": (check_nothing_survives_close, check_orphans_are_reaped),
}
