"""Attempts to get out, to take everything, or to blind the host; each with what stops it.

The sandbox next door is asked for answers all the while, and the attacked host still starts sandboxes afterwards. A
host that declares ``walls`` lacking is not attacked.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from palmette.sandbox.api import Host, Limits, PathRefused, Sandbox, Spec, Status
from palmette.sandbox.conformance import attacks
from palmette.sandbox.conformance.box import PYTHON, READONLY

_LIMITS = Limits(memory_mb=128, pids=48, disk_mb=16, inodes=600, output_bytes=20_000)
_ANSWER_S = 20.0  # a neighbour on a loaded machine may be slow, but not silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attack; `need` is what the host must have for it to fail, "walls" beside."""

    name: str
    stopped_by: str
    run: Callable[[Sandbox], Awaitable[None]]
    need: str = "walls"

    async def check(self, host: Host) -> None:
        """Attack a sandbox beside another, and see that nothing came of it."""
        spec = Spec(owner="abuse", limits=_LIMITS, readonly=READONLY)
        target, neighbour = await host.start(spec), await host.start(spec)
        asking = asyncio.ensure_future(_ask(neighbour))
        try:
            await self.run(target)
            assert not asking.done(), asking.exception()
            result = await asyncio.wait_for(_patient(target), 30)
            assert result == b"alive\n", result
            later = await host.start(spec)
            assert (await later.exec("echo new")).stdout == b"new\n"
            await later.close()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.gather(target.close(), neighbour.close())


async def _ask(neighbour: Sandbox) -> None:
    while True:
        began = time.monotonic()
        result = await neighbour.exec("echo here", timeout_s=_ANSWER_S)
        assert result.stdout == b"here\n", result
        assert time.monotonic() - began < _ANSWER_S, "the sandbox next door was slow to answer"
        await asyncio.sleep(0.02)


async def _patient(sandbox: Sandbox) -> bytes:
    """Return an answer of the attacked sandbox once what was started in it is gone."""
    while True:
        result = await sandbox.exec("echo alive", timeout_s=10)
        if result.exit_code == 0:
            return result.stdout
        await asyncio.sleep(0.1)


async def _program(sandbox: Sandbox, program: str, timeout_s: float = 30.0) -> None:
    """Run an attack that says how each of its attempts ended, and knows which endings are right."""
    result = await sandbox.exec([PYTHON, "-I", "-c", attacks.PRELUDE + program], timeout_s=timeout_s)
    assert (result.exit_code, result.stdout) == (0, b"all stopped\n"), (result.stdout, result.stderr)


def _in_program(program: str) -> Callable[[Sandbox], Awaitable[None]]:
    return lambda sandbox: _program(sandbox, program)


async def _fork_bomb(sandbox: Sandbox) -> None:
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    result = await sandbox.exec([PYTHON, "-I", "-c", bomb], timeout_s=1.5)
    assert result.status in (Status.TIMEOUT, Status.OOM), result
    await asyncio.wait_for(_patient(sandbox), 30)
    result = await sandbox.exec("b() { b | b & }; (b); exec sleep 60", timeout_s=1.0)
    assert result.status in (Status.TIMEOUT, Status.OOM), result


async def _memory_bomb(sandbox: Sandbox) -> None:
    bomb = "import os\nfor _ in range(4): os.fork()\nx = []\nwhile True: x.append(bytearray(1 << 22))"
    result = await sandbox.exec([PYTHON, "-I", "-c", bomb], timeout_s=20)
    assert result.status is Status.OOM or b"MemoryError" in result.stderr, result


async def _disk_fill(sandbox: Sandbox) -> None:
    places = "/app /tmp /var/tmp /dev/shm /logs /tests"
    fill = f"for d in {places}; do head -c 100000000 /dev/zero > $d/x; done; cat {places.replace(' ', '/x ')}/x | wc -c"
    result = await sandbox.exec(fill)
    assert int(result.stdout) <= _LIMITS.disk_mb << 20, result
    await sandbox.exec(f"rm -f {places.replace(' ', '/x ')}/x; truncate -s 100G sparse")
    result = await sandbox.exec("seq -f i%g 5000 | xargs touch 2> /dev/null; ls | wc -l; rm -f i*")
    assert int(result.stdout) < _LIMITS.inodes + 200, result
    await sandbox.exec("rm sparse")


