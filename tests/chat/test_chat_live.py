"""The pieces of an answer that leave while it is sampled are, joined, what the whole of it is read as."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.live import Live, Said
from palmette.chat.message import Message
from palmette.chat.parse import BEGINNINGS, BEGINNINGS_AT_START, SYNTAXES, read
from palmette.chat.template import Renderer

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "\n", "\n\n", " ", "a "),
    *("{", "}", "b", "<", "<t", "</t", CALL, '{"name": "bash", "parameters": {}}', '[{"name": "f", "arguments": {}}]'),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def joined(said: list[Said], kind: str) -> str:
    return "".join(piece.text for piece in said if piece.kind == kind)


def agrees(said: list[Said], message: Message) -> bool:
    reasoning, content = joined(said, "reasoning"), joined(said, "content")
    if message.tool_calls:  # blanks in front had left before the call came
        content = content.lstrip() if message.content == message.content.lstrip() else content
    return (reasoning, content) == (message.reasoning or "", message.content)


@given(TEXT, st.booleans(), st.sampled_from([*SYNTAXES, "all"]), st.integers(1, 4))
@settings(max_examples=600, deadline=None)
def test_joined_pieces_are_the_message(text: str, thinking: bool, syntax: str, width: int) -> None:
    syntaxes = tuple(SYNTAXES.values()) if syntax == "all" else (SYNTAXES[syntax],)
    tokens = [text[start : start + width] for start in range(0, len(text), width)]
    live = Live(
        lambda index: tokens[index],
        marks=[mark for one in syntaxes for mark in BEGINNINGS[one]],
        marks_at_start=[mark for one in syntaxes for mark in BEGINNINGS_AT_START.get(one, ())],
        thinking=thinking,
    )
    said = [piece for index in range(len(tokens)) for piece in live.feed(index)]
    message = read(text, syntaxes, thinking=thinking)
    said += live.finish(message)
    assert all(piece.text for piece in said)
    assert agrees(said, message), (said, message)


def test_text_leaves_at_once_and_calls_wait() -> None:
    text = f"<think>\nhm, so\n</think>\n\nI look <b>.\n\n{CALL}\nthen {CALL}"
    live = Live(lambda index: text[index], marks=["<tool_call>"])
    left: dict[int, list[Said]] = {index: live.feed(index) for index in range(len(text))}
    after = "".join(piece.text for index in range(text.index("so") + 2) for piece in left[index])
    assert after == "hm, so"
    after = joined([piece for index in range(text.index(".") + 1) for piece in left[index]], "content")
    assert after == "I look <b>."
    assert not any(left[index] for index in range(text.index(".") + 1, len(text)))
    assert live.finish(read(text)) == [Said(kind="content", text="\nthen")]


@pytest.mark.parametrize("kind", ["chatml", "llama", "rewriter", "plain", "embedded"])
def test_with_a_tokenizer_any_ids(renderers: dict[str, Renderer], kind: str) -> None:
    """Also ids that are no text: halves of characters, control tokens in the middle."""
    renderer = renderers[kind]
    plain = [id for id in range(renderer.vocab_size) if id not in renderer.stop_ids]

    @given(st.lists(st.sampled_from(plain), max_size=30), st.booleans())
    @settings(max_examples=150, deadline=None)
    def check(ids: list[int], stops: bool) -> None:
        ids = [*ids, *renderer.stop_ids[:1]] if stops else ids
        live = renderer.live()
        said = [piece for token_id in ids for piece in live.feed(token_id)]
        message = renderer.parse(ids)
        said += live.finish(message)
        assert agrees(said, message), (said, message)

    check()


def test_characters_of_several_tokens_leave_whole(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["chatml"]
    text = "naïve 日本 🙂 ok"
    ids = renderer.encode(text)
    live = renderer.live()
    pieces = ["".join(piece.text for piece in live.feed(token_id)) for token_id in ids]
    assert "".join(pieces) == text
    assert all("�" not in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 5
