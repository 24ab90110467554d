"""Whether there is room for one more sandbox: near a limit of the machine a start waits, it does not fail."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from palmette.sandbox.api import StartFailed

_LOOK_S = 0.05  # between two looks at the machine
RESERVED = 64  # descriptors kept free for everything that is not a sandbox
_PROCESSES = 512


class Admission:
    """Lets starts through while memory, processes and descriptors last.

    A start that finds no room within `patience_s` fails with the name of the limit; `reserve_mb` of memory is never
    given to a new sandbox (default: a twentieth of the machine's, at most 2 GiB).
    """

    def __init__(self, *, patience_s: float = 300.0, reserve_mb: float | None = None) -> None:
        self._patience_s = patience_s
        self._reserve_mb = min(2048.0, _memory_mb("MemTotal") / 20) if reserve_mb is None else reserve_mb
        self._looked = float("-inf")
        self._short: str | None = None
        self._free = 0  # descriptors at the last look
        self._promised = 0  # to starts that are under way, which may have taken some of theirs

    @asynccontextmanager
    async def room(self, descriptors: int, full: Callable[[], str | None] = lambda: None) -> AsyncIterator[None]:
        """Wait for room for a sandbox that takes `descriptors`, until `full()` names no limit; start it inside.

        Raises `StartFailed`.
        """
        began = time.monotonic()
        while short := self._shortage(descriptors) or full():
            if time.monotonic() - began > self._patience_s:
                raise StartFailed(f"no room for {self._patience_s:g} s: {short}")
            await asyncio.sleep(_LOOK_S)
        self._promised += descriptors
        try:
            yield
        finally:
            self._promised -= descriptors
            self._free -= descriptors

    def _shortage(self, descriptors: int) -> str | None:
        if time.monotonic() - self._looked >= _LOOK_S or self._free - self._promised < descriptors:
            self._looked = time.monotonic()
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            self._free = soft - RESERVED - _open_descriptors()
            self._short = self._look()
        if self._free - self._promised < descriptors:
            return "too few descriptors are left (raise the limit, ulimit -n)"
        return self._short

    def _look(self) -> str | None:
        available_mb = _memory_mb("MemAvailable")
        if available_mb < self._reserve_mb:
            return f"{available_mb:.0f} MB of memory are left, {self._reserve_mb:.0f} are kept in reserve"
        threads = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        if threads > most - _PROCESSES:
            return f"{threads} of {most} processes run (raise the sysctl kernel.pid_max)"
        return None


def _open_descriptors() -> int:
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # the former since Linux 6.2


def _memory_mb(name: str) -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
