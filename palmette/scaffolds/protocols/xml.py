"""XML tags: ``<function=bash><parameter=command>ls</parameter></function>``, as OpenHands and SWE-agent write them.

Values stand as they are, nothing is escaped. One that would be misread (it holds the closing tag, say) is written as a
CDATA section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.protocols.api import Heard, Told, in_user_words, uncalled
from palmette.scaffolds.protocols.signature import as_json, example, is_text, listed, named, read_whole

_FUNCTION = re.compile(r"<function=([^>\s]+)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)>")
_END = re.compile(r"\s*</function>")
_CLOSE = "</parameter>"
_OPEN_DATA, _CLOSE_DATA = "<![CDATA[", "]]>"
_HOW = "call a tool by <function=NAME><parameter=ARGUMENT>value</parameter></function>"


class Xml:
    """A function tag a call, a parameter tag an argument; an argument that is no text is JSON."""

    name = "xml"

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the prompt, the tools and an example."""
        shown = "\n".join(_call(tool.name, example(tool), tool) for tool in tools[:1])
        return (
            f"{prompt}\n\nTools:\n{listed(tools)}\n\nTo call a tool, write\n{shown}\n"
            f"Values stand as they are; one that holds {_CLOSE} goes into {_OPEN_DATA}...{_CLOSE_DATA}."
        )

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return nothing: the system prompt describes them."""
        return []

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return a message with the tags behind its text."""
        tags = [_call(call.name, call.arguments, named(tools, call.name)) for call in calls]
        return {"role": "assistant", "content": "\n".join(filter(None, (text, *tags)))}

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Read the function tags in order."""
        if (instead := uncalled(answer, _HOW)) is not None:
            return instead
        text, at = answer.get("content") or "", 0
        calls: list[ToolCall] = []
        while opened := _FUNCTION.search(text, at):
            name, at, arguments = opened[1], opened.end(), dict[str, Any]()
            tool = named(tools, name)
            while parameter := _PARAMETER.match(text, at):
                value, at = _value(text, parameter.end())
                if value is None:
                    return Heard(wrong=f"the parameter {parameter[1]} of {name} does not end")
                if not is_text(tool, parameter[1]):
                    try:
                        value = read_whole(value)
                    except ValueError as error:
                        return Heard(wrong=f"the parameter {parameter[1]} of {name} is no JSON: {error}")
                arguments[parameter[1]] = value
            ended = _END.match(text, at)
            if not ended:
                return Heard(wrong=f"expected <parameter=...> or </function> in the call of {name}")
            at = ended.end()
            calls.append(ToolCall(id="", name=name, arguments=arguments))
        return Heard(calls=tuple(calls))

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return a user message with a result tag a call."""
        return in_user_words(told, [f"<result={one.name}>\n{one.text}\n</result>" for one in told])


def _call(name: str, arguments: Mapping[str, Any], tool: Tool | None) -> str:
    inner = [f"<parameter={key}>{_written(value, tool, key)}{_CLOSE}\n" for key, value in arguments.items()]
    return f"<function={name}>\n{''.join(inner)}</function>"


def _written(value: Any, tool: Tool | None, argument: str) -> str:
    text = value if is_text(tool, argument) else as_json(value)
    if not isinstance(text, str):
        raise ValueError(f"the argument {argument} must be a text")
    if _CLOSE in text or text.startswith(_OPEN_DATA):
        return _OPEN_DATA + text.replace(_CLOSE_DATA, f"]]{_CLOSE_DATA}{_OPEN_DATA}>") + _CLOSE_DATA
    return f"\n{text}\n" if "\n" in text else text


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return a parameter's value and where its closing tag ends; None where there is no end."""
    if text.startswith(_OPEN_DATA, at):
        parts: list[str] = []
        while text.startswith(_OPEN_DATA, at):
            start, end = at + len(_OPEN_DATA), text.find(_CLOSE_DATA, at + len(_OPEN_DATA))
            if end < 0:
                return None, at
            parts.append(text[start:end])
            at = end + len(_CLOSE_DATA)
        return ("".join(parts), at + len(_CLOSE)) if text.startswith(_CLOSE, at) else (None, at)
    end = text.find(_CLOSE, at)
    if end < 0:
        return None, at
    value = text[at:end]
    if value.startswith("\n"):
        value = value.removeprefix("\n").removesuffix("\n")
    return value, end + len(_CLOSE)
