"""End what killed owners left behind: ``python -m palmette.sandbox.reap [--every SECONDS]``

A fork server outlives its owner for as long as it takes to clean up, so normally there is nothing to do. What is left
when that was killed too, or when its sandboxes were frozen, is found through the journals of owners that are provably
dead, and by what the kernel says of their cgroups; a living or unknown owner's sandboxes are never touched.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from palmette.sandbox.cgroup import Cgroups, remove
from palmette.sandbox.docker_orphans import remove_containers
from palmette.sandbox.door import door_path
from palmette.sandbox.ledger import Journal, journals, start_time

_KILLS_PER_S = 500.0
_PATIENCE_S = 10.0  # for a fork server that is cleaning up, and for what was killed to be gone
_PREFIX = "palmette-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """What was found and ended."""

    hosts: int = 0
    processes: int = 0
    directories: int = 0
    containers: int = 0
    stuck: tuple[str, ...] = ()  # what could not be ended, in words


def reap() -> Reaped:
    """End all that dead owners left. Blocks, seconds at most when there is much; safe to run any number of times."""
    hosts = processes = directories = containers = 0
    stuck: list[str] = []
    for journal in journals():
        if journal.alive:
            continue
        with suppress(OSError), open(journal.path, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one reaper a journal
            killed = _end_processes(journal) if journal.known else 0
            removed = sum(_remove(entry.directory) for entry in journal.entries)
            left = _left(journal) if journal.known else []
            try:
                containers += remove_containers(journal.engine, journal.name) if journal.engine else 0
            except OSError as error:
                stuck.append(f"{journal.name}: its containers may be there still: {journal.engine}: {error}")
                continue
            hosts, processes, directories = hosts + 1, processes + killed, directories + removed
            if left:
                stuck.append(f"{journal.name}: processes {', '.join(map(str, left[:5]))} do not end")
            else:
                door_path(journal.path).unlink(missing_ok=True)
                journal.path.unlink(missing_ok=True)
    counts = {"processes": processes, "directories": directories, "containers": containers}
    return Reaped(hosts=hosts, **counts, stuck=tuple(stuck))


def _end_processes(journal: Journal) -> int:
    _until(lambda: start_time(journal.server[0]) != journal.server[1], _PATIENCE_S if journal.server[0] else 0)
    killed: set[int] = set()
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _left(journal)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if pid not in killed:
                killed.add(pid)
                time.sleep(1 / _KILLS_PER_S)
        for name in _cgroups(journal):  # a frozen process dies when it is thawed
            _described(journal).thaw(name)
        time.sleep(0.01)
    _until(lambda: not _remove_cgroups(journal), 1.0)
    return len(killed)


def _left(journal: Journal) -> list[int]:
    """Return the processes that were the dead owner's: its server, first processes, members of its cgroups."""
    pairs = [journal.server, *((entry.pid, entry.started) for entry in journal.entries)]
    found = {pid for pid, started in pairs if pid and started and start_time(pid) == started}
    for base in journal.directories:
        for path in (Path(base) / journal.name, *Path(base).glob(f"{journal.name}/*/")):
            with suppress(OSError):
                found.update(map(int, (path / "cgroup.procs").read_text().split()))
    roots = {entry.directory for entry in journal.entries if entry.directory}
    if roots:
        found.update(_processes_of(roots))
    return sorted(found)


def _processes_of(roots: Iterable[str]) -> list[int]:
    """Return processes that were started with a mapped root below one of `roots` (the fake host)."""
    marks = tuple(f"PALMETTE_ROOT={root}/".encode() for root in roots)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and start_time(int(name)):
            with suppress(OSError):
                variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
                if any(variable.startswith(marks) for variable in variables):
                    found.append(int(name))
    return found


def _described(journal: Journal) -> Cgroups:
    return Cgroups(version=journal.version, directories=tuple(map(Path, journal.directories)))


def _cgroups(journal: Journal) -> list[str]:
    found = {
        f"{journal.name}/{path.name}" for base in journal.directories for path in Path(base).glob(f"{journal.name}/*/")
    }
    return sorted(found)


def _remove_cgroups(journal: Journal) -> bool:
    """Return whether some are still there."""
    remove(_described(journal), journal.name)
    return any((Path(base) / journal.name).exists() for base in journal.directories)


def _remove(directory: str) -> bool:
    if not directory or not os.path.basename(directory).startswith(_PREFIX) or not os.path.isdir(directory):
        return False
    shutil.rmtree(directory, ignore_errors=True)
    return True


def _until(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def main() -> None:
    """Reap once, or for ever."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on, and reap this often")
    every_s = parser.parse_args().every
    while True:
        sys.stdout.write(f"{reap()}\n")
        sys.stdout.flush()
        if not every_s:
            return
        time.sleep(every_s)


if __name__ == "__main__":
    main()
