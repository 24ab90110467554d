"""Scaffolds by name; a new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from palmette.errors import UserError, suggest
from palmette.scaffolds.api import Scaffold
from palmette.scaffolds.cli_agents import AGENTS, CliAgent
from palmette.scaffolds.loop import ToolLoop

SCAFFOLDS: dict[str, Callable[[], Scaffold]] = {
    "loop": ToolLoop,
    **{name: partial(CliAgent, agent) for name, agent in AGENTS.items()},
}


def open_scaffold(name: str) -> Scaffold:
    """Return a new scaffold with its defaults. Raises `UserError` for a name that is not known."""
    if name not in SCAFFOLDS:
        raise UserError(f"unknown scaffold '{name}'{suggest(name, SCAFFOLDS)}; known are {', '.join(SCAFFOLDS)}")
    return SCAFFOLDS[name]()
