"""Stopping cleanly: the first Ctrl-C (or SIGTERM) cancels the work, which saves; the second ends it at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Answer = TypeVar("Answer")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_interruptibly(
    work: Coroutine[Any, Any, Answer], *, notice: str = "stopping; Ctrl-C again to stop at once"
) -> Answer:
    """Run `work` under asyncio and return its answer; print `notice` on the first signal.

    Raises `KeyboardInterrupt` when a signal ended it, also after it was cancelled cleanly.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        caught: list[int] = []

        def on_signal(number: int, _frame: FrameType | None) -> None:
            # Called between two bytecodes of the main thread, so also in the middle of a training step.
            caught.append(number)
            if len(caught) > 1:
                raise KeyboardInterrupt
            if notice:
                print(f"\n{notice}", file=sys.stderr, flush=True)
            loop.call_soon_threadsafe(task.cancel)

        before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if caught:
                raise KeyboardInterrupt from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM do to blocking work what Ctrl-C does, so that it cleans up behind itself."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
