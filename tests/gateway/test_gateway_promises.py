"""What holds in every dialect alike: a retry is answered once, sessions are apart, and a turn is trained on once."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.trajectory.convert import to_branches

Json = dict[str, Any]
USER: Json = {"role": "user", "content": "x"}
BODIES: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": [USER]},
    "/v1/messages": {"messages": [USER]},
    "/v1beta/models/m:generateContent": {"contents": [{"role": "user", "parts": [{"text": "x"}]}]},
}
COUNTS = {
    "/v1/responses": "/v1/responses/input_tokens",
    "/v1/messages": "/v1/messages/count_tokens",
    "/v1beta/models/m:generateContent": "/v1beta/models/m:countTokens",
}


def root_of(gateway: Gateway, session: Session) -> str:
    return f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"


@pytest.mark.parametrize("path", BODIES)
async def test_a_retry_is_answered_once_and_counts_are_those_of_the_prompt(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]], path: str
) -> None:
    engine = ScriptedEngine([say("one"), say("two")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    told = []
    for headers in ({"idempotency-key": "k"}, {"idempotency-key": "k"}, {}):
        async with http.post(root_of(gateway, session) + path, json=BODIES[path], headers=headers) as response:
            told.append(await response.text())
    assert ["one" in text for text in told] == [True, True, False]
    assert (session.turns, len(engine.calls)) == (2, 2)
    if path in COUNTS:
        async with http.post(root_of(gateway, session) + COUNTS[path], json=BODIES[path]) as response:
            assert len(engine.calls[0]) in (await response.json()).values()


async def test_a_session_knows_nothing_of_another(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    """Words of another's answer, and its idempotency key, are nothing but words here."""
    gateway = await open_gateway(ScriptedEngine([say("secret"), say("own"), say("more")]))
    one, other = gateway.open_session(Sampling()), gateway.open_session(Sampling())
    assert len({one.key, other.key}) == 2
    assert min(map(len, (one.key, other.key))) >= 32
    path, key = "/v1/chat/completions", {"idempotency-key": "k"}
    for session, text in ((one, "secret"), (other, "own")):
        async with http.post(root_of(gateway, session) + path, json={"messages": [USER]}, headers=key) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == text
    theirs = [USER, {"role": "assistant", "content": "secret"}, {"role": "user", "content": "y"}]
    async with http.post(root_of(gateway, other) + path, json={"messages": theirs}) as response:
        assert response.status == 200
    assert (one.turns, one.tree.num_sampled) == (1, len(say("secret")))
    assert (other.turns, other.tree.num_sampled) == (2, len(say("own")) + len(say("more")))


async def test_a_turn_that_survives_a_compaction_is_trained_once(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
) -> None:
    said = [say("I look"), say("I edit"), say("We looked."), say("done")]
    gateway = await open_gateway(ScriptedEngine(said))
    session = gateway.open_session(Sampling())

    async def ask(*messages: Json) -> Json:
        async with http.post(
            root_of(gateway, session) + "/v1/chat/completions", json={"messages": messages}
        ) as response:
            return (await response.json())["choices"][0]["message"]

    first = await ask(USER)
    kept = await ask(USER, first, USER)
    summary = await ask(USER, first, USER, kept, {"role": "user", "content": "summarise"})
    await ask({"role": "user", "content": f"so far: {summary['content']}"}, kept, USER)
    owned = [branch.branch.token_ids[branch.own] for branch in to_branches(session.tree)]
    assert sorted(ids for tokens in owned for ids in tokens.tolist()) == sorted(ids for turn in said for ids in turn)


async def test_a_huge_picture_is_refused_by_its_size_or_its_place(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession
) -> None:
    engine = ScriptedEngine([])
    gateway = await open_gateway(engine, max_body_bytes=4 << 20)
    session = gateway.open_session(Sampling())
    for size, status in ((1 << 20, 400), (4 << 20, 413)):
        url = "data:image/png;base64," + base64.b64encode(bytes(size)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = io.BytesIO(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())
        async with http.post(root_of(gateway, session) + "/v1/chat/completions", data=body) as response:
            error = (await response.json())["error"]
            assert response.status == status
            assert error["param"] == ("messages[0].content[0]" if status == 400 else None)
    assert (engine.calls, session.turns, session.tree.num_tokens) == ([], 0, 0)
