"""Async work for importers, which are ordinary functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


def apart(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Return what `work` comes to, or raise it; in a thread, for whoever imports may have a loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
