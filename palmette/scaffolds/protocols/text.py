"""Plain text in the form of ReAct (arXiv 2210.03629): lines "Action: NAME" and "Action Input: ...", then Observation.

Where a model goes on and makes an observation up, what it says from there on is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.protocols.api import Heard, Told, in_user_words, uncalled
from palmette.scaffolds.protocols.signature import as_json, example, listed, named, read_whole, sole_text

_LABEL = re.compile(r"^(Thought|Action|Action Input|Observation):[ \t]*", re.MULTILINE)
_HOW = 'call a tool by the lines "Action: NAME" and "Action Input: ..."'


class Text:
    """The input is a JSON object, or for a tool with one text argument the text itself, up to the next label."""

    name = "text"

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the prompt, the tools and the form of an answer."""
        shown = "\n".join(_call(tool.name, example(tool), tool) for tool in tools[1:2] or tools)
        return (
            f"{prompt}\n\nTools:\n{listed(tools)}\n\nThe input of an action is a JSON object of all arguments, or "
            "just the text where a tool takes one text. Answer in this form, and wait for the observation:\n\n"
            f"Thought: what to do next\n{shown}"
        )

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return nothing: the system prompt describes them."""
        return []

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return a message with a thought and actions."""
        actions = [_call(call.name, call.arguments, named(tools, call.name)) for call in calls]
        thought = [f"Thought: {text}"] if text else []
        return {"role": "assistant", "content": "\n".join([*thought, *actions])}

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Read the actions up to the first observation."""
        if (instead := uncalled(answer, _HOW)) is not None:
            return instead
        calls: list[ToolCall] = []
        name: str | None = None
        for label, body in [*_parts(answer.get("content") or ""), ("Observation", "")]:
            if label == "Action Input":
                if name is None:
                    return Heard(wrong='there is an "Action Input:" without an "Action:" before it')
                arguments = _arguments(named(tools, name), name, body)
                if isinstance(arguments, str):
                    return Heard(wrong=arguments)
                calls.append(ToolCall(id="", name=name, arguments=arguments))
                name = None
                continue
            if name is not None:  # an action without an input
                calls.append(ToolCall(id="", name=name, arguments={}))
            if label == "Observation":
                break
            name = body.strip() if label == "Action" else None
            if name == "":
                return Heard(wrong='"Action:" needs the name of a tool')
        return Heard(calls=tuple(calls))

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return a user message with an observation a call."""
        return in_user_words(told, [f"Observation: {one.text}" for one in told])


def _parts(text: str) -> list[tuple[str, str]]:
    """Return the labels of a text and what stands behind each of them, without the newline before the next label."""
    found = list(_LABEL.finditer(text))
    ends = [*(label.start() - 1 for label in found[1:]), len(text)]
    return [(label[1], text[label.end() : max(end, label.end())]) for label, end in zip(found, ends, strict=False)]


def _call(name: str, arguments: Mapping[str, Any], tool: Tool | None) -> str:
    if not arguments:
        return f"Action: {name}"
    sole = sole_text(tool)
    plain = arguments[sole] if sole is not None and set(arguments) == {sole} else None
    given = plain if isinstance(plain, str) and _stands_alone(plain) else as_json(arguments)
    return f"Action: {name}\nAction Input: {given}"


def _stands_alone(text: str) -> bool:
    return bool(text) and text == text.strip() and not text.startswith("{") and not _LABEL.search(text)


def _arguments(tool: Tool | None, name: str, body: str) -> dict[str, Any] | str:
    """Return the arguments that an input says, or why it says none."""
    sole, given = sole_text(tool), body.strip()
    if sole is not None and not given.startswith("{"):
        return {sole: given}
    if not given:
        return {}
    try:
        arguments = read_whole(given)
    except ValueError as error:
        if sole is not None:  # a command may begin with a brace
            return {sole: given}
        return f"the input of {name} is no JSON object: {error}"
    return arguments if isinstance(arguments, dict) else f"the input of {name} is no JSON object"
