"""The fallback where no C can be compiled: sandboxes made by bubblewrap (the program ``bwrap``), entered by Python.

Weaker and slower than the host ``namespace``, and `weaknesses` says in what: no filter of system calls, no cap on
inodes, daemons outlive the command that started them (not the sandbox), and a command costs some 20 ms.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from palmette.sandbox import enter_box
from palmette.sandbox.api import Bounds, Result, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.as_user import as_user
from palmette.sandbox.capture import Output
from palmette.sandbox.descriptors import memory_file, readable
from palmette.sandbox.files import Files
from palmette.sandbox.group import Group, Groups
from palmette.sandbox.layout import DIRECTORIES, PATH, check_spec, environment, shown
from palmette.sandbox.ports import Helper, Reachable, Ways
from palmette.sandbox.server import NO_CPU, START_TIMEOUT_S, _claim_uids, _system

_UID = 1000  # inside
_GRACE_S = 0.05  # how long output of children may still follow the exit of a command
_ENTER = (sys.executable, "-I", "-S", enter_box.__file__)
# pid 1: reaps, and cannot be ended from inside (dash ends itself when a child dies while SIGINT waits)
_HOLD = "trap '' HUP INT QUIT TERM; echo ready; exec >&-; while :; do sleep 3600; done"


class BubblewrapHost:
    """Starts sandboxes through ``bwrap``."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._sandboxes: dict[str, BubblewrapSandbox] = {}
        self._serial = 0
        self._groups = Groups()
        self._claim: socket.socket | None = None
        self._uids: deque[int] = deque()

    @property
    def lacks(self) -> frozenset[str]:
        """Needs of the conformance suite that cannot be met."""
        always = {"processes", "filter", "root", "system", "disk", "fork", "pause", "streams", "bounds"}
        if not self._groups.found.version:
            always |= {"memory", "pids"}
        return frozenset(always if self._groups.found.shares_cpu else always | {"cpu"})

    def weaknesses(self) -> tuple[str, ...]:
        """Say which walls and limits do not hold. May block some 20 ms the first time."""
        groups = self._groups.found
        found = [
            "no filter of system calls: nested user namespaces and rare kernel interfaces are within reach",
            "what sandboxes write is bounded by memory, not by disk_mb and inodes",
            "its first process can be looked at (not stopped) from inside; it holds no secret",
            "a daemon outlives the command that started it, though not the sandbox",
        ]
        return tuple(found if groups.version else [*found, f"no limits on memory and processes ({groups.reason})"])

    async def start(self, spec: Spec) -> BubblewrapSandbox:
        """Start a sandbox. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        check_spec(spec)
        program = shutil.which("bwrap")
        if program is None:
            raise StartFailed("bubblewrap is not installed: apt-get install bubblewrap, or use another sandbox host")
        if spec.root:
            raise StartFailed("Spec.root: bubblewrap cannot keep an image unchanged; use the host 'namespace' or none")
        self._serial += 1
        if os.geteuid() == 0 and self._claim is None:
            self._claim, self._uids = _claim_uids()
        if spec.limits.cpus and not self._groups.found.shares_cpu:
            raise StartFailed(f"Limits.cpus: {NO_CPU}")
        uid = self._uids[self._serial % len(self._uids)] if self._uids else -1
        group = self._groups.make(str(self._serial), spec.limits)
        sandbox = BubblewrapSandbox(f"bubblewrap-{os.getpid()}/{self._serial}", spec, uid, self._sandboxes, group)
        self._sandboxes[sandbox.id] = sandbox
        try:
            await sandbox.begin(program)
        except BaseException:
            await asyncio.shield(sandbox.close())
            raise
        return sandbox

    async def close(self) -> None:
        """Close every sandbox. Idempotent."""
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        self._groups.close()
        if self._claim:
            self._claim.close()
            self._claim = None


class BubblewrapSandbox(Reachable):
    """One running sandbox; made by `BubblewrapHost.start`."""

    def __init__(
        self, name: str, spec: Spec, uid: int, siblings: dict[str, BubblewrapSandbox], group: Group | None
    ) -> None:
        self._id = name
        self._uid = uid  # outside; -1 for this process's own
        self._spec = spec
        self._siblings = siblings
        self._group = group
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0  # of pid 1 inside
        self._files: Files | None = None
        self._helper: Helper | None = None
        self._ways = Ways(name, self._socket, self._check)
        self._lost: str | None = None
        self._outputs: set[Output] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """Name of the sandbox, unique on this machine while it lives."""
        return self._id

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway inside the sandbox, or None without a network."""
        return "http://{}:{}".format(*enter_box.GATEWAY) if self._spec.gateway else None

    async def begin(self, program: str) -> None:
        """Start it. Raises `StartFailed`."""
        ready, ready_in = os.pipe()
        texts = [memory_file(text) for text in _etc(self._spec).values()]
        command = [program, *_walls(self._spec, texts), "--", "/bin/sh", "-c", _HOLD]
        enter = [*_ENTER, "start", str(self._uid), self._group.joins if self._group else "", *command]
        try:
            # from this very thread: bwrap is to die with the thread that started it
            self._process = subprocess.Popen(  # noqa: ASYNC220
                enter,
                env={"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=ready_in,
                stderr=ready_in,
                pass_fds=texts,
            )
            os.close(ready_in)
            said = await _line(ready)
        finally:
            for fd in (ready, *texts):
                os.close(fd)
        if said != b"ready\n":
            raise StartFailed(f"bubblewrap: {said.decode(errors='replace').strip() or 'no answer'}")
        self._pid = _child(self._process.pid)
        root = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        limit_bytes = self._spec.limits.disk_mb << 20
        self._files = Files(root, workdir=self._spec.workdir, owner=None, limit_bytes=limit_bytes)
        await self._ways.serve(self._spec)
        self._expiry = asyncio.get_running_loop().call_later(self._spec.ttl_s, self._expire)

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
        """Run an argv, or a string through ``/bin/sh -c``. Raises `SandboxLost`; `bounds` only bound the output."""
        self._check()
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not argv:
            raise ValueError("an empty command")
        limit = (bounds and bounds.output_bytes) or self._spec.limits.output_bytes
        outputs = [Output(limit, self._outputs) for _ in range(2)]
        killed = self._group.out_of_memory() if self._group else 0
        began = time.monotonic()
        status, code = await self._run(argv, stdin, env or {}, cwd or "", timeout_s, outputs)
        if code == 128 + signal.SIGKILL and self._group and self._group.out_of_memory() > killed:
            status = Status.OOM
        return Result(
            status=status,
            exit_code=code,
            stdout=outputs[0].capture.value(),
            stderr=outputs[1].capture.value(),
            truncated=any(output.capture.cut for output in outputs),
            wall_s=time.monotonic() - began,
        )

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        await asyncio.to_thread(as_user, self._uid, self._reachable().unpack, files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        return await asyncio.to_thread(as_user, self._uid, self._reachable().pack, path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        return as_user(self._uid, self._reachable().read, path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        as_user(self._uid, self._reachable().write, path, data, mode)

    async def close(self) -> None:
        """End every process and free everything. Idempotent; never raises for a sandbox already gone."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close("it was closed"))
        await asyncio.shield(self._closing)

    async def _run(
        self,
        argv: list[str],
        stdin: bytes,
        env: Mapping[str, str],
        cwd: str,
        timeout_s: float,
        outputs: Sequence[Output],
    ) -> tuple[Status, int]:
        process = self._spawn(argv, stdin, env, cwd, outputs)
        if isinstance(process, int):
            return Status.EXITED, process
        pidfd = os.pidfd_open(process.pid)
        ended = False
        try:
            ended = await readable(pidfd, timeout_s=timeout_s)
        finally:
            if not ended:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            os.close(pidfd)
        self._check()
        for _ in range(10):
            if all(output.ended for output in outputs):
                break
            await asyncio.sleep(_GRACE_S / 10)
        if not ended:
            return Status.TIMEOUT, 128 + signal.SIGKILL
        return (Status.SIGNALLED, 128 - code) if code < 0 else (Status.EXITED, code)

    def _spawn(
        self, argv: list[str], stdin: bytes, env: Mapping[str, str], cwd: str, outputs: Sequence[Output]
    ) -> subprocess.Popen[bytes] | int:
        """Start a command; what it cannot be started for goes to its standard error, with the exit code 126."""
        place = os.path.join(self._spec.workdir, cwd)
        enter = [*_ENTER, "run", str(self._pid), str(_UID), self._group.joins if self._group else "", place, *argv]
        source = memory_file(stdin)
        try:
            return subprocess.Popen(
                enter,
                env={**environment(self._spec), **env},
                stdin=source,
                stdout=outputs[0].write_end,
                stderr=outputs[1].write_end,
                start_new_session=True,
                restore_signals=True,
            )
        except OSError as error:
            outputs[1].capture.feed(f"{argv[0][:80]}: {error.strerror}\n".encode())
            return 126
        finally:
            for fd in (source, *(output.write_end for output in outputs)):
                os.close(fd)

    async def _socket(self, family: int) -> socket.socket:
        self._helper = self._helper or Helper(self._pid)
        return await self._helper.socket(family)

    def _expire(self) -> None:
        if self._closing is None:
            reason = f"its time to live of {self._spec.ttl_s:g} s ended"
            self._closing = asyncio.ensure_future(self._close(reason))

    async def _close(self, why: str) -> None:
        self._lost = self._lost or why
        self._siblings.pop(self._id, None)
        if self._expiry:
            self._expiry.cancel()
        self._ways.close()
        if self._helper:
            await self._helper.close()
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)  # pid 1 inside: everything goes with it
        if self._process:
            await asyncio.to_thread(self._ended, self._process)
        for output in list(self._outputs):
            output.close()
        if self._files:
            self._files.close()
        if self._group:
            await self._group.remove()

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(10.0 if self._pid else 0.1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _check(self) -> None:
        if self._lost is None and (self._process is None or self._process.poll() is not None):
            self._lost = "its first process ended"
        if self._lost is not None:
            raise SandboxLost(f"sandbox {self._id} is gone: {self._lost}")

    def _reachable(self) -> Files:
        self._check()
        assert self._files is not None
        return self._files


def _walls(spec: Spec, texts: Sequence[int]) -> list[str]:
    """Return the arguments that make bubblewrap build the sandbox."""
    found = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    found += ["--unshare-cgroup-try", "--hostname", "sandbox", "--uid", str(_UID), "--gid", str(_UID)]
    found += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--setenv", "PATH", PATH]
    links, binds = _system()
    for target, path in zip(links[::2], links[1::2], strict=True):
        found += ["--symlink", target, path]
    for key in binds:
        path = key.partition("\n")[0]
        found += ["--ro-bind", f"@{path}", path]
    found += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--dir", "/dev/shm"]
    for path, fd in zip(_etc(spec), texts, strict=True):
        found += ["--perms", "0644", "--file", str(fd), path]
    for path in dict.fromkeys((spec.workdir, *DIRECTORIES)):
        found += ["--perms", "1777" if path in ("/tmp", "/var/tmp") else "0755", "--dir", path]
    for path in shown(spec):
        if not Path(path).exists():
            raise StartFailed(f"Spec.readonly: {path}: No such file or directory")
        found += ["--ro-bind", f"@{path}", path]
    return [*found, "--chdir", "/"]


def _etc(spec: Spec) -> dict[str, bytes]:
    user = f"agent:x:{_UID}:{_UID}:agent:{spec.workdir}:/bin/sh\n"
    return {
        "/etc/passwd": f"root:x:0:0:root:/nonexistent:/bin/sh\n{user}".encode(),
        "/etc/group": f"root:x:0:\nagent:x:{_UID}:\n".encode(),
        "/etc/hosts": f"127.0.0.1 localhost sandbox\n{enter_box.GATEWAY[0]} gateway\n".encode(),
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    }


async def _line(fd: int) -> bytes:
    """Return what comes up to the end of the first line or of the file."""
    said = b""
    while not said.endswith(b"\n"):
        if not await readable(fd, timeout_s=START_TIMEOUT_S) or not (part := os.read(fd, 4096)):
            break
        said += part
    return said


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
