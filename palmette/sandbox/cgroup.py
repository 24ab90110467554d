"""Which cgroup hierarchy can hold the memory and process limits of sandboxes: found by trying, not by looking.

A hybrid machine mounts v1 controllers and an empty v2 tree; a container may show a tree it cannot write. So each
candidate is probed with a real child: made, limited, joined, removed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from palmette.sandbox.api import Limits, SandboxError
from palmette.sandbox.ledger import start_time

_PREFIX = "palmette-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """Where sandboxes' cgroups go: `version` 0 (nowhere), 1 (memory, pids[, freezer[, cpu]]) or 2 (one directory)."""

    version: int
    directories: tuple[Path, ...] = ()
    reason: str = ""  # why there is none

    def out_of_memory(self, name: str) -> int:
        """Return how many processes of the cgroup `name` the memory limit has killed (0 when it is gone)."""
        if not self.version:
            return 0
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        try:  # bare calls: this is on the path of every command
            fd = os.open(f"{self.directories[0]}/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            text = os.read(fd, 4096)
        except OSError:
            return 0
        finally:
            os.close(fd)
        _, found, count = text.partition(b"oom_kill ")
        return int(count.split(None, 1)[0]) if found else 0

    def peak_bytes(self, name: str) -> int:
        """Return the most memory that the cgroup `name` has held (0 when it is gone)."""
        file = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        try:
            return int((self.directories[0] / name / file).read_text()) if self.version else 0
        except (OSError, ValueError):
            return 0

    def confine(self, name: str, limits: Limits) -> list[int]:
        """Make the limits that a sandbox has only once it is used (v1: memory, and its share of the processor).

        A memory cgroup costs 0.2 ms, and the kernel keeps a kilobyte in each for every 64 file systems there were at
        once since it booted, of which a sandbox has four: idle sandboxes would cost the more the more there are.
        Returns descriptors; who writes 0 to them joins. Raises `SandboxError`.
        """
        if self.version != 1:
            return []
        memory = limits.memory_mb << 20
        files: list[tuple[Path, dict[str, int]]] = [
            (self.directories[0], {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory})
        ]
        if self.shares_cpu:
            quota_us = round(limits.cpus * 100_000) if limits.cpus else -1  # of a period of 100 ms
            files.append((self.directories[3], {"cpu.cfs_quota_us": quota_us}))
        joined: list[int] = []
        try:
            for directory, values in files:
                os.mkdir(f"{directory}/{name}", 0o755)
                for file, value in values.items():
                    _put(f"{directory}/{name}/{file}", value)
                joined.append(os.open(f"{directory}/{name}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for fd in joined:
                os.close(fd)
            raise SandboxError(f"sandbox {name} cannot be limited: {error.filename}: {error.strerror}") from None
        return joined

    @property
    def shares_cpu(self) -> bool:
        """Whether each sandbox gets the same share of the processor, and may be given less (`Limits.cpus`)."""
        if self.version == 2:
            return "cpu" in (self.directories[0] / "cgroup.subtree_control").read_text().split()
        return len(self.directories) > 3

    @property
    def freezes(self) -> bool:
        """Whether processes can be stopped without their notice."""
        return self.version == 2 or len(self.directories) > 2

    def freeze(self, name: str) -> bool:
        """Stop all processes of the cgroup `name` (v1: all that its limit of processes holds). Blocks for a while."""
        if self.version == 2:
            path = self.directories[0] / name
            (path / "cgroup.freeze").write_text("1")
            return _until(lambda: "frozen 1" in (path / "cgroup.events").read_text())
        living, frozen = self.directories[1] / name, self.directories[2] / name
        frozen.mkdir(exist_ok=True)
        state = frozen / "freezer.state"

        def stopped() -> bool:  # what is forked meanwhile stays where its parent is
            ended = set()
            for pid in set(_pids(living)) - set(_pids(frozen)):
                try:
                    (frozen / "cgroup.procs").write_text(pid)
                except OSError:
                    ended.add(pid)
            state.write_text("FROZEN")
            return state.read_text() == "FROZEN\n" and set(_pids(living)) <= {*_pids(frozen), *ended}

        return _until(stopped)

    def thaw(self, name: str) -> None:
        """Let the processes of the cgroup `name` go on; nothing happens where none was stopped."""
        with suppress(OSError):
            if self.version == 2:
                (self.directories[0] / name / "cgroup.freeze").write_text("0")
            elif self.freezes:
                (self.directories[2] / name / "freezer.state").write_text("THAWED")


def detect() -> Cgroups:
    """Probe v2, then v1, below this process's own place in each (so that outer limits hold). Blocks some 20 ms."""
    if os.geteuid() != 0:
        return Cgroups(version=0, reason="not root")
    mounts = _mounts()
    for directory in _candidates(mounts, "cgroup2", ""):
        if _enable(directory) and _probe(directory, {"memory.max": "67108864", "pids.max": "8"}):
            return Cgroups(version=2, directories=(directory,))
    memory = _first(_candidates(mounts, "cgroup", "memory"), {"memory.limit_in_bytes": "67108864"})
    pids = _first(_candidates(mounts, "cgroup", "pids"), {"pids.max": "8"})
    if memory and pids:
        freezer = _first(_candidates(mounts, "cgroup", "freezer"), {"freezer.state": "THAWED"})
        cpu = _first(_candidates(mounts, "cgroup", "cpu"), {"cpu.shares": "1024"}) if freezer else None
        return Cgroups(version=1, directories=(memory, pids, *filter(None, (freezer, cpu))))
    return Cgroups(version=0, reason="no writable memory and pids controller")


def own_name() -> str:
    """Return a name for this process's cgroup that tells whether its owner still lives."""
    return f"{_PREFIX}{os.getpid()}-{start_time(os.getpid())}-{time.monotonic_ns() % 10**9}"


def remove_stale(cgroups: Cgroups) -> None:
    """Remove what killed owners left. Only empty cgroups can be removed, so a mistake harms nothing."""
    for directory in cgroups.directories:
        for stale in directory.glob(f"{_PREFIX}*-*"):
            pid, start = stale.name.removeprefix(_PREFIX).split("-")[:2]
            if pid.isdigit() and start_time(int(pid)) != start:
                remove(cgroups, stale.name)


def remove(cgroups: Cgroups, name: str) -> None:
    """Remove the cgroup `name` and those below it as far as they are empty."""
    for directory in cgroups.directories:
        for path in (*directory.glob(f"{name}/*/"), directory / name):
            with suppress(OSError):
                path.rmdir()


def _put(path: str, value: int) -> None:
    """Write a limit; that on swap need not be there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if "memsw" in path:
            return
        raise
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)


def _pids(directory: Path) -> list[str]:
    return (directory / "cgroup.procs").read_text().split()


def _until(done: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def _mounts() -> list[tuple[str, str, str, str]]:
    """Return (file system, root, mount point, options of the superblock) of all cgroup mounts."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = left.split()
            found.append((kind, fields[3], fields[4], options))
    return found


def _candidates(mounts: list[tuple[str, str, str, str]], kind: str, controller: str) -> list[Path]:
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path))
    found = []
    for mounted, root, point, options in mounts:
        if mounted == kind and (not controller or controller in options.split(",")):
            path = own.get(controller, "/")
            below = os.path.relpath(path, root) if path.startswith(root) else "."
            found += [Path(point, below), Path(point)]
    return found


def _enable(directory: Path) -> bool:
    try:
        if not {"memory", "pids"} <= set((directory / "cgroup.controllers").read_text().split()):
            return False
        control = directory / "cgroup.subtree_control"
        if not {"memory", "pids"} <= set(control.read_text().split()):
            control.write_text("+memory +pids")
        with suppress(OSError):  # good to have
            control.write_text("+cpu")
    except OSError:  # EBUSY: processes live in this very cgroup
        return False
    return True


def _first(directories: list[Path], limits: dict[str, str]) -> Path | None:
    return next((directory for directory in directories if _probe(directory, limits)), None)


def _probe(directory: Path, limits: dict[str, str]) -> bool:
    probe = directory / f"{own_name()}-probe"
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        for file, value in limits.items():
            (probe / file).write_text(value)
        join = ["/bin/sh", "-c", 'echo $$ > "$1"', "sh", str(probe / "cgroup.procs")]
        return subprocess.run(join, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False
    finally:
        _retry(probe.rmdir)


def _retry(action: Callable[[], None]) -> None:
    for _ in range(100):
        try:
            return action()
        except OSError:  # busy until the kernel has wholly forgotten the last task
            time.sleep(0.005)
    return None
