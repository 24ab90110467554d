"""A job: one piece of real shell work, asked for at three levels of detail, judged by its effects.

A job lives in one directory of the task, so that jobs can be put together in any order. Its family is its template: the
families of training and of held-out tasks are different ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from palmette.envs.checks import Check

Commands = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked (`specification`, `request`, `colloquial`), what is there, what solves it, and what decides.

    `commands` are (command, what it prints), `outputs` the text files that the job is to make, `histories` git
    repositories as scripts that make them in their directory.
    """

    family: str
    specification: str
    request: str
    colloquial: str
    files: Mapping[str, str | bytes]
    commands: Commands
    checks: tuple[Check, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    histories: Mapping[str, str] = field(default_factory=dict)

    def asked(self, intent: str) -> str:
        """Return what is asked at a level of detail."""
        return {"specification": self.specification, "request": self.request, "colloquial": self.colloquial}[intent]


def silent(*commands: str) -> Commands:
    """Return commands that print nothing."""
    return tuple((command, "") for command in commands)


def lines(items: object) -> str:
    """Return one line an item, each ended."""
    return "".join(f"{item}\n" for item in items)  # type: ignore[attr-defined]


def heredoc(path: str, content: str) -> str:
    """Return a command that writes a file exactly."""
    return f"cat > {path} <<'END'\n{content.rstrip()}\nEND"


def numbers(rng: random.Random, count: int, low: int, high: int) -> list[int]:
    """Return `count` different numbers from `low` to `high`."""
    return rng.sample(range(low, high + 1), count)
