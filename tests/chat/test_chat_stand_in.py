"""A stand-in for a long history says what the history would; where it would not, it is found out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from palmette.chat.message import Message, Tool, ToolCall
from palmette.chat.stand_in import stand_in
from palmette.chat.template import PrefixBroken, TemplateRefused

TOOLS = [Tool(name=name, description=name * 40, parameters={"type": "object", "properties": {}}) for name in "fgh"]
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=90) | st.sampled_from(["<|im_end|>", "</think>", ""])


@st.composite
def conversations(draw: st.DrawFn, *, calls: int = 2) -> list[Message]:
    """Return turns of a user, an assistant and tools, with and without reasoning; the last message is an answer.

    At most so many calls at once; with none there is no system either.
    """
    messages = [Message(role="system", content=draw(words))] * (calls > 0 and draw(st.booleans()))
    messages.append(Message(role="user", content=draw(words)))
    thinks = draw(st.booleans())
    for turn in range(draw(st.integers(1, 9))):
        if turn:
            said = messages[-1]
            messages += [Message(role="tool", content=draw(words), tool_call_id=c.id) for c in said.tool_calls]
            if not said.tool_calls:
                messages.append(Message(role="user", content=draw(words)))
        names = draw(st.lists(st.sampled_from("fgh"), max_size=calls))
        made = tuple(ToolCall(id=f"c{turn}{n}", name=name, arguments={"a": "<x>"}) for n, name in enumerate(names))
        thought = draw(words).strip() or None if thinks else None
        messages.append(Message(role="assistant", content=draw(words).strip(), tool_calls=made, reasoning=thought))
    return messages


@pytest.mark.parametrize("kind", ["chatml", "llama", "rewriter", "plain", "embedded"])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), text=words, asks=st.booleans(), offered=st.integers(0, 3))
def test_what_is_new_is_told_as_behind_the_whole(kind, renderers, data, text, asks, offered):
    renderer = renderers[kind]
    messages = data.draw(conversations(calls={"llama": 1, "plain": 0}.get(kind, 2)))  # what their templates take
    assert renderer._local, "none of these templates looks far back"
    new = [Message(role="tool", content=text, tool_call_id=call.id) for call in messages[-1].tool_calls]
    if asks or not new:
        new.append(Message(role="user", content=text))
    try:
        renderer.prompt(messages[:-1], TOOLS[:offered])
    except TemplateRefused:  # a history that was refused is not gone on from
        assume(False)
    told = []
    for tell in (renderer._told_behind, renderer._told_next):
        try:
            told.append(tell(messages, new, TOOLS[:offered]))
        except (PrefixBroken, TemplateRefused) as error:
            told.append(type(error))
    assert told[0] == told[1]
    assert renderer._local


def turns(count: int, content: str = "x") -> list[Message]:
    pair = [Message(role="user", content=content), Message(role="assistant", content="y")]
    return pair * count


def test_only_long_histories_have_a_stand_in_and_it_is_short():
    assert stand_in(turns(4), [], []) is None
    short = stand_in(turns(50, "x" * 1000), [], TOOLS)
    assert short is not None
    assert len(short.messages) == 2
    assert sum(len(message.content) for message in short.messages) < 100
    assert short.tools[0].name == "f"
    thinking = [replace(message, reasoning="r") if message.role == "assistant" else message for message in turns(50)]
    assert stand_in(thinking, [Message(role="user", content="more")], []) is None


def test_a_template_that_counts_is_told_everything(changed_chatml):
    role = "'<|im_start|>' + message.role"
    assert not changed_chatml(role, role + " + loop.index | string")._local


def test_a_template_that_looks_back_where_no_probe_did_is_found_out(changed_chatml):
    end = "{%- if add_generation_prompt %}"
    said = "{%- if messages | selectattr('content', 'equalto', 'secret') | list %}{{- 'hush' }}{%- endif %}"
    renderer = changed_chatml(end, said + end)
    assert renderer._local
    messages, new = [*turns(1), *turns(3, "secret"), *turns(4)], [Message(role="user", content="more")]
    assert "hush" not in renderer.decode(renderer.onward([1], messages, new, []))  # 16 and 1: not asked for
    with pytest.raises(PrefixBroken):  # 16 and 16 are past a power of two
        renderer.onward([1], messages, new * 16, [])
    assert not renderer._local
