"""Messages and tools as Chat Completions writes them, read into the project's own records."""

from __future__ import annotations

from typing import Any

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


def read_messages(value: Any, told: Told = NOTHING) -> Told:
    """Return the messages of a request behind those of `told`; text parts are joined, unknown keys left out.

    Raises `Refusal`.
    """
    if not isinstance(value, list) or not value:
        raise malformed("messages", "expected a list with at least one message.")
    begun = told.end
    if begun.items + len(value) > MAX_MESSAGES:
        raise malformed("messages", f"expected at most {MAX_MESSAGES} messages.")
    messages = [_message(item, f"messages[{index}]") for index, item in enumerate(value)]
    counts = range(1, len(value) + 1)
    return told.onward(messages, [Place(items=begun.items + n, messages=begun.messages + n) for n in counts])


def read_tools(value: Any) -> tuple[Tool, ...]:
    """Return the tools of a request, each with a schema of type object. Raises `Refusal`."""
    tools = []
    for index, item in enumerate(read_list({"tools": value}, "tools")):
        at = f"tools[{index}]"
        tool = read_object(item, at)
        if tool.get("type") != "function":
            raise malformed(f"{at}.type", "expected 'function'.")
        function = read_object(tool.get("function"), f"{at}.function")
        tools.append(
            Tool(
                name=read_string(function, "name", f"{at}.function"),
                description=read_description(function, f"{at}.function"),
                parameters=read_schema(function.get("parameters"), f"{at}.function.parameters"),
            )
        )
    return tuple(tools)


def _message(value: Any, at: str) -> Message:
    fields = read_object(value, at)
    roles: dict[Any, Role] = {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
    }
    given = fields.get("role")
    if not isinstance(given, str) or given not in roles:
        raise malformed(f"{at}.role", f"expected one of {', '.join(roles)}.")
    role = roles[given]
    content = _text(fields.get("content"), f"{at}.content")
    if role == "assistant":
        reasoning = fields.get("reasoning_content")
        calls = _calls(fields.get("tool_calls"), f"{at}.tool_calls")
        return Message(
            role=role,
            content=content,
            tool_calls=calls,
            reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
        )
    if fields.get("content") is None:
        raise malformed(f"{at}.content", "expected a string or a list of text parts.")
    return Message(
        role=role, content=content, tool_call_id=read_string(fields, "tool_call_id", at) if role == "tool" else None
    )


def _text(value: Any, at: str) -> str:
    """Return the text of a content field; the parts of a list are joined by newlines, as vLLM does."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise malformed(at, "expected a string or a list of text parts.")
    parts = []
    for index, item in enumerate(value):
        here = f"{at}[{index}]"
        part = read_object(item, here)
        kind = part.get("type")
        if kind not in ("text", "refusal"):
            raise malformed(here, "only text parts are supported: this gateway serves a text model without images.")
        if not isinstance(part.get(kind), str):
            raise malformed(f"{here}.{kind}", "expected a string.")
        parts.append(part[kind])
    return "\n".join(parts)


def _calls(value: Any, at: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise malformed(at, "expected a list.")
    calls = []
    for index, item in enumerate(value):
        here = f"{at}[{index}]"
        call = read_object(item, here)
        function = read_object(call.get("function"), f"{here}.function")
        arguments = function.get("arguments", "")
        if isinstance(arguments, str):
            arguments = read_json(arguments.encode() or b"{}", f"{here}.function.arguments")
        calls.append(
            ToolCall(
                id=read_string(call, "id", here),
                name=read_string(function, "name", f"{here}.function"),
                arguments=read_object(arguments, f"{here}.function.arguments"),
            )
        )
    return tuple(calls)
