"""How the built-in loop talks with a model, as data: protocol, context, flow and names; in short ``xml,sliding=4``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from palmette.errors import UserError, suggest
from palmette.scaffolds.contexts.names import CONTEXTS
from palmette.scaffolds.flows.names import FLOWS
from palmette.scaffolds.protocols.names import PROTOCOLS

BEST = "best"
MOST_TURNS = 12  # answers of a loop, if its style does not say
_NAMES = "names"
_TURNS = "turns"
_SIZED = {"sliding": "turns", "summary": "tokens", "truncate": "characters", BEST: "attempts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One way of the loop. Raises `UserError` for a name that is not known and a number below 0.

    `size` is the context's (turns of sliding, tokens of summary, characters of truncate; 0: its own), `tries` how many
    attempts flow "best" makes, `names` the seed of tool names (-1: the tools' own), and `turns` the most answers.
    """

    protocol: str = "functions"
    context: str = "full"
    size: int = 0
    flow: str = "react"
    tries: int = 3
    names: int = -1
    turns: int = MOST_TURNS

    def __post_init__(self) -> None:
        for what, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("context", self.context, CONTEXTS),
            ("flow", self.flow, (*FLOWS, BEST)),
        ):
            if value not in known:
                raise UserError(f"unknown {what} '{value}'{suggest(value, known)}; known are {', '.join(known)}")
        if self.size < 0 or self.tries < 1 or self.names < -1 or self.turns < 1:
            numbers = f"size {self.size}, tries {self.tries}, names {self.names} or turns {self.turns}"
            raise UserError(f"{numbers} is too small")

    @classmethod
    def read(cls, short: str) -> Self:
        """Return the style that a short form says, such as ``code,summary=2000,plan,names=7``; "" is the default."""
        table: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in short.split(","))):
            name, equals, number = part.partition("=")
            key = _key(name)
            if key in table:
                raise UserError(f"'{short}' names two of a kind: '{table[key]}' and '{part}'")
            if equals and not number.isdecimal():
                raise UserError(f"'{part}': a number is expected behind '='")
            if equals and name not in (*_SIZED, _NAMES, _TURNS):
                raise UserError(f"'{part}': only {', '.join((*_SIZED, _NAMES, _TURNS))} take a number")
            if name == _TURNS and not equals:
                raise UserError(f"'{part}': how many? such as turns=40")
            if name in (_NAMES, _TURNS):
                table[key] = int(number) if equals else 0
                continue
            table[key] = name
            if equals:
                table["tries" if name == BEST else "size"] = int(number)
        return cls(**table)

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Return the style that a table says, its keys the fields. Raises `UserError` for others."""
        known = {field.name: field.type for field in fields(cls)}
        for key, value in table.items():
            if key not in known:
                raise UserError(
                    f"unknown key '{key}' of a loop's style{suggest(key, known)}; it has {', '.join(known)}"
                )
            if not isinstance(value, int if known[key] == "int" else str) or isinstance(value, bool):
                raise UserError(f"{key} of a loop's style must be {'a number' if known[key] == 'int' else 'a name'}")
        return cls(**table)

    def table(self) -> dict[str, str | int]:
        """Return the style as a table, whole."""
        return asdict(self)

    @property
    def short(self) -> str:
        """The short form, "" for the default; `read` is its inverse."""
        parts = [] if self.protocol == "functions" else [self.protocol]
        if self.context != "full":
            parts.append(f"{self.context}={self.size}" if self.size else self.context)
        if self.names >= 0:
            parts.append(f"{_NAMES}={self.names}")
        if self.turns != MOST_TURNS:
            parts.append(f"{_TURNS}={self.turns}")
        if self.flow != "react":
            parts.append(f"{self.flow}={self.tries}" if self.flow == BEST else self.flow)
        return ",".join(parts)


def _key(name: str) -> str:
    """Return the field that a name in a short form belongs to."""
    kinds = {"protocol": PROTOCOLS, "context": CONTEXTS, "flow": (*FLOWS, BEST), _NAMES: (_NAMES,), _TURNS: (_TURNS,)}
    for key, known in kinds.items():
        if name in known:
            return key
    known = [each for names in kinds.values() for each in names]
    raise UserError(f"unknown '{name}' in a loop's style{suggest(name, known)}; known are {', '.join(known)}")
