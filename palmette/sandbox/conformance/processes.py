"""Processes of this machine that a test can tell apart by an argument that no other has."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path


def unique_seconds() -> str:
    """Return an argument of ``sleep`` that no other process has, longer than `until` waits."""
    return f"120.{uuid.uuid4().int % 10**12:012d}"


def processes_with(argument: str) -> int:
    """Return how many processes have this argument now."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += argument.encode() in path.read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
    return count


async def until(done: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Return whether it came to be so; the time is only a bound, for a busy machine is slow."""
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(0.02)
    return True
