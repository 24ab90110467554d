"""A body that goes on from another is read as if it were read whole."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.gateway import openai_chat
from palmette.gateway.growing import Growing
from palmette.gateway.refusal import Refusal

contents = st.text(max_size=8) | st.sampled_from(['"messages":[', "]}", '\\"messages\\"', "é,\n"])
calls = st.lists(
    st.builds(
        lambda n, text: {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": json.dumps([text])}},
        st.integers(0, 3),
        contents,
    ),
    max_size=1,
)
messages = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, contents),
    st.builds(lambda text: {"role": "user", "content": [{"type": "text", "text": text}]}, contents),
    st.builds(lambda text: {"role": "tool", "tool_call_id": "c0", "content": text}, contents),
    st.builds(lambda text: {"role": "assistant", "content": text}, contents),
    st.builds(lambda made: {"role": "assistant", "content": None, "tool_calls": made}, calls),  # a list is no object
    st.sampled_from([{"role": "nobody"}, 7, None]),
)
TAILS = ['],"tools":[]}', "]}", '],"messages":[{"role":"user","content":"last"}]}', "],}", '], "temperature": 1}', "]"]
HEADS = ['{"messages":[', '{"model":"m", "messages": [ ', '{"messages":[{"role":"user"}],"messages":[', '{"m":[']


def read(reader: Any) -> Any:
    try:
        return reader()
    except Refusal as refusal:
        return refusal.status, refusal.message, refusal.param


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_what_is_read_is_the_same(data: st.DataObject) -> None:
    growing, told = Growing(data.draw(st.sampled_from([1 << 30, 200]))), data.draw(st.lists(messages, max_size=4))
    head = data.draw(st.sampled_from(HEADS))
    for _ in range(4):
        if data.draw(st.integers(0, 5)) == 0:
            head = data.draw(st.sampled_from(HEADS))
        body = head + data.draw(st.sampled_from([", ", ","])).join(json.dumps(one) for one in told)
        text = (body + data.draw(st.sampled_from(TAILS))).encode()
        whole = read(lambda text=text: openai_chat.DIALECT.read(text))
        grown = read(lambda text=text: growing.read("s", openai_chat.DIALECT, text))
        if isinstance(whole, tuple):
            assert grown == whole
        else:
            assert grown == (whole, sha256(text).digest())
        told = told[: data.draw(st.integers(max(0, len(told) - 1), len(told)))] + data.draw(
            st.lists(messages, max_size=2)
        )


def test_a_longer_body_shares_its_messages_and_memory_is_bounded() -> None:
    growing = Growing(5000)
    told = [{"role": "user", "content": "x" * 50}]
    before: tuple[Any, ...] = ()
    for turn in range(20):
        body = json.dumps({"messages": told, "model": "m"}).encode()
        now = growing.read("s", openai_chat.DIALECT, body)[0].ask.messages
        assert all(one is other for one, other in zip(now, before, strict=False))
        before = now
        told += [{"role": "assistant", "content": f"{turn}"}, {"role": "user", "content": "y"}]
    assert growing._bytes == sum(len(begun.text) for begun in growing._begun) == sum(map(len, growing_texts(growing)))
    for session in range(50):
        growing.read(f"{session}", openai_chat.DIALECT, json.dumps({"messages": told}).encode())
        assert growing._bytes <= 5000
    for session in [*map(str, range(50)), "s"]:
        growing.forget(session)
    assert (growing._bytes, growing._begun, growing._of) == (0, {}, {})


def growing_texts(growing: Growing) -> list[bytes]:
    return [begun.text for mine in growing._of.values() for begun in mine]


def test_a_session_never_reads_on_from_another() -> None:
    growing = Growing()
    body = b'{"messages":[{"role":"user","content":"a"}]}'
    first = growing.read("one", openai_chat.DIALECT, body)[0].ask.messages
    assert (
        growing.read("two", openai_chat.DIALECT, body[:-2] + b',{"role":"user","content":"b"}]}')[0].ask.messages[0]
        is not first[0]
    )
    with pytest.raises(Refusal):
        growing.read("one", openai_chat.DIALECT, body[:-2] + b',{"role":"nobody"}]}')
