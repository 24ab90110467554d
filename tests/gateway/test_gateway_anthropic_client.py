"""The official client of Anthropic's Messages, streaming and not, against the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session

BASH: Any = {"name": "bash", "description": "run", "input_schema": {"properties": {"command": {"type": "string"}}}}
USER: Any = {"role": "user", "content": "look"}
Say = Callable[..., list[int]]


def client_of(gateway: Gateway, session: Session, retries: int = 0) -> anthropic.AsyncAnthropic:
    root = f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"
    return anthropic.AsyncAnthropic(base_url=root, api_key="x", max_retries=retries)


async def ask(client: anthropic.AsyncAnthropic, streamed: bool, messages: Any, **more: Any) -> Any:
    """Return the final message, by either way."""
    asked: Any = {"model": "m", "max_tokens": 1000, "messages": messages, "tools": [BASH]} | more
    if not streamed:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_with_parallel_calls(
    open_gateway: Callable[..., Any], say: Say, renderer: Renderer, streamed: bool
) -> None:
    turns = [say("I look", ("bash", {"command": "ls é"}), ("bash", {"command": "pwd"})), say("all done")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        system: Any = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
        first = await ask(client, streamed, [USER], system=system)
        assert [block.type for block in first.content] == ["text", "tool_use", "tool_use"]
        assert first.content[0].text == "I look"
        assert [(block.name, block.input) for block in first.content[1:]] == [
            ("bash", {"command": "ls é"}),
            ("bash", {"command": "pwd"}),
        ]
        assert (first.role, first.model, first.stop_reason) == ("assistant", "m", "tool_use")
        assert (first.usage.input_tokens, first.usage.output_tokens) == (len(engine.calls[0]), len(turns[0]))
        results: Any = [
            {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "kavo"},
            {"type": "tool_result", "tool_use_id": first.content[2].id, "content": [{"type": "text", "text": "/app"}]},
            {"type": "text", "text": "now finish", "cache_control": {"type": "ephemeral"}},
        ]
        echo = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
        last = await ask(client, streamed, [USER, echo, {"role": "user", "content": results}], system="be brief")
    assert ([block.text for block in last.content], last.stop_reason) == (["all done"], "end_turn")
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]
    prompt = renderer.decode(engine.calls[1])
    assert prompt.index("be brief") < prompt.index("kavo") < prompt.index("/app") < prompt.index("now finish")
    [branch] = session.tree.branches()
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_a_thinking_block(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine([say("<think>\nhm\n</think>\n\nyes", ("bash", {}))]))
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        answer = await ask(client, streamed, [USER])
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("hm", "yes")
    assert answer.content[0].signature


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cut_answer_says_max_tokens(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine([say("a long story")]))
    async with client_of(gateway, gateway.open_session(Sampling())) as client:
        answer = await ask(client, streamed, [USER], max_tokens=5)
    assert (answer.stop_reason, answer.content[0].text, answer.usage.output_tokens) == ("max_tokens", "a lon", 5)


async def test_counting_models_and_keys(open_gateway: Callable[..., Any], say: Say) -> None:
    engine = ScriptedEngine([say("by key")], context_tokens=1234)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    root = f"http://127.0.0.1:{gateway.port}"
    async with anthropic.AsyncAnthropic(base_url=root, api_key=session.key, max_retries=0) as client:
        counted = await client.messages.count_tokens(model="m", messages=[USER], tools=[BASH], system="be brief")
        assert (session.turns, session.tree.num_tokens) == (0, 0)
        await client.messages.create(model="m", max_tokens=9, messages=[USER], tools=[BASH], system="be brief")
        assert counted.input_tokens == len(engine.calls[0])
        [model] = [model async for model in await client.models.list()]
        assert (model.id, model.type) == ("palmette", "model")
        assert (await client.models.retrieve("other")).id == "other"
    async with anthropic.AsyncAnthropic(base_url=root, api_key="nobody", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client.messages.create(model="m", max_tokens=9, messages=[USER])
    assert "nobody" not in str(refused.value)


async def test_a_full_context_is_the_sentence_that_agents_compact_upon(
    open_gateway: Callable[..., Any], say: Say
) -> None:
    gateway = await open_gateway(ScriptedEngine([say("never")], context_tokens=10))
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        for streamed in (False, True):
            with pytest.raises(anthropic.BadRequestError) as refused:
                await ask(client, streamed, [{"role": "user", "content": "x" * 50}])
            body: Any = refused.value.body
            assert body["error"]["type"] == "invalid_request_error"
            assert body["error"]["message"].startswith("prompt is too long: ")
            assert body["error"]["message"].endswith(" tokens > 10 maximum")
    assert (session.failure, session.turns) == ("context_exhausted", 0)


async def test_it_retries_a_failed_engine_and_is_answered_once(open_gateway: Callable[..., Any], say: Say) -> None:
    failing = ScriptedEngine([])

    def script(prompt: Any) -> list[int]:
        if len(failing.calls) == 1:
            raise ZeroDivisionError
        return say("back")

    failing._script = script
    gateway = await open_gateway(failing)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session, retries=2) as client:
        answer = await ask(client, False, [USER])
    assert answer.content[0].text == "back"
    assert (len(failing.calls), session.turns, len(session.tree.branches()), session.failure) == (2, 1, 1, None)


async def test_ids_and_logprobs_on_request(open_gateway: Callable[..., Any], say: Say) -> None:
    sampled = say("yes", ("bash", {}))
    engine = ScriptedEngine([sampled, sampled])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        answer: Any = await client.messages.create(
            model="m", max_tokens=900, messages=[USER], extra_body={"return_token_ids": True}
        )
    raw = answer.model_dump()
    assert (raw["prompt_token_ids"], raw["token_ids"]) == (list(engine.calls[0]), sampled)
    [branch] = session.tree.branches()
    assert raw["logprobs"] == pytest.approx(branch.logprob[branch.sampled].tolist())
