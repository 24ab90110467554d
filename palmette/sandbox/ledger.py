"""Who has which sandbox on this machine, and what it cost: a journal for each host, written before a start is told.

A journal is lines of JSON in the user's state directory. It outlives a killed owner, so that `reap` can find what it
left; which processes are alive is never read from it but asked of the kernel (a pid counts with its start time).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HEARTBEAT_S = 5.0
_SUFFIX = ".journal"
_LINES = 20_000  # then what is closed is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a sandbox used; `cpu_s` lacks processes that were still running at its end."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0  # of its memory limit's count; 0 without cgroups
    disk_mb: float = 0.0  # what it had written at its end, without the layers it was forked from
    wall_s: float = 0.0
    network_mb: float = 0.0  # through the proxy of `Spec.network`

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            cpu_s=self.cpu_s + other.cpu_s,
            peak_mb=max(self.peak_mb, other.peak_mb),
            disk_mb=max(self.disk_mb, other.disk_mb),
            wall_s=self.wall_s + other.wall_s,
            network_mb=self.network_mb + other.network_mb,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sandbox that its host has not closed."""

    id: str
    owner: str  # as its `Spec` says
    pid: int  # of its first process; 0 for a host without one
    started: str  # when that process started, in the kernel's words; "" where its cgroup tells whose it is
    began: float  # seconds since 1970
    ttl_s: float
    directory: str = ""  # to be removed with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What a host has written, as read by somebody else."""

    path: Path
    name: str
    pid: int  # of the owning process
    started: str
    boot: str
    pids: str  # the process id namespace, without which pids mean nothing
    server: tuple[int, str]  # the fork server, (0, "") without one
    version: int  # of its cgroups
    directories: tuple[str, ...]
    entries: tuple[Entry, ...]
    heartbeat_s: float  # ago
    engine: str = ""  # socket of the engine whose containers, labelled with the host's name, its sandboxes are

    @property
    def known(self) -> bool:
        """Whether its pids mean something here."""
        return self.boot == _boot() and self.pids == _pid_namespace()

    @property
    def alive(self) -> bool:
        """Whether the owning process lives, for all that can be known: who is not known is not dead."""
        return self.boot == _boot() and (self.pids != _pid_namespace() or start_time(self.pid) == self.started)


class Ledger:
    """The journal of one host, and the cost of what it has closed, by owner. Writes are small and block."""

    def __init__(
        self, name: str, *, server: int = 0, version: int = 0, directories: tuple[str, ...] = (), engine: str = ""
    ) -> None:
        self._path = state_directory() / f"{name}{_SUFFIX}"
        self._head = {
            "name": name,
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "boot": _boot(),
            "pids": _pid_namespace(),
            "server": [server, start_time(server)],
            "version": version,
            "directories": list(directories),
            "engine": engine,
        }
        self._open: dict[str, Entry] = {}
        self.costs: dict[str, Cost] = {}
        self._lines = 0
        self._fd = -1
        self._rewrite()

    @property
    def name(self) -> str:
        """Of the host, unique on this machine."""
        return str(self._head["name"])

    @property
    def path(self) -> Path:
        """Where the journal is."""
        return self._path

    def opened(self, entry: Entry) -> None:
        """Write down a sandbox; to be called before anybody is told of it."""
        self._open[entry.id] = entry
        self._write({"open": _plain(entry)})

    def closed(self, name: str, cost: Cost) -> None:
        """Write down that a sandbox is gone, and add what it cost to its owner's account."""
        entry = self._open.pop(name, None)
        if entry is not None:
            self.costs[entry.owner] = self.costs.get(entry.owner, Cost()) + cost
            self._write({"close": name, **asdict(cost)})

    def beat(self) -> None:
        """Say that the owner is at work."""
        with suppress(OSError):
            os.utime(self._fd)

    def keep_beating(self) -> None:
        """Beat now and every few seconds, on the running event loop, until `close`."""
        if self._fd >= 0:
            self.beat()
            asyncio.get_running_loop().call_later(HEARTBEAT_S, self.keep_beating)

    def close(self) -> None:
        """Remove the journal, when all is closed. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)

    def _write(self, line: dict[str, object]) -> None:
        if self._fd < 0:
            return
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        self._lines += 1
        if self._lines > _LINES + 2 * len(self._open):
            self._rewrite()

    def _rewrite(self) -> None:
        lines = [self._head, *({"open": _plain(entry)} for entry in self._open.values())]
        temporary = self._path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(fd, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        os.rename(temporary, self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._lines = fd, len(lines)


def journals() -> Iterator[Journal]:
    """Yield what all hosts of this user have written."""
    for path in sorted(state_directory().glob(f"*{_SUFFIX}")):
        with suppress(OSError, ValueError, LookupError, TypeError):  # it was removed meanwhile, or is none
            yield _read(path)


def state_directory() -> Path:
    """Return the user's directory for journals, made if need be."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    for path in (Path(home) / "palmette" / "sandboxes", Path(tempfile.gettempdir()) / f"palmette-{os.getuid()}-state"):
        with suppress(OSError):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.stat().st_uid == os.getuid() and os.access(path, os.W_OK | os.X_OK):
                return path
    raise OSError(f"no directory to keep the journal of sandboxes in (tried {home} and {tempfile.gettempdir()})")


def entry(name: str, owner: str, ttl_s: float, *, pid: int = 0, marked: bool = False, directory: str = "") -> Entry:
    """Return the entry of a sandbox that begins now; `marked`: its processes are in a cgroup named after its host."""
    started = "" if marked else start_time(pid)
    return Entry(id=name, owner=owner, pid=pid, started=started, began=time.time(), ttl_s=ttl_s, directory=directory)


def start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; "" when it is gone."""
    if pid <= 0:
        return ""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _read(path: Path) -> Journal:
    age_s = time.time() - path.stat().st_mtime
    lines = path.read_text().splitlines()
    head = json.loads(lines[0])
    found: dict[str, Entry] = {}
    for line in lines[1:]:
        with suppress(ValueError, TypeError):  # the last may be half written
            record = json.loads(line)
            if "open" in record:
                opened = Entry(**record["open"])
                found[opened.id] = opened
            else:
                found.pop(record.get("close", ""), None)
    pid, started = head.pop("server")
    directories = tuple(head.pop("directories"))
    entries = tuple(found.values())
    about = {"path": path, "server": (pid, started), "directories": directories, "entries": entries}
    return Journal(**about, **head, heartbeat_s=age_s)


def _plain(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in Entry.__slots__}


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")