async def _host_files(sandbox: Sandbox) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        secret = os.path.join(directory, "secret")
        fd = os.open(secret, os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(fd, b"of the host")
        os.close(fd)
        await _program(sandbox, attacks.FILES.format(secret=secret))
        assert os.stat(secret).st_size == len(b"of the host")


async def _signals(sandbox: Sandbox) -> None:
    await _program(sandbox, attacks.SIGNALS.format(pids=[os.getpid(), os.getppid()]))


async def _host_sockets(sandbox: Sandbox) -> None:
    name = f"palmette-abuse-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("127.0.0.1", 0)) as local:
        abstract.bind("\0" + name)
        abstract.listen()
        await _program(sandbox, attacks.SOCKETS.format(name=name, port=local.getsockname()[1]))
        for listener in (abstract, local):
            listener.setblocking(False)
            with suppress(BlockingIOError):
                listener.accept()
                raise AssertionError("the sandbox reached a socket of the host")


async def _copy_out_races(sandbox: Sandbox) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        fd = os.open(f"{directory}/f", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, b"of the host")
        os.close(fd)
        racing = asyncio.ensure_future(
            sandbox.exec([PYTHON, "-I", "-c", attacks.RACE.format(outside=directory)], timeout_s=3)
        )
        await asyncio.sleep(0.2)
        for _ in range(60):
            for path in ("d/f", "hard", "d"):
                with suppress(PathRefused):
                    if path == "d":
                        with tarfile.open(fileobj=io.BytesIO(await sandbox.download(path))) as tar:
                            data = b"".join(file.read() for m in tar if m.isfile() and (file := tar.extractfile(m)))
                    else:
                        data = await sandbox.read(path)
                    assert b"of the host" not in data, path
            with suppress(PathRefused):
                await sandbox.write("d/f", b"inside")
            await asyncio.sleep(0.01)
        await racing
        assert (os.stat(f"{directory}/f").st_size, os.listdir(directory)) == (len(b"of the host"), ["f"])


async def _kill_the_agent(sandbox: Sandbox) -> None:
    await sandbox.exec("for s in 1 2 3 6 9 11 15 19; do kill -$s 1; done; kill -9 -1")
    await sandbox.exec("for f in mem environ fd/0 fd/3 oom_score_adj cwd/x root/x; do echo x > /proc/1/$f; done")
    await sandbox.exec(f"{PYTHON} -I -c 'import os; os.closerange(0, 5000); os.kill(1, 15)'")
    held = (
        f"{PYTHON} -I -c 'import os, time; os.fork() or os.setsid(); os.fork(); os.closerange(0, 99); time.sleep(99)'"
    )
    result = await sandbox.exec(held, timeout_s=0.7)
    assert result.status is Status.TIMEOUT, result


async def _floods(sandbox: Sandbox) -> None:
    flood = "for i in 1 2 3 4 5 6; do yes out & yes err >&2 & done; wait"
    results = await asyncio.gather(*(sandbox.exec(flood, timeout_s=1.0) for _ in range(2)))
    for result in results:
        assert (result.status, result.truncated) == (Status.TIMEOUT, True), result.status
        assert max(len(result.stdout), len(result.stderr)) < _LIMITS.output_bytes + 100
    result = await sandbox.exec("printf '\\033[2J\\033]0;x\\007\\0\\377'; head -c 30000000 /dev/zero")
    assert result.truncated


async def _stopped(sandbox: Sandbox) -> None:
    result = await sandbox.exec("sh -c 'kill -STOP $$' & kill -STOP $$; echo never", timeout_s=0.7)
    assert (result.status, result.stdout) == (Status.TIMEOUT, b""), result
    stubborn = (
        "import os, signal, time\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except: pass\n"
    )
    spread = "for _ in range(3):\n if not os.fork(): os.setsid()\n"
    result = await sandbox.exec([PYTHON, "-I", "-c", f"{stubborn}{spread}time.sleep(60)"], timeout_s=0.7)
    assert result.status is Status.TIMEOUT, result
    waiting = "import ctypes, time\nif not ctypes.CDLL(None).vfork(): time.sleep(60)"  # its parent looks unkillable
    result = await sandbox.exec([PYTHON, "-I", "-c", waiting], timeout_s=0.7)
    assert result.status is Status.TIMEOUT, result
    left = await sandbox.exec("cat /proc/[0-9]*/stat | grep -vc palmette-box")  # those are ours
    assert int(left.stdout) <= 4, left


async def _time_bomb(sandbox: Sandbox) -> None:
    bomb = "(setsid sh -c 'sleep 0.6; echo late > /app/late; kill -9 -1; cat /etc/shadow' > /dev/null 2>&1 &)"
    assert (await sandbox.exec(bomb, timeout_s=5)).status is Status.EXITED
    await asyncio.sleep(1.0)
    assert await sandbox.read("late") == b"late\n", "background work is allowed; it hits only its own sandbox"


ATTEMPTS = (
    Attempt(
        name="fork_bomb", stopped_by="pids limit of its cgroup; the time-out ends all", run=_fork_bomb, need="pids"
    ),
    Attempt(
        name="memory_bomb", stopped_by="memory limit of its cgroup, files included", run=_memory_bomb, need="memory"
    ),
    Attempt(name="disk_and_inode_fill", stopped_by="size and nr_inodes of its tmpfs", run=_disk_fill, need="disk"),
    Attempt(name="files_of_the_host", stopped_by="own root (pivot_root), read-only binds, own uid", run=_host_files),
    Attempt(
        name="changing_the_system_in_its_root",
        stopped_by="they belong to root; rootless: Landlock",
        run=_in_program(attacks.PLANTED),
        need="system",
    ),
    Attempt(name="proc_and_sys", stopped_by="own /proc, no /sys, no capability", run=_in_program(attacks.PROC)),
    Attempt(
        name="looking_into_pid_1",
        stopped_by="it is undumpable: /proc/1 belongs to root",
        run=_in_program(attacks.FIRST),
        need="processes",
    ),
    Attempt(name="signals_to_the_host", stopped_by="pid namespace", run=_signals),
    Attempt(
        name="mounts_and_namespaces", stopped_by="no capability, no_new_privs", run=_in_program(attacks.NAMESPACES)
    ),
    Attempt(
        name="nested_user_namespaces",
        stopped_by="the inherited seccomp filter (clone3 answers ENOSYS)",
        run=_in_program(attacks.USER_NAMESPACES),
        need="filter",
    ),
    Attempt(
        name="setuid",
        stopped_by="no_new_privs, nosuid, empty bounding set",
        run=_in_program(attacks.SETUID),
        need="user",
    ),
    Attempt(
        name="ptrace_keyctl_bpf_io_uring_perf",
        stopped_by="the inherited seccomp filter",
        run=_in_program(attacks.CALLS),
        need="filter",
    ),
    Attempt(name="clock_host_name_swap_priority", stopped_by="no capability", run=_in_program(attacks.MACHINE)),
    Attempt(
        name="raw_sockets", stopped_by="no capability, families filtered", run=_in_program(attacks.RAW), need="filter"
    ),
    Attempt(name="sockets_of_the_host", stopped_by="network namespace with loopback only", run=_host_sockets),
    Attempt(
        name="inherited_descriptors", stopped_by="close_range before every command", run=_in_program(attacks.INHERITED)
    ),
    Attempt(name="races_on_copy_out", stopped_by="openat2 below the root, no magic links", run=_copy_out_races),
    Attempt(
        name="killing_the_agent",
        stopped_by="pid 1 of a pid namespace, undumpable",
        run=_kill_the_agent,
        need="processes",
    ),
    Attempt(name="output_floods", stopped_by="head and tail kept, the rest counted", run=_floods),
    Attempt(
        name="stopped_and_stubborn_processes",
        stopped_by="SIGKILL by session, descent and age",
        run=_stopped,
        need="processes",
    ),
    Attempt(name="time_bombs", stopped_by="pid namespace ends with the sandbox", run=_time_bomb),
)
