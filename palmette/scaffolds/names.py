"""Scaffolds by name: the built-in loop, and every command-line agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from palmette.errors import UserError, suggest
from palmette.scaffolds.api import Scaffold
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.roster import AGENTS


class Scaffolds(Mapping[str, Callable[[], Scaffold]]):
    """What makes a scaffold, by name; a name is "loop" or whatever `palmette.scaffolds.roster.AGENTS` takes."""

    def __getitem__(self, name: str) -> Callable[[], Scaffold]:
        return ToolLoop if name == ToolLoop.name else partial(CliAgent, AGENTS[name])

    def __iter__(self) -> Iterator[str]:
        yield ToolLoop.name
        yield from AGENTS

    def __len__(self) -> int:
        return 1 + len(AGENTS)


SCAFFOLDS = Scaffolds()


def open_scaffold(name: str) -> Scaffold:
    """Return a new scaffold with its defaults. Raises `UserError` for a name that is not known."""
    if name not in SCAFFOLDS:
        raise UserError(f"unknown scaffold '{name}'{suggest(name, SCAFFOLDS)}; known are {', '.join(SCAFFOLDS)}")
    return SCAFFOLDS[name]()
