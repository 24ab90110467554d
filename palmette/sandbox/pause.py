"""A sandbox that stands still: its processes frozen, and its time kept from outside, which its pid 1 cannot do then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from palmette.sandbox.api import SandboxError
from palmette.sandbox.cgroup import Cgroups


class Pause:
    """Freezes and thaws the cgroup `name`."""

    def __init__(self, cgroups: Cgroups, name: str) -> None:
        self._cgroups = cgroups
        self._name = name
        self.holds = False

    async def begin(self, left_s: float, expire: Callable[[], None]) -> None:
        """Stop every process; `expire` is called if they stand still `left_s` from now. Raises `SandboxError`."""
        if not self._cgroups.freezes:
            raise SandboxError(f"sandbox {self._name} cannot be paused: no cgroup freezer here")
        if self.holds:
            return
        self.holds = True
        asyncio.get_running_loop().call_later(max(left_s, 0), lambda: expire() if self.holds else None)
        if not await asyncio.to_thread(self._cgroups.freeze, self._name):
            self.end()
            raise SandboxError(f"sandbox {self._name} cannot be paused: a process does not stop")

    def end(self) -> None:
        """Let the processes go on. Idempotent."""
        if self.holds:
            self.holds = False
            self._cgroups.thaw(self._name)
