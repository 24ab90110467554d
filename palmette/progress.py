"""Progress on standard error: a live bar on a terminal, plain lines elsewhere.

Standard output is kept for what a command answers (tables, JSON), so that it can be piped while the bars run. Bars may
follow one another or be nested.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from functools import cache
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_WINDOW_S = 30.0  # rates are taken over this much of the recent past
_LINE_EVERY_S = 5.0


class Progress:
    """One stage's progress.

    >>> with Progress("sft/swe", total=120, unit="steps") as bar:
    ...     bar.update(1, loss=0.7, tokens=4096)

    `total` is a number of `unit`s, or None when unknown; `done` of them were there before and count in no rate. Where
    standard error is not a terminal, a line is written at most every five seconds, and one at the end.
    """

    def __init__(
        self,
        stage: str,
        total: int | None = None,
        unit: str = "steps",
        *,
        done: int = 0,
        console: Console | None = None,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self._already = done
        self._numbers: dict[str, float | str] = {}
        self._tokens = 0
        self._marks: deque[tuple[float, int, int]] = deque()  # (time, done, tokens) of the recent past
        self._console = console or _standard_error()
        self._live: Live | None = None
        self._started = self._said = 0.0

    def __enter__(self) -> Self:
        """Show the bar."""
        self._started = self._said = time.monotonic()
        self._marks.append((self._started, self._already, 0))
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # A pipe on standard output must not lose its lines to the terminal.
            redirect = sys.stdout.isatty()
            self._live = Live(
                get_renderable=self._line, console=self._console, transient=True, redirect_stdout=redirect
            )
            self._live.start()
        return self

    def update(self, n: int = 1, **numbers: float | str) -> None:
        """Add `n` units and show `numbers`.

        `success` (0..1) is shown as a percentage, `tokens` is a count that is added up and shown as a rate,
        `tokens_s` is a rate as it is; anything else as ``name value``. Values stay until they are given anew.
        """
        now = time.monotonic()
        self.done += n
        self._tokens += int(numbers.pop("tokens", 0))
        self._numbers |= numbers
        self._marks.append((now, self.done, self._tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW_S:
            self._marks.popleft()
        if self._live is None and now - self._said >= _LINE_EVERY_S:
            self._say(f"{self.stage}  {self.words()}")

    def words(self) -> str:
        """Return what is known now, such as ``40/120 steps · success 41% · 1,204 tok/s · 1:05 left``."""
        return self._words(self._time_left())

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Leave one final line with the time that the stage took; nothing if it failed before it began."""
        if self._live:
            self._live.stop()
        if kind and self.done == self._already:
            return
        since_start = deque([(self._started, self._already, 0)])
        self._marks = since_start  # the last line speaks of the whole stage, not of the recent past
        took = _clock(time.monotonic() - self._started)
        self._say(f"{self.stage}  {'stopped at ' if kind else ''}{self._words(took)}")

    def _line(self) -> Table:
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(width=20)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(self.stage, ProgressBar(total=self.total, completed=self.done, width=20), self.words())
        return line

    def _time_left(self) -> str:
        now = time.monotonic()
        since, done_then, _ = self._marks[0]
        if self.total is None or self.done == done_then:
            return _clock(now - self._started)
        return f"{_clock(max(self.total - self.done, 0) * (now - since) / (self.done - done_then))} left"

    def _words(self, clock: str) -> str:
        since, _, tokens_then = self._marks[0]
        parts = [f"{self.done:,}{f'/{self.total:,}' if self.total is not None else ''} {self.unit}"]
        numbers = dict(self._numbers)
        if "success" in numbers:
            parts.append(f"success {float(numbers.pop('success')):.0%}")
        rate = numbers.pop("tokens_s", None)
        if rate is None and self._tokens:
            rate = (self._tokens - tokens_then) / max(time.monotonic() - since, 1e-9)
        parts += [f"{name} {_short(value)}" for name, value in numbers.items()]
        if rate is not None:
            parts.append(f"{float(rate):,.0f} tok/s")
        return " · ".join([*parts, clock])

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@cache
def _standard_error() -> Console:
    """Return the one console of all bars: only bars on the same console can be nested."""
    return Console(stderr=True, highlight=False)


def _short(value: float | str) -> str:
    """Return a number with three or four significant digits.

    >>> _short(0.123456), _short(1234567), _short(2e-05)
    ('0.123', '1,234,567', '2e-05')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _clock(seconds: float) -> str:
    """Return ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
