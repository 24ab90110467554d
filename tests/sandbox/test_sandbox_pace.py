"""Turns come at their pace, whoever asks and however many at once."""

from __future__ import annotations

import asyncio
import time

from palmette.sandbox.pace import Pace


async def test_turns_take_their_time():
    pace = Pace(400.0)
    began = time.monotonic()
    await asyncio.gather(*(pace.turn() for _ in range(101)))
    assert time.monotonic() - began >= 100 / 400 - 0.03  # at 400 a second, never faster
