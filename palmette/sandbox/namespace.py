"""The default host: Linux namespaces, started by a small C fork server, commanded through a C pid 1.

A sandbox is one tmpfs root with the machine's own system bound read only, its own uid, no capability, no network but
loopback, and a cgroup. It ends with its owner, its time to live or its control socket, whichever comes first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from palmette.sandbox import cgroup
from palmette.sandbox.agent import Agent
from palmette.sandbox.api import Result, SandboxError, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.descriptors import readable
from palmette.sandbox.files import Files
from palmette.sandbox.layout import PATH, check_spec
from palmette.sandbox.relay import Relay
from palmette.sandbox.server import START_TIMEOUT_S, Machine, Server, explained, survey

GATEWAY_URL = "http://127.77.0.1:8000"
_STARTING = 16  # at once; more only queue up in the kernel and time out together
_KILLS_PER_S = 500.0


class NamespaceHost:
    """Starts sandboxes through one fork server of its own, which is launched at the first start."""

    name = "namespace"

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._server: Server | None = None
        self._launching = asyncio.Lock()
        self._starting = asyncio.Semaphore(_STARTING)
        self._sandboxes: dict[str, NamespaceSandbox] = {}
        self._serial = 0
        self._next_kill = 0.0
        self._closed = False

    async def start(self, spec: Spec) -> NamespaceSandbox:
        """Start a sandbox. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        check_spec(spec)
        if self._closed:
            raise StartFailed("the sandbox host is closed")
        async with self._starting:
            server = await self._launched()
            self._serial += 1
            sandbox = NamespaceSandbox(f"{server.name}/{self._serial}", spec, self, server)
            self._sandboxes[sandbox.id] = sandbox
            try:
                await sandbox._start()
            except BaseException:
                await asyncio.shield(sandbox.close())
                raise
            return sandbox

    @property
    def lacks(self) -> frozenset[str]:
        """Needs of the conformance suite that this machine does not let us meet."""
        machine = self._survey()
        missing = set() if machine.cgroups.version else {"memory"}
        missing |= {"pids", "root"} if machine.rootless else set()
        return frozenset(missing if machine.filtered else missing | {"filter"})

    def weaknesses(self) -> tuple[str, ...]:
        """Say which of the limits and walls do not hold on this machine. May block some 20 ms the first time."""
        found = []
        machine = self._survey()
        if not machine.cgroups.version:
            found.append(
                f"no cgroup limits ({machine.cgroups.reason}): memory is limited per process and not per sandbox, "
                "so an out-of-memory end looks like any other failure"
            )
        if machine.rootless:
            found.append("rootless: all sandboxes share this user's uid, so there is no limit on processes per sandbox")
            found.append("rootless: a sandbox may change its own /etc and other files of its private root")
        if not machine.filtered:
            found.append(
                "no seccomp filter (this kernel's BPF allocator is stuck): nested user namespaces are possible"
            )
        return tuple(found)

    async def close(self) -> None:
        """Close every sandbox, end the fork server and remove its cgroups. Idempotent."""
        self._closed = True
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        async with self._launching:
            server, self._server = self._server, None
        if server is not None:
            await asyncio.shield(asyncio.to_thread(server.close))

    async def _launched(self) -> Server:
        async with self._launching:
            server = self._server
            if server is None:
                server = self._server = await asyncio.to_thread(self._launch)
            elif server.process.poll() is not None:
                raise StartFailed("the fork server died; open a new sandbox host")
            return server

    def _launch(self) -> Server:
        machine = self._survey()
        cgroup.remove_stale(machine.cgroups)
        return Server(machine)

    def _survey(self) -> Machine:
        if self._machine is None:
            self._machine = survey()
        return self._machine

    async def _throttle_kill(self) -> None:
        now = time.monotonic()
        wait_s = self._next_kill - now
        self._next_kill = max(self._next_kill, now) + 1 / _KILLS_PER_S
        if wait_s > 0.02:
            await asyncio.sleep(wait_s)


class NamespaceSandbox:
    """One running sandbox; made by `NamespaceHost.start`."""

    def __init__(self, name: str, spec: Spec, host: NamespaceHost, server: Server) -> None:
        self._id = name
        self._spec = spec
        self._host = host
        self._server = server
        self._agent: Agent | None = None
        self._files: Files | None = None
        self._relay: Relay | None = None
        self._uid = 0
        self._began = time.monotonic()
        self._lost: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._environment = {"PATH": PATH, "HOME": spec.workdir, "USER": "agent", "LANG": "C.UTF-8", **spec.env}

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
    ) -> Result:
        """Run an argv, or a string through ``/bin/sh -c``. Raises `SandboxLost`."""
        agent = self._alive()
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        if not argv:
            raise ValueError("an empty command")
        killed = self._server.cgroups.out_of_memory(self._id)
        watchdog = asyncio.get_running_loop().call_later(timeout_s + 30, self._end, "its first process does not answer")
        try:
            result = await agent.run(
                argv,
                stdin=stdin,
                env={**self._environment, **(env or {})},
                cwd=os.path.join(self._spec.workdir, cwd or ""),
                timeout_s=timeout_s,
            )
        except SandboxLost:
            raise self._gone() from None
        finally:
            watchdog.cancel()
        if result.exit_code == 128 + signal.SIGKILL and self._server.cgroups.out_of_memory(self._id) > killed:
            return replace(result, status=Status.OOM)
        return result

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        await asyncio.to_thread(self._reachable().unpack, files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        return await asyncio.to_thread(self._reachable().pack, path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        return self._reachable().read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        self._reachable().write(path, data, mode)

    async def close(self) -> None:
        """End every process and free everything. Idempotent; never raises for a sandbox already gone."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _start(self) -> None:
        self._uid = self._server.take_uid()
        request = self._server.request(self._id, self._spec, self._uid)
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
        owner = None if self._server.rootless else (self._uid, self._uid)
        limit_bytes = self._spec.limits.disk_mb << 20
        self._files = Files(box.root, workdir=self._spec.workdir, owner=owner, limit_bytes=limit_bytes)
        if self._spec.gateway:
            self._relay = Relay(socket.socket(fileno=box.listener), self._spec.gateway)

    async def _close(self) -> None:
        self._end("it was closed")
        pidfd = self._agent.box.pidfd if self._agent else -1
        if pidfd < 0:
            return
        await self._host._throttle_kill()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await readable(pidfd, timeout_s=10.0)
        os.close(pidfd)

    def _end(self, why: str) -> None:
        """Let go of everything but the pidfd; called by whichever end of the sandbox comes first."""
        if self._lost is not None:
            return
        if time.monotonic() - self._began >= self._spec.ttl_s:
            why = f"its time to live of {self._spec.ttl_s:g} s ended"
        self._lost = why
        if self._agent:
            self._agent.close(why)
        if self._relay:
            self._relay.close()
        if self._files:
            self._files.close()
        self._server.return_uid(self._uid)
        self._host._sandboxes.pop(self._id, None)
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())

    def _alive(self) -> Agent:
        if self._lost is not None or self._agent is None:
            raise self._gone()
        return self._agent

    def _reachable(self) -> Files:
        if self._lost is not None or self._files is None:
            raise self._gone()
        return self._files

    def _gone(self) -> SandboxLost:
        return SandboxLost(f"sandbox {self._id} is gone: {self._lost}")
