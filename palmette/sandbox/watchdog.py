"""One timer for many deadlines, of which almost none is ever missed: setting one costs next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls `late()` when something watched is not forgotten in time; that returns how many seconds more it gets."""

    def __init__(self, late: Callable[[], float]) -> None:
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._deadlines: dict[int, float] = {}
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, seconds: float) -> int:
        """Expect to be told by `forget` within so many seconds; returns what to give to it."""
        self._serial += 1
        self._deadlines[self._serial] = deadline = self._loop.time() + seconds
        if self._timer is None or deadline < self._timer.when():
            self._set(deadline)
        return self._serial

    def forget(self, number: int) -> None:
        """It came in time, or it is late and known to be. Idempotent."""
        self._deadlines.pop(number, None)

    def close(self) -> None:
        """Watch nothing any more."""
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        missed = [number for number, deadline in self._deadlines.items() if deadline <= now]
        more_s = self._late() if missed else 0.0
        for number in missed:
            self._deadlines.pop(number, None)
            if more_s:
                self._deadlines[number] = now + more_s
        if self._deadlines:
            self._set(min(self._deadlines.values()))
