"""JSON in text: an object with the keys "tool" and "arguments", anywhere in an answer, is a call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.protocols.api import Heard, Told, in_user_words, uncalled
from palmette.scaffolds.protocols.signature import as_json, example, listed, read_json

_BEGUN = re.compile(r'\{\s*"tool"')
_HOW = 'call a tool by {"tool": NAME, "arguments": {...}}'


class Object:
    """Objects stand one a line when we write them; read, they may stand in prose or in a code block."""

    name = "json"

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the prompt, the tools and an example."""
        shown = "\n".join(_call(tool.name, example(tool)) for tool in tools[:1])
        return f"{prompt}\n\nTools:\n{listed(tools)}\n\nTo call a tool, write one JSON object, such as\n{shown}"

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return nothing: the system prompt describes them."""
        return []

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return a message with an object a call, one a line."""
        objects = [_call(call.name, call.arguments) for call in calls]
        return {"role": "assistant", "content": "\n".join(filter(None, (text, *objects)))}

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Read the objects that name a tool, in order; other objects are prose."""
        if (instead := uncalled(answer, _HOW)) is not None:
            return instead
        text, at = answer.get("content") or "", 0
        calls: list[ToolCall] = []
        while (at := text.find("{", at)) >= 0:
            try:
                value, end = read_json(text, at)
            except ValueError as error:
                if _BEGUN.match(text, at):
                    return Heard(wrong=f"the object is no JSON: {error}")
                at += 1
                continue
            at = end
            if "tool" not in value:
                continue
            name, arguments = value["tool"], value.get("arguments", {})
            if not isinstance(name, str) or not isinstance(arguments, dict):
                return Heard(wrong='"tool" must be a name and "arguments" an object')
            calls.append(ToolCall(id="", name=name, arguments=arguments))
        return Heard(calls=tuple(calls))

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return a user message with an object a call."""
        return in_user_words(told, [as_json({"tool": one.name, "result": one.text}) for one in told])


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return as_json({"tool": name, "arguments": arguments})
