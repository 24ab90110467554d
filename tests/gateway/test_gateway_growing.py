"""A body that goes on from another is read as if it were read whole, in every dialect that sends conversations."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.gateway import anthropic, gemini, openai_chat, openai_responses
from palmette.gateway.dialect import Dialect
from palmette.gateway.growing import Growing
from palmette.gateway.refusal import Refusal

texts = st.text(max_size=8) | st.sampled_from(
    ['"messages":[', "]}", '\\"messages\\"', "é,\n", '"input":["', "contents"]
)
names = st.sampled_from(["f", "g"])
ids = st.sampled_from(["c0", "c1", "c2"])
WRONG = st.sampled_from([{"role": "nobody"}, 7, None, {"type": "nothing"}, {"parts": 3}])


def item(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fields.items()}
    )


def parts(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(*kinds), max_size=3)


chat_call = item(
    id=ids, type="function", function=item(name=names, arguments=texts.map(lambda t: json.dumps({"a": t})))
)
chat = st.one_of(
    item(role="user", content=texts | parts(item(type="text", text=texts))),
    item(role="tool", tool_call_id=ids, content=texts),
    item(role="assistant", content=texts),
    item(role="assistant", content=None, tool_calls=st.lists(chat_call, max_size=1)),
)
block = item(type="text", text=texts) | item(type="text", text=texts, cache_control={"type": "ephemeral"})
messages = st.one_of(
    item(role="user", content=texts | parts(block, item(type="tool_result", tool_use_id=ids, content=texts))),
    item(role="assistant", content=parts(block, item(type="tool_use", id=ids, name=names, input={"a": 1}))),
)
responses = st.one_of(
    item(role=st.sampled_from(["user", "developer"]), content=texts | parts(item(type="input_text", text=texts))),
    item(role="assistant", content=texts),
    item(type="reasoning", summary=parts(item(type="summary_text", text=texts))),
    item(type="function_call", call_id=ids, name=names, arguments="{}"),
    item(type="function_call_output", call_id=ids, output=texts),
)
function = item(name=names, args=item(a=texts)) | item(name=names, id=ids)
contents = st.one_of(
    item(role="user", parts=parts(item(text=texts))),
    item(role="model", parts=parts(item(text=texts), item(text=texts, thought=True), item(functionCall=function))),
    item(role="user", parts=parts(item(functionResponse=item(name=names, response=item(output=texts))))),
)
CASES: dict[str, tuple[Dialect, str, st.SearchStrategy[Any], str]] = {
    "chat": (openai_chat.DIALECT, "messages", chat, '{"role":"user","content":"last"}'),
    "anthropic": (anthropic.DIALECT, "messages", messages, '{"role":"user","content":"last"}'),
    "responses": (openai_responses.DIALECT, "input", responses, '{"role":"user","content":"last"}'),
    "gemini": (gemini.dialect("m", stream=True, array=False), "contents", contents, '{"parts":[{"text":"last"}]}'),
}
GOOD_TAILS = ["]}", '],"tools":[]}', '], "system": "s", "instructions": "s", "systemInstruction": "s"}']
TAILS = [*GOOD_TAILS * 3, '],"%s":[%s]}', "],}", "]", '],"stream":3}']
GOOD_HEADS = ['{"%s":[', '{"model":"m", "%s": [ ', '{"system":"s","instructions":"i","%s":[']
HEADS = [*GOOD_HEADS * 2, '{"%s":[%s],"%s":[', '{"m":[']


def read(reader: Any) -> Any:
    try:
        return reader()
    except Refusal as refusal:
        return refusal.status, refusal.message, refusal.param


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(list(CASES)), data=st.data())
def test_what_is_read_is_the_same(name: str, data: st.DataObject) -> None:
    """Conversations grow, part with what they were before the end, and are put into other bodies."""
    dialect, key, items, last = CASES[name]
    growing = Growing(data.draw(st.sampled_from([1 << 30, 1 << 30, 300])))
    told: list[Any] = data.draw(st.lists(items, max_size=5))
    head, comma = data.draw(st.sampled_from(HEADS)), data.draw(st.sampled_from([", ", ","]))
    for _ in range(5):
        if data.draw(st.integers(0, 7)) == 0:
            head = data.draw(st.sampled_from(HEADS))
        fill = (key, last, key)
        text = head % fill[: head.count("%s")] + comma.join(json.dumps(one, ensure_ascii=False) for one in told)
        tail = data.draw(st.sampled_from(TAILS))
        body = (text + tail % fill[: tail.count("%s")]).encode("utf-8", "surrogatepass")
        whole = read(lambda body=body: dialect.read(body))
        grown = read(lambda body=body: growing.read("s", dialect, body))
        if isinstance(whole, tuple):
            assert grown == whole
        else:
            assert grown == (whole, sha256(body).digest())
        kept = max(0, len(told) - data.draw(st.sampled_from([0, 0, 0, 1, 2, 3])))
        told = told[:kept] + data.draw(
            st.lists(items | WRONG if data.draw(st.integers(0, 5)) == 0 else items, max_size=3)
        )


def growth(name: str, turns: int, marked: bool = False) -> list[bytes]:
    """Bodies of a conversation as an agent of the dialect sends them; with marks on whatever is the last."""
    bodies: list[bytes] = []
    told: list[Any] = []
    for turn in range(turns):
        text, result = f"turn {turn}", "out " * 20
        match name:
            case "chat":
                told += [{"role": "assistant", "content": text}, {"role": "user", "content": result}]
            case "anthropic":
                told += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": [{"type": "text", "text": result}]},
                ]
            case "responses":
                call = {"type": "function_call", "call_id": f"c{turn}", "name": "f", "arguments": "{}"}
                told += [{"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}, call]
                told += [{"type": "function_call_output", "call_id": f"c{turn}", "output": result}]
            case _:
                told += [{"role": "model", "parts": [{"text": text}, {"functionCall": {"name": "f"}}]}]
                told += [
                    {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": result}}}]}
                ]
        sent = json.loads(json.dumps(told))
        if marked:
            sent[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        bodies.append(json.dumps({CASES[name][1]: sent, "model": "m"}).encode())
    return bodies


@pytest.mark.parametrize(("name", "marked"), [*((name, False) for name in CASES), ("anthropic", True)])
def test_what_was_read_before_is_not_read_again(name: str, marked: bool) -> None:
    growing, dialect = Growing(), CASES[name][0]
    before: tuple[Any, ...] = ()
    for body in growth(name, 12, marked):
        now = growing.read("s", dialect, body)[0].ask.messages
        again = before[:-1] if marked else before  # the mark moves on: what had it is another item
        assert len(now) == len(before) + 2
        assert all(one is other for one, other in zip(now, again, strict=False))
        before = now


@pytest.mark.parametrize("name", CASES)
def test_memory_is_bounded(name: str) -> None:
    growing, dialect = Growing(5000), CASES[name][0]
    bodies = growth(name, 20)
    for body in bodies:
        growing.read("s", dialect, body)
    assert growing._bytes == sum(len(begun.text) for begun in growing._begun) == sum(map(len, growing_texts(growing)))
    for session in range(50):
        growing.read(f"{session}", dialect, bodies[9])
        assert growing._bytes <= 5000
    for session in [*map(str, range(50)), "s"]:
        growing.forget(session)
    assert (growing._bytes, growing._begun, growing._of) == (0, {}, {})


def growing_texts(growing: Growing) -> list[bytes]:
    return [begun.text for mine in growing._of.values() for begun in mine]


@pytest.mark.parametrize("name", CASES)
def test_what_was_changed_before_the_end_is_read(name: str) -> None:
    """Changes that leave every length as it was."""
    growing, dialect = Growing(), CASES[name][0]
    bodies = growth(name, 6)
    for old, new in ((b"turn 4", b"TURN 4"), (b"turn 3", b"TURN 3"), (b'"m"', b'"n"'), (b"turn 0", b"TURN 0")):
        growing.read("s", dialect, bodies[4])
        changed = bodies[5].replace(old, new)
        assert changed != bodies[5]
        asked, digest = growing.read("s", dialect, changed)
        assert (asked, digest) == (dialect.read(changed), sha256(changed).digest())


@pytest.mark.parametrize("name", CASES)
def test_deep_nesting_behind_a_known_beginning_is_refused(name: str) -> None:
    growing, dialect = Growing(), CASES[name][0]
    before, after = growth(name, 3)[1:]
    growing.read("s", dialect, before)
    for depth in (65, 2000, 100_000):
        deep = after[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(Refusal) as refused:
            growing.read("s", dialect, deep)
        assert (refused.value.status, refused.value.param) == (400, "body")


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


def test_a_dialect_never_reads_on_from_another() -> None:
    """Both have a list of messages, which they read otherwise."""
    growing = Growing()
    body = b'{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}'
    growing.read("s", openai_chat.DIALECT, body + b"]}")
    more = body + b',{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f"}]}]}'
    assert growing.read("s", anthropic.DIALECT, more)[0] == anthropic.read(more)
