"""A host without isolation: plain processes in a temporary directory, for tests and for machines that allow no more.

Files go through the same code as in a real sandbox, so ``read("/logs/x")`` means ``<temporary directory>/logs/x``.
Commands, however, see the machine as it is: they start in the mapped work directory and ``$PALMETTE_ROOT`` names the
mapped root, but ``/app`` in a command is the machine's own /app. Only trusted code may run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from palmette.sandbox.api import Bounds, Busy, Result, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.capture import Output
from palmette.sandbox.cgroup import own_name
from palmette.sandbox.descriptors import memory_file, readable
from palmette.sandbox.door import Door, open_door
from palmette.sandbox.fake_process import limit, not_started, reap, signal_session
from palmette.sandbox.fake_snapshot import FakeSnapshot, copied
from palmette.sandbox.files import Files
from palmette.sandbox.layout import DIRECTORIES, argv_of, check_spec, environment
from palmette.sandbox.ledger import HEARTBEAT_S, Cost, Ledger, entry
from palmette.sandbox.namespace_snapshot import settled
from palmette.sandbox.ports import Reachable, Ways
from palmette.sandbox.stream import Ends, RunningProcess

_GRACE_S = 0.05  # how long output of children may still follow the exit of a command
_LACKS = ["paths", "processes", "walls", "network", "filter", "user", "root", "system", "memory", "pids", "disk", "cpu"]


class FakeHost:
    """Runs every "sandbox" as ordinary processes of this user in a temporary directory."""

    name = "fake"
    lacks = frozenset(_LACKS)

    def __init__(self) -> None:
        self._sandboxes: dict[str, FakeSandbox] = {}
        self._serial = 0
        self._ledger: Ledger | None = None
        self._door: Door | None = None
        self._base = ""

    async def start(self, spec: Spec) -> FakeSandbox:
        """Start a sandbox. Raises `ValueError` for a spec that makes no sense, `StartFailed` for one with an image."""
        check_spec(spec)
        if spec.root:
            raise StartFailed("Spec.root: this host has no images; use the host 'namespace'")
        root = self.scratch()
        for directory in (spec.workdir, *DIRECTORIES):
            os.makedirs(root + directory, exist_ok=True)
        return self.inhabit(root, spec)

    def inhabit(self, root: str, spec: Spec) -> FakeSandbox:
        """Return a sandbox with the files in the temporary directory `root`, which it owns from now on."""
        self._serial += 1
        if self._ledger is not None:
            self._ledger.opened(entry(f"fake/{self._serial}", spec.owner, spec.ttl_s))
        sandbox = FakeSandbox(f"fake/{self._serial}", spec, root, self)
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    def weaknesses(self) -> tuple[str, ...]:
        """Say that nothing holds here."""
        return (
            "no isolation: commands see and may change everything that this user can",
            "absolute paths in commands are the machine's own, only file operations are mapped",
            "memory, process and disk limits do not hold",
            "the network is open",
            "a process that leaves its session survives close",
        )

    async def close(self) -> None:
        """Close every sandbox. Idempotent."""
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        self._tidy()

    def scratch(self) -> str:
        """Return a new directory below the one that is on the books of this host."""
        if self._ledger is None:
            name = f"fake-{own_name()}"
            self._base = os.path.join(tempfile.gettempdir(), f"palmette-{name}")
            self._ledger = Ledger(name)
            self._ledger.opened(entry(name, "", 0.0, directory=self._base))
            os.mkdir(self._base, 0o700)
            self._door = open_door(self._ledger.path, self._sandboxes)
            self._beat()
        return tempfile.mkdtemp(dir=self._base)

    def forget(self, name: str, cost: Cost) -> None:
        """Take a sandbox that is gone off the books."""
        self._sandboxes.pop(name, None)
        if self._ledger is not None:
            self._ledger.closed(name, cost)
            self._tidy()

    def _tidy(self) -> None:
        """Close the books when there is nothing on disk."""
        if self._ledger is not None and not self._sandboxes:
            with contextlib.suppress(OSError):  # a snapshot is left
                os.rmdir(self._base)
                self._ledger.close()
                if self._door:
                    self._door.close()
                self._ledger = self._door = None

    def _beat(self) -> None:
        if self._ledger is not None:
            self._ledger.beat()
            asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)


class FakeSandbox(Reachable):
    """One temporary directory and the processes started in it."""

    def __init__(self, name: str, spec: Spec, root: str, host: FakeHost) -> None:
        self._id = name
        self._spec = spec
        self._began = time.monotonic()
        self._cpu_s = 0.0
        self._host = host
        self._root = root
        self._running = 0
        self._paused = False
        fd = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        limit_bytes = spec.limits.disk_mb << 20
        self._files = Files(fd, workdir=spec.workdir, owner=None, limit_bytes=limit_bytes)
        self._ways = Ways(name, _plain_socket, self._check)
        self._proxy = ("", 0)
        if spec.network:
            listener = socket.create_server(("127.0.0.1", 0))
            self._proxy = listener.getsockname()
            self._ways.allow(spec, listener)
        self._sessions: set[int] = set()
        self._outputs: set[Output] = set()
        self._lost: str | None = None
        self._expiry = asyncio.get_running_loop().call_later(spec.ttl_s, self._end, "its time to live ended")

    @property
    def id(self) -> str:
        """Name of the sandbox, unique in its host."""
        return self._id

    @property
    def root(self) -> str:
        """The temporary directory that stands for ``/`` in file operations."""
        return self._root

    @property
    def gateway_url(self) -> str | None:
        """The gateway itself: there is no network of our own to reach it through."""
        return "http://{}:{}".format(*self._spec.gateway) if self._spec.gateway else None

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
    ) -> Result:
        """Run an argv, or a string through ``/bin/sh -c``. Raises `SandboxLost`."""
        self._check()
        limit = (bounds and bounds.output_bytes) or self._spec.limits.output_bytes
        outputs = [Output(limit, self._outputs) for _ in range(2)]
        fds = [memory_file(stdin), *(output.write_end for output in outputs)]
        result = await self._run(self._spawn(command, fds, env, cwd, bounds, False), timeout_s, outputs)
        self._check()
        return replace(
            result,
            stdout=outputs[0].capture.value(),
            stderr=result.stderr or outputs[1].capture.value(),
            truncated=any(output.capture.cut for output in outputs),
        )

    async def open(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> RunningProcess:
        """Start a command with pipes, or with a terminal of (rows, columns). Raises `SandboxLost`."""
        self._check()
        ends = Ends(terminal, None)
        started = self._spawn(command, ends.inner, env, cwd, bounds, ends.terminal)

        async def end() -> Result:
            result = await self._run(started, timeout_s, ())
            self._check()
            return result

        def send(number: int) -> None:
            if isinstance(started, subprocess.Popen):
                signal_session(started.pid, number)

        return RunningProcess(ends, asyncio.ensure_future(end()), send)

    def _spawn(
        self,
        command: str | Sequence[str],
        fds: Sequence[int],
        env: Mapping[str, str] | None,
        cwd: str | None,
        bounds: Bounds | None,
        terminal: bool,
    ) -> subprocess.Popen[bytes] | Result:
        """Start a command with its three streams, which are closed here; what it says when it cannot start."""
        argv = argv_of(command)

        def dress() -> None:
            limit(bounds)
            if terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        try:
            if self._paused:
                raise Busy(f"sandbox {self._id} is paused: resume it first")
            process = subprocess.Popen(
                argv,
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
                cwd=self._mapped(cwd or "."),
                env={**self._environment(), **(env or {})},
                start_new_session=True,
                preexec_fn=dress if bounds or terminal else None,
            )
        except OSError as error:
            return not_started(argv[0], error)
        finally:
            for fd in set(fds):
                os.close(fd)
        self._sessions.add(process.pid)
        return process

    async def _run(
        self, process: subprocess.Popen[bytes] | Result, timeout_s: float, outputs: Sequence[Output]
    ) -> Result:
        """Wait for the command's own process, not for children that hold its output open."""
        if isinstance(process, Result):
            return process
        began = time.monotonic()
        pidfd = os.pidfd_open(process.pid)
        ended = False
        self._running += 1
        try:
            ended = await readable(pidfd, timeout_s=timeout_s)
        finally:
            self._running -= 1
            if not ended:
                signal_session(process.pid)
            code, usage = reap(process)
            self._cpu_s += usage.cpu_s
            os.close(pidfd)
        for _ in range(10):
            if all(output.ended for output in outputs):
                break
            await asyncio.sleep(_GRACE_S / 10)
        return Result(
            status=Status.TIMEOUT if not ended else Status.SIGNALLED if code < 0 else Status.EXITED,
            exit_code=128 - code if code < 0 else code,
            stdout=b"",
            stderr=b"",
            truncated=False,
            wall_s=time.monotonic() - began,
            usage=usage,
        )

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        await asyncio.to_thread(self._files.unpack, files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        return await asyncio.to_thread(self._files.pack, path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        return self._files.read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        self._files.write(path, data, mode)

    async def snapshot(self) -> FakeSnapshot:
        """Keep the files as they are, by copying. Raises `Busy`, `SandboxLost`."""
        self._check()
        if self._running or self._paused:
            why = "is paused: resume it first" if self._paused else f"is busy with {self._running} command(s)"
            raise Busy(f"sandbox {self._id} {why}")
        for session in self._sessions:
            signal_session(session)
        return FakeSnapshot(await copied(self._root, self._host), self._spec, self._host)

    async def fork(self, n: int = 1) -> list[FakeSandbox]:
        """Start `n` copies. Raises `Busy`, `SandboxLost`."""
        snapshot = await self.snapshot()
        made: list[FakeSandbox] = []
        try:
            made = await snapshot.fork(n)
        finally:
            closing = asyncio.ensure_future(snapshot.close())
            try:
                await settled(closing)
            except asyncio.CancelledError:  # nobody gets them
                await asyncio.gather(*(each.close() for each in made))
                raise
        return made

    async def pause(self) -> None:
        """Stop the sessions that were started. Idempotent. Raises `SandboxLost`."""
        self._check()
        self._paused = True
        for session in self._sessions:
            signal_session(session, signal.SIGSTOP)

    async def resume(self) -> None:
        """Let them go on. Idempotent. Raises `SandboxLost`."""
        self._check()
        self._paused = False
        for session in self._sessions:
            signal_session(session, signal.SIGCONT)

    def cost(self) -> Cost:
        """Return what it has used so far, by the commands that have ended."""
        wall_s = time.monotonic() - self._began
        return Cost(cpu_s=self._cpu_s, wall_s=wall_s, network_mb=self._ways.passed_mb)

    async def close(self) -> None:
        """End the sessions that were started and remove the directory. Idempotent."""
        self._end("it was closed")

    def _end(self, why: str) -> None:
        if self._lost is not None:
            return
        self._lost = why
        self._expiry.cancel()
        for session in self._sessions:
            signal_session(session)
        for output in list(self._outputs):
            output.close()
        self._ways.close()
        self._files.close()
        shutil.rmtree(self._root, ignore_errors=True)
        self._host.forget(self._id, self.cost())

    def _check(self) -> None:
        if self._lost is not None:
            raise SandboxLost(f"sandbox {self._id} is gone: {self._lost}")

    def _mapped(self, path: str) -> str:
        absolute = os.path.normpath(path if path.startswith("/") else f"{self._spec.workdir}/{path}")
        return os.path.join(self._root, absolute.lstrip("/"))

    def _environment(self) -> dict[str, str]:
        ours = {"HOME": self._mapped("."), "PALMETTE_ROOT": self._root}
        return {**environment(self._spec, proxy=self._proxy), **ours, **self._spec.env}


async def _plain_socket(family: int) -> socket.socket:
    return socket.socket(family)
