"""A demanded call begins with tokens that are given, and everything behind them is sampled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway import anthropic, gemini, openai_chat, openai_responses
from palmette.gateway.app import Gateway
from palmette.gateway.dialect import Dialect
from palmette.gateway.refusal import Refusal

Json = dict[str, Any]
SCHEMA: Json = {"type": "object", "properties": {"command": {"type": "string"}}}
NAMES = ("bash", "edit")
ALL, ONE, NONE = ("bash", "edit"), ("bash",), ()
CHAT = {"type": "function", "function": {"name": "bash"}}
NAMED = {"type": "function", "name": "bash"}


def chat(choice: Any, names: tuple[str, ...] = NAMES) -> Json:
    tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in names]
    return {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice}


def responses(choice: Any, names: tuple[str, ...] = NAMES) -> Json:
    tools = [{"type": "function", "name": name, "parameters": SCHEMA} for name in names]
    return {"input": "x", "tools": tools, "tool_choice": choice}


def messages(choice: Any, names: tuple[str, ...] = NAMES) -> Json:
    tools = [{"name": name, "input_schema": SCHEMA} for name in names]
    return {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice}


def contents(choice: Any, names: tuple[str, ...] = NAMES) -> Json:
    tools = [{"functionDeclarations": [{"name": name, "parameters": SCHEMA} for name in names]}]
    calling = {"toolConfig": {"functionCallingConfig": choice}}
    return {"contents": [{"parts": [{"text": "x"}]}], "tools": tools} | calling


BODIES: dict[str, tuple[Dialect, Callable[..., Json], str]] = {
    "chat": (openai_chat.DIALECT, chat, "/v1/chat/completions"),
    "responses": (openai_responses.DIALECT, responses, "/v1/responses"),
    "anthropic": (anthropic.DIALECT, messages, "/v1/messages"),
    "gemini": (gemini.DIALECT, contents, "/v1beta/models/m:generateContent"),
}


def allowed(mode: str, *tools: Any) -> Json:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


def listed(mode: str, *names: str) -> Json:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


EDIT = {"type": "function", "function": {"name": "edit"}}
READ: list[tuple[str, Any, tuple[str, ...] | None, int]] = [  # choice, names demanded (None: none), tools shown
    *((name, None, None, 2) for name in ("chat", "responses", "anthropic")),
    *((name, choice, None, 2) for name, choice in (("chat", "auto"), ("responses", "auto"), ("gemini", {}))),
    ("anthropic", {"type": "auto", "disable_parallel_tool_use": True}, None, 2),
    ("gemini", {"mode": "AUTO"}, None, 2),
    ("gemini", {"mode": "MODE_UNSPECIFIED"}, None, 2),
    ("chat", "none", None, 0),
    ("responses", "none", None, 0),
    ("anthropic", {"type": "none"}, None, 0),
    ("gemini", {"mode": "NONE"}, None, 0),
    ("chat", "required", ALL, 2),
    ("responses", "required", ALL, 2),
    ("anthropic", {"type": "any"}, ALL, 2),
    ("gemini", {"mode": "ANY"}, ALL, 2),
    ("gemini", {"mode": "ANY", "allowedFunctionNames": ["edit", "bash"]}, ("edit", "bash"), 2),
    ("chat", CHAT, ONE, 2),
    ("responses", NAMED, ONE, 2),
    ("anthropic", {"type": "tool", "name": "bash"}, ONE, 2),
    ("gemini", {"mode": "ANY", "allowed_function_names": ["bash"]}, ONE, 2),
    ("chat", allowed("required", CHAT), ONE, 2),
    ("chat", allowed("auto", CHAT, EDIT), None, 2),
    ("responses", listed("required", "bash"), ONE, 2),
    ("responses", listed("required", "bash", "edit"), ALL, 2),
]  # fmt: skip
CALLING = "toolConfig.functionCallingConfig"
REFUSED: list[tuple[str, Any, str]] = [
    ("chat", "any", "tool_choice"),
    ("chat", 3, "tool_choice"),
    ("chat", {"type": "function"}, "tool_choice.function"),
    ("chat", {"type": "function", "function": {"name": "rm"}}, "tool_choice"),
    ("chat", {"type": ["function"]}, "tool_choice"),
    ("chat", {"type": "web_search"}, "tool_choice"),
    ("chat", allowed("auto", CHAT), "tool_choice"),
    ("chat", allowed("none", CHAT), "tool_choice"),
    ("responses", listed("auto", "bash"), "tool_choice"),
    ("responses", {"type": "file_search"}, "tool_choice"),
    ("responses", {"type": "function"}, "tool_choice.name"),
    ("anthropic", {"type": "tool", "name": "rm"}, "tool_choice"),
    ("anthropic", {"type": "tool"}, "tool_choice.name"),
    ("anthropic", {"type": "required"}, "tool_choice"),
    ("anthropic", {"type": ["any"]}, "tool_choice"),
    ("gemini", {"mode": "VALIDATED"}, f"{CALLING}.mode"),
    ("gemini", {"mode": ["ANY"]}, f"{CALLING}.mode"),
    ("gemini", {"mode": "ANY", "allowedFunctionNames": ["rm"]}, f"{CALLING}.allowedFunctionNames"),
    ("gemini", {"mode": "ANY", "allowedFunctionNames": [3]}, f"{CALLING}.allowedFunctionNames"),
    ("gemini", {"allowedFunctionNames": ["bash"]}, f"{CALLING}.allowedFunctionNames"),
]  # fmt: skip


def read(name: str, body: Json) -> Any:
    return BODIES[name][0].read(json.dumps(body).encode()).ask


@pytest.mark.parametrize(("name", "choice", "names", "shown"), READ)
def test_choices_that_can_be_had(name: str, choice: Any, names: tuple[str, ...] | None, shown: int) -> None:
    ask = read(name, BODIES[name][1](choice))
    assert (ask.demand.names if ask.demand else None, len(ask.tools)) == (names, shown)


@pytest.mark.parametrize(("name", "choice", "field"), REFUSED)
def test_choices_that_cannot_be_had_are_refused_by_name(name: str, choice: Any, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(name, BODIES[name][1](choice))
    assert (refused.value.status, refused.value.param) == (400, field)


@pytest.mark.parametrize("name", BODIES)
def test_one_of_some_and_one_of_none_are_refused(name: str) -> None:
    some: dict[str, Any] = {
        "chat": allowed("required", CHAT, EDIT),
        "responses": listed("required", "bash", "edit"),
        "gemini": {"mode": "ANY", "allowedFunctionNames": ["bash", "edit"]},
    }
    demanded: dict[str, Any] = {"chat": "required", "responses": "required"}
    demanded |= {"anthropic": {"type": "any"}, "gemini": {"mode": "ANY"}}
    for choice, names in ((some.get(name), ("bash", "edit", "submit")), (demanded[name], ())):
        if choice is not None:
            with pytest.raises(Refusal) as refused:
                read(name, BODIES[name][1](choice, names))
            assert refused.value.status == 400


OPENED = '<tool_call>\n{"name": "'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choice", "opened"), [("required", OPENED), (CHAT, OPENED + 'bash", "arguments":')])
async def test_the_opening_is_given_and_the_rest_sampled(
    open_gateway: Callable[..., Any],
    http: aiohttp.ClientSession,
    renderer: Renderer,
    tmp_path: Path,
    choice: Any,
    opened: str,
    stream: bool,
) -> None:
    whole = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
    sampled = [renderer.encode(whole.removeprefix(opened) + "<|im_end|>"), renderer.encode("done<|im_end|>")]
    engine = ScriptedEngine(sampled)
    gateway = await open_gateway(engine, journal=tmp_path)
    session = gateway.open_session(Sampling(max_tokens=400))
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
    async with http.post(url, json=chat(choice) | {"stream": stream, "return_token_ids": True}) as response:
        assert response.status == 200, await response.text()
        told = await _chunks(response) if stream else (await response.json())["choices"][0]["message"]
    [call] = told["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("bash", {"command": "ls"})
    assert not told["content"]
    assert renderer.decode(engine.calls[0]).endswith(opened)
    [branch] = session.tree.branches()
    assert branch.token_ids.tolist() == [*engine.calls[0], *sampled[0]]
    assert list(branch.sampled) == [False] * len(engine.calls[0]) + [True] * len(sampled[0])
    assert session.conversation[-1]["forced_tokens"] == session.recorded[0].forced == len(renderer.encode(opened))
    result = {"role": "tool", "tool_call_id": call["id"], "content": "a"}
    echo = [{"role": "user", "content": "x"}, told | {"role": "assistant"}, result]
    async with http.post(url, json=chat("auto") | {"messages": echo}) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "done"
    assert list(engine.calls[1][: len(branch.token_ids)]) == branch.token_ids.tolist(), "the chain goes on"
    assert len(session.tree.branches()) == 1
    again = Gateway(engine, renderer, journal=tmp_path)
    recovered = again.sessions[session.key]
    await again.close()
    assert [turn.forced for turn in recovered.recorded] == [len(renderer.encode(opened)), 0]
    assert list(recovered.tree.branches()[0].sampled) == list(session.tree.branches()[0].sampled)


async def _chunks(response: aiohttp.ClientResponse) -> Json:
    told: Json = {"content": "", "tool_calls": []}
    async for line in response.content:
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                delta = choice["delta"]
                told["content"] += delta.get("content") or ""
                for part in delta.get("tool_calls", ()):
                    if "id" in part:
                        told["tool_calls"].append(part)
                    else:
                        told["tool_calls"][-1]["function"]["arguments"] += part["function"]["arguments"]
    return told


async def test_every_dialect_demands_alike(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, renderer: Renderer
) -> None:
    opened = '<tool_call>\n{"name": "bash", "arguments":'
    engine = ScriptedEngine(lambda _: renderer.encode(' {"command": "ls"}}\n</tool_call><|im_end|>'))
    gateway = await open_gateway(engine)
    named = {"chat": CHAT, "responses": NAMED, "anthropic": {"type": "tool", "name": "bash"}}
    named["gemini"] = {"mode": "ANY", "allowedFunctionNames": ["bash"]}
    for name, (_, make, path) in BODIES.items():
        session = gateway.open_session(Sampling(max_tokens=400))
        root = f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"
        async with http.post(root + path, json=make(named[name])) as response:
            text = await response.text()
            assert (response.status, session.failure) == (200, None), text
        assert session.recorded[0].answer.tool_calls[0].arguments == {"command": "ls"}
        assert renderer.decode(engine.calls[-1]).endswith(opened)
        counting = {"responses": "/v1/responses/input_tokens", "anthropic": "/v1/messages/count_tokens"}
        counting["gemini"] = "/v1beta/models/m:countTokens"
        if name in counting:
            async with http.post(root + counting[name], json=make(named[name])) as response:
                assert len(engine.calls[-1]) in (await response.json()).values()


async def test_a_model_without_calls_refuses_the_field(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine([])
    gateway = await open_gateway(engine)
    monkeypatch.setattr(renderer, "_shape", None)
    monkeypatch.setattr(renderer, "_syntaxes", ())  # of a template whose calls nobody here can read
    for name, choice, field in (
        ("chat", "required", "tool_choice"),
        ("gemini", {"mode": "ANY"}, f"{CALLING}.mode"),
    ):
        session = gateway.open_session(Sampling())
        root = f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"
        async with http.post(root + BODIES[name][2], json=BODIES[name][1](choice)) as response:
            text = await response.text()
            assert (response.status, field in text, str(renderer.source) in text) == (400, True, False), text
        assert (engine.calls, session.turns, session.failure) == ([], 0, None)
