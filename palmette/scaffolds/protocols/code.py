"""Code blocks: a fenced block whose info string is a tool's name is a call of it (as mini-swe-agent does with bash)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.protocols.api import Heard, Told, in_user_words, uncalled
from palmette.scaffolds.protocols.signature import as_json, example, listed, named, read_whole, sole_text

_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^\s`]*)[^`]*")
_HOW = "call a tool by a code block with its name behind the first three backticks"


class Code:
    """A block's text is the argument of a tool that takes one text, otherwise a JSON object of all arguments.

    As in Markdown, a block ends with at least as many backticks as it begins with; blocks of other names are prose.
    """

    name = "code"

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the prompt, the tools and an example."""
        shown = "\n\n".join(_block(tool.name, _body(tool, example(tool))) for tool in tools[:2])
        return (
            f"{prompt}\n\nTools:\n{listed(tools)}\n\n"
            "To call a tool, write a code block with its name behind the opening backticks. A tool with one text "
            "argument gets the text of the block as it is; any other gets a JSON object of its arguments, or an "
            f"empty block where it has none. For example:\n\n{shown}"
        )

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return nothing: the system prompt describes them."""
        return []

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return a message with a block a call."""
        blocks = [_block(call.name, _body(named(tools, call.name), call.arguments)) for call in calls]
        return {"role": "assistant", "content": "\n\n".join(filter(None, (text, *blocks)))}

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Read the blocks that are named like tools, in order."""
        if (instead := uncalled(answer, _HOW)) is not None:
            return instead
        calls: list[ToolCall] = []
        for info, body in _blocks(answer.get("content") or ""):
            tool = named(tools, info)
            if tool is None:
                continue
            if body is None:
                return Heard(wrong=f"the block of {info} does not end")
            arguments = _arguments(tool, body)
            if isinstance(arguments, str):
                return Heard(wrong=arguments)
            calls.append(ToolCall(id="", name=info, arguments=arguments))
        return Heard(calls=tuple(calls))

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return a user message with a block of output a call."""
        return in_user_words(told, [_block("output", one.text) for one in told])


def _blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the info string and the text of each fenced block, no text for one that does not end."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opened = _FENCE.fullmatch(lines[at])
        at += 1
        if not opened:
            continue
        fence, start = opened[1], at
        while at < len(lines) and not _closes(lines[at], fence):
            at += 1
        yield opened[2], "\n".join(lines[start:at]) if at < len(lines) else None
        at += 1


def _closes(line: str, fence: str) -> bool:
    marks = line.strip(" \t\r")
    return len(marks) >= len(fence) and set(marks) == {"`"}


def _block(info: str, body: str) -> str:
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{info}\n{body}\n{fence}" if body else f"{fence}{info}\n{fence}"


def _body(tool: Tool | None, arguments: Mapping[str, Any]) -> str:
    sole = sole_text(tool)
    if sole is not None and set(arguments) == {sole} and isinstance(arguments[sole], str):
        return arguments[sole]
    return as_json(arguments) if arguments else ""


def _arguments(tool: Tool, body: str) -> dict[str, Any] | str:
    """Return the arguments that a block's text says, or why it says none."""
    sole = sole_text(tool)
    if sole is not None:
        return {sole: body}
    if not body.strip():
        return {}
    try:
        arguments = read_whole(body)
    except ValueError as error:
        return f"the block of {tool.name} is no JSON object: {error}"
    return arguments if isinstance(arguments, dict) else f"the block of {tool.name} is no JSON object"
