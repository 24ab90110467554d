"""Progress says the right numbers, on a terminal and in a file."""

from __future__ import annotations

import contextlib
import io
import re
import time

import pytest
from rich.console import Console

from palmette import progress
from palmette.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that moves only when told, by ``clock(seconds)``."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def plain() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=60), file


def test_words_count_rate_and_time_left(clock):
    console, _ = plain()
    with Progress("sft", 100, "steps", console=console) as bar:
        for _ in range(10):
            clock(2.0)
            bar.update(1, tokens=1000, success=0.41, loss=0.5)
        assert bar.words() == "10/100 steps · success 41% · loss 0.5 · 500 tok/s · 3:00 left"


def test_the_rate_is_that_of_the_recent_past(clock):
    console, _ = plain()
    with Progress("rl", 1000, "steps", console=console) as bar:
        for _ in range(10):
            clock(100.0)
            bar.update(1, tokens=100)
        for _ in range(100):
            clock(1.0)
            bar.update(1, tokens=300)
        assert "300 tok/s" in bar.words()
        assert "14:50 left" in bar.words()


def test_what_was_done_before_counts_in_no_rate(clock):
    console, _ = plain()
    with Progress("sft", 100, done=90, console=console) as bar:
        clock(2.0)
        bar.update(1)
        assert bar.words() == "91/100 steps · 0:18 left"


def test_lines_are_at_most_one_in_five_seconds_and_one_at_the_end(clock):
    console, file = plain()
    with Progress("tasks/[swe]", 100, "tasks", console=console) as bar:
        for _ in range(100):
            clock(0.3)
            bar.update(1)
    lines = file.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[-1] == "tasks/[swe]  100/100 tasks · 0:30"
    assert lines[0] == "tasks/[swe]  17/100 tasks · 0:25 left"


def test_a_stage_that_fails_says_where_it_stopped(clock):
    console, file = plain()
    with contextlib.suppress(KeyError), Progress("rl", None, "rollouts", console=console) as bar:
        clock(61)
        bar.update(3, tokens_s=1234.4)
        raise KeyError
    assert file.getvalue().splitlines()[-1] == "rl  stopped at 3 rollouts · 1,234 tok/s · 1:01"


def test_a_stage_that_fails_before_it_began_says_nothing():
    console, file = plain()
    with contextlib.suppress(KeyError), Progress("rl", 3, console=console):
        raise KeyError
    assert file.getvalue() == ""


def test_bars_on_a_terminal_may_be_nested():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with Progress("outer", 2, console=console) as outer:
        outer.update(1)
        with Progress("inner", 4, console=console) as inner:
            inner.update(4)
            time.sleep(0.3)
        outer.update(1)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert re.search(r"inner\s+4/4 steps · 0:00", seen)
    assert seen.rstrip().endswith("outer  2/2 steps · 0:00")
