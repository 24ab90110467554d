"""The official client of OpenAI's Responses, streaming and not, against the gateway."""

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

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
BASH: Any = {"type": "function", "name": "bash", "description": "run", "parameters": SCHEMA}
PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "patch", "format": {"type": "text"}}
SPACE: Any = {"type": "namespace", "name": "mcp__files__", "description": "", "tools": [{**BASH, "name": "read"}]}
TOOLS: Any = [BASH, PATCH, SPACE, {"type": "web_search"}]
Say = Callable[..., list[int]]


def client_of(gateway: Gateway, session: Session) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}{session.base_url}", api_key="x", max_retries=0)


async def ask(client: openai.AsyncOpenAI, streamed: bool, input: Any, **more: Any) -> Any:
    """Return the final response, by either way; a stream's events must count up and add up to it."""
    asked: Any = {"model": "m", "input": input, "store": False, "include": ["reasoning.encrypted_content"]} | more
    if not streamed:
        return await client.responses.create(**asked)
    events: list[Any] = [event async for event in await client.responses.create(stream=True, **asked)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    final: Any = events[-1].response
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == final.output_text
    done = [event.item.model_dump() for event in events if event.type == "response.output_item.done"]
    assert done == [item.model_dump() for item in final.output]
    return final


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_with_every_kind_of_call(
    open_gateway: Callable[..., Any], say: Say, renderer: Renderer, streamed: bool
) -> None:
    calls = [("bash", {"command": "ls"}), ("apply_patch", {"input": "*** é"}), ("mcp__files__read", {"command": "a"})]
    turns = [say("I look", *calls), say("all done")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        start: Any = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "look"}]
        first = await ask(client, streamed, start, tools=TOOLS, instructions="You are it.")
        assert [item.type for item in first.output] == ["message", "function_call", "custom_tool_call", "function_call"]
        assert first.output_text == "I look"
        items = [item.model_dump() for item in first.output]
        assert (items[1]["name"], json.loads(items[1]["arguments"])) == ("bash", {"command": "ls"})
        assert (items[2]["name"], items[2]["input"]) == ("apply_patch", "*** é")
        assert (items[3]["name"], items[3]["namespace"]) == ("read", "mcp__files__")
        assert (first.status, first.usage.input_tokens) == ("completed", len(engine.calls[0]))
        assert first.usage.output_tokens == len(turns[0])
        outputs: Any = [
            {"type": "function_call_output", "call_id": items[1]["call_id"], "output": "kavo"},
            {"type": "custom_tool_call_output", "call_id": items[2]["call_id"], "output": "patched"},
            {
                "type": "function_call_output",
                "call_id": items[3]["call_id"],
                "output": [{"type": "input_text", "text": "text"}],
            },
        ]
        last = await ask(client, streamed, [*start, *items, *outputs], tools=TOOLS, instructions="You are it.")
    assert (last.output_text, [item.type for item in last.output]) == ("all done", ["message"])
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]
    assert renderer.decode(engine.calls[0]).index("You are it.") < renderer.decode(engine.calls[0]).index("be brief")
    assert "web_search" not in renderer.decode(engine.calls[0])
    [branch] = session.tree.branches()
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_an_item(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    turns = [say("<think>\nhm\n</think>\n\nyes"), say("still")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        answer = await ask(client, streamed, "hi")
        assert [item.type for item in answer.output] == ["reasoning", "message"]
        assert (answer.output[0].summary[0].text, answer.output_text) == ("hm", "yes")
        items = [item.model_dump() for item in answer.output]
        await ask(client, streamed, [{"role": "user", "content": "hi"}, *items, {"role": "user", "content": "sure?"}])
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cut_answer_is_incomplete(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine([say("a long story")]))
    async with client_of(gateway, gateway.open_session(Sampling())) as client:
        answer = await ask(client, streamed, "go", max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output_text == "a lon"


async def test_a_full_context_and_counting(open_gateway: Callable[..., Any], say: Say) -> None:
    engine = ScriptedEngine([say("fits")], context_tokens=60)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with client_of(gateway, session) as client:
        for streamed in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(client, streamed, "x" * 99)
            assert refused.value.code == "context_length_exceeded"
        counted = await client.responses.input_tokens.count(model="m", input="hi")
        await ask(client, False, "hi")
        assert counted.input_tokens == len(engine.calls[0])


async def test_ids_and_logprobs_on_request(open_gateway: Callable[..., Any], say: Say) -> None:
    sampled = say("yes")
    engine = ScriptedEngine([sampled, sampled])
    gateway = await open_gateway(engine)
    async with client_of(gateway, gateway.open_session(Sampling())) as client:
        for streamed in (False, True):
            answer = await ask(client, streamed, "hi", extra_body={"return_token_ids": True})
            raw = answer.model_dump()
            assert (raw["prompt_token_ids"], raw["token_ids"]) == (list(engine.calls[0]), sampled)
            assert len(raw["logprobs"]) == len(sampled)
