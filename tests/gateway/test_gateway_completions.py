"""Token ids in, token ids out, over the gateway's own ``/v1/completions``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import ContextExhausted, Sampling
from palmette.engine.remote import open_engine
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway

Open = Callable[..., Any]


def _one_after(prompt: Any) -> list[int]:
    return [(prompt[-1] + k + 1) % 250 for k in range(40)]


async def _post(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with http.post(url, json=body) as answer:
        return answer.status, json.loads(await answer.read())


async def test_an_engine_served_is_the_same_engine_by_url(open_gateway: Open) -> None:
    engine = ScriptedEngine(_one_after, version=3, context_tokens=200)
    gateway: Gateway = await open_gateway(engine, public_key="k")
    remote = await open_engine(f"http://127.0.0.1:{gateway.port}", key="k")
    assert (remote.kind, remote.context_tokens) == ("vllm", 200)
    sampling = Sampling(max_tokens=7, stop_ids=(24, 22))
    here, there = await engine.complete((20, 19), sampling), await remote.complete((20, 19), sampling)
    assert here == there
    assert remote.names_version
    told: list[tuple[int, float]] = []
    assert await remote.stream((20, 19), sampling, lambda *one: told.append(one)) == here
    assert told == list(zip(here.token_ids, here.logprobs, strict=True))
    assert await remote.score((4, 5, 6)) == await engine.score((4, 5, 6))
    with pytest.raises(ContextExhausted):
        await remote.complete(range(200), sampling)
    await remote.close()


async def test_a_rollouts_session_records_the_ids_and_imposes_its_sampling(
    open_gateway: Open, http: aiohttp.ClientSession
) -> None:
    engine = ScriptedEngine(_one_after)
    gateway: Gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling(max_tokens=3))
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/completions"
    status, answer = await _post(http, url, {"prompt": [5, 6], "max_tokens": 30, "return_token_ids": True})
    assert (status, answer["choices"][0]["token_ids"]) == (200, [7, 8, 9])
    await _post(http, url, {"prompt": [5, 6, 7, 8, 9, 50], "max_tokens": 2})
    [branch] = session.tree.branches()
    assert branch.token_ids.tolist() == [5, 6, 7, 8, 9, 50, 51, 52]
    assert branch.sampled.tolist() == [False, False, True, True, True, False, True, True]
    assert session.turns == 2
    assert [(one["role"], one["parent"]) for one in session.conversation] == [("assistant", None)] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_reads_text_ids_and_log_probs(
    open_gateway: Open, renderer: Renderer, stream: bool
) -> None:
    sampled = [*renderer.encode("héllo → wörld 🌳"), renderer.stop_ids[0]]
    gateway: Gateway = await open_gateway(ScriptedEngine(lambda _: sampled, version=2), public_key="")
    asked: dict[str, Any] = {"model": "m", "prompt": [1, 2], "max_tokens": 99, "logprobs": 1}
    extra = {"return_token_ids": True}
    url = f"http://127.0.0.1:{gateway.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        if stream:
            chunks = [one async for one in await client.completions.create(**asked, stream=True, extra_body=extra)]
        else:
            chunks = [await client.completions.create(**asked, extra_body=extra)]
    parts: list[Any] = [chunk.choices[0] for chunk in chunks]
    assert "".join(part.text for part in parts) == "héllo → wörld 🌳"
    assert [token for part in parts for token in part.token_ids] == sampled
    assert sum(len(part.logprobs.token_logprobs) for part in parts) == len(sampled)
    assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
    assert [part.prompt_token_ids for part in parts if hasattr(part, "prompt_token_ids")] == [[1, 2]]
    assert chunks[-1].system_fingerprint == "weights-2"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "text"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1], "logprobs": 5}, "logprobs"),
        ({"prompt": [1], "prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"prompt": [1], "n": 2}, "n"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"prompt": [1], "stop": ["x"]}, "stop"),
        ({"prompt": [1], "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"prompt": [1], "stop_token_ids": ["x"]}, "stop_token_ids"),
        ({"prompt": [1], "max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_cannot_be_exact_is_refused(
    open_gateway: Open, http: aiohttp.ClientSession, body: dict[str, Any], field: str
) -> None:
    gateway: Gateway = await open_gateway(ScriptedEngine(_one_after), public_key="")
    status, answer = await _post(http, f"http://127.0.0.1:{gateway.port}/v1/completions", body)
    assert (status, answer["error"]["param"]) == (400, field)


async def test_ids_that_the_model_does_not_have_are_the_callers_fault(
    open_gateway: Open, http: aiohttp.ClientSession
) -> None:
    class Small(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            raise ValueError("token ids must lie in 0..9")

    gateway: Gateway = await open_gateway(Small(_one_after), public_key="")
    status, answer = await _post(http, f"http://127.0.0.1:{gateway.port}/v1/completions", {"prompt": [10]})
    assert (status, answer["error"]["param"]) == (400, "prompt")


async def test_a_top_k_of_minus_one_is_off(open_gateway: Open, http: aiohttp.ClientSession) -> None:
    seen: list[int] = []

    class Watched(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            seen.append(sampling.top_k)
            return await super().complete(prompt_ids, sampling)

    gateway: Gateway = await open_gateway(Watched(_one_after), public_key="")
    url = f"http://127.0.0.1:{gateway.port}/v1"
    await _post(http, f"{url}/completions", {"prompt": [1], "top_k": -1})
    await _post(http, f"{url}/chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_k": -1})
    assert seen == [0, 0]
