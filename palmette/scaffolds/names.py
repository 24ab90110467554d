"""Scaffolds by name: the built-in loop in any of its styles, and every command-line agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from palmette.errors import UserError, suggest
from palmette.scaffolds.api import Scaffold
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.flows.best import BestOf
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.roster import AGENTS
from palmette.scaffolds.style import BEST, Style

LOOP = "loop"


class Scaffolds(Mapping[str, Callable[[], Scaffold]]):
    """What makes a scaffold, by name.

    A name is "loop", "loop:STYLE" (`palmette.scaffolds.style.Style`, such as "loop:xml,sliding=4"), or whatever
    `palmette.scaffolds.roster.AGENTS` takes. Getting one raises `KeyError` for a name that nobody has, and `UserError`
    for a style or a file that is wrong.
    """

    def __getitem__(self, name: str) -> Callable[[], Scaffold]:
        loop, colon, style = name.partition(":")
        if loop == LOOP and (colon or name == LOOP):
            return partial(loop_of, Style.read(style))
        return partial(CliAgent, AGENTS[name])

    def __iter__(self) -> Iterator[str]:
        yield LOOP
        yield from AGENTS

    def __len__(self) -> int:
        return 1 + len(AGENTS)


SCAFFOLDS = Scaffolds()


def loop_of(style: Style) -> ToolLoop | BestOf:
    """Return the built-in loop in a style."""
    if style.flow == BEST:
        return BestOf(ToolLoop(style.turns, style=replace(style, flow="react")), style.tries)
    return ToolLoop(style.turns, style=style)


def open_scaffold(name: str) -> Scaffold:
    """Return a new scaffold with its defaults. Raises `UserError` for a name that is not known."""
    if name not in SCAFFOLDS:
        raise UserError(f"unknown scaffold '{name}'{suggest(name, SCAFFOLDS)}; known are {', '.join(SCAFFOLDS)}")
    return SCAFFOLDS[name]()
