"""Streams are live, a client that leaves ends its generation, and a retry is answered from the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, Each, EngineError, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway import stream
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session

USER = {"role": "user", "content": "x"}
Say = Callable[..., list[int]]


class Gated(ScriptedEngine):
    """Samples one token for each permit, and remembers who was cancelled; may break after so many tokens."""

    def __init__(self, script: Any, *, breaks_after: int | None = None) -> None:
        super().__init__(script)
        self.permits = asyncio.Semaphore(0)
        self.cancelled = asyncio.Event()
        self.breaks_after = breaks_after

    async def stream(self, prompt_ids: Any, sampling: Sampling, each: Each) -> Completion:
        completion = await self.complete(prompt_ids, sampling)
        try:
            for count, pair in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
                await self.permits.acquire()
                if count == self.breaks_after:
                    raise EngineError("it broke")
                each(*pair)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return completion

    def permit(self, count: int) -> None:
        for _ in range(count):
            self.permits.release()


def url(gateway: Gateway, session: Session) -> str:
    return f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"


def heard(text: str) -> str:
    """Return the content of a whole response or of a stream."""
    if text.startswith("{"):
        return json.loads(text)["choices"][0]["message"]["content"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    return "".join(part["choices"][0]["delta"].get("content") or "" for part in chunks)


async def chunk(response: aiohttp.ClientResponse) -> dict[str, Any]:
    line = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 10)
    return json.loads(line.removeprefix(b"data: "))


async def test_a_token_leaves_before_the_next_is_sampled(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = Gated([say("abc", ("bash", {"command": "ls"}))])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    engine.permit(1)
    async with http.post(url(gateway, session), json={"messages": [USER], "stream": True}) as response:
        assert (await chunk(response))["choices"][0]["delta"]["role"] == "assistant"
        for letter in "abc":
            assert (await chunk(response))["choices"][0]["delta"] == {"content": letter}
            engine.permit(1)
        assert session.turns == 0
        engine.permit(1000)
        rest = (await response.content.read()).decode()
    assert json.loads(rest.split("\n\n")[1].removeprefix("data: "))["choices"][0]["delta"]["tool_calls"][0][
        "function"
    ] == {"arguments": '{"command":"ls"}'}
    assert rest.endswith("data: [DONE]\n\n")
    assert session.turns == 1
    assert session.tree.num_sampled == len(say("abc", ("bash", {"command": "ls"})))


@pytest.mark.parametrize("permits", [0, 2, 12], ids=["before a token", "in the text", "in a call"])
async def test_a_client_that_leaves_cancels_its_generation(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, permits: int
) -> None:
    engine = Gated(lambda prompt: say("abc", ("bash", {"command": "ls"})))
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    engine.permit(permits)
    asking = asyncio.ensure_future(http.post(url(gateway, session), json={"messages": [USER], "stream": True}))
    while not engine.calls or engine.permits._value:
        await asyncio.sleep(0.01)
    if permits:
        response = await asking
        await chunk(response)
        response.close()
    else:
        asking.cancel()
    await asyncio.wait_for(engine.cancelled.wait(), 10)
    assert (session.turns, session.tree.num_tokens, session.failure) == (0, 0, None)
    for _ in range(100):
        if not gateway._places.under_way:
            break
        await asyncio.sleep(0.01)
    assert gateway._places.under_way == 0, "its place is free again"


async def test_an_engine_that_fails_midway_breaks_the_stream(open_gateway: Callable[..., Any], say: Say) -> None:
    engine = Gated(lambda prompt: say("abc"), breaks_after=2)
    engine.permit(10)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    base = f"http://127.0.0.1:{gateway.port}{session.base_url}"
    async with openai.AsyncOpenAI(base_url=base, api_key="x", max_retries=0) as client:
        told: Any = await client.chat.completions.create(model="m", messages=[USER], stream=True)  # type: ignore[call-overload]
        seen = []
        with pytest.raises(openai.APIError, match="it broke"):
            [seen.append(part.choices[0].delta.content) async for part in told]
    assert seen == ["", "a", "b"]
    assert (session.failure, session.turns, session.tree.num_tokens) == ("engine_error", 0, 0)


async def test_an_engine_that_fails_at_once_is_a_status(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession
) -> None:
    gateway = await open_gateway(ScriptedEngine([], context_tokens=60))
    session = gateway.open_session(Sampling())
    for content, status in [("x", 503), ("x" * 99, 400)]:
        body = {"messages": [{"role": "user", "content": content}], "stream": True}
        async with http.post(url(gateway, session), json=body) as response:
            assert response.status == status
    assert session.failure == "context_exhausted"


async def test_closing_a_session_ends_its_streams(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = Gated(lambda prompt: say("abc"))
    engine.permit(2)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with http.post(url(gateway, session), json={"messages": [USER], "stream": True}) as response:
        await chunk(response)
        gateway.close_session(session.key)
        rest = await asyncio.wait_for(response.content.read(), 10)
    assert json.loads(rest.split(b"data: ")[-1])["error"]["code"] == "session_not_found"
    assert session.tree.num_tokens == 0


async def test_an_idle_stream_is_kept_alive(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.01)
    engine = Gated([say("a", ("bash", {"command": "ls"}))])
    engine.permit(3)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    async with http.post(url(gateway, session), json={"messages": [USER], "stream": True}) as response:
        while not (await response.content.readline()).startswith(b":"):
            pass
        engine.permit(1000)
        assert (await response.content.read()).endswith(b"[DONE]\n\n")


async def test_ids_and_logprobs_of_a_stream_are_all_of_them(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    sampled = say("I look", ("bash", {"command": "é"}))
    engine = ScriptedEngine([sampled])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    body = {"messages": [USER], "stream": True, "return_token_ids": True, "logprobs": True}
    async with http.post(url(gateway, session), json=body) as response:
        text = await response.text()
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    assert chunks[0]["prompt_token_ids"] == list(engine.calls[0])
    choices = [part["choices"][0] for part in chunks]
    assert [token for choice in choices for token in choice.get("token_ids", [])] == sampled
    logprobs = [item["logprob"] for choice in choices for item in (choice.get("logprobs") or {}).get("content", [])]
    [branch] = session.tree.branches()
    assert logprobs == pytest.approx(branch.logprob[branch.sampled].tolist())


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_retry_is_answered_from_the_record(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, streamed: bool
) -> None:
    engine = ScriptedEngine([say("one"), say("two")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())

    async def ask(retries: int) -> str:
        headers = {"x-stainless-retry-count": str(retries)}
        body = {"messages": [USER], "stream": streamed}
        async with http.post(url(gateway, session), json=body, headers=headers) as response:
            return heard(await response.text())

    assert [await ask(0), await ask(1), await ask(2), await ask(0)] == ["one", "one", "one", "two"]
    assert (len(engine.calls), session.turns) == (2, 2)


async def test_a_retry_joins_what_is_under_way(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = Gated([say("abc")])
    engine.permit(2)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    body = {"messages": [USER], "stream": True}

    async def ask(retries: int) -> aiohttp.ClientResponse:
        return await http.post(url(gateway, session), json=body, headers={"x-stainless-retry-count": str(retries)})

    first = await ask(0)
    second = await ask(1)
    first.close()
    engine.permit(100)
    assert heard(await second.text()) == "abc"
    assert (len(engine.calls), session.turns, engine.cancelled.is_set()) == (1, 1, False)


async def test_an_answer_that_nobody_heard_is_given_to_the_retry(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    """Of a client that does not say that it retries: the first answer was recorded, but its connection broke."""
    engine = ScriptedEngine([say("one"), say("two")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    body = {"messages": [USER]}
    texts = []
    for deaf in (True, False, False):
        async with http.post(url(gateway, session), json=body) as response:
            texts.append((await response.json())["choices"][0]["message"]["content"])
        if deaf:
            [call] = session._named.values()
            call.delivered = False
    assert texts == ["one", "one", "two"]
    assert session.turns == 2


async def test_a_model_streams_what_it_would_have_answered(open_gateway: Callable[..., Any]) -> None:
    """The embedded base under its own engine: the same seed gives the same text and the same tree either way."""
    from transformers import AutoModelForCausalLM

    import palmette
    from palmette.engine.local import LocalEngine

    base = Path(palmette.__file__).parent / "model" / "base"
    renderer = Renderer.from_dir(base)
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(base), stop_ids=renderer.stop_ids, threads=1)
    gateway = await open_gateway(engine)
    gateway.renderer = renderer
    answers = []
    for streamed in (False, True):
        session = gateway.open_session(Sampling(max_tokens=60, seed=4))
        address = f"http://127.0.0.1:{gateway.port}{session.base_url}"
        async with openai.AsyncOpenAI(base_url=address, api_key="x", max_retries=0) as client:
            asked: Any = {"model": "m", "messages": [USER], "max_tokens": 60}
            if streamed:
                told: Any = await client.chat.completions.create(stream=True, **asked)
                text = "".join([part.choices[0].delta.content or "" async for part in told])
            else:
                text = (await client.chat.completions.create(**asked)).choices[0].message.content or ""
        [branch] = session.tree.branches()
        answers.append((text, branch.token_ids.tolist(), branch.turns))
    await engine.close()
    assert answers[0] == answers[1]
    assert answers[0][0]
