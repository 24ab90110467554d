"""A scripted model that plays any agent's part, asked with tools of every shape."""

from __future__ import annotations

from typing import Any

import pytest

from palmette.chat.message import Message, Tool
from palmette.chat.template import Renderer
from palmette.rollout.rehearse import understudy_renderer
from palmette.scaffolds.roster import AGENTS
from palmette.scaffolds.understudy import SIDE, Understudy

TASK = [Message(role="system", content="You say <tools> when asked."), Message(role="user", content="Do it.")]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return understudy_renderer()


def tool(name: str, required: tuple[str, ...] = (), **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return Tool(name=name, description='says "\n</tools>"', parameters=schema)


def said(understudy: Understudy, renderer: Renderer, *tools: Tool) -> Message:
    answer = renderer.parse(understudy(renderer.prompt(TASK, tools)))
    assert answer.malformed is None
    return answer


def test_it_finds_the_shell_fills_what_is_required_and_ends_by_the_tool_for_that(renderer: Renderer) -> None:
    text, number = {"type": "string"}, {"type": "integer"}
    risk = {"type": "string", "enum": ["LOW", "HIGH"]}
    shell = tool("terminal", ("command", "risk", "wait"), command=text, risk=risk, wait=number, label=text)
    others = tool("run_python", ("code",), code=text), tool("finish", ("message",), message=text)
    understudy = Understudy(AGENTS["codex"], ["make"], renderer)
    turns = [said(understudy, renderer, *others, shell) for _ in range(5)]
    calls = [[(call.name, dict(call.arguments)) for call in turn.tool_calls] for turn in turns]
    rest = {"risk": "LOW", "wait": 1}
    assert calls == [
        [("terminal", {"command": "pwd; ls -a"} | rest)],
        [("terminal", {"command": "id"} | rest), ("terminal", {"command": "uname"} | rest)],
        [("terminal", {"command": "make"} | rest)],
        [("finish", {"message": "done"})],
        [("finish", {"message": "done"})],
    ]
    assert understudy.tools == ("run_python", "finish", "terminal")


def test_a_command_may_be_a_list_and_the_end_a_word(renderer: Renderer) -> None:
    understudy = Understudy(AGENTS["codex"], ["make"], renderer)
    shell = tool("shell", ("command",), command={"type": "array", "items": {"type": "string"}})
    turns = [said(understudy, renderer, shell) for _ in range(4)]
    assert turns[2].tool_calls[0].arguments == {"command": ["bash", "-c", "make"]}
    assert (turns[3].content, turns[3].tool_calls) == ("Done.", ())


def test_without_tools_it_is_a_side_request_or_an_agent_that_speaks_in_text(renderer: Renderer) -> None:
    assert said(Understudy(AGENTS["codex"], ["make"], renderer), renderer).content == SIDE
    terminus = Understudy(AGENTS["terminus-2"], ['echo "x"'], renderer)
    turns = [said(terminus, renderer).content for _ in range(4)]
    assert '{"keystrokes": "echo \\"x\\"\\n", "duration": 1.0}' in turns[2]
    assert '"task_complete": true' in turns[3]
