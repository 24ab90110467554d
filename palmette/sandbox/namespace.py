"""The default host: Linux namespaces, started by a small C fork server, commanded through a C pid 1.

A sandbox is one tmpfs root with the machine's own system bound read only, its own uid, no capability, no network but
loopback, and a cgroup. It ends with its owner, its time to live or its control socket, whichever comes first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from palmette.sandbox import cgroup, seccomp
from palmette.sandbox.agent import Agent
from palmette.sandbox.api import Result, SandboxError, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.build import fork_server
from palmette.sandbox.descriptors import readable
from palmette.sandbox.files import Files
from palmette.sandbox.layout import DIRECTORIES, PATH, check_spec
from palmette.sandbox.relay import Relay

GATEWAY_URL = "http://127.77.0.1:8000"
_REQUEST = struct.Struct("=11I")
_STARTING = 16  # at once; more only queue up in the kernel and time out together
_START_TIMEOUT_S = 30.0
_KILLS_PER_S = 500.0
_ROOTLESS_UID = 1000
_UIDS, _UID_BASE, _UID_BLOCKS = 8192, 200_000, 200  # below 2,097,152, the largest uid a plain tar header holds
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("alternatives", "fonts", "ld.so.cache", "mime.types", "perl", "services", "terminfo")
_HINTS = {
    "making a user namespace": "run as root, or allow unprivileged user namespaces",
    "making a mount namespace": "run as root with CAP_SYS_ADMIN",
    "mounting proc": "in a container, start it with an unmasked /proc (e.g. --security-opt systempaths=unconfined)",
}


class NamespaceHost:
    """Starts sandboxes through one fork server of its own, which is launched at the first start."""

    name = "namespace"

    def __init__(self) -> None:
        self._machine: _Machine | None = None
        self._server: _Server | None = None
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

    async def _launched(self) -> _Server:
        async with self._launching:
            server = self._server
            if server is None:
                server = self._server = await asyncio.to_thread(self._launch)
            elif server.process.poll() is not None:
                raise StartFailed("the fork server died; open a new sandbox host")
            return server

    def _launch(self) -> _Server:
        machine = self._survey()
        cgroup.remove_stale(machine.cgroups)
        return _Server(machine)

    def _survey(self) -> _Machine:
        if self._machine is None:
            cgroups, filtered = cgroup.detect(), seccomp.usable()
            self._machine = _Machine(rootless=os.geteuid() != 0, cgroups=cgroups, filtered=filtered)
        return self._machine

    async def _throttle_kill(self) -> None:
        now = time.monotonic()
        wait_s = self._next_kill - now
        self._next_kill = max(self._next_kill, now) + 1 / _KILLS_PER_S
        if wait_s > 0.02:
            await asyncio.sleep(wait_s)


class NamespaceSandbox:
    """One running sandbox; made by `NamespaceHost.start`."""

    def __init__(self, name: str, spec: Spec, host: NamespaceHost, server: _Server) -> None:
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
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._agent.ready
        except TimeoutError:
            raise StartFailed(f"no answer from a new sandbox within {_START_TIMEOUT_S:.0f} s") from None
        except SandboxError as error:
            raise _explained(str(error)) from None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """What this machine and user allow."""

    rootless: bool
    cgroups: cgroup.Cgroups
    filtered: bool


class _Server:
    """The running fork server. Making it blocks (it may compile) and raises `StartFailed`."""

    def __init__(self, machine: _Machine) -> None:
        self.rootless, self.cgroups = machine.rootless, machine.cgroups
        self.name = cgroup.own_name()
        self._system = _system()
        self._claim, self._uids = _claim_uids()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directories = [str(directory) for directory in machine.cgroups.directories]
        flags = [str(int(machine.rootless)), str(int(machine.filtered)), str(machine.cgroups.version)]
        command = [str(fork_server()), str(theirs.fileno()), *flags, self.name, *directories]
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._socket = ours
        ours.settimeout(_START_TIMEOUT_S)
        try:
            answer = ours.recv(1024)
        except OSError as error:
            answer = b"\0" * 8 + str(error).encode()
        if answer[:4] != struct.pack("=I", 1):
            self.close()
            code = struct.unpack_from("=i", answer, 4)[0] if len(answer) > 8 else 0
            text = answer[8:].decode(errors="replace") or "it died at once"
            raise _explained(f"{text}: {os.strerror(code)}" if code else text)
        ours.setblocking(False)

    def request(self, name: str, spec: Spec, uid: int) -> bytes:
        """Return the packet that asks for a sandbox (native/wire.h). Raises `StartFailed`."""
        links, system = self._system
        binds = [*system, *map(_bind_key, spec.readonly)]
        directories = dict.fromkeys((spec.workdir, *DIRECTORIES))
        limits = spec.limits
        ttl_ms = min(int(spec.ttl_s * 1000), 0xFFFFFFFF)
        counts = len(links) // 2, len(binds), len(directories)
        numbers = limits.memory_mb, limits.pids, limits.disk_mb, limits.inodes, limits.output_bytes, ttl_ms
        head = _REQUEST.pack(uid, *numbers, spec.gateway is not None, *counts)
        return head + b"".join(os.fsencode(word) + b"\0" for word in (name, *links, *binds, *directories))

    def take_uid(self) -> int:
        """Return a uid no living sandbox has (rootless: the only one there is)."""
        if self.rootless:
            return _ROOTLESS_UID
        if not self._uids:
            raise StartFailed(f"{_UIDS} sandboxes are live in this host, which is its limit")
        return self._uids.popleft()

    def return_uid(self, uid: int) -> None:
        """Take a uid back, to be used again as late as possible."""
        if uid and not self.rootless:
            self._uids.append(uid)

    async def ask(self, request: bytes, control: socket.socket) -> None:
        """Send a start request with the sandbox's end of its control socket."""
        while True:
            try:
                socket.send_fds(self._socket, [request], [control.fileno()])
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError as error:
                raise StartFailed(f"the fork server is gone ({error.strerror})") from None

    def close(self) -> None:
        """End the server and wait for it. Blocks until its cgroups are removed."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        cgroup.remove(self.cgroups, self.name)  # it does so itself unless it was killed
        self._claim.close()


def _system() -> tuple[list[str], list[str]]:
    """Return the links (target, path, ...) and binds that show the machine's own system in a sandbox."""
    links, binds = [], []
    for path in _SYSTEM:
        if os.path.islink(path):
            links += [os.readlink(path), path]
        elif os.path.isdir(path):
            binds.append(_bind_key(path))
    return links, binds + [_bind_key(path) for name in _ETC if os.path.exists(path := f"/etc/{name}")]


def _bind_key(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError as error:
        raise StartFailed(f"Spec.readonly: {path}: {error.strerror}") from None
    return f"{path}\n{info.st_dev}:{info.st_ino}"


def _claim_uids() -> tuple[socket.socket, deque[int]]:
    """Return a block of uids no other host on this machine uses, and the socket whose name is the claim.

    A name in the abstract space vanishes with its owner, however that ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for block in range(_UID_BLOCKS):
        try:
            claim.bind(f"\0palmette-uids-{block}")
        except OSError:
            continue
        first = _UID_BASE + block * _UIDS
        return claim, deque(range(first, first + _UIDS))
    claim.close()
    raise StartFailed(f"{_UID_BLOCKS} sandbox hosts are open on this machine, which is its limit")


def _explained(text: str) -> StartFailed:
    hint = next((hint for stage, hint in _HINTS.items() if text.startswith(stage)), "")
    return StartFailed(f"{text}; {hint}, or use the sandbox host 'fake' for trusted code" if hint else text)
