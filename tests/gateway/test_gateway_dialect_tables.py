"""What each dialect honours, ignores and refuses is what its table says; refusals name the field in its own format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway import anthropic, gemini, openai_chat, openai_completions, openai_responses
from palmette.gateway.dialect import Dialect
from palmette.gateway.identity import Known
from palmette.gateway.refusal import Refusal

USER = {"role": "user", "content": "x"}
TURN = {"role": "user", "parts": [{"text": "x"}]}
DEEP: Any = json.loads("[" * 100 + "]" * 100)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
SMALL: dict[str, dict[str, Any]] = {
    "openai_chat": {"messages": [USER]},
    "openai_completions": {"prompt": [1, 2]},
    "openai_responses": {"input": "x"},
    "anthropic": {"messages": [USER]},
    "gemini": {"contents": [TURN]},
}
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        openai_chat.DIALECT,
        openai_completions.DIALECT,
        openai_responses.DIALECT,
        anthropic.DIALECT,
        gemini.DIALECT,
    )
}
PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_completions": "/v1/completions",
    "openai_responses": "/v1/responses",
    "anthropic": "/v1/messages?beta=true",
    "gemini": "/v1beta/models/m:generateContent",
}


def reads(name: str, body: dict[str, Any]) -> str | None:
    """Return the field that is refused, None when the body is read."""
    try:
        DIALECTS[name].read(json.dumps(body).encode())
    except Refusal as refusal:
        return refusal.param if refusal.status == 400 else "not a 400"
    return None


@pytest.mark.parametrize("name", SMALL)
def test_the_table_is_what_happens(name: str) -> None:
    small = SMALL[name]
    assert reads(name, small) is None
    for field, fate in DIALECTS[name].fields.items():
        if field in small:
            continue
        strange = reads(name, small | {field: {"strange": 1}})
        if fate == "refused":
            assert strange == field, field
        if fate == "ignored":
            assert strange is None, field
        assert reads(name, small | {field: None}) is None, field
    assert reads(name, small | {"a_field_of_the_agents_own": {"x": 1}}) is None


def test_the_table_of_googles_config_is_what_happens() -> None:
    for field, fate in gemini.CONFIG_FIELDS.items():
        strange = reads("gemini", SMALL["gemini"] | {"generationConfig": {field: {"strange": 1}}})
        assert strange == (None if fate == "ignored" else strange), field
        if fate == "refused":
            assert strange == f"generationConfig.{field}"
    snake = {"generation_config": {"candidate_count": 2}}
    assert reads("gemini", SMALL["gemini"] | snake) == "generationConfig.candidateCount"
    assert reads("gemini", SMALL["gemini"] | {"generationConfig": {"candidateCount": True}}) is not None


def test_the_documentation_has_the_same_tables() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    tables = {
        "Chat Completions": openai_chat.FIELDS,
        "Responses": openai_responses.FIELDS,
        "Messages": anthropic.FIELDS,
        "generateContent": gemini.FIELDS,
        "`generationConfig` in it": gemini.CONFIG_FIELDS,
        "Completions (token ids)": openai_completions.FIELDS,
    }
    for name, table in tables.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        cells = [set(re.findall(r"`(\w+)`", cell)) for cell in row.split("|")[2:-1]]
        fates = ("honoured", "imposed", "refused", "ignored")
        assert cells == [{field for field, fate in table.items() if fate == wanted} for wanted in fates], name


def parts(*given: Any, role: str = "user") -> dict[str, Any]:
    return {"contents": [{"role": role, "parts": list(given)}]}


def blocks(*given: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(given)}]}


BAD: list[tuple[str, Any, str]] = [
    *((name, body, "body") for name in SMALL for body in (b"", b"{", b"\xff", b"[]", b'{"a": "\\ud800"}', b"[" * 9999)),
    *((name, json.dumps(small | {"z": DEEP}).encode(), "body") for name, small in SMALL.items()),
    *((name, SMALL[name] | {"model": 3}, "model") for name in ("openai_chat", "openai_responses", "anthropic")),
    ("openai_responses", {}, "input"),
    ("openai_responses", {"input": []}, "input"),
    ("openai_responses", {"input": [3]}, "input[0]"),
    ("openai_responses", {"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ("openai_responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ("openai_responses", {"input": [{"type": ["message"]}]}, "input[0].type"),
    ("openai_responses", {"input": [{"role": "user"}]}, "input[0].content"),
    ("openai_responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ("openai_responses", {"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
    ("openai_responses", {"input": [{"type": "function_call", "name": "f", "call_id": "c"}]}, "input[0].arguments"),
    ("openai_responses", {"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": "[]"}]},
     "input[0].arguments"),
    ("openai_responses", {"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ("openai_responses", {"input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
    ("openai_responses", {"input": "x", "tools": [{"type": "computer"}]}, "tools[0].type"),
    ("openai_responses", {"input": "x", "tools": [{"type": ["function"]}]}, "tools[0].type"),
    ("openai_responses", {"input": "x", "tools": [{"type": "namespace", "name": "n", "tools": [1]}]},
     "tools[0].tools[0]"),
    ("openai_responses", {"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format"),
    ("openai_responses", {"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ("openai_responses", {"input": "x", "instructions": [1]}, "instructions"),
    ("anthropic", {}, "messages"),
    ("anthropic", {"messages": [{"role": "robot"}]}, "messages[0].role"),
    ("anthropic", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("anthropic", blocks(IMAGE), "messages[0].content[0]"),
    ("anthropic", blocks({"type": "text"}), "messages[0].content[0].text"),
    ("anthropic", blocks({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
    ("anthropic", blocks({"type": "tool_result", "tool_use_id": "c", "content": [IMAGE]}),
     "messages[0].content[0].content[0]"),
    ("anthropic", blocks({"type": "tool_use", "name": "f"}, role="assistant"), "messages[0].content[0].id"),
    ("anthropic", blocks({"type": "tool_use", "name": "f", "id": "c", "input": "{}"}, role="assistant"),
     "messages[0].content[0].input"),
    ("anthropic", {"messages": [USER], "system": 3}, "system"),
    ("anthropic", {"messages": [USER], "tools": [{"type": "web_search_20250305", "name": "s"}]}, "tools[0].type"),
    ("anthropic", {"messages": [USER], "tools": [{"name": "s", "input_schema": 3}]}, "tools[0].input_schema"),
    ("anthropic", {"messages": [USER], "tool_choice": "none"}, "tool_choice"),
    ("anthropic", {"messages": [USER], "max_tokens": -1}, "max_tokens"),
    ("anthropic", {"messages": [USER], "output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ("anthropic", {"messages": [USER], "output_config": "high"}, "output_config"),
    ("gemini", {}, "contents"),
    ("gemini", {"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
    ("gemini", {"contents": [{"parts": {}}]}, "contents[0].parts"),
    ("gemini", parts({"inlineData": {"mimeType": "image/png", "data": ""}}), "contents[0].parts[0]"),
    ("gemini", parts({"text": 3}), "contents[0].parts[0].text"),
    ("gemini", parts({"functionCall": {"args": {}}}, role="model"), "contents[0].parts[0].functionCall.name"),
    ("gemini", parts({"functionCall": {"name": "f", "args": []}}, role="model"),
     "contents[0].parts[0].functionCall.args"),
    ("gemini", parts({"functionResponse": {"name": "f", "response": "x"}}),
     "contents[0].parts[0].functionResponse.response"),
    ("gemini", {"contents": [TURN], "tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
    ("gemini", {"contents": [TURN], "tools": [{"functionDeclarations": [{}]}]},
     "tools[0].functionDeclarations[0].name"),
    ("gemini", {"contents": [TURN], "generationConfig": []}, "generationConfig"),
    ("gemini", {"contents": [TURN], "generationConfig": {"topK": 0.5}}, "generationConfig.topK"),
    ("gemini", {"contents": [TURN], "systemInstruction": {"parts": [{}]}}, "systemInstruction.parts[0]"),
]  # fmt: skip


def told(name: str, answer: dict[str, Any]) -> str:
    """Return the field that an error names, checking that the error has its dialect's form."""
    error = answer["error"]
    if name == "gemini":
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        [violation] = error["details"][0]["fieldViolations"]
        return violation["field"]
    if name == "anthropic":
        assert (answer["type"], error["type"]) == ("error", "invalid_request_error")
        return error["message"].split("'")[1]
    assert error["type"] == "invalid_request_error"
    return error["param"]


