"""Which tools a model is shown, and one of which its answer must begin to call, by what a request says of its choice.

The answer is made to begin with a call by giving the model the call's first tokens (`Renderer.call_opening`). They
are recorded as given, so nothing is trained on them. Which of several tools is called is the model's choice: so one of
them can be demanded, or any of all, but not one of some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from palmette.chat.message import Tool
from palmette.gateway.ask import Demand
from palmette.gateway.fields import read_list, read_object, read_string
from palmette.gateway.refusal import malformed

Mode = Literal["auto", "none", "required"]
_MODES: dict[Any, Mode] = {"auto": "auto", "none": "none", "required": "required"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Tools that are shown, and whether one of them must be called."""

    tools: tuple[Tool, ...]
    demand: Demand | None = None


def choose(mode: Mode, only: Sequence[str] | None, tools: Sequence[Tool], at: str) -> Choice:
    """Return what a mode means, with `only` some of the tools allowed. Raises `Refusal` naming the field `at`."""
    names = [tool.name for tool in tools]
    allowed = names if only is None else list(dict.fromkeys(only))
    unknown = next((name for name in allowed if name not in names), None)
    if unknown is not None:
        raise malformed(at, f"there is no tool of the name {unknown!r}.")
    if mode == "none":
        return Choice(tools=())
    some = set(allowed) != set(names)
    if mode == "auto":
        if some:
            raise malformed(at, "tools that the model is shown cannot be forbidden: leave them out of the tools.")
        return Choice(tools=tuple(tools))
    if not allowed:
        raise malformed(at, "there is no tool that could be called.")
    if some and len(allowed) > 1:
        raise malformed(at, "a call of one tool or of any of them can be demanded, not of one of some.")
    return Choice(tools=tuple(tools), demand=Demand(names=tuple(allowed), field=at))


def read_openai(value: Any, tools: Sequence[Tool], within: str | None) -> Choice:
    """Return what `tool_choice` says in Chat Completions, which has what it names within an object, or Responses.

    Raises `Refusal`.
    """
    at = "tool_choice"
    if value is None or isinstance(value, str):
        if value is not None and value not in _MODES:
            raise malformed(at, "expected auto, none, required or an object.")
        return choose(_MODES.get(value, "auto"), None, tools, at)
    fields = read_object(value, at)
    kind = fields.get("type")
    if kind == "allowed_tools":
        inner = read_object(fields.get(within), f"{at}.{within}") if within else fields
        mode = inner.get("mode")
        if not isinstance(mode, str) or mode not in ("auto", "required"):
            raise malformed(at, "expected the mode auto or required.")
        listed = read_list(inner, "tools", f"{at}.")
        return choose(_MODES[mode], [_named(one, at, bool(within)) for one in listed], tools, at)
    return choose("required", [_named(fields, at, bool(within))], tools, at)


def _named(value: Any, at: str, nested: bool) -> str:
    fields = read_object(value, at)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in ("function", "custom"):
        raise malformed(at, "only functions and custom tools of the request can be chosen.")
    return read_string(read_object(fields.get(kind), f"{at}.{kind}") if nested else fields, "name", at)
