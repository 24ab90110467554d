"""Google's official client, streaming and not, against the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from google import genai
from google.genai import errors, types

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session

SCHEMA: Any = {"type": "OBJECT", "properties": {"command": {"type": "STRING"}}}
BASH = types.Tool(function_declarations=[types.FunctionDeclaration(name="bash", description="run", parameters=SCHEMA)])
Say = Callable[..., list[int]]


def root_of(gateway: Gateway, session: Session) -> str:
    return f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"


def client_of(gateway: Gateway, session: Session, key: str = "x") -> Any:
    options = types.HttpOptions(base_url=root_of(gateway, session))
    return genai.Client(api_key=key, http_options=options).aio


async def ask(client: Any, streamed: bool, contents: Any, **config: Any) -> tuple[list[Any], Any]:
    """Return the parts of the answer and its last piece, by either way."""
    asked = {"model": "gemini-x", "contents": contents, "config": types.GenerateContentConfig(tools=[BASH], **config)}
    if not streamed:
        answer = await client.models.generate_content(**asked)
        return answer.candidates[0].content.parts, answer
    pieces = [piece async for piece in await client.models.generate_content_stream(**asked)]
    return [part for piece in pieces for part in piece.candidates[0].content.parts], pieces[-1]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ids", [False, True])
async def test_a_conversation_with_parallel_calls(
    open_gateway: Callable[..., Any], say: Say, renderer: Renderer, streamed: bool, ids: bool
) -> None:
    turns = [say("I look", ("bash", {"command": "ls é"}), ("bash", {"command": "pwd"})), say("all done")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    client = client_of(gateway, session)
    user = types.Content(role="user", parts=[types.Part(text="look")])
    parts, last = await ask(client, streamed, [user], system_instruction="be brief")
    calls = [part.function_call for part in parts if part.function_call]
    assert "".join(part.text or "" for part in parts) == "I look"
    assert [(call.name, call.args) for call in calls] == [("bash", {"command": "ls é"}), ("bash", {"command": "pwd"})]
    assert (last.candidates[0].finish_reason, last.model_version) == ("STOP", "gemini-x")
    usage = last.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count) == (len(engine.calls[0]), len(turns[0]))
    if not ids:  # agents may leave them out
        for call in calls:
            call.id = None
    responses = [
        types.Part(function_response=types.FunctionResponse(id=call.id, name="bash", response={"output": told}))
        for call, told in zip(calls, ("kavo", "/app"), strict=True)
    ]
    echo = types.Content(role="model", parts=parts)
    contents = [user, echo, types.Content(role="user", parts=responses)]
    parts, _ = await ask(client, streamed, contents, system_instruction="be brief")
    assert "".join(part.text for part in parts) == "all done"
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]
    prompt = renderer.decode(engine.calls[1])
    assert prompt.index("be brief") < prompt.index("kavo") < prompt.index("/app")
    [branch] = session.tree.branches()
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns


async def test_the_clients_own_chat_keeps_streamed_pieces_apart(open_gateway: Callable[..., Any], say: Say) -> None:
    turns = [say("one two"), say("three")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    chat = client_of(gateway, session).chats.create(model="m")
    for message in ("a", "b"):
        async for _ in await chat.send_message_stream(message):
            pass
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_a_thought(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine([say("<think>\nhm\n</think>\n\nyes")]))
    parts, _ = await ask(client_of(gateway, gateway.open_session(Sampling())), streamed, "hi")
    assert "".join(part.text for part in parts if part.thought) == "hm"
    assert "".join(part.text for part in parts if not part.thought) == "yes"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cut_answer_and_its_logprobs(open_gateway: Callable[..., Any], say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine([say("a long story")]))
    session = gateway.open_session(Sampling())
    parts, last = await ask(
        client_of(gateway, session), streamed, "go", max_output_tokens=5, response_logprobs=True, top_k=64
    )
    assert "".join(part.text for part in parts) == "a lon"
    assert last.candidates[0].finish_reason == "MAX_TOKENS"
    chosen = last.candidates[0].logprobs_result.chosen_candidates
    [branch] = session.tree.branches()
    assert [one.token_id for one in chosen] == say("a long story")[:5]
    assert [one.log_probability for one in chosen] == pytest.approx(branch.logprob[branch.sampled].tolist())


async def test_counting_models_keys_and_a_full_context(open_gateway: Callable[..., Any], say: Say) -> None:
    engine = ScriptedEngine([say("fits")], context_tokens=60)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{gateway.port}")
    client = genai.Client(api_key=session.key, http_options=options).aio
    counted = await client.models.count_tokens(model="m", contents="hi")
    await client.models.generate_content(model="m", contents="hi")
    assert counted.total_tokens == len(engine.calls[0])
    assert (await client.models.get(model="other")).input_token_limit == 60
    assert [model.name async for model in await client.models.list()] == ["models/palmette"]
    for streamed in (False, True):
        with pytest.raises(errors.ClientError) as refused:
            await ask(client, streamed, "x" * 99)
        assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
        assert "exceeds the maximum number of tokens allowed (60)" in str(refused.value)
    stranger = genai.Client(api_key="nobody", http_options=options).aio
    with pytest.raises(errors.ClientError) as refused:
        await stranger.models.generate_content(model="m", contents="hi")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")


async def test_a_stream_without_sse_is_one_array(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    gateway = await open_gateway(ScriptedEngine([say("ab")]))
    root = root_of(gateway, gateway.open_session(Sampling()))
    body = {"contents": {"parts": [{"text": "hi"}]}, "generation_config": {"max_output_tokens": 9}}
    async with http.post(f"{root}/v1beta/models/m:streamGenerateContent", json=body) as response:
        pieces = json.loads(await response.read())
    parts = [part["text"] for piece in pieces for part in piece["candidates"][0]["content"]["parts"]]
    assert "".join(parts) == "ab"
    async with http.post(f"{root}/v1beta/models/m:embedContent", json=body) as response:
        assert (response.status, (await response.json())["error"]["status"]) == (404, "NOT_FOUND")