async def test_bad_requests_are_named_and_leave_no_trace(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    engine = ScriptedEngine([say("never")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    root = f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"
    for name, body, field in BAD:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with http.post(root + PATHS[name], data=data) as response:
            answer = await response.json()
            assert (response.status, told(name, answer)) == (400, field), (name, data[:200], answer)
    assert (engine.calls, session.turns, session.tree.num_tokens, session.conversation) == ([], 0, 0, [])
    assert session.failure is None


async def test_other_refusals_have_their_dialects_form(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession
) -> None:
    gateway = await open_gateway(ScriptedEngine([]), max_body_bytes=50)
    session = gateway.open_session(Sampling())
    words = {
        ("anthropic", 401): "authentication_error",
        ("anthropic", 404): "not_found_error",
        ("anthropic", 413): "request_too_large",
        ("anthropic", 503): "api_error",
        ("gemini", 401): "UNAUTHENTICATED",
        ("gemini", 404): "NOT_FOUND",
        ("gemini", 413): "INVALID_ARGUMENT",
        ("gemini", 503): "UNAVAILABLE",
    }
    small: dict[str, Any] = {"anthropic": SMALL["anthropic"], "gemini": {"contents": [{"parts": [{"text": "x"}]}]}}
    for (name, status), word in words.items():
        base = {401: "", 404: "/s/nobody"}.get(status, session.base_url.removesuffix("/v1"))
        body = small[name] | ({"pad": "x" * 50} if status == 413 else {})
        async with http.post(f"http://127.0.0.1:{gateway.port}{base}{PATHS[name]}", json=body) as response:
            error = (await response.json())["error"]
            assert (response.status, error["status" if name == "gemini" else "type"]) == (status, word)
            assert "nobody" not in json.dumps(error)


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
WORDS = st.sampled_from(
    [
        "role",
        "content",
        "parts",
        "text",
        "type",
        "name",
        "id",
        "call_id",
        "input",
        "output",
        "arguments",
        "args",
        "tool_use_id",
        "function",
        "functionCall",
        "functionResponse",
        "response",
        "functionDeclarations",
        "tools",
        "thinking",
        "summary",
        "namespace",
        "properties",
    ]
)
VALUES = st.sampled_from(
    [
        "user",
        "assistant",
        "model",
        "tool",
        "system",
        "text",
        "tool_use",
        "tool_result",
        "thinking",
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "custom_tool_call",
        "custom",
        "namespace",
        "function",
        "x",
        "{}",
        "[]",
        "{",
    ]
)
TREE = st.recursive(
    SCALAR | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)


@given(st.sampled_from(list(SMALL)), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_refused_by_field_or_can_be_told_apart(name: str, data: st.DataObject) -> None:
    fields = [field for field, fate in DIALECTS[name].fields.items() if fate == "honoured"]
    main = next(iter(SMALL[name]))
    body = data.draw(st.fixed_dictionaries({main: st.lists(TREE, min_size=1, max_size=3)}))
    body |= data.draw(st.dictionaries(st.sampled_from(fields), TREE, max_size=2))
    ask: Any = None
    refused: Refusal | None = None
    try:
        ask = DIALECTS[name].read(json.dumps(body).encode()).ask
    except Refusal as refusal:
        refused = refusal
    if refused is not None:
        assert (refused.status, bool(refused.param)) == (400, True)
        json.dumps(DIALECTS[name].refuse(refused))
        return
    assert len(Known().walk(ask.messages, ask.tools).digests) == len(ask.messages) + 1
