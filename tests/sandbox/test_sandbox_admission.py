"""Near a limit a start waits for room, and says which limit when none comes."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest

from palmette.sandbox.admission import Admission
from palmette.sandbox.api import SandboxError, Spec, StartFailed
from palmette.sandbox.namespace import NamespaceHost
from palmette.sandbox.profile import Profile


async def test_starts_wait_for_descriptors():
    host = NamespaceHost(Admission(patience_s=60))
    await (await host.start(Spec())).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64 + 6 * 5, hard))
    await asyncio.sleep(0.1)  # the last look at the limit is too old now
    live = most = 0

    async def one() -> bytes:
        nonlocal live, most
        sandbox = await host.start(Spec())
        live += 1
        most = max(most, live)
        result = await sandbox.exec("sleep 0.2; echo room")
        live -= 1
        await sandbox.close()
        return result.stdout

    try:
        assert await asyncio.gather(*(one() for _ in range(60))) == [b"room\n"] * 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 1 <= most <= 25, most  # of 60, which would have taken 180 descriptors
    await host.close()


async def test_a_start_without_room_names_the_limit():
    host = NamespaceHost(Admission(patience_s=0.2, reserve_mb=1e9))
    with pytest.raises(StartFailed, match="MB of memory are left, 1000000000 are kept"):
        await host.start(Spec())
    await host.close()


async def test_a_full_host_makes_starts_wait():
    host = NamespaceHost(Admission(patience_s=30))
    first = await host.start(Spec())
    if host._server.profile is not Profile.ROOT:
        pytest.skip("no limit of uids")
    spare = list(host._server._uids)
    host._server._uids.clear()
    waiting = asyncio.ensure_future(host.start(Spec()))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await first.close()
    assert (await (await waiting).exec("echo in")).stdout == b"in\n"
    host._server._uids.extend(spare)
    await host.close()


async def test_a_first_command_waits_for_memory_too():
    admission = Admission(patience_s=0.3)
    host = NamespaceHost(admission)
    used, fresh = await host.start(Spec()), await host.start(Spec())
    await used.exec("true")
    admission._reserve_mb, reserve_mb = 1e9, admission._reserve_mb
    await asyncio.sleep(0.1)
    with pytest.raises(
        SandboxError, match=r"cannot run its first command: no room for 0\.3 s: .* MB of memory are left"
    ):
        await fresh.exec("true")
    assert (await used.exec("echo on")).stdout == b"on\n"
    waiting = asyncio.ensure_future(fresh.exec("echo on"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    admission._reserve_mb = reserve_mb
    assert (await waiting).stdout == b"on\n"
    await host.close()
