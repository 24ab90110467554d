"""What a sandbox and a host of sandboxes are.

A *host* offers many sandboxes; a *sandbox* is one isolated machine with an owner, limits and a time to live. A
non-zero exit, a time-out and an OOM kill are data (`Result.status`); only a sandbox that cannot be started or that is
gone raises.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one sandbox; a limit of zero or less is refused at start."""

    memory_mb: int = 512
    pids: int = 64
    cpus: float | None = None  # cores' worth of time; without it, as much as the next sandbox when time is short
    disk_mb: int = 64
    inodes: int = 16_384
    network_mb: int = 1024  # through the proxy of `Spec.network`, both ways together
    output_bytes: int = 1 << 20  # of each of stdout and stderr, per exec; head and tail are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to start, e.g. ``Spec(owner="demo/rl", workdir="/app")``."""

    owner: str = ""
    workdir: str = "/app"  # created, writable, the default cwd and HOME of every exec
    env: Mapping[str, str] = field(default_factory=dict)
    readonly: tuple[str, ...] = ()  # host directories shown at the same path, read only (tool chains)
    root: str = ""  # directory with a root file system (see images.py), written to in private; "" is the machine's own
    limits: Limits = field(default_factory=Limits)
    ttl_s: float = 900.0  # the host closes the sandbox after this, whatever happens
    gateway: tuple[str, int] | None = None  # host address served inside as `Sandbox.gateway_url`
    network: tuple[str, ...] = ()  # hosts that a proxy lets it reach (see allow_list.py); () is none at all


