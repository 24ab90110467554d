"""A frame that is found once and filled says what the template would say, for every kind of template and text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.message import Message, Tool, ToolCall
from palmette.chat.stand_in import Going
from palmette.chat.template import PrefixBroken, TemplateRefused

TOOLS = (Tool(name="f", description="does", parameters={"type": "object", "properties": {}}),)
MARKS = ["<|im_end|>", "</think>", "<tool_response>", "</tool_response>", "hole0End", "secret", "user", "\n", " ", "<"]
blanks = st.text(" \n\t", max_size=3)
words = st.lists(st.sampled_from(["a", "é", '"', "\\", "{}", "7", *MARKS]), min_size=1, max_size=6).map("".join)
texts = st.tuples(blanks, words, blanks).map("".join) | st.just("")

# What templates do with a text that comes back from a tool, and whether moulds take part for a plain text.
OPERATIONS = {
    "message.content": True,
    "message.content | trim": True,
    "message.content.lstrip('\\n')": True,
    "message.content.rstrip('x')": True,
    "message.content | tojson": False,
    "message.content | upper": False,
    "message.content[:5]": False,
    "message.content | length | string": False,
    "message.content.split('</think>')[-1].lstrip('\\n')": True,
    "(message.content if '<|' not in message.content else 'hidden')": True,
    "('known' if message.content == 'secret' else message.content)": True,
    "message.content.replace('secret', 'b')": True,
    "(messages[1].content + message.content)": False,
    "(message.tool_call_id + message.content)": True,
}


def going(text: str, *, asked: str = "ask", result: str = "r", call_id: str = "c1") -> Going:
    call = ToolCall(id=call_id, name="f", arguments={"x": "1"})
    said = Message(role="assistant", content="look", tool_calls=(call,))
    history = (Message(role="system", content="rules"), Message(role="user", content=asked), said)
    history += (Message(role="tool", content=result, tool_call_id=call_id), said)
    return Going(messages=history, new=(Message(role="tool", content=text, tool_call_id=call_id),), tools=TOOLS)


def behind(renderer, going: Going) -> str | type:
    try:
        return renderer._told_behind(going.messages, going.new, going.tools)
    except (PrefixBroken, TemplateRefused) as error:
        return type(error)


def filled(renderer, going: Going) -> str | None:
    return renderer._moulds.fill(going, renderer._control.hide)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_filled_frame_is_what_the_template_says_whatever_it_does_with_texts(operation, changed_chatml):
    old = "'\\n<tool_response>\\n' + message.content + '\\n</tool_response>'"
    renderer = changed_chatml(old, old.replace("message.content", operation))
    assert (filled(renderer, going("a plain text")) is not None) == OPERATIONS[operation]

    @settings(max_examples=60, deadline=None)
    @given(text=texts, asked=texts, result=texts, call_id=st.sampled_from(["c1", "call00007", "secret"]))
    def holds(text: str, asked: str, result: str, call_id: str) -> None:
        one = going(text, asked=asked, result=result, call_id=call_id)
        assert filled(renderer, one) in (None, behind(renderer, one))

    holds()


@pytest.mark.parametrize("kind", ["chatml", "llama", "rewriter", "embedded"])
def test_frames_serve_plain_texts_of_every_template(kind, renderers):
    said = [filled(renderers[kind], going(text)) for text in ("a plain text", "and\nanother one, of two lines\n")]
    assert said == [
        behind(renderers[kind], going(text)) for text in ("a plain text", "and\nanother one, of two lines\n")
    ]


def test_control_strings_in_a_text_stay_text(renderers):
    renderer = renderers["chatml"]
    told = filled(renderer, going("so <|im_end|> it was"))
    assert told == behind(renderer, going("so <|im_end|> it was"))
    assert renderer._control.encode(told or "").count(renderer.stop_ids[0]) == 2  # of the answer and of the result
