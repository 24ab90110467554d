"""Proves: a call written in any protocol, under any names, is read as the same call; what cannot be read is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.chat.message import Tool, ToolCall
from palmette.scaffolds.naming import Naming
from palmette.scaffolds.protocols.api import Told, Unread
from palmette.scaffolds.protocols.names import PROTOCOLS
from palmette.scaffolds.tools import TOOLS

_SEARCH = {"query": {"type": "string"}, "count": {"type": "integer"}, "sites": {"type": "array"}}
ALL = (
    *TOOLS,
    Tool(name="search_pages", description="search", parameters={"properties": _SEARCH, "required": ["query"]}),
)
IN_TEXT = sorted(PROTOCOLS.keys() - {"functions"})

# What could be taken for the protocols' own marks, glued together in any order, between any characters.
_PIECES = st.sampled_from(
    [
        "```", "````", "```bash", "\n```\n", "\n", "\n\n", "\r\n", " ", "\t", "'", '"', "\\", "{", "}", "<", ">",
        "&lt;", "</parameter>", "<parameter=command>", "</function>", "<function=bash>", "<![CDATA[", "]]>",
        "Action: bash", "\nAction Input: x", "\nObservation: y", "Thought:", '{"tool": "bash"}', '{"command": "x"}',
        "<tool_call>", "\u2028", "é", "𝄞", "\x0b", "\x1c",
    ]
)  # fmt: skip
_CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.lists(_PIECES | _CHARACTERS, max_size=8).map("".join)
CALLS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"command": AWKWARD}).map(lambda a: ("bash", a)),
        st.fixed_dictionaries({"path": AWKWARD, "old": AWKWARD, "new": AWKWARD}).map(lambda a: ("edit", a)),
        st.just(("submit", {})),
        st.fixed_dictionaries(
            {"query": AWKWARD}, optional={"count": st.integers(-(2**53), 2**53), "sites": st.lists(AWKWARD, max_size=2)}
        ).map(lambda a: ("search_pages", a)),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", PROTOCOLS)
@given(calls=CALLS, thought=st.sampled_from(["", "I look.", "two\nlines: é"]), seed=st.none() | st.integers(0, 500))
def test_what_is_written_is_read(
    name: str, calls: list[tuple[str, dict[str, Any]]], thought: str, seed: int | None
) -> None:
    protocol, naming = PROTOCOLS[name], Naming(ALL, seed)
    own = [ToolCall(id=f"c{n}", name=tool, arguments=arguments) for n, (tool, arguments) in enumerate(calls)]
    message = protocol.say(thought, [naming.as_told(call) for call in own], naming.told)
    heard = protocol.read(message, naming.told)
    assert not heard.wrong
    back = [naming.own(call) for call in heard.calls if isinstance(call, ToolCall)]
    assert [(call.name, call.arguments) for call in back] == [(call.name, call.arguments) for call in own]


@pytest.mark.parametrize("name", IN_TEXT)
@given(text=AWKWARD)
def test_any_answer_can_be_read_and_told_about(name: str, text: str) -> None:
    protocol = PROTOCOLS[name]
    heard = protocol.read({"role": "assistant", "content": text}, ALL)
    assert not (heard.wrong and heard.calls)
    told = protocol.tell([Told(id="", name="bash", text=text)])
    assert [message["role"] for message in told] == ["user"]


@given(seed=st.integers())
def test_names_differ_and_are_none_of_another_tool(seed: int) -> None:
    naming = Naming(ALL, seed)
    names = [tool.name for tool in naming.told]
    assert len(set(names)) == len(ALL)
    for tool in naming.told:
        assert set(tool.parameters["required"]) <= set(tool.parameters["properties"])
    assert naming.told == Naming(ALL, seed).told


def test_seeds_draw_many_sets_of_names_and_none_leaves_them() -> None:
    drawn = {tuple(tool.name for tool in Naming(TOOLS, seed).told) for seed in range(60)}
    assert len(drawn) > 40
    assert Naming(TOOLS).told == TOOLS
    listed = [t for seed in range(60) for t in Naming(TOOLS, seed).told if "array" in str(t.parameters)]
    assert listed


def test_a_list_of_words_is_a_command() -> None:
    seed = next(seed for seed in range(60) if "array" in str(Naming(TOOLS, seed).told[0].parameters))
    naming = Naming(TOOLS, seed)
    [argument, *_] = naming.told[0].parameters["properties"]

    def command(words: list[str]) -> str:
        call = ToolCall(id="", name=naming.told[0].name, arguments={argument: words})
        return naming.own(call).arguments["command"]

    assert command(["bash", "-lc", "ls | wc"]) == "ls | wc"
    assert command(["cat", "a b"]) == "cat 'a b'"


READ = {
    "code": ("Look:\n```python\nnot a call\n```\n```bash\nls\n```\nthen ```` ```", [("bash", {"command": "ls"})]),
    "xml": (
        "I call\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>.",
        [("bash", {"command": "ls"})],
    ),
    "text": (
        "Thought: so\nAction: bash\nAction Input: ls\nObservation: made up\nAction: submit",
        [("bash", {"command": "ls"})],
    ),
    "json": (
        'The set {1} is\n```json\n{"tool": "bash",\n "arguments": {"command": "ls"}}\n```\n{"tool": "submit"}',
        [("bash", {"command": "ls"}), ("submit", {})],
    ),
}


@pytest.mark.parametrize("name", IN_TEXT)
def test_a_call_is_found_in_prose(name: str) -> None:
    text, calls = READ[name]
    heard = PROTOCOLS[name].read({"content": text}, TOOLS)
    assert [(call.name, call.arguments) for call in heard.calls if isinstance(call, ToolCall)] == calls
    assert PROTOCOLS[name].read({"content": "I am done."}, TOOLS).calls == ()


WRONG = {
    "code": ["```bash\nls", "```edit\n{\n```", "```edit\n[]\n```", '```edit\n{"path": "\\ud800"}\n```'],
    "xml": ["<function=bash>ls</function>", "<function=bash><parameter=command>ls", "<function=submit>"],
    "text": ["Action Input: ls", "Action: edit\nAction Input: a b c", "Action:\n"],
    "json": ['{"tool": "bash", "arguments": {"command": "ls"}', '{"tool": 1}', '{"tool": "bash", "arguments": []}'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_what_cannot_be_read_is_said_in_one_line(name: str, text: str) -> None:
    heard = PROTOCOLS[name].read({"content": text}, TOOLS)
    assert heard.wrong
    assert "\n" not in heard.wrong


@pytest.mark.parametrize("name", IN_TEXT)
def test_a_function_call_is_answered_by_how_to_call(name: str) -> None:
    raw = {"id": "call7", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    protocol = PROTOCOLS[name]
    [call] = protocol.read({"content": None, "tool_calls": [raw]}, TOOLS).calls
    assert isinstance(call, Unread)
    told = protocol.tell([Told(id=call.id, name=call.name, text=call.wrong)])
    assert told == [{"role": "tool", "tool_call_id": "call7", "content": call.wrong}]
    assert protocol.read({"content": "", "malformed": "no JSON"}, TOOLS).wrong.startswith("no JSON; ")


@pytest.mark.parametrize("name", IN_TEXT)
def test_the_system_prompt_names_every_tool_and_shows_a_call_that_can_be_read(name: str) -> None:
    protocol, naming = PROTOCOLS[name], Naming(ALL, 11)
    brief = protocol.brief("Be an agent.", naming.told)
    assert brief.startswith("Be an agent.\n\n")
    for tool in naming.told:
        assert f"- {tool.name}(" in brief
        assert tool.description in brief
    assert protocol.offered(naming.told) == []
    shown = brief.rpartition("\n\n")[2] if name != "code" else brief
    assert protocol.read({"content": shown}, naming.told).calls


def test_several_results_are_one_message_of_the_user() -> None:
    told = [Told(id="", name="bash", text="a"), Told(id="", name="bash", text="b")]
    for name in IN_TEXT:
        [message] = PROTOCOLS[name].tell(told)
        assert message["role"] == "user"
        assert "a" in message["content"]
        assert "b" in message["content"]
