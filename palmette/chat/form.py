"""Messages and tools as the dicts that chat templates read, in the variants that templates differ in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from palmette.chat.message import Message, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What one template wants: most take the defaults."""

    arguments_as_text: bool = False  # the arguments of a call as JSON text, not as a dict
    short_ids: bool = False  # call ids of nine letters or digits (Mistral)
    reasoning_key: bool = False  # `reasoning_content` beside the content, not <think> tags in it


class Hide(Protocol):
    """`palmette.chat.control.Control.hide`."""

    def __call__(self, value: Any, *, marks: bool = True) -> Any: ...


def tell(messages: Sequence[Message], form: Form, hide: Hide) -> list[dict[str, Any]]:
    """Return the messages as dicts, control strings in their content hidden."""
    names: dict[str, str] = {}  # of the calls so far, by id
    told: list[dict[str, Any]] = []
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": _content(message, form, hide)}
        if message.reasoning is not None and form.reasoning_key:
            one["reasoning_content"] = hide(message.reasoning, marks=False)
        if message.tool_calls:
            one["tool_calls"] = [_call(call.id, call.name, call.arguments, form, hide) for call in message.tool_calls]
            names.update((call.id, call.name) for call in message.tool_calls)
        if message.tool_call_id is not None:
            one["tool_call_id"] = _call_id(message.tool_call_id, form, hide)
            if message.tool_call_id in names:
                one["name"] = hide(names[message.tool_call_id])
        told.append(one)
    return told


def schema(tool: Tool, hide: Hide) -> dict[str, Any]:
    """Return a tool as the function schema that templates print."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": hide(function)}


def _content(message: Message, form: Form, hide: Hide) -> str:
    content = hide(message.content, marks=message.role != "assistant")
    if message.reasoning is None or form.reasoning_key:
        return content
    return f"<think>\n{hide(message.reasoning, marks=False)}\n</think>\n\n{content}"


def _call(identity: str, name: str, arguments: Any, form: Form, hide: Hide) -> dict[str, Any]:
    hidden = hide(arguments)
    told = json.dumps(hidden, ensure_ascii=False) if form.arguments_as_text else hidden
    function = {"name": hide(name), "arguments": told}
    return {"id": _call_id(identity, form, hide), "type": "function", "function": function}


def _call_id(identity: str, form: Form, hide: Hide) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", identity)[-9:].rjust(9, "0") if form.short_ids else hide(identity)
