"""Input items and tools of OpenAI's Responses, read into the project's own records, and calls written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from palmette.chat.message import Message, Role, Tool, ToolCall
from palmette.gateway.fields import (
    MAX_MESSAGES,
    read_description,
    read_json,
    read_list,
    read_object,
    read_schema,
    read_string,
)
from palmette.gateway.refusal import malformed
from palmette.gateway.told import NOTHING, Place, Told

_SERVER_TOOLS = ("web_search", "web_search_preview", "image_generation", "local_shell", "tool_search")
_ROLES: dict[Any, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NO_IMAGES = "only text parts are supported: this gateway serves a text model without images and files."


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """How a tool was offered, which is how its calls are written; Codex has namespaces and tools of free text."""

    kind: Literal["function", "custom"] = "function"
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class _Assistant:
    """The items of one assistant turn, which Responses writes one by one."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def message(self) -> Message:
        return Message(
            role="assistant",
            content="\n".join(self.texts),
            tool_calls=tuple(self.calls),
            reasoning="\n".join(self.reasoning) or None,
        )


def read_input(value: Any, told: Told = NOTHING) -> Told:
    """Return the messages of an input, a string or a list of items, behind those of `told`. Raises `Refusal`.

    There is no place within a turn of the assistant's, which is one message of several items.
    """
    if isinstance(value, str):
        return told.onward([Message(role="user", content=value)], [])
    if not isinstance(value, list) or not value:
        raise malformed("input", "expected a string or a list with at least one item.")
    begun = told.end
    if begun.items + len(value) > MAX_MESSAGES:
        raise malformed("input", f"expected at most {MAX_MESSAGES} items.")
    messages: list[Message] = []
    places: list[Place] = []
    turn: _Assistant | None = None
    for index, item in enumerate(value):
        at = f"input[{index}]"
        fields = read_object(item, at)
        given = _given(fields, at)
        if given is None:
            turn = turn or _Assistant()
            _add(turn, fields, at)
            continue
        if turn is not None:
            messages.append(turn.message())
            turn = None
        messages.append(given)
        places.append(Place(items=begun.items + index + 1, messages=begun.messages + len(messages)))
    if turn is not None:
        messages.append(turn.message())
    return told.onward(messages, places)


def read_tools(fields: Mapping[str, Any]) -> dict[str, tuple[Tool, Offered]]:
    """Return the tools by the name that the model knows them under; those that a server would run are left out."""
    tools: dict[str, tuple[Tool, Offered]] = {}
    for index, item in enumerate(read_list(fields, "tools")):
        at = f"tools[{index}]"
        tool = read_object(item, at)
        kind = tool.get("type")
        if kind == "namespace":
            space = read_string(tool, "name", at)
            for inner, nested in enumerate(read_list(tool, "tools", f"{at}.")):
                here = f"{at}.tools[{inner}]"
                one, offered = _tool(read_object(nested, here), here)
                name = _joined(space, one.name)
                tools[name] = replace(one, name=name), replace(offered, namespace=space)
        elif isinstance(kind, str) and kind in _SERVER_TOOLS:
            continue
        else:
            one, offered = _tool(tool, at)
            tools[one.name] = one, offered
    return tools


def write_call(call: ToolCall, offered: Mapping[str, Offered]) -> dict[str, Any]:
    """Return a call as the item that its tool was offered for."""
    tool = offered.get(call.name) or Offered(name=call.name)
    item: dict[str, Any] = {"type": "function_call", "id": f"fc_{call.id}", "call_id": call.id, "name": tool.name}
    if tool.kind == "custom" and isinstance(call.arguments.get("input"), str):
        return item | {"type": "custom_tool_call", "input": call.arguments["input"], "status": "completed"}
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    return item | {"arguments": orjson.dumps(dict(call.arguments)).decode(), "status": "completed"}


def _given(fields: Mapping[str, Any], at: str) -> Message | None:
    """Return the message of an item that the assistant did not write, None for one that it did."""
    kind = fields.get("type", "message")
    if kind in ("function_call_output", "custom_tool_call_output"):
        content = _text(fields.get("output"), f"{at}.output")
        return Message(role="tool", content=content, tool_call_id=read_string(fields, "call_id", at))
    if kind == "message":
        role = fields.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise malformed(f"{at}.role", f"expected one of {', '.join(_ROLES)}.")
        if role != "assistant":
            return Message(role=_ROLES[role], content=_text(fields.get("content"), f"{at}.content"))
    return None


def _add(turn: _Assistant, fields: Mapping[str, Any], at: str) -> None:
    """Add an item that the assistant wrote to its turn."""
    kind = fields.get("type", "message")
    if kind == "message":
        turn.texts.append(_text(fields.get("content"), f"{at}.content"))
    elif kind == "reasoning":
        for name in ("summary", "content"):
            if fields.get(name) is not None:
                turn.reasoning.append(_text(fields[name], f"{at}.{name}"))
    elif kind in ("function_call", "custom_tool_call"):
        name, identity = read_string(fields, "name", at), read_string(fields, "call_id", at)
        if fields.get("namespace") is not None:
            name = _joined(read_string(fields, "namespace", at), name)
        key = "arguments" if kind == "function_call" else "input"
        text = fields.get(key)
        if not isinstance(text, str):
            raise malformed(f"{at}.{key}", "expected a string.")
        arguments = {"input": text}
        if kind == "function_call":
            arguments = read_object(read_json(text.encode() or b"{}", f"{at}.{key}"), f"{at}.{key}")
        turn.calls.append(ToolCall(id=identity, name=name, arguments=arguments))
    else:
        raise malformed(f"{at}.type", "this kind of item is not supported.")


def _tool(tool: Mapping[str, Any], at: str) -> tuple[Tool, Offered]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise malformed(f"{at}.type", "expected function, custom or namespace.")
    name = read_string(tool, "name", at)
    if kind == "custom":
        text = {"type": "string", "description": "the whole input, as free text"}
        schema: dict[str, Any] = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    else:
        schema = read_schema(tool.get("parameters"), f"{at}.parameters")
    made = Tool(name=name, description=read_description(tool, at), parameters=schema)
    return made, Offered(kind=kind, name=name)


def _joined(space: str, name: str) -> str:
    return f"{space.removesuffix('__')}__{name}"


def _text(value: Any, at: str) -> str:
    """Return the text of a string or of text parts, joined by newlines."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise malformed(at, "expected a string or a list of text parts.")
    parts = []
    for index, item in enumerate(value):
        here = f"{at}[{index}]"
        part = read_object(item, here)
        kind = part.get("type")
        if kind not in ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"):
            raise malformed(here, _NO_IMAGES)
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise malformed(f"{here}.text", "expected a string.")
        parts.append(text)
    return "\n".join(parts)
