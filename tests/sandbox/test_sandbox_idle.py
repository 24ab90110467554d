"""What a sandbox does without while nobody uses it: its root, and what limits its commands."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

import pytest

from palmette.sandbox.api import Limits, SandboxError, SandboxLost, Spec, Status
from palmette.sandbox.conformance import lacks
from palmette.sandbox.ledger import start_time
from palmette.sandbox.namespace import NamespaceHost
from palmette.sandbox.reach import Roots

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="roots are kept open without root")


@pytest.fixture
async def host():
    host = NamespaceHost()
    yield host
    await host.close()


@as_root
async def test_only_the_roots_used_last_stay_open(host):
    host.roots = Roots(3)
    await (await host.start(Spec())).close()
    before = len(os.listdir("/proc/self/fd"))
    sandboxes = [await host.start(Spec()) for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) == before + 10 + 3  # a control socket each
    for number, sandbox in enumerate(sandboxes):
        await sandbox.write("f", b"%d" % number)
    assert [await sandbox.read("f") for sandbox in sandboxes] == [b"%d" % n for n in range(10)]
    assert (len(host.roots), len(os.listdir("/proc/self/fd"))) == (3, before + 13)
    if "fork" not in lacks(host):
        (copy,) = await sandboxes[0].fork()  # another root by now, in both
        await sandboxes[0].write("f", b"changed")
        for sandbox in sandboxes[1:6]:
            await sandbox.read("f")
        assert (await copy.read("f"), await sandboxes[0].read("f")) == (b"0", b"changed")
        await copy.close()
    await sandboxes[0].exec("head -c 5000000 /dev/zero > big")
    for sandbox in sandboxes[1:6]:
        await sandbox.read("f")
    server = host._server
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
    assert len(os.listdir("/proc/self/fd")) == before
    assert server.ledger.costs[""].disk_mb > 4.5  # seen through a root that was closed
    assert len(host.roots) == 0


@as_root
async def test_a_root_in_use_is_not_let_go():
    roots = Roots(1)
    host = NamespaceHost()
    host.roots = roots
    one, two = await host.start(Spec()), await host.start(Spec())
    await one.exec("head -c 20000000 /dev/urandom > big")
    packing = asyncio.ensure_future(one.download("."))
    while not one._reach.working:
        await asyncio.sleep(0)
    await asyncio.gather(*(two.write(f"f{n}", b"x") for n in range(20)))
    assert len(await packing) > 20_000_000
    await host.close()


def _wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 20
    while start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_files_of_what_was_killed_are_gone(host):
    one = await host.start(Spec())
    one._reach.close()
    pid = one._agent.box.pid
    os.kill(pid, signal.SIGKILL)
    _wait_for_the_end_of(pid)  # without letting the host hear of it
    with pytest.raises(SandboxLost, match="gone"):
        await one.read("f")
    await one.close()
    assert start_time(pid) == ""


async def test_limits_come_with_the_first_command(host):
    spec = Spec(limits=Limits(memory_mb=64))
    one, two = await host.start(spec), await host.start(spec)
    groups = host._server.cgroups
    if groups.version != 1:
        pytest.skip("cgroup v1 only: elsewhere they are there from the start")
    memory = groups.directories[0]
    assert not (memory / one.id).exists()
    await one.write("f", b"x")
    assert not (memory / one.id).exists()
    results = await asyncio.gather(*(one.exec("cat /proc/self/cgroup") for _ in range(3)))
    seen = f"/{one.id.rpartition('/')[2]}\n".encode()  # no more of its path is shown inside
    assert all(result.stdout.count(seen) >= 2 for result in results), results
    assert (memory / one.id / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    process = await two.open("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived")
    assert (await process.wait()).status is Status.OOM
    paused = await host.start(spec)  # one that never ran anything
    if "pause" not in lacks(host):
        await paused.pause()
        await paused.resume()
    assert (await paused.exec("echo on")).stdout == b"on\n"
    await asyncio.gather(*(sandbox.close() for sandbox in (one, two, paused)))


async def test_what_cannot_be_limited_does_not_run(host):
    one = await host.start(Spec())
    groups = host._server.cgroups
    if groups.version != 1:
        pytest.skip("cgroup v1 only")
    (groups.directories[0] / one.id).mkdir()  # in the way
    with pytest.raises(SandboxError, match=r"cannot be limited: .*memory.*File exists"):
        await one.exec("true")
    (groups.directories[0] / one.id).rmdir()
    assert (await one.exec("echo on")).stdout == b"on\n"
    two = await host.start(Spec())
    read_end, write_end = os.pipe()
    os.close(read_end)
    two._agent.join([write_end])  # which cannot be written to
    with pytest.raises(SandboxLost):
        await two.exec("echo must not run")


def _children(pid: int) -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                    found.add(int(entry))
    return found


def _networks(pid: int) -> int:
    """Count the network namespaces that a process holds."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum(link.startswith("net:") for link in found)


async def test_network_namespaces_are_made_ahead(host):
    sandboxes = await asyncio.gather(*(host.start(Spec()) for _ in range(12)))
    server = host._server.process.pid
    for _ in range(500):
        if _networks(server) >= 24:
            break
        await asyncio.sleep(0.02)
    assert _networks(server) == 24  # twelve in use, and as many ready as there were starts
    (maker,) = _children(server) - {sandbox._agent.box.pid for sandbox in sandboxes}
    os.kill(maker, signal.SIGKILL)
    more = await asyncio.gather(*(host.start(Spec()) for _ in range(20)))
    insides = [(await sandbox.exec("readlink /proc/self/ns/net")).stdout for sandbox in (*sandboxes, *more)]
    assert len(set(insides)) == 32
    await asyncio.gather(*(sandbox.close() for sandbox in (*sandboxes, *more)))
    await host.close()
    assert not os.path.exists(f"/proc/{server}")  # noqa: ASYNC240
