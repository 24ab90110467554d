"""The recording proxy before a real endpoint, our own gateway: it passes on what is said, and keeps it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.overheard import LISTENINGS, Ear, read_asked
from palmette.gateway.proxy import Proxy
from palmette.rollout.record import load_rollouts
from palmette.trajectory.store import TreeStore

Open = Callable[..., Any]
Say = Callable[..., list[int]]
SECRET = "sk-upstream-secret"
BASH: Any = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
async def stand(open_gateway: Open) -> AsyncIterator[Callable[..., Any]]:
    """Open a proxy before a gateway before a script: ``proxy = await stand(script)``."""
    opened: list[Proxy] = []

    async def start(script: Any, **options: Any) -> Proxy:
        gateway = await open_gateway(ScriptedEngine(script), public_key=SECRET)
        proxy = Proxy(f"http://127.0.0.1:{gateway.port}/v1", **{"secret": SECRET} | options)
        opened.append(proxy)
        await proxy.start()
        return proxy

    yield start
    for proxy in opened:
        await proxy.close()


def _said(proxy: Proxy, name: str = "default") -> list[tuple[Any, ...]]:
    told = proxy.recordings[name].transcript.messages
    return [(one["role"], one["content"], one["parent"], one.get("tool_calls")) for one in told]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_chat_passes_and_is_kept(stand: Any, say: Say, streamed: bool) -> None:
    proxy = await stand([say("I look", ("bash", {"command": "ls"})), say("done"), say("a title")])
    base = f"http://127.0.0.1:{proxy.port}/s/run-1/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="whatever", max_retries=0) as client:

        async def ask(messages: list[Any], **more: Any) -> Any:
            asked: Any = {"model": "m", "messages": messages} | more
            if not streamed:
                return (await client.chat.completions.create(**asked)).choices[0].message
            async with client.chat.completions.stream(**asked) as stream:
                return (await stream.get_final_completion()).choices[0].message

        messages: list[Any] = [{"role": "user", "content": "look"}]
        first = await ask(messages, tools=[BASH])
        call = first.tool_calls[0]
        assert (first.content, call.function.name) == ("I look", "bash")
        spaced = {"name": "bash", "arguments": json.dumps(json.loads(call.function.arguments), indent=2)}
        echo = {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [{"id": "x", "type": "function", "function": spaced}],
        }
        messages += [echo, {"role": "tool", "tool_call_id": "x", "content": "a b"}]
        assert (await ask(messages, tools=[BASH])).content == "done"
        assert (await ask([{"role": "user", "content": "title?"}])).content == "a title"
    assert _said(proxy, "run-1") == [
        ("user", "look", None, None),
        ("assistant", "I look", 0, [{"name": "bash", "arguments": {"command": "ls"}}]),
        ("tool", "a b", 1, None),
        ("assistant", "done", 2, None),
        ("user", "title?", None, None),
        ("assistant", "a title", 4, None),
    ]
    answers = [one for one in proxy.recordings["run-1"].transcript.messages if "leaf" in one]
    assert [one["leaf"] for one in answers] == [None] * 3
    assert all((one["completion_tokens"] or 0) > 0 for one in answers) or streamed
    assert (proxy.passed, proxy.missed, proxy.recordings["run-1"].turns) == (3, 0, 3)


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropics_dialect_too(stand: Any, say: Say, streamed: bool) -> None:
    proxy = await stand([say("I look", ("bash", {"command": "ls"}))])
    base = f"http://127.0.0.1:{proxy.port}"
    asked: Any = {"model": "m", "max_tokens": 90, "system": "be brief", "messages": [{"role": "user", "content": "go"}]}
    asked["tools"] = [{"name": "bash", "input_schema": {"type": "object"}}]
    async with anthropic.AsyncAnthropic(base_url=base, api_key="whatever", max_retries=0) as client:
        if streamed:
            async with client.messages.stream(**asked) as stream:
                answer: Any = await stream.get_final_message()
        else:
            answer = await client.messages.create(**asked)
    assert answer.content[1].input == {"command": "ls"}
    assert _said(proxy) == [
        ("system", "be brief", None, None),
        ("user", "go", 0, None),
        ("assistant", "I look", 1, [{"name": "bash", "arguments": {"command": "ls"}}]),
    ]
    last = proxy.recordings["default"].transcript.messages[-1]
    usage = answer.usage
    assert (last["prompt_tokens"], last["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)


@pytest.mark.parametrize("streamed", [False, True])
async def test_responses_too(stand: Any, say: Say, streamed: bool) -> None:
    """Also with a format that the endpoint takes and our own gateway would refuse: what was asked is not ours."""
    proxy = await stand([say("[DONE] I look", ("bash", {"command": "ls"})), say("done")])
    base = f"http://127.0.0.1:{proxy.port}/v1"
    tools: Any = [{"type": "function", "name": "bash", "parameters": {}}, {"type": "web_search"}]
    asked: Any = {"model": "m", "instructions": "be brief", "tools": tools, "text": {"format": {"type": "text"}}}
    async with openai.AsyncOpenAI(base_url=base, api_key="whatever", max_retries=0) as client:

        async def ask(items: list[Any]) -> Any:
            if not streamed:
                return await client.responses.create(input=items, **asked)
            events: list[Any] = [one async for one in await client.responses.create(input=items, stream=True, **asked)]
            return events[-1].response

        items: list[Any] = [{"role": "user", "content": "go"}]
        first = await ask(items)
        items += [item.model_dump(exclude_none=True) for item in first.output]
        items.append({"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "a b"})
        second = await ask(items)
        assert second.output_text == "done"
    assert _said(proxy) == [
        ("system", "be brief", None, None),
        ("user", "go", 0, None),
        ("assistant", "[DONE] I look", 1, [{"name": "bash", "arguments": {"command": "ls"}}]),
        ("tool", "a b", 2, None),
        ("assistant", "done", 3, None),
    ]
    last = proxy.recordings["default"].transcript.messages[-1]
    assert (last["prompt_tokens"], last["completion_tokens"]) == (second.usage.input_tokens, second.usage.output_tokens)
    assert [tool["name"] for tool in proxy.recordings["default"].tools] == ["bash"]


@pytest.mark.parametrize("way", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent"])
async def test_googles_dialect_too(stand: Any, say: Say, http: aiohttp.ClientSession, way: str) -> None:
    proxy = await stand([say('<think>\nhm\n</think>\n\nsays "finishReason"', ("bash", {"command": "ls"}))])
    body = {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "contents": [{"role": "user", "parts": [{"text": "go"}]}],
        "tools": [{"functionDeclarations": [{"name": "bash"}]}],
    }
    url = f"http://127.0.0.1:{proxy.port}/v1beta/models/m:{way}"
    async with http.post(url, json=body, headers={"x-goog-api-key": "whatever"}) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    assert _said(proxy) == [
        ("system", "be brief", None, None),
        ("user", "go", 0, None),
        ("assistant", 'says "finishReason"', 1, [{"name": "bash", "arguments": {"command": "ls"}}]),
    ]
    last = proxy.recordings["default"].transcript.messages[-1]
    assert last["reasoning"] == "hm"
    assert f'"candidatesTokenCount":{last["completion_tokens"]}' in text


def test_streams_end_with_their_last_event_wherever_they_are_cut() -> None:
    content = '{"choices":[{"delta":{"content":"data: [DONE] \\n\\n"},"finish_reason":null}]}'
    last = '{"choices":[{"delta":{},"finish_reason":"stop"}]}'
    chat = "".join(f"data: {data}\n\n" for data in (content, last, "[DONE]"))
    done = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    created = 'event: response.created\ndata: {"type":"response.created"}\n\n'
    responses = f"{created}event: response.completed\ndata: {json.dumps(done)}\n\n"
    gemini = 'data: {"a":"\\"finishReason\\""}\r\n\r\ndata: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n'
    streams = {"/chat/completions": chat, "/responses": responses, ":streamGenerateContent": gemini}
    for end, stream in streams.items():
        body = stream.encode()
        for cut in range(1, len(body)):
            ear = Ear(LISTENINGS[end])
            assert not ear.take(body[:cut]) or body[cut:] in (b"", b"\n")
            assert ear.take(body[cut:]), (end, cut)
            assert bytes(ear.heard) == body


async def test_what_is_no_conversation_passes_unrecorded(stand: Any, http: aiohttp.ClientSession) -> None:
    proxy = await stand([])
    url = f"http://127.0.0.1:{proxy.port}/v1"
    async with http.get(f"{url}/models") as answer:
        assert (answer.status, (await answer.json())["data"][0]["id"]) == (200, "palmette")
    async with http.post(f"{url}/chat/completions", json={"messages": []}) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "messages")
    async with http.post(f"{url}/chat/completions", json={"messages": [{"role": "user", "content": "x"}]}) as answer:
        assert answer.status == 503  # the script is over
    assert (proxy.recordings, proxy.missed) == ({}, 0)


async def test_keys_go_where_they_belong(stand: Any, say: Say, http: aiohttp.ClientSession) -> None:
    proxy = await stand(lambda _: say("hi"), key="mine")
    url, body = f"http://127.0.0.1:{proxy.port}/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}
    for shown, status in (("mine", 200), ("other", 401), (SECRET, 401)):
        async with http.post(url, json=body, headers={"authorization": f"Bearer {shown}"}) as answer:
            assert answer.status == status
    open_one = await stand(lambda _: say("hi"), secret="")
    url = f"http://127.0.0.1:{open_one.port}/v1/chat/completions"
    for shown, status in ((SECRET, 200), ("other", 401)):  # the client's own is passed on
        async with http.post(url, json=body, headers={"authorization": f"Bearer {shown}"}) as answer:
            assert answer.status == status


async def test_googles_keys_go_where_they_belong(stand: Any, say: Say, http: aiohttp.ClientSession) -> None:
    """A key in the address stays here when there is another for the endpoint."""
    proxy = await stand(lambda _: say("hi"), key="mine")
    url = f"http://127.0.0.1:{proxy.port}/v1beta/models/m:generateContent"
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    for query, headers, status in (
        ("?key=mine", {}, 200),
        ("", {"x-goog-api-key": "mine"}, 200),
        (f"?key={SECRET}", {}, 401),
        ("", {}, 401),
    ):
        async with http.post(url + query, json=body, headers=headers) as answer:
            assert answer.status == status


def test_what_a_server_keeps_by_itself_is_missed() -> None:
    listening = LISTENINGS["/responses"]
    fine = {"input": "x", "text": {"format": {"type": "json_schema"}}, "background": True}
    assert read_asked(listening, json.dumps(fine).encode()) is not None
    for name in ("previous_response_id", "conversation"):
        assert read_asked(listening, json.dumps(fine | {name: "resp_1"}).encode()) is None


async def test_an_endpoint_that_is_gone_is_a_502(http: aiohttp.ClientSession) -> None:
    proxy = Proxy("http://127.0.0.1:9/v1")
    await proxy.start()
    async with http.post(f"http://127.0.0.1:{proxy.port}/v1/messages", json={}) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (502, "api_error")
    await proxy.close()
    for wrong, said in (("api.openai.com/v1", "http://"), ("https://user:key@host/v1", "environment")):
        with pytest.raises(UserError, match=said):
            Proxy(wrong)


async def test_the_command_keeps_a_run_without_the_key(
    open_gateway: Open, say: Say, http: aiohttp.ClientSession, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda _: say("hi")), public_key=SECRET)
    upstream = f"http://127.0.0.1:{gateway.port}/v1"
    argv = ["-m", "palmette", "proxy", upstream, "--port", "0", "--name", "kept", "--runs", str(tmp_path)]
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PALMETTE_UPSTREAM_KEY": SECRET},
    )  # fmt: skip
    request.addfinalizer(process.kill)
    assert process.stdout is not None
    first = await asyncio.to_thread(process.stdout.readline)
    url = next(word for word in first.split() if word.endswith("/v1;")).rstrip(";")
    async with http.post(f"{url}/chat/completions", json={"messages": [{"role": "user", "content": "x"}]}) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == "hi"
    lines = (tmp_path / "kept" / "recording.jsonl").read_text().splitlines()
    assert [json.loads(line)["content"] for line in lines] == ["x", "hi"]
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, err
    assert "kept 1 answers of 1 sessions" in err
    [(rollout, metadata)] = load_rollouts(TreeStore(tmp_path / "kept" / "trees"), exact=False)
    assert (rollout.task, rollout.tree.num_tokens, rollout.reward) == ("default", 0, None)
    assert metadata["stage"] == "proxy"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert SECRET not in first + out + err
    assert SECRET.encode() not in kept
