"""The domains by name; to add one, write its folder and add a line here."""

from __future__ import annotations

from palmette.envs.api import Domain
from palmette.envs.general.domain import General
from palmette.envs.search.domain import Search
from palmette.envs.swe.domain import Swe
from palmette.envs.terminal.domain import Terminal
from palmette.envs.web.domain import Web
from palmette.errors import UserError, suggest

DOMAINS: dict[str, Domain] = {
    "terminal": Terminal(),
    "swe": Swe(),
    "web": Web(),
    "search": Search(),
    "general": General(),
}


def domain(name: str) -> Domain:
    """Return the domain of that name. Raises `UserError` with a suggestion."""
    if name not in DOMAINS:
        raise UserError(f"unknown domain '{name}'{suggest(name, DOMAINS)} (known: {', '.join(DOMAINS)})")
    return DOMAINS[name]
