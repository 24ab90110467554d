"""The official client, streaming and not, against the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session

SAMPLING = Sampling(max_tokens=200)
BASH: Any = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "run a shell command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def client_of(gateway: Gateway, session: Session) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}{session.base_url}", api_key="x", max_retries=0)


async def test_a_text_answer(
    open_gateway: Callable[..., Any], say: Callable[..., list[int]], renderer: Renderer
) -> None:
    engine = ScriptedEngine([say("hello there")], version=7)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    async with client_of(gateway, session) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello there", "stop")
    assert choice.message.tool_calls is None
    assert answer.model == "m"
    assert answer.system_fingerprint == "weights-7"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.calls[0])
    assert answer.usage.completion_tokens == len(say("hello there"))
    assert answer.usage.total_tokens == len(engine.calls[0]) + len(say("hello there"))
    assert "hi" in renderer.decode(engine.calls[0])
    assert session.turns == 1
    assert session.sampled_tokens == len(say("hello there"))


async def test_tool_calls_and_token_ids(open_gateway: Callable[..., Any], say: Callable[..., list[int]]) -> None:
    sampled = say("I look", ("bash", {"command": "ls"}), ("bash", {"command": "pwd"}))
    engine = ScriptedEngine([sampled])
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    async with client_of(gateway, session) as client:
        answer = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "look"}],
            tools=[BASH],
            logprobs=True,
            extra_body={"return_token_ids": True},
        )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look"
    calls: Any = choice.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("bash", {"command": "ls"}),
        ("bash", {"command": "pwd"}),
    ]
    assert [c.id for c in calls] == ["call00000", "call00001"]
    raw = answer.model_dump()
    assert raw["prompt_token_ids"] == list(engine.calls[0])
    assert raw["choices"][0]["token_ids"] == sampled
    [branch] = session.tree.branches()
    logprobs = [item["logprob"] for item in raw["choices"][0]["logprobs"]["content"]]
    assert logprobs == pytest.approx(branch.logprob[branch.sampled].tolist())
    assert "".join(item["token"] for item in raw["choices"][0]["logprobs"]["content"]).startswith("I look")


async def test_a_cut_answer_says_length(open_gateway: Callable[..., Any], say: Callable[..., list[int]]) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("a long story that goes on")))
    session = gateway.open_session(SAMPLING, max_completion_tokens=8)
    async with client_of(gateway, session) as client:
        messages: Any = [{"role": "user", "content": "go"}]
        by_cap = await client.chat.completions.create(model="m", messages=messages, max_tokens=100)
        by_agent = await client.chat.completions.create(model="m", messages=messages, max_completion_tokens=5)
    assert [(a.choices[0].finish_reason, a.usage and a.usage.completion_tokens) for a in (by_cap, by_agent)] == [
        ("length", 8),
        ("length", 5),
    ]
    assert by_agent.choices[0].message.content == "a lon"


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_says_what_the_whole_answer_says(
    open_gateway: Callable[..., Any], say: Callable[..., list[int]], include_usage: bool
) -> None:
    sampled = say("I look", ("bash", {"command": "echo 'é\n'"}), ("bash", {"command": "pwd"}))
    engine = ScriptedEngine([sampled])
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    async with client_of(gateway, session) as client:
        stream: Any = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "look"}], tools=[BASH], stream=True, **options
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "I look"
    calls: dict[int, dict[str, str]] = {}
    for delta in deltas:
        for part in delta.tool_calls or ():
            call = calls.setdefault(part.index, {"arguments": ""})
            if part.id:
                call |= {"id": part.id, "name": part.function.name}
            call["arguments"] += part.function.arguments
    assert [(c["id"], c["name"], json.loads(c["arguments"])) for c in calls.values()] == [
        ("call00000", "bash", {"command": "echo 'é\n'"}),
        ("call00001", "bash", {"command": "pwd"}),
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert len({chunk.id for chunk in chunks}) == 1
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [(u.prompt_tokens, u.completion_tokens) for u in usages] == (
        [(len(engine.calls[0]), len(sampled))] if include_usage else []
    )


async def test_the_clients_own_stream_accumulator(
    open_gateway: Callable[..., Any], say: Callable[..., list[int]]
) -> None:
    gateway = await open_gateway(ScriptedEngine([say("ok", ("bash", {"command": "ls"}))]))
    async with client_of(gateway, gateway.open_session(SAMPLING)) as client:  # noqa: SIM117
        async with client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "x"}], tools=[BASH]
        ) as stream:
            final: Any = await stream.get_final_completion()
    assert final.choices[0].message.content == "ok"
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {"command": "ls"}


async def test_models_and_keys(open_gateway: Callable[..., Any], say: Callable[..., list[int]]) -> None:
    gateway = await open_gateway(ScriptedEngine([say("by key")], context_tokens=1234))
    session = gateway.open_session(SAMPLING)
    root = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(base_url=root, api_key=session.key, max_retries=0) as client:
        [model] = [model async for model in await client.models.list()]
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert (model.id, model.model_dump()["max_model_len"]) == ("palmette", 1234)
    assert answer.choices[0].message.content == "by key"
    assert session.turns == 1
    async with openai.AsyncOpenAI(base_url=root, api_key="nobody", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert "nobody" not in str(refused.value)


async def test_a_full_context_is_openais_error(open_gateway: Callable[..., Any], say: Callable[..., list[int]]) -> None:
    engine = ScriptedEngine([say("never")], context_tokens=10)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    async with client_of(gateway, session) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 50}])
    body: Any = refused.value.body
    assert (body["code"], body["type"], body["param"]) == (
        "context_length_exceeded",
        "invalid_request_error",
        "messages",
    )
    assert body["message"].startswith("This model's maximum context length is 10 tokens. However, your messages")
    assert session.failure == "context_exhausted"
    assert (session.turns, session.tree.num_tokens, session.conversation) == (0, 0, [])


async def test_an_engine_failure_is_503_and_forgotten_after_a_good_answer(
    open_gateway: Callable[..., Any], say: Callable[..., list[int]]
) -> None:
    gateway = await open_gateway(ScriptedEngine([]))
    session = gateway.open_session(SAMPLING)
    async with client_of(gateway, session) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert refused.value.status_code == 503
        assert session.failure == session.stop == "engine_error"
        assert session.tree.num_tokens == 0
        gateway.engine = ScriptedEngine([say("back")])
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert session.failure is None
