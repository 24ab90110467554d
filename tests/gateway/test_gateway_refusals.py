"""Whatever comes in, the answer is 4xx in OpenAI's format and nothing is stored."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway import openai_chat
from palmette.gateway.app import Gateway
from palmette.gateway.identity import Known
from palmette.gateway.listen import MAX_HEAD_BYTES
from palmette.gateway.refusal import Refusal

USER = {"role": "user", "content": "x"}
DEEP = "[" * 5000 + "]" * 5000


def call(arguments: Any = "{}", **other: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "bash", "arguments": arguments}} | other


def said(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": None} | fields, USER]}


BAD: list[tuple[Any, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"\xff\xfe", "body"),
    (b"[]", "body"),
    (b'"x"', "body"),
    (b'{"messages": ["\\ud800"]}', "body"),
    (DEEP.encode(), "body"),
    (('{"messages": ' + "[" * 200 + "]" * 200 + "}").encode(), "body"),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
     "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "messages[0].content[0].text"),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    (said(tool_calls={}), "messages[1].tool_calls"),
    (said(tool_calls=[3]), "messages[1].tool_calls[0]"),
    (said(tool_calls=[call(id=7)]), "messages[1].tool_calls[0].id"),
    (said(tool_calls=[call(function=None)]), "messages[1].tool_calls[0].function"),
    (said(tool_calls=[call("{oops")]), "messages[1].tool_calls[0].function.arguments"),
    (said(tool_calls=[call("[1]")]), "messages[1].tool_calls[0].function.arguments"),
    (said(tool_calls=[call('{"a": ' + DEEP + "}")]), "messages[1].tool_calls[0].function.arguments"),
    (said(tool_calls=[call('{"a": ' + "[" * 100 + "]" * 100 + "}")]), "messages[1].tool_calls[0].function.arguments"),
    ({"messages": [USER], "tools": {}}, "tools"),
    ({"messages": [USER], "tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"messages": [USER], "tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"messages": [USER], "tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
     "tools[0].function.parameters"),
    ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
    ({"messages": [USER], "max_tokens": "9"}, "max_tokens"),
    ({"messages": [USER], "max_tokens": True}, "max_tokens"),
    ({"messages": [USER], "temperature": "hot"}, "temperature"),
    ({"messages": [USER], "top_p": 3}, "top_p"),
    ({"messages": [USER], "stream": "yes"}, "stream"),
    ({"messages": [USER], "stream_options": []}, "stream_options"),
    ({"messages": [USER], "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"messages": [USER], "n": 2}, "n"),
    ({"messages": [USER], "top_logprobs": 5}, "top_logprobs"),
    ({"messages": [USER], "response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": [USER], "functions": [{"name": "f"}]}, "functions"),
]  # fmt: skip


async def test_bad_requests_are_named_and_leave_no_trace(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    engine = ScriptedEngine([say("never")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    for body, param in BAD:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with http.post(url(gateway, session.base_url), data=data) as response:
            answer = await response.json()
            assert "error" in answer, data[:200]
            error = answer["error"]
            assert (response.status, error["param"]) == (400, param), (data[:200], error)
            assert error["type"] == "invalid_request_error"
            assert error["message"]
    assert (engine.calls, session.turns, session.tree.num_tokens, session.conversation) == ([], 0, 0, [])
    assert session.failure is None


def url(gateway: Gateway, base: str) -> str:
    return f"http://127.0.0.1:{gateway.port}{base}/chat/completions"


def test_every_refused_field_is_refused_and_every_allowed_value_is_not() -> None:
    for name, fate in openai_chat.FIELDS.items():
        body: dict[str, Any] = {"messages": [USER]}
        if fate == "refused":
            with pytest.raises(Refusal) as refused:
                openai_chat.read(json.dumps(body | {name: {"strange": 1}}).encode())
            assert refused.value.param == name
        if fate == "ignored":
            openai_chat.read(json.dumps(body | {name: {"strange": 1}}).encode())
        openai_chat.read(json.dumps(body | ({} if name == "messages" else {name: None})).encode())
    openai_chat.read(json.dumps({"messages": [USER], "n": 1, "response_format": {"type": "text"}}).encode())


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text(max_size=3), SCALAR, max_size=2)
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": JSON})
FUNCTION = st.fixed_dictionaries(
    {"name": JSON}, optional={"arguments": JSON | JSON.map(lambda value: json.dumps(value))}
)
CALL = st.fixed_dictionaries({}, optional={"id": JSON, "function": JSON | FUNCTION})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "robot", 1])},
    optional={
        "content": st.text(max_size=9)
        | JSON
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": JSON})),
        "tool_calls": JSON | st.lists(CALL, max_size=2),
        "tool_call_id": JSON,
        "reasoning_content": JSON,
    },
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(st.just("name"), JSON) | JSON})
BODY = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=3)},
    optional={
        "tools": st.lists(TOOL, max_size=2),
        "max_tokens": JSON,
        "top_p": JSON,
        "stream_options": JSON,
        "n": JSON,
    },
)


@given(BODY)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_refused_by_field_or_can_be_told_apart(body: dict[str, Any]) -> None:
    refused: Refusal | None = None
    try:
        ask = openai_chat.read(json.dumps(body).encode()).ask
        assert len(Known().walk(ask.messages, ask.tools).digests) == len(body["messages"]) + 1
    except Refusal as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert refused.param


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        openai_chat.read(body)


async def test_unknown_sessions_and_routes(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    gateway = await open_gateway(ScriptedEngine([]))
    session = gateway.open_session(Sampling())
    closed = gateway.close_session(session.key)
    assert closed is session
    root = f"http://127.0.0.1:{gateway.port}"
    for base, status in [
        ("/s/secret-key/v1", 404),
        (session.base_url, 404),
        ("/v1", 401),
        ("/v2", 404),
        ("/s//v1", 404),
    ]:
        async with http.post(f"{root}{base}/chat/completions", json={"messages": [USER]}) as response:
            text = await response.text()
            assert response.status == status
            assert json.loads(text)["error"]["message"]
            assert "secret" not in text
            assert session.key not in text
    async with http.get(f"{root}/v1/chat/completions") as response:
        assert response.status == 405
    async with http.get(f"{root}/s/secret-key/v1/models") as response:
        assert response.status == 404
    async with http.get(f"{root}/health") as response:
        assert await response.json() == {"status": "ok", "sessions": 0, "under_way": 0}


async def test_large_bodies_are_refused_declared_or_not(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession
) -> None:
    gateway = await open_gateway(ScriptedEngine([]), max_body_bytes=1000)
    session = gateway.open_session(Sampling())

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 100

    for data in (b"x" * 1001, endless()):
        async with http.post(url(gateway, session.base_url), data=data) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("pieces", [1, 40], ids=["one header", "many headers"])
async def test_heads_are_bounded(open_gateway: Callable[..., Any], pieces: int) -> None:
    gateway = await open_gateway(ScriptedEngine([]))
    statuses = []
    for size in (MAX_HEAD_BYTES // 2, MAX_HEAD_BYTES * 20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        for index in range(pieces):
            writer.write(b"h%d: %s\r\n" % (index, b"x" * (size // pieces)))
        writer.write(b"\r\n")
        statuses.append((await asyncio.wait_for(reader.readline(), 10)).split()[1])
        writer.close()
    assert statuses == [b"200", b"431"]


async def test_too_many_at_once_are_told_to_come_back(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("ok"), delay_s=0.3), max_under_way=2)
    sessions = [gateway.open_session(Sampling()) for _ in range(3)]

    async def ask(base: str) -> tuple[int, str | None]:
        async with http.post(url(gateway, base), json={"messages": [USER]}) as response:
            await response.read()
            return response.status, response.headers.get("retry-after")

    answers = await asyncio.gather(*(ask(session.base_url) for session in sessions))
    assert sorted(answers, key=str) == [(200, None), (200, None), (429, "1")]
    assert sorted(str(session.failure) for session in sessions) == ["None", "None", "overloaded"]


async def test_a_client_that_leaves_cancels_its_generation(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    ended: list[str] = []

    class Slow(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            try:
                return await super().complete(prompt_ids, sampling)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    gateway = await open_gateway(Slow(lambda prompt: say("late"), delay_s=30))
    session = gateway.open_session(Sampling())
    with pytest.raises(asyncio.TimeoutError):
        await http.post(url(gateway, session.base_url), json={"messages": [USER]}, timeout=aiohttp.ClientTimeout(0.2))
    for _ in range(100):
        if ended:
            break
        await asyncio.sleep(0.02)
    assert ended == ["cancelled"]
    assert (session.turns, session.tree.num_tokens) == (0, 0)


async def test_closing_a_session_ends_what_is_under_way(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("late"), delay_s=30))
    session = gateway.open_session(Sampling())

    async def ask() -> int:
        async with http.post(url(gateway, session.base_url), json={"messages": [USER]}) as response:
            return response.status

    asking = asyncio.create_task(ask())
    while not session._under_way:
        await asyncio.sleep(0.01)
    gateway.close_session(session.key)
    assert await asyncio.wait_for(asking, 5) == 404
    assert (session.turns, session.tree.num_tokens) == (0, 0)


async def test_what_the_template_refuses_is_the_requests_fault(
    http: aiohttp.ClientSession, renderer: Renderer, tmp_path: Path
) -> None:
    shutil.copytree(renderer.source, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    strict = "{%- if messages[0].role == 'tool' %}{{ raise_exception('a tool cannot begin') }}{% endif -%}"
    template.write_text(strict + template.read_text())
    gateway = Gateway(ScriptedEngine([]), Renderer.from_dir(tmp_path / "model"))
    await gateway.start()
    session = gateway.open_session(Sampling())
    body = {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}
    async with http.post(url(gateway, session.base_url), json=body) as response:
        text = await response.text()
        assert response.status == 400
    assert "a tool cannot begin" in text
    assert str(tmp_path) not in text
    assert session.failure is None
    await gateway.close()


async def test_a_bug_in_the_engine_is_500_and_the_engines_fault(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession
) -> None:
    class Broken(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            raise ZeroDivisionError("secret detail")

    gateway = await open_gateway(Broken([]))
    session = gateway.open_session(Sampling())
    async with http.post(url(gateway, session.base_url), json={"messages": [USER]}) as response:
        assert response.status == 500
        error = (await response.json())["error"]
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    assert (session.failure, session.turns, session.tree.num_tokens) == ("engine_error", 0, 0)


async def test_a_port_in_use_is_a_user_error(open_gateway: Callable[..., Any]) -> None:
    gateway = await open_gateway(ScriptedEngine([]))
    second = Gateway(gateway.engine, gateway.renderer, port=gateway.port)
    with pytest.raises(UserError, match=f"port {gateway.port} on 127.0.0.1 is in use"):
        await second.start()


async def test_public_mode(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    seen: list[Sampling] = []

    class Watching(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            seen.append(sampling)
            return await super().complete(prompt_ids, sampling)

    gateway = await open_gateway(Watching(lambda prompt: say("hi")), public_key="open sesame")
    body = {"messages": [USER], "temperature": 0.25, "seed": 5, "max_tokens": 9}
    for key, status in [("open sesame", 200), ("open", 401), ("", 401)]:
        headers = {"authorization": f"Bearer {key}"}
        async with http.post(url(gateway, "/v1"), json=body, headers=headers) as response:
            assert response.status == status
    assert [(s.temperature, s.seed, s.max_tokens) for s in seen] == [(0.25, 5, 9)]
    anyone = await open_gateway(ScriptedEngine([say("hi")]), public_key="")
    async with http.post(url(anyone, "/v1"), json=body) as response:
        assert response.status == 200
