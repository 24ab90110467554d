"""The host over several processes: the whole suite, and what happens when one of them, or its front, is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.sandbox import cgroup
from palmette.sandbox.api import Bounds, PathRefused, SandboxError, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.conformance import CHECKS, Check, lacks
from palmette.sandbox.conformance.processes import processes_with, unique_seconds, until
from palmette.sandbox.ledger import journals
from palmette.sandbox.shards import host as shards
from palmette.sandbox.shards.host import ShardsHost
from palmette.sandbox.shards.link import Link
from palmette.sandbox.shards.message import Command, described, pack, revived, unpack

_ALONE = ("abuse_", "many_", "a_pause", "deep_chains")  # checks that load the machine or look at the time


@pytest.fixture
async def host() -> AsyncIterator[ShardsHost]:
    host = ShardsHost(2)
    yield host
    await host.close()


async def _fails(host: ShardsHost, check: Check) -> str:
    try:
        await asyncio.wait_for(check.run(host), 90)
    except Exception as error:
        return f"{check.name}: {type(error).__name__}: {error}"
    return ""


async def test_conformance(host):
    checks = [check for check in CHECKS if check.need not in lacks(host) and not check.name.startswith(_ALONE)]
    gate = asyncio.Semaphore(4)

    async def one(check: Check) -> str:
        async with gate:
            return await _fails(host, check)

    assert list(filter(None, await asyncio.gather(*map(one, checks)))) == []
    assert len(checks) > 70 or os.geteuid() != 0


@pytest.mark.slow
async def test_the_rest_of_conformance(host):
    checks = [check for check in CHECKS if check.need not in lacks(host) and check.name.startswith(_ALONE)]
    assert [why for check in checks if (why := await _fails(host, check))] == []


async def test_a_roll_call_names_those_that_live(host):
    boxes = await asyncio.gather(*(host.start(Spec()) for _ in range(5)))
    command = asyncio.ensure_future(boxes[0].exec("sleep 30"))
    while not (said := await host.roll_call())[boxes[0].id]:
        await asyncio.sleep(0.01)
    assert said == {box.id: int(box is boxes[0]) for box in boxes}
    await boxes[1].close()
    assert set(await host.roll_call()) == {box.id for box in boxes} - {boxes[1].id}
    await boxes[0].close()
    with pytest.raises(SandboxLost):
        await command


def _left_of(pids: set[int]) -> list[str]:
    """Return cgroups and journals of these owners."""
    left = [str(path) for at in cgroup.detect().directories for pid in pids for path in at.glob(f"palmette-{pid}-*")]
    return left + [journal.name for journal in journals() if journal.pid in pids]


def _exist(pids: set[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_sandboxes_are_spread_evenly_and_forks_stay(host):
    sandboxes = await asyncio.gather(*(host.start(Spec()) for _ in range(20)))
    assert sorted(host.shards.values()) == [10, 10]
    await asyncio.gather(*(s.close() for s in sandboxes if s.shard == sandboxes[0].shard))
    assert host.shards[sandboxes[0].shard] == 0
    others = await asyncio.gather(*(host.start(Spec()) for _ in range(8)))
    assert {s.shard for s in others} == {sandboxes[0].shard}
    await others[0].write("f", b"of it")
    copies = await others[0].fork(3)
    assert {copy.shard for copy in copies} == {sandboxes[0].shard}
    assert [await copy.read("f") for copy in copies] == [b"of it"] * 3
    assert host.shards[sandboxes[0].shard] == 11
    assert await others[0].running() == 0
    task = asyncio.ensure_future(others[0].exec("sleep 5"))
    assert await _until_running(others[0], 1)
    task.cancel()
    assert await _until_running(others[0], 0)


async def _until_running(sandbox, wanted: int) -> bool:
    for _ in range(200):
        if await sandbox.running() == wanted:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_dead_shard_takes_only_its_own(host):
    mark = unique_seconds()
    sandboxes = await asyncio.gather(*(host.start(Spec()) for _ in range(8)))
    await asyncio.gather(*(s.exec(f"(setsid sleep {mark} &)") for s in sandboxes))
    victim = sandboxes[0].shard
    dead = [s for s in sandboxes if s.shard == victim]
    alive = [s for s in sandboxes if s.shard != victim]
    assert len(dead) == len(alive) == 4
    running = asyncio.ensure_future(dead[0].exec("sleep 60"))
    talk = await dead[1].open(["cat"])
    kept = await dead[2].snapshot() if "fork" not in lacks(host) else None
    await asyncio.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(SandboxLost, match="process that held it ended"):
        await running
    with pytest.raises(SandboxLost):
        await talk.wait()
    with pytest.raises(SandboxLost, match=r"sandbox palmette-.* is gone: the process that held it ended"):
        await dead[0].exec("true")
    if kept:
        with pytest.raises(StartFailed, match="gone"):
            await kept.fork()
        await kept.close()
    assert [(await s.exec("echo on")).stdout for s in alive] == [b"on\n"] * 4
    new = await asyncio.gather(*(host.start(Spec()) for _ in range(3)))
    assert victim not in {s.shard for s in new}
    assert await until(lambda: processes_with(mark) == 4 and not _left_of({victim})), _left_of({victim})
    await asyncio.gather(*(s.close() for s in dead))


async def test_a_shard_that_says_nothing_is_ended(host, monkeypatch):
    monkeypatch.setattr(shards, "_LOOK_S", 0.2)
    monkeypatch.setattr(shards, "_DEAF_S", 2.0)
    one, two = await host.start(Spec()), await host.start(Spec())
    assert one.shard != two.shard
    os.kill(one.shard, signal.SIGSTOP)
    with pytest.raises(SandboxLost, match="process that held it ended"):
        await one.exec("true")
    assert (await two.exec("echo on")).stdout == b"on\n"
    assert (await host.start(Spec())).shard != one.shard


async def test_closing_leaves_nothing():
    host = ShardsHost(2)
    mark, before = unique_seconds(), sorted(os.listdir("/proc/self/fd"))
    sandboxes = await asyncio.gather(*(host.start(Spec(gateway=("127.0.0.1", 9))) for _ in range(6)))
    await asyncio.gather(*(s.exec(f"(setsid sleep {mark} &); sleep {mark} & true") for s in sandboxes))
    assert processes_with(mark) >= 12
    pids = set(host.shards)
    await host.close()
    assert (processes_with(mark), _left_of(pids)) == (0, [])
    assert not _exist(pids)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(SandboxLost):
        await sandboxes[0].exec("true")
    with pytest.raises(StartFailed):
        await host.start(Spec())
    await host.close()


_FRONT = """
import asyncio, json, sys
from palmette.sandbox.api import Spec
from palmette.sandbox.shards.host import ShardsHost
async def main():
    host = ShardsHost(2)
    boxes = await asyncio.gather(*(host.start(Spec()) for _ in range(6)))
    for box in boxes:
        await box.exec(f"(setsid sleep {sys.argv[1]} &); sleep {sys.argv[1]} & true")
    print(json.dumps(list(host.shards)), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def _front(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FRONT, mark], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
async def test_a_killed_front_leaves_nothing(ending):
    mark = unique_seconds()
    front = _front(mark)
    assert front.stdout
    shards = set(json.loads(await asyncio.to_thread(front.stdout.readline)))
    assert processes_with(mark) >= 12
    if ending == signal.SIGKILL:  # one shard too: its fork server is alone then
        os.kill(min(shards), signal.SIGKILL)
    front.send_signal(ending)
    await asyncio.to_thread(front.wait, 60)
    front.stdout.close()

    def gone() -> bool:
        return not processes_with(mark) and not _exist(shards)

    assert await until(gone)
    from palmette.sandbox.reap import reap

    await asyncio.to_thread(reap)  # the journal of the one that was killed
    assert _left_of(shards) == []


async def test_cancelled_calls_leave_nothing(host):
    await (await host.start(Spec())).close()
    starts = [asyncio.ensure_future(host.start(Spec())) for _ in range(24)]
    for delay_s in (0, 0.001, 0.003, 0.006):
        await asyncio.sleep(delay_s)
        for start in starts[:: 3 if delay_s else 5]:
            start.cancel()
    done = await asyncio.gather(*starts, return_exceptions=True)
    started = [d for d in done if not isinstance(d, BaseException)]
    assert any(isinstance(d, asyncio.CancelledError) for d in done)
    assert sum(host.shards.values()) == len(started)
    one = await host.start(Spec())
    forks = [asyncio.ensure_future(one.fork(2)) for _ in range(3)]
    await asyncio.sleep(0.004)
    for fork in forks:
        fork.cancel()
    copies = [c for d in await asyncio.gather(*forks, return_exceptions=True) if isinstance(d, list) for c in d]
    snapshot = asyncio.ensure_future(one.snapshot())
    await asyncio.sleep(0.001)
    snapshot.cancel()
    await asyncio.gather(snapshot, return_exceptions=True)
    assert sum(host.shards.values()) == len(started) + 1 + len(copies)
    await asyncio.gather(*(s.close() for s in (*started, *copies, one)))
    assert sum(host.shards.values()) == 0


async def test_an_end_by_itself_is_heard_of(host):
    short, other = await host.start(Spec(ttl_s=0.4)), await host.start(Spec())
    assert await until(lambda: sum(host.shards.values()) == 1)
    with pytest.raises(SandboxLost, match="time to live"):
        await short.exec("true")
    await short.close()
    assert (await other.exec("echo on")).stdout == b"on\n"


async def test_errors_keep_their_type(host):
    sandbox = await host.start(Spec())
    with pytest.raises(PathRefused, match="nothing-here"):
        await sandbox.read("nothing-here")
    with pytest.raises(ValueError, match="NUL"):
        await sandbox.exec(["a\0b"])
    with pytest.raises(StartFailed, match=r"Spec\.readonly: /no/such"):
        await host.start(Spec(readonly=("/no/such",)))
    result = await sandbox.exec("x=$(head -c 2000000 /dev/zero | tr '\\0' x)", bounds=Bounds(cpu_s=1, output_bytes=99))
    assert result.status is Status.EXITED
    assert result.usage.peak_mb > 1
    with pytest.raises(ValueError, match="from 1 to"):
        ShardsHost(0)


def test_an_error_travels_as_what_it_is(capsys):
    for error in (SandboxLost("a"), StartFailed("b"), PathRefused("c"), ValueError("d"), SandboxError("e")):
        again = revived(*described(error))
        assert (type(again), str(again)) == (type(error), str(error))
    assert type(revived(*described(UnicodeDecodeError("utf-8", b"x", 0, 1, "r")))) is ValueError  # its nearest kind
    unknown = revived(*described(ZeroDivisionError("z")))
    assert type(unknown) is SandboxError
    assert "ZeroDivisionError: z" in str(unknown)
    assert "ZeroDivisionError" in capsys.readouterr().err


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(
    st.builds(
        Command,
        st.one_of(_TEXT, st.lists(_TEXT)),
        st.binary(),
        st.one_of(st.none(), st.dictionaries(_TEXT, _TEXT)),
        st.one_of(st.none(), _TEXT),
        st.floats(0, 1e6),
        st.one_of(st.none(), st.builds(Bounds, cpu_s=st.integers(1, 9))),
        st.one_of(st.none(), st.tuples(st.integers(0, 9), st.integers(0, 9))),
    )
)
def test_a_command_survives_the_wire(command):
    assert unpack(pack(command), Command) == command


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 3)), max_size=12))
def test_frames_arrive_whole_in_order_with_their_descriptors(sizes):
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ended, heard = asyncio.Event(), []
        one, two = Link(ours, lambda *_: None, lambda: None), Link(theirs, lambda *a: heard.append(a), ended.set)
        sent = []
        for number, (size, count) in enumerate(sizes):
            fds = [os.memfd_create(f"f{number}-{n}") for n in range(count)]
            sent.append((bytes([number]) * size, [os.fstat(fd).st_ino for fd in fds]))
            one.send(sent[-1][0], fds)
            await one.room()
        while len(heard) < len(sent):
            await asyncio.sleep(0)
        found = [(frame, [os.fstat(fd).st_ino for fd in fds]) for frame, fds in heard]
        for _, fds in heard:
            for fd in fds:
                os.close(fd)
        one.close()
        await ended.wait()
        two.close()
        assert found == sent

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before
