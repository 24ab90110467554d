"""Cgroups made and limited from Python, for hosts without the fork server, which makes its own."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from palmette.sandbox import cgroup
from palmette.sandbox.api import Limits

_TRIES = 100


class Groups:
    """The cgroups of one host; there are none where `found` has version 0."""

    def __init__(self) -> None:
        self._found: cgroup.Cgroups | None = None
        self._name = ""

    @property
    def found(self) -> cgroup.Cgroups:
        """Where cgroups can be made. May block some 20 ms the first time."""
        if self._found is None:
            self._found = cgroup.detect()
        return self._found

    def make(self, name: str, limits: Limits) -> Group | None:
        """Return a new cgroup with these limits on memory and processes, None where there can be none."""
        groups = self.found
        if not groups.version:
            return None
        if not self._name:
            cgroup.remove_stale(groups)
            self._name = cgroup.own_name()
            for directory in groups.directories:
                (directory / self._name).mkdir()
                if groups.version == 2:
                    (directory / self._name / "cgroup.subtree_control").write_text("+memory +pids")
                    with suppress(OSError):
                        (directory / self._name / "cgroup.subtree_control").write_text("+cpu")
        memory, pids = limits.memory_mb << 20, limits.pids + 2  # what holds the sandbox
        files = {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory, "pids.max": pids}
        if groups.version == 2:
            files = {"memory.max": memory, "memory.swap.max": 0, "pids.max": pids}
        if limits.cpus:
            quota_us = round(limits.cpus * 100_000)
            files |= {"cpu.max": f"{quota_us} 100000"} if groups.version == 2 else {"cpu.cfs_quota_us": quota_us}
        for directory in groups.directories:
            (directory / self._name / name).mkdir()
            for file, value in files.items():
                if os.access(path := directory / self._name / name / file, os.W_OK):
                    path.write_text(str(value))
        return Group(groups, f"{self._name}/{name}")

    def close(self) -> None:
        """Remove them, when their processes are gone. Idempotent."""
        if self._name and self._found:
            cgroup.remove(self._found, self._name)
            self._name = ""


class Group:
    """The cgroup of one sandbox."""

    def __init__(self, groups: cgroup.Cgroups, name: str) -> None:
        self._groups = groups
        self._name = name
        self.joins = ":".join(str(directory / name / "cgroup.procs") for directory in groups.directories)

    def out_of_memory(self) -> int:
        """Return how many processes its memory limit has killed."""
        return self._groups.out_of_memory(self._name)

    async def remove(self) -> None:
        """Remove it, once the kernel has forgotten its last process."""
        for _ in range(_TRIES):
            if self._removed():
                return
            await asyncio.sleep(0.01)

    def discard(self) -> None:
        """Do as `remove`, blocking."""
        for _ in range(_TRIES):
            if self._removed():
                return
            time.sleep(0.01)

    def _removed(self) -> bool:
        cgroup.remove(self._groups, self._name)
        return not any((directory / self._name).exists() for directory in self._groups.directories)
