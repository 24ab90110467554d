"""What text protocols say of a tool, and how an argument that is no text is written as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.chat.message import Tool


def listed(tools: Sequence[Tool]) -> str:
    """Return a line a tool: its name, its arguments with their types (a "?" for those that may be left out), its use.

    >>> print(listed([Tool(name="open", description="open a page", parameters={"properties": {"address": {}}})]))
    - open(address?: any): open a page
    """
    return "\n".join(f"- {tool.name}({_arguments(tool)}): {tool.description}" for tool in tools)


def sole_text(tool: Tool | None) -> str | None:
    """Return the argument of a tool that has just one, a text that must be given; None of any other tool."""
    if tool is None or len(_properties(tool)) != 1 or len(tool.parameters.get("required", ())) != 1:
        return None
    ((name, schema),) = _properties(tool).items()
    return name if schema.get("type") == "string" else None


def is_text(tool: Tool | None, argument: str) -> bool:
    """Say whether an argument is a text; those that nobody knows are."""
    schema = _properties(tool).get(argument, {"type": "string"}) if tool else {"type": "string"}
    return schema.get("type") == "string"


def named(tools: Sequence[Tool], name: str) -> Tool | None:
    """Return the tool of a name."""
    return next((tool for tool in tools if tool.name == name), None)


def example(tool: Tool) -> dict[str, Any]:
    """Return arguments to show how a tool is called."""
    fitting = {"string": "...", "integer": 1, "number": 1, "boolean": True, "array": ["..."]}
    return {name: fitting.get(schema.get("type", ""), "...") for name, schema in _properties(tool).items()}


def as_json(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def read_json(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at `at` and where it ends.

    Raises `ValueError`, also for what JSON can say and no text can hold (half of a surrogate pair), or is nested so
    deeply that nobody could pass it on.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    return value, end


def read_whole(text: str) -> Any:
    """Return the JSON value that a text is. Raises `ValueError`, also where something stands behind it."""
    given = text.strip()
    value, end = read_json(given)
    if end < len(given):
        raise ValueError(f"there is text behind it: {given[end : end + 20]!r}")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _arguments(tool: Tool) -> str:
    required = tool.parameters.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {schema.get('type', 'any')}"
        for name, schema in _properties(tool).items()
    )


def _properties(tool: Tool) -> Mapping[str, Any]:
    return tool.parameters.get("properties", {})
