"""Tool-call syntaxes: what is read, what is malformed, and that nothing is guessed or raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.parse import SYNTAXES, hermes, llama, mistral, read, syntaxes_of

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [("bash", {"command": "ls"})]),
        ("Look:\n" + CALL + "\n" + CALL, "Look:", [("bash", {"command": "ls"})] * 2),
        ("a" + CALL + "b", "a\nb", [("bash", {"command": "ls"})]),
        ('<tool_call>{"name":"f","arguments":{"x":"</tool_call>"}}</tool_call>', "", [("f", {"x": "</tool_call>"})]),
        ('{"name": "f", "parameters": {"x": 1}}', "", [("f", {"x": 1})]),
        (' {"type": "function", "name": "f", "parameters": {}} ', "", [("f", {})]),
        (
            'Go <|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
            "Go",
            [("f", {}), ("g", {})],
        ),
        ('ok[TOOL_CALLS][{"name": "f", "arguments": {"a": [1]}, "id": "x"}]', "ok", [("f", {"a": [1]})]),
        ("plain  \n text", "plain  \n text", []),
        ('{"name": "f"}', '{"name": "f"}', []),
        ('{"answer": 3}', '{"answer": 3}', []),
        ("", "", []),
    ],
)
def test_what_is_read(text, content, calls):
    message = read(text)
    assert (message.content, message.malformed) == (content, None)
    assert [(c.name, c.arguments) for c in message.tool_calls] == calls
    assert [c.id for c in message.tool_calls] == [f"call{n}" for n in range(len(calls))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>", "no JSON"),
        ('<tool_call>{"name": "f", "arguments": {}}', "expected </tool_call>"),
        ('<tool_call>{"name": "f", "arguments": {}} x</tool_call>', "expected </tool_call>"),
        ("fine </tool_call>", "without <tool_call>"),
        (CALL + "</tool_call>", "without <tool_call>"),
        (CALL + "<tool_call>{}</tool_call>", '"name"'),
        ('<tool_call>{"name": "f"}</tool_call>', '"arguments"'),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', '"arguments"'),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', '"name"'),
        ('<tool_call>["f"]</tool_call>', "JSON object"),
        ('<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', "NaN"),
        ('<tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>', "surrogate"),
        ('<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 100_000, "nested too deeply"),
        ('{"name": "f", "parameters": {', "no JSON"),
        ('{"name": "f", "parameters": {}} and', "behind the call"),
        ("<|python_tag|>print(1)", "no JSON"),
        ("[TOOL_CALLS]", "no JSON"),
        ("[TOOL_CALLS][]", "list of calls"),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}] x', "behind the calls"),
    ],
)
def test_a_call_that_cannot_be_read_leaves_the_text_and_says_why(text, reason):
    message = read(text)
    assert message.malformed is not None
    assert reason in message.malformed
    assert message.content == text
    assert message.tool_calls == ()


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "content"),
    [
        ("<think>\nwhy\n</think>\n\nso", False, "why", "so"),
        ("why\n</think>\n\nso", True, "why", "so"),
        ("why </think> so", False, None, "why </think> so"),
        ("<think>\n\n</think>\n\nso", False, None, "so"),
        ("<think>cut of", False, "cut of", ""),
        ("a <think>b</think>", False, None, "a <think>b</think>"),
    ],
)
def test_reasoning_is_parted_from_the_answer(text, thinking, reasoning, content):
    message = read(text, thinking=thinking)
    assert (message.reasoning, message.content) == (reasoning, content)


def test_calls_inside_reasoning_are_no_calls():
    message = read(f"<think>{CALL}</think>{CALL}")
    assert len(message.tool_calls) == 1
    assert message.reasoning == CALL
    broken = read("<think>hm</think><tool_call>{")
    assert (broken.reasoning, broken.content) == ("hm", "<tool_call>{")


PIECES = ["<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", '{"name": "f", ']
PIECES += ['"arguments": {}', '"parameters": {}', "}", "]", "[", ";", "\n", " ", '"', "\\ud83d", "1e999", "x"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=10).map("".join), st.booleans())
def test_nothing_is_ever_raised_and_no_text_is_lost(text, thinking):
    message = read(text, thinking=thinking)
    assert not (message.malformed and message.tool_calls)
    if message.malformed or not message.tool_calls:
        assert text.endswith(message.content)
    for call in message.tool_calls:
        assert call.name
        assert isinstance(call.arguments, dict)


def test_a_template_chooses_its_own_syntaxes():
    assert syntaxes_of("x <tool_call> y") == (hermes,)
    assert syntaxes_of("""'{"name": "' + n + '", "parameters": '""") == (llama,)
    assert syntaxes_of("[TOOL_CALLS]") == (mistral,)
    assert syntaxes_of("plain") == tuple(SYNTAXES.values())
