"""One sandbox of the namespace host: its commands through pid 1, its files from outside, its copies by layers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from palmette.sandbox.agent import Agent
from palmette.sandbox.api import Bounds, Busy, Result, SandboxError, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.descriptors import readable
from palmette.sandbox.files import Files
from palmette.sandbox.layers import Stack
from palmette.sandbox.layout import argv_of, environment
from palmette.sandbox.ledger import Cost, entry
from palmette.sandbox.namespace_snapshot import NamespaceSnapshot
from palmette.sandbox.pause import Pause
from palmette.sandbox.ports import Reachable, Ways
from palmette.sandbox.reach import Reach
from palmette.sandbox.server import START_TIMEOUT_S, Server, explained
from palmette.sandbox.stream import Ends, RunningProcess
from palmette.sandbox.transfers import Transfers
from palmette.sandbox.watchdog import Watchdog

if TYPE_CHECKING:
    from palmette.sandbox.namespace import NamespaceHost

_Answer = TypeVar("_Answer")
GATEWAY_URL = "http://127.77.0.1:8000"
_OVERDUE_S = 30.0  # so long after its time-out a command cannot be running, unless pid 1 does not do its work


class NamespaceSandbox(Transfers, Reachable):
    """One running sandbox; made by `NamespaceHost.start`."""

    def __init__(self, name: str, spec: Spec, host: NamespaceHost, server: Server, stack: Stack, uid: int) -> None:
        self._id = name
        self._spec = spec
        self._host = host
        self._server = server
        self._agent: Agent | None = None
        self._reach = Reach(host.roots, lambda: self._alive().open_root(), self._files_below)
        self._ways = Ways(name, lambda family: server.socket(name, family), self._alive)
        self._stack = stack
        self._uid = uid
        self._mounts = -1
        self._changed = True  # since the last snapshot
        self._still = asyncio.Lock()  # held while the files are frozen
        self._pause = Pause(server.cgroups, name)
        self._confined = False  # to the memory and processor that it may have
        self._leaving: asyncio.Future[None] | None = None  # the root before the last fork
        self._turning: asyncio.Task[None] | None = None  # it gets a new layer, after a fork
        server.layers.hold(stack.names)
        self._began = time.monotonic()
        self._watchdog = Watchdog(self._suspect)
        self._lost: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._environment = environment(spec, user=server.user)

    @property
    def id(self) -> str:
        """Name of the sandbox, unique on this machine while it lives."""
        return self._id

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway inside the sandbox, or None without a network."""
        return GATEWAY_URL if self._spec.gateway else None

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
        argv = argv_of(command)
        agent = await self._ready_for_commands()
        killed = self._server.cgroups.out_of_memory(self._id)
        running = agent.run(
            argv,
            stdin=stdin,
            env={**self._environment, **env} if env else self._environment,
            cwd=os.path.join(self._spec.workdir, cwd or ""),
            timeout_s=timeout_s,
            bounds=bounds,
        )
        return self._told(await self._in_time(running, timeout_s), killed)

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
        argv = argv_of(command)
        agent = await self._ready_for_commands()
        ends = Ends(terminal, self._server.outside(self._uid))
        kind = {"TERM": "xterm-256color"} if terminal else {}
        killed = self._server.cgroups.out_of_memory(self._id)
        try:
            serial, future = agent.spawn(
                argv,
                fds=ends.inner,
                terminal=ends.terminal,
                env={**kind, **self._environment, **(env or {})},
                cwd=os.path.join(self._spec.workdir, cwd or ""),
                timeout_s=timeout_s,
                bounds=bounds,
            )
        except BaseException:
            ends.close()
            raise

        async def end() -> Result:
            return self._told(await self._in_time(future, timeout_s), killed)

        return RunningProcess(ends, asyncio.ensure_future(end()), lambda number: agent.signal(serial, number))

    async def running(self) -> int:
        """Ask its first process how many commands run. Raises `SandboxLost`."""
        return await self._in_time(self._alive().running(), 0.0)

    async def snapshot(self) -> NamespaceSnapshot:
        """Keep the files as they are. Raises `Busy`, `SandboxLost`."""
        async with self._frozen() as (snapshot, turn):
            try:
                await asyncio.shield(turn())
            except BaseException:
                await snapshot.close()
                raise
            return snapshot

    async def fork(self, n: int = 1) -> list[NamespaceSandbox]:
        """Start `n` copies. Raises `Busy`, `SandboxLost`, `StartFailed`."""
        async with self._frozen() as (snapshot, _):
            try:
                return await snapshot.fork(n)  # they need nothing of the original's new layer: it gets that meanwhile
            finally:
                await snapshot.close()

    async def pause(self) -> None:
        """Stop every process where it is. Idempotent. Raises `SandboxLost`, and `SandboxError` without a freezer."""
        async with self._still:
            self._alive()
            left_s = self._spec.ttl_s - (time.monotonic() - self._began)
            await self._pause.begin(left_s, lambda: self._end("its time to live ended"))

    async def resume(self) -> None:
        """Let the processes go on. Idempotent. Raises `SandboxLost`."""
        async with self._still:
            self._alive()
            self._pause.end()

    def cost(self) -> Cost:
        """Return what it has used so far, by the commands that have ended."""
        if self._lost is not None or self._agent is None:
            return Cost()
        return Cost(
            cpu_s=self._agent.cpu_us / 1e6,
            peak_mb=self._server.cgroups.peak_bytes(self._id) / 2**20,
            disk_mb=self._reach.used_bytes() / 2**20,
            wall_s=time.monotonic() - self._began,
            network_mb=self._ways.passed_mb,
        )

    async def close(self) -> None:
        """End every process and free everything. Idempotent; never raises for a sandbox already gone."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def start(self) -> None:
        """Have it started; once, by its host. Raises `StartFailed`."""
        request = self._server.request(self._id, self._spec, self._uid, self._stack.top, self._stack.lowers)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._agent = Agent(ours, self._end)
        with theirs:
            await self._server.ask(request, theirs)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._agent.ready
        except TimeoutError:
            raise StartFailed(f"no answer from a new sandbox within {START_TIMEOUT_S:.0f} s") from None
        except SandboxError as error:
            raise explained(str(error)) from None
        box = self._agent.take_box()
        self._mounts = box.mounts
        self._reach.replace(box.root)
        self._changed = not self._stack.lowers
        marked = self._server.cgroups.version > 0
        self._server.ledger.opened(entry(self._id, self._spec.owner, self._spec.ttl_s, pid=box.pid, marked=marked))
        listener = socket.socket(fileno=box.listener) if self._spec.gateway else None
        await self._ways.serve(self._spec, listener)

    async def _close(self) -> None:
        if self._lost is None:
            await self._host.kills.turn()
        self._end("it was closed")
        await self._turned()
        if self._leaving:
            await self._leaving
        if self._agent is None or self._agent.box.pidfd < 0:
            return
        pidfd, self._agent.box.pidfd = self._agent.box.pidfd, -1
        if self._agent.box.certain:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        self._pause.end()  # a frozen process does not die
        await readable(pidfd, timeout_s=10.0)
        os.close(pidfd)

    def _end(self, why: str) -> None:
        """Let go of everything but a pidfd; called by whichever end of the sandbox comes first."""
        if self._lost is not None:
            return
        if time.monotonic() - self._began >= self._spec.ttl_s:
            why = f"its time to live of {self._spec.ttl_s:g} s ended"
        self._server.ledger.closed(self._id, self.cost())
        self._lost = why
        self._watchdog.close()
        if self._agent:
            self._agent.close(why)
        self._ways.close()
        self._reach.close()
        if self._mounts >= 0:
            os.close(self._mounts)
        self._server.return_uid(self._uid)
        self._server.layers.release(self._stack.names)
        self._host.forget(self._id, why)
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())

    async def _ready_for_commands(self) -> Agent:
        if self._still.locked() or self._turning is not None:
            await self._settle()
        agent = self._alive()
        if self._pause.holds:
            raise Busy(f"sandbox {self._id} is paused: resume it first")
        if not self._confined:
            await self._host.room_for_commands(self._id)
            agent = self._alive()
        if not self._confined:  # still
            try:
                agent.join(self._server.cgroups.confine(self._id, self._spec.limits))
            except SandboxError:
                await agent.running()  # one that has just ended is lost, and its limits are being taken down
                raise
            self._confined = True
        self._changed = True
        return agent

    async def _in_time(self, answer: Awaitable[_Answer], timeout_s: float) -> _Answer:
        """Wait for pid 1's answer; when it does not come long after its time, the sandbox ends."""
        watched = self._watchdog.watch(timeout_s + _OVERDUE_S)
        try:
            return await answer
        except SandboxLost:
            raise self._gone() from None
        finally:
            self._watchdog.forget(watched)

    def _told(self, result: Result, killed: int) -> Result:
        """Say so when the memory limit has ended it (`killed`: how many it had before), or the disk is full."""
        if result.exit_code == 128 + signal.SIGKILL and self._server.cgroups.out_of_memory(self._id) > killed:
            return replace(result, status=Status.OOM)
        return replace(result, disk_full=True) if result.exit_code and self._reach.full() else result

    @asynccontextmanager
    async def _frozen(self) -> AsyncIterator[tuple[NamespaceSnapshot, Callable[[], asyncio.Task[None]]]]:
        """Hold the sandbox still: its files as they are, and what gives it a new layer of its own over them.

        The latter is begun by the end, and goes on after it: `_settle` waits for it before the files are used again.
        """
        async with self._still:
            await self._turned()
            agent = self._alive()
            if self._pause.holds:
                raise Busy(f"sandbox {self._id} is paused: resume it first")
            busy = (self._reach.working or await agent.quiet()) if self._changed else 0
            if busy:
                raise Busy(f"sandbox {self._id} is busy with {busy} command(s) or transfer(s): wait for their end")
            stack, request = self._turn() if self._changed else (self._stack, b"")
            snapshot = NamespaceSnapshot(self._spec, stack.lowers, self._uid, self._host, self._server)

            turning: list[asyncio.Task[None]] = []

            def turn() -> asyncio.Task[None]:
                if not turning:
                    turning.append(asyncio.ensure_future(self._rotate(agent, stack, request)))
                    turning[0].add_done_callback(lambda task: task.cancelled() or task.exception())  # seen
                    self._turning = turning[0]
                return turning[0]

            try:
                if stack.lowers not in (self._stack.lowers, self._stack.frozen()):  # what copies need is to be made
                    await asyncio.wait([turn()])
                yield snapshot, turn
            finally:
                turn()

    async def _turned(self) -> None:
        """Wait until the original of a fork has its new layer."""
        if (turning := self._turning) is not None:
            await asyncio.wait([turning])
            self._turning = None if self._turning is turning else self._turning

    async def _settle(self) -> None:
        """Wait until the files may be used."""
        while self._still.locked() or self._turning is not None:
            async with self._still:
                await self._turned()

    def _turn(self) -> tuple[Stack, bytes]:
        """Return the stack with a new top over what is written so far, and the request for it."""
        stack, kept, flat = self._server.layers.turn(self._stack, image=bool(self._spec.root))
        lowers = () if kept else stack.lowers
        return stack, self._server.rotation(self._spec, layer=stack.top, kept=kept, flat=flat, lowers=lowers)

    async def _rotate(self, agent: Agent, stack: Stack, request: bytes) -> None:
        """Make what is written so far a lower layer, with a new one on it; without a `request` there is nothing new."""
        if not request:
            return
        server = self._server
        server.layers.hold(stack.names)
        target = self._mounts if self._mounts >= 0 else agent.open_pidfd()
        try:
            root = await server.rotate(request, target)
        except BaseException as error:
            server.layers.release(stack.names)
            self._end(f"its files could not be frozen ({error or type(error).__name__})")
            raise
        finally:
            if target not in (self._mounts, -1):
                os.close(target)
        if self._lost is not None:
            os.close(root)
            server.layers.release(stack.names)
            raise self._gone()
        server.layers.release(self._stack.names)
        self._stack = stack
        if old := self._reach.replace(root):
            self._leaving = asyncio.get_running_loop().run_in_executor(None, old.close)  # takes an overlay apart: slow
        self._changed = False

    def _files_below(self, root: int) -> Files:
        uid = self._server.outside(self._uid)
        owner = None if uid is None else (uid, uid)
        limit_bytes = (self._spec.limits.disk_mb << 20) * (1 + len(self._stack.lowers))
        return Files(root, workdir=self._spec.workdir, owner=owner, limit_bytes=limit_bytes)

    @asynccontextmanager
    async def _transfer(self) -> AsyncIterator[Files]:
        if self._still.locked() or self._turning is not None:
            await self._settle()
        self._alive()
        try:
            files = self._reach.files()
        except OSError:
            raise SandboxLost(f"sandbox {self._id} is gone: its first process ended") from None
        self._changed = True
        self._reach.working += 1
        try:
            yield files
        finally:
            self._reach.working -= 1

    def _suspect(self) -> float:
        """A command should have ended long ago: unless it is paused, its pid 1 does not do its work."""
        if self._pause.holds:
            return _OVERDUE_S
        self._end("its first process does not answer")
        return 0.0

    def _alive(self) -> Agent:
        if self._lost is not None or self._agent is None:
            raise self._gone()
        return self._agent

    def _gone(self) -> SandboxLost:
        return SandboxLost(f"sandbox {self._id} is gone: {self._lost}")
