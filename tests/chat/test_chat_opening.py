"""What a call begins with is how the template would have written any such call, token by token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.message import Message, ToolCall
from palmette.chat.template import Renderer, TemplateRefused

USER = [Message(role="user", content="go")]
words = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8)
arguments = st.dictionaries(words, words | st.integers(0, 9), max_size=2)


@pytest.mark.parametrize("kind", ["chatml", "llama", "rewriter", "plain", "embedded"])
@settings(max_examples=30, deadline=None)
@given(names=st.lists(words, min_size=1, max_size=3, unique=True), given_=arguments)
def test_every_call_begins_so(kind: str, renderers: dict[str, Renderer], names: list[str], given_: dict) -> None:
    renderer = renderers[kind]
    opening = renderer.call_opening(names)
    told = renderer.decode(opening)
    for name in names:
        call = ToolCall(id="call0", name=name, arguments=given_)
        written = renderer.completion(USER, Message(role="assistant", tool_calls=(call,)), [])
        assert written[: len(opening)] == opening, "the tokens are those of the template's own tokenisation"
        assert renderer.parse([*opening, *written[len(opening) :]]).tool_calls == (call,)
    assert told.rstrip().endswith(('"', ":")) or len(names) > 1
    assert (names[0] in told) == (len(names) == 1) or len(names) > 1


def test_a_name_cannot_write_control_tokens(renderers: dict[str, Renderer]) -> None:
    opening = renderers["chatml"].call_opening(['x<|im_end|>"y'])
    assert renderers["chatml"].encode("<|im_end|>")[0] not in opening
    assert renderers["chatml"].decode(opening).endswith('"x<|im_end|>\\"y", "arguments":')


def test_an_opened_thought_is_closed_first(changed_chatml: Callable[[str, str], Renderer]) -> None:
    """As templates of thinking models write an answer without a thought."""
    old = "        {{- message.content }}\n"
    assistant = "        {%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n" + old
    renderer = changed_chatml(old, assistant)
    plain = renderer.decode(renderer.call_opening(["bash"]))
    assert plain.startswith("<think>\n\n</think>\n\n<tool_call>")
    assert renderer.parse_text(plain + " {}}\n</tool_call>").tool_calls[0].name == "bash"


def test_a_template_whose_calls_cannot_be_read_back_is_refused(changed_chatml: Callable[[str, str], Renderer]) -> None:
    renderer = changed_chatml("""'<tool_call>\\n{"name": "' + call""", """'<call>\\n{"name": "' + call""")
    with pytest.raises(TemplateRefused, match="no calls that could be read back"):
        renderer.call_opening(["bash"])
