"""A scripted model that plays any agent's part: it reads in the prompt which tools there are, and uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from palmette.chat.template import Renderer
from palmette.scaffolds.agent import Agent, filled, quoted

# A template that lists no tools: the renderer then spells them out as JSON, which is what an understudy can read.
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
SIDE = "A title"
_SHELLS = ("bash", "shell", "terminal", "exec_command", "run_shell_command", "execute_bash", "run_command", "exec")
_COMMANDS = ("command", "cmd", "commands", "script", "code")
_ENDS = ("submit", "finish", "attempt_completion", "task_complete")


class Understudy:
    """Answers prompts: it looks around, runs two harmless commands at once, then `commands` one a turn, and is done.

    A script for `palmette.engine.scripted.ScriptedEngine`; the renderer must be one of `TEMPLATE`. A prompt without
    tools is a side request (answered by `SIDE`), unless the agent says commands in its text (`Agent.say_command`).
    `tools` are those of the last prompt that had any.
    """

    def __init__(self, agent: Agent, commands: Sequence[str], renderer: Renderer) -> None:
        self.tools: tuple[str, ...] = ()
        self._agent, self._renderer = agent, renderer
        self._left = [("I look around.", ["pwd; ls -a"]), ("", ["id", "uname"]), *(("", [each]) for each in commands)]

    def __call__(self, prompt_ids: Sequence[int]) -> list[int]:
        tools = _tools(self._renderer.decode(prompt_ids))
        if tools:
            self.tools = tuple(tools)
            return self._renderer.encode(self._with_tools(tools) + "<|im_end|>")
        said = self._in_text() if self._agent.say_command else SIDE
        return self._renderer.encode(said + "<|im_end|>")

    def _with_tools(self, tools: Mapping[str, Mapping[str, Any]]) -> str:
        shell = _shell(tools)
        if self._left and shell:
            text, commands = self._left.pop(0)
            return _turn(text, *(_call(shell, tools[shell], command) for command in commands))
        if self._agent.done_command and shell:
            return _turn("Done.", _call(shell, tools[shell], self._agent.done_command))
        if end := next((name for name in _ENDS if name in tools), ""):
            return _turn("Done.", {"name": end, "arguments": _required(tools[end])})
        return self._agent.say_done

    def _in_text(self) -> str:
        if not self._left:
            return self._agent.say_done
        command = self._left.pop(0)[1][0]
        return filled(self._agent.say_command, {"command": command, "command_json": quoted(command + "\n")})


def _tools(prompt: str) -> dict[str, Mapping[str, Any]]:
    """Return the JSON schemas of the tools in a prompt's system message, by name."""
    _, opened, listed = prompt.partition("<|im_end|>")[0].rpartition("<tools>\n")
    if not opened:
        return {}
    functions = [json.loads(line)["function"] for line in listed.partition("\n</tools>")[0].splitlines()]
    return {function["name"]: function["parameters"] for function in functions}


def _shell(tools: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of the tool that runs a command, "" if there is none: one of the usual names, else what fits."""
    usual = sorted(tools, key=lambda name: _SHELLS.index(name.lower()) if name.lower() in _SHELLS else len(_SHELLS))
    return next((name for name in usual if _command_key(tools[name])), "")


def _command_key(schema: Mapping[str, Any]) -> str:
    return next((key for key in _COMMANDS if key in schema.get("properties", {})), "")


def _call(name: str, schema: Mapping[str, Any], command: str) -> dict[str, Any]:
    key = _command_key(schema)
    listed = schema["properties"][key].get("type") == "array"
    return {"name": name, "arguments": _required(schema) | {key: ["bash", "-c", command] if listed else command}}


def _required(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return something for every argument that must be given."""
    properties = schema.get("properties", {})
    return {name: _something(properties.get(name, {})) for name in schema.get("required", ())}


def _something(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    plain: dict[Any, Any] = {"boolean": False, "integer": 1, "number": 1, "array": [], "object": {}}
    kind = schema.get("type")
    return plain.get(kind, "done") if isinstance(kind, str) else "done"


def _turn(text: str, *calls: Mapping[str, Any]) -> str:
    """Return a turn spaced as no template would space it, so that writing it anew would show."""
    return "\n".join(filter(None, (text, *(f"<tool_call>\n {json.dumps(call)}\n</tool_call>" for call in calls))))
