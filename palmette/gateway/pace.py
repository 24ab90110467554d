"""How many requests may be in the gateway's own hands at once, so that none waits there for long.

What a request waits for in one process is the event loop, which is late by the work of all that is ready. So the loop's
lateness is measured all the time, and the bound falls by a fifth when it is too much, and rises by one when it is not
and somebody is at the bound (additive increase, multiplicative decrease). Requests that wait for the engine do not
count: they cost the loop nothing.
"""

from __future__ import annotations

import asyncio
import time

EVERY_S = 0.01
_STEPS = 4  # times that a request waits for the loop: to be read, to be rendered, for the engine's answer, to be told
_FIRST, _LEAST, _MOST = 16.0, 2.0, 4096.0


class Pace:
    """The bound `most`, kept so that a request waits `max_delay_s` at most for the event loop, all in all."""

    def __init__(self, max_delay_s: float) -> None:
        if max_delay_s <= 0:
            raise ValueError(f"a delay of {max_delay_s} s cannot be kept; give one above 0, or None")
        self.most = _FIRST
        self._late_s = max_delay_s / _STEPS
        self._wanted = False

    def admits(self, here: int) -> bool:
        """Say whether one more may come to the `here` that are."""
        admitted = here < self.most
        self._wanted = self._wanted or here + 1 >= self.most
        return admitted

    def adapt(self, late_s: float) -> None:
        """Take one measurement of how late the loop is."""
        if late_s > self._late_s:
            self.most = max(_LEAST, 0.8 * self.most)
        elif self._wanted:
            self.most = min(_MOST, self.most + 1)
        self._wanted = False

    async def watch(self) -> None:
        """Measure for ever."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(EVERY_S)
            self.adapt(time.perf_counter() - began - EVERY_S)
