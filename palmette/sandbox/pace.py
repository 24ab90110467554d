"""How fast something may be done: the first ones at once, then one after another."""

from __future__ import annotations

import asyncio
import time

KILLS_PER_S = 500.0  # sandboxes ended on a machine: a mass of exits at once is what kernels take worst
_SLACK_S = 0.02  # behind which nobody is kept waiting


class Pace:
    """At most `per_s` turns a second, but for a few at once."""

    def __init__(self, per_s: float) -> None:
        self._gap_s = 1 / per_s
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        wait_s = self._next - now
        self._next = max(self._next, now) + self._gap_s
        if wait_s > _SLACK_S:
            await asyncio.sleep(wait_s)
