"""Function calls: tools are offered with every request, calls and results have messages of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from palmette.chat.form import schema
from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.protocols.api import Heard, Told, Unread
from palmette.scaffolds.protocols.signature import as_json


class Functions:
    """What Chat Completions itself offers; the model's own template decides what it reads and writes."""

    name = "functions"

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the prompt as it is."""
        return prompt

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return the function schemas."""
        return [schema(tool) for tool in tools]

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return a message with `tool_calls`."""
        made = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": as_json(call.arguments)}}
            for call in calls
        ]
        return {"role": "assistant", "content": text or None} | ({"tool_calls": made} if made else {})

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Read `tool_calls`; an answer that the gateway could not read is wrong as a whole."""
        calls = answer.get("tool_calls") or ()
        if not calls and answer.get("malformed"):
            return Heard(wrong=answer["malformed"])
        return Heard(calls=tuple(map(_read, calls)))

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return a tool message for each call."""
        return [{"role": "tool", "tool_call_id": one.id, "content": one.text} for one in told]


def _read(call: Mapping[str, Any]) -> ToolCall | Unread:
    function = call["function"]
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError as error:
        return Unread(id=call["id"], name=function["name"], wrong=f"the arguments are not JSON: {error}")
    if not isinstance(arguments, dict):
        return Unread(id=call["id"], name=function["name"], wrong="the arguments are not an object")
    return ToolCall(id=call["id"], name=function["name"], arguments=arguments)
