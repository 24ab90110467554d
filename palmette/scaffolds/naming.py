"""The same tools under other names: names, arguments, descriptions and schemas drawn by a seed, and back again.

A model that has met one set of names only has learned names, not tools. What the tools do is the same under any.
"""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palmette.chat.message import Tool, ToolCall

_TEXT = {"type": "string"}
_REASON = "reason"

NAMES: dict[str, tuple[str, ...]] = {
    "bash": ("bash", "run", "shell", "execute", "terminal", "execute_bash", "run_command", "run_shell_command"),
    "edit": ("edit", "str_replace", "patch", "replace", "edit_file", "replace_in_file", "apply_edit"),
    "submit": ("submit", "finish", "done", "complete", "finish_task", "attempt_completion"),
}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "command": ("command", "cmd", "script", "code", "commands", "input"),
    "path": ("path", "file", "filename", "file_path", "target_file"),
    "old": ("old", "old_str", "search", "old_string", "before"),
    "new": ("new", "new_str", "replacement", "new_string", "after"),
}
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "bash": (
        "run a shell command",
        "execute a command in the terminal and return what it prints",
        "Runs the given command with bash in the working directory.",
        "use this to look around, run programs and change files",
    ),
    "edit": (
        "replace old by new once in a file",
        "change a file: a piece of text that occurs once is replaced by another",
        "Replaces the only occurrence of a text in a file.",
    ),
    "submit": ("finish the task", "call this when everything is done", "Ends the task and hands in the result."),
}
_STYLES: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: re.sub(r"_(\w)", lambda match: match[1].upper(), name),
    lambda name: name,
    lambda name: "".join(part[:1].upper() + part[1:] for part in name.split("_")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renamed:
    """One tool as it is told; `arguments` maps its own argument names to the told ones."""

    tool: Tool
    told: Tool
    arguments: Mapping[str, str]
    as_list: bool = False  # the command is a list of words
    asks_reason: bool = False  # there is one argument more, which nobody reads


class Naming:
    """Tools as a model is told of them; without a seed as they are.

    The tools of the loop get other words for name, arguments and description; those that a task declares keep their
    words, and all of them are spelled in one style (snake_case, camelCase, PascalCase for names).
    """

    def __init__(self, tools: Sequence[Tool], seed: int | None = None) -> None:
        renamed = [_Renamed(tool=tool, told=tool, arguments={}) for tool in tools]
        if seed is not None:
            renamed = _drawn(tools, random.Random(f"names/{seed}"))
        self._by_name = {one.tool.name: one for one in renamed}
        self._by_told = {one.told.name: one for one in renamed}
        self.told: tuple[Tool, ...] = tuple(one.told for one in renamed)

    def as_told(self, call: ToolCall) -> ToolCall:
        """Return a call of a tool in the words that the model is told; one of no tool of ours stays."""
        one = self._by_name.get(call.name)
        if one is None:
            return call
        arguments: dict[str, Any] = {one.arguments.get(name, name): value for name, value in call.arguments.items()}
        if one.as_list:
            arguments = {name: ["bash", "-c", value] for name, value in arguments.items()}
        if one.asks_reason:
            arguments[_REASON] = "the next step"
        return replace(call, name=one.told.name, arguments=arguments)

    def own(self, call: ToolCall) -> ToolCall:
        """Return a call in the tools' own words; what is wrong with it stays wrong, for the tool to say so.

        A list of words is a command: what bash -c is given, or the words, quoted where they need it.
        """
        one = self._by_told.get(call.name)
        if one is None:
            return call
        own = {told: name for name, told in one.arguments.items()}
        arguments: dict[str, Any] = {}
        for name, value in call.arguments.items():
            if one.asks_reason and name == _REASON:
                continue
            listed = one.as_list and isinstance(value, list) and all(isinstance(word, str) for word in value)
            arguments[own.get(name, name)] = _command(value) if listed else value
        return replace(call, name=one.tool.name, arguments=arguments)


def _drawn(tools: Sequence[Tool], rng: random.Random) -> list[_Renamed]:
    style = rng.choice(_STYLES)
    taken = {tool.name for tool in tools if tool.name not in NAMES}
    renamed: list[_Renamed] = []
    for tool in tools:
        words = [name for name in NAMES.get(tool.name, (tool.name,)) if name not in taken or name == tool.name]
        name = style(rng.choice(words))
        name = tool.name if name in taken - {tool.name} else name
        taken.add(name)
        renamed.append(_told(tool, name, style, rng))
    return renamed


def _told(tool: Tool, name: str, style: Callable[[str], str], rng: random.Random) -> _Renamed:
    ours = tool.name in NAMES
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    argument_style = _STYLES[1] if style is _STYLES[3] else style
    arguments: dict[str, str] = {}
    for argument in properties:
        words = ARGUMENTS.get(argument, (argument,)) if ours else (argument,)
        free = [word for word in map(argument_style, words) if word not in arguments.values()]
        arguments[argument] = rng.choice(free or [argument])
    as_list = tool.name == "bash" and rng.random() < 0.25
    asks_reason = ours and bool(properties) and _REASON not in properties and rng.random() < 0.25
    schemas = {arguments[argument]: schema for argument, schema in properties.items()}
    if as_list:
        schemas = {argument: {"type": "array", "items": _TEXT} for argument in schemas}
    required = [arguments.get(argument, argument) for argument in tool.parameters.get("required", ())]
    if asks_reason:
        schemas[_REASON] = _TEXT
        required.append(_REASON)
    parameters = {**tool.parameters, "properties": schemas, "required": required}
    described = rng.choice(DESCRIPTIONS.get(tool.name, (tool.description,)))
    told = Tool(name=name, description=described, parameters=parameters)
    return _Renamed(tool=tool, told=told, arguments=arguments, as_list=as_list, asks_reason=asks_reason)


def _command(words: Sequence[str]) -> str:
    return words[2] if len(words) == 3 and words[1] in ("-c", "-lc") else shlex.join(words)