class Status(StrEnum):
    """How an exec ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"  # killed with all its children after `timeout_s`; the sandbox lives on
    OOM = "oom"  # killed by the sandbox's memory limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one command, beside those of its sandbox; None is no other limit. Each must be positive."""

    memory_mb: int | None = None  # address space of each of its processes
    cpu_s: int | None = None  # of each of its processes
    file_mb: int | None = None  # size of a file it writes
    output_bytes: int | None = None  # instead of `Limits.output_bytes`

    def __post_init__(self) -> None:
        for name in ("memory_mb", "cpu_s", "file_mb", "output_bytes"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"Bounds.{name} must be positive, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a command and the children it waited for used; daemons that it left behind are not in it."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0  # resident memory of the largest of its processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one exec; `exit_code` is 128 + signal when not exited, as a shell would say."""

    status: Status
    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool  # output passed `Limits.output_bytes`; the cut is marked in the text
    wall_s: float
    usage: Usage = field(default_factory=Usage)
    disk_full: bool = False  # it failed, and the sandbox had no byte or no inode left then, where the host can tell


class SandboxError(Exception):
    """Base of what can go wrong with a sandbox itself: infrastructure, never a reward."""


class StartFailed(SandboxError):
    """The sandbox could not be started; the text names the feature that is missing and the alternative."""


class SandboxLost(SandboxError):
    """The sandbox is gone (killed, expired, its host died)."""


class Busy(SandboxError):
    """A command or a transfer runs in a sandbox that must be still for what was asked."""


class PathRefused(SandboxError):
    """A path climbs out of the sandbox, is not a regular file, or does not exist."""


@runtime_checkable
class Sandbox(Protocol):
    """One isolated machine. Paths are absolute or relative to the work directory; symlinks never lead out."""

    @property
    def id(self) -> str: ...

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway as processes in the sandbox see it, or None without a network."""
        ...

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
        ...

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`, owned by the sandbox's user. Raises `PathRefused`, `SandboxLost`."""
        ...

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar (sorted names, zeroed times and owners)."""
        ...

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        ...

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        ...

    async def close(self) -> None:
        """End every process and free everything. Idempotent; never raises for a sandbox already gone."""
        ...


class Process(Protocol):
    """A command that runs, as `Streams.open` returns it."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield ("stdout" or "stderr", chunk) as they come, to the end of the command; a terminal has only stdout.

        What is not read makes the command wait: nothing is cut.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Give it input, waiting while it reads none. Raises `BrokenPipeError` when it will not read any more."""
        ...

    async def end_input(self) -> None:
        """Say that there is no more input (to a terminal: Ctrl-D). Idempotent."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal. Raises `ValueError` without one."""
        ...

    async def wait(self) -> Result:
        """Return how it ended (without output), throwing away what is still to be read. Raises `SandboxLost`."""
        ...


@runtime_checkable
class Streams(Protocol):
    """A sandbox whose commands can be talked to while they run: ``isinstance(sandbox, Streams)``."""

    async def open(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command with pipes, or with a terminal of (rows, columns). Raises `SandboxLost`."""
        ...


class Exposed(Protocol):
    """A way to a server, as `Ports.expose` and `Ports.offer` return it."""

    @property
    def url(self) -> str:
        """Where it answers: on this machine's loopback to every program here (`expose`), or inside (`offer`)."""
        ...

    async def close(self) -> None:
        """Stop answering, and cut every connection. Idempotent; the end of the sandbox does it too."""
        ...


@runtime_checkable
class Ports(Protocol):
    """A sandbox whose servers can be reached from its host: ``isinstance(sandbox, Ports)``.

    What leads the other way is only what its host offers it.
    """

    async def connect(self, port: int) -> socket.socket:
        """Return a non-blocking socket connected to a server on its loopback (127.0.0.1, else ::1).

        Raises `ConnectionRefusedError` where nothing listens, `SandboxLost`, and `ValueError` for no port number.
        """
        ...

    async def expose(self, port: int) -> Exposed:
        """Give a server in it an address on this machine; it need not listen yet. Raises `SandboxLost`."""
        ...

    async def offer(self, address: tuple[str, int], connect: Callable[[], Awaitable[socket.socket]]) -> Exposed:
        """Let its processes reach, at `address` of its loopback, whatever `connect` returns a socket to.

        ``await agent.offer(("127.77.1.1", 8080), lambda: service.connect(8080))`` shows one sandbox a server of
        another. Raises `SandboxLost`, and `OSError` for an address that is taken.
        """
        ...


class Snapshot(Protocol):
    """The files of a sandbox at one moment, kept until `close`."""

    async def fork(self, n: int = 1) -> Sequence[Sandbox]:
        """Start `n` sandboxes from these files, with the spec of the original. Raises `StartFailed`."""
        ...

    async def close(self) -> None:
        """Let go of the files. Idempotent; sandboxes started from them keep theirs."""
        ...


@runtime_checkable
class State(Protocol):
    """What a sandbox offers besides, where its host can: ``isinstance(sandbox, State)``.

    A fork copies files, not processes: no command may run, and background processes end, in the original too. Each
    copy is a sandbox of its own with the original's spec, and a disk limit and time to live that count anew.
    """

    async def snapshot(self) -> Snapshot:
        """Keep the files as they are. Raises `Busy`, `SandboxLost`."""
        ...

    async def fork(self, n: int = 1) -> Sequence[Sandbox]:
        """Start `n` copies. Raises `Busy`, `SandboxLost`, `StartFailed`."""
        ...

    async def pause(self) -> None:
        """Stop every process where it is; time-outs go on counting. Idempotent. Raises `SandboxLost`."""
        ...

    async def resume(self) -> None:
        """Let the processes go on. Idempotent. Raises `SandboxLost`."""
        ...


@runtime_checkable
class Host(Protocol):
    """Offers many sandboxes on one machine (or cluster)."""

    @property
    def name(self) -> str: ...

    async def start(self, spec: Spec) -> Sandbox:
        """Start a sandbox. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        ...

    def weaknesses(self) -> tuple[str, ...]:
        """What this host does not isolate or limit, one sentence each; empty when all of `Limits` hold."""
        ...

    async def close(self) -> None:
        """Close every sandbox and free the host. Idempotent."""
        ...
