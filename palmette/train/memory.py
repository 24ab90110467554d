"""How much memory a run takes: this process and all its children, looked at now and then."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

_EVERY_S = 2.0


class Watch:
    """Measures the peak of resident memory of the process tree while it is entered.

    Memory shared between processes is counted in each of them, so the number is rather too high than too low.
    """

    def __init__(self) -> None:
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="palmette-memory", daemon=True)

    @property
    def peak_gb(self) -> float:
        """Most gigabytes (1e9 bytes) seen so far."""
        self._look()
        return round(self._peak / 1e9, 3)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        me = psutil.Process()
        resident = me.memory_info().rss
        for child in me.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                resident += child.memory_info().rss
        self._peak = max(self._peak, resident)
