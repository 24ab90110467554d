"""Several processes behind one port answer as one does, record the same, and lose nothing on the way between them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from palmette.chat.template import Renderer
from palmette.engine.api import EngineError, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.door import key_in
from palmette.gateway.incoming import key_of
from palmette.gateway.key import KEY_LENGTH, owner_of
from palmette.gateway.session import Failure, Session

Say = Callable[..., list[int]]
USER = {"role": "user", "content": "x"}
BASH = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]


def answers(say: Say) -> Callable[[Sequence[int]], list[int]]:
    """Return a script whose answer tells the length of the prompt, and calls a tool every other time."""

    def answer(prompt: Sequence[int]) -> list[int]:
        said = f"seen {len(prompt)}"
        return say(said, ("bash", {"n": len(prompt)})) if len(prompt) % 2 else say(said)

    return answer


async def converse(http: aiohttp.ClientSession, gateway: Gateway, session: Session, turns: int) -> list[Any]:
    """Hold a conversation, every third turn streamed; return what was answered."""
    url, messages, told = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions", [USER], []
    for turn in range(turns):
        body = {"messages": messages, "tools": BASH, "stream": turn % 3 == 2}
        async with http.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            said = (
                streamed(await response.text()) if body["stream"] else (await response.json())["choices"][0]["message"]
            )
        told.append(said)
        calls = said.get("tool_calls") or []
        messages = [*messages, said, *({"role": "tool", "tool_call_id": c["id"], "content": "done\n"} for c in calls)]
        messages += [] if calls else [{"role": "user", "content": f"go on {turn}"}]
    return told


def streamed(text: str) -> dict[str, Any]:
    """Put a streamed message together."""
    content, calls = "", {}
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                content += choice["delta"].get("content") or ""
                for part in choice["delta"].get("tool_calls") or []:
                    call = calls.setdefault(part["index"], {"id": "", "type": "function", "function": {}})
                    call["id"] = part.get("id") or call["id"]
                    for name, value in part["function"].items():
                        call["function"][name] = call["function"].get(name, "") + value
    return {"role": "assistant", "content": content, "tool_calls": list(calls.values())}


def same_trees(one: Session, other: Session) -> bool:
    pairs = zip(one.tree.branches(), other.tree.branches(), strict=True)
    return all(np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.logprob, b.logprob) for a, b in pairs)


async def test_processes_answer_and_record_as_one_does(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, tmp_path: Path
) -> None:
    engines = [ScriptedEngine(answers(say)) for _ in range(2)]
    one = await open_gateway(engines[0])
    two = await open_gateway(engines[1], processes=2, journal=tmp_path)
    alone = [one.open_session(Sampling(max_tokens=99, seed=5)) for _ in range(4)]
    spread = [two.open_session(Sampling(max_tokens=99, seed=5)) for _ in range(4)]
    assert {owner_of(session.key, 2) for session in spread} == {0, 1}

    # All sessions over connections that they share, so that these go from process to process.
    told = [
        await asyncio.gather(*(converse(http, gw, s, 5) for s in some)) for gw, some in ((one, alone), (two, spread))
    ]
    assert told[0] == told[1]
    for first, second in zip(alone, spread, strict=True):
        assert same_trees(first, second)
        assert (first.turns, first.conversation, first.requests) == (second.turns, second.conversation, second.requests)
        assert first.failure is second.failure is None
    assert sorted(engines[0].calls) == sorted(engines[1].calls)

    # A fork goes on in the process of its original, and the original as it was.
    forks = [gw.fork_session(some[0].key, Sampling(max_tokens=99)) for gw, some in ((one, alone), (two, spread))]
    assert owner_of(forks[1].key, 2) == owner_of(spread[0].key, 2)
    assert await converse(http, one, forks[0], 2) == await converse(http, two, forks[1], 2)
    assert same_trees(*forks)
    assert forks[1].turns == spread[0].turns + 2

    # What was closed is final here and gone there; strangers' keys open nothing.
    closed = two.close_session(spread[1].key)
    assert same_trees(closed, alone[1])
    for key in (closed.key, "x" * 32, two.open_session(Sampling()).key[::-1]):
        async with http.post(
            f"http://127.0.0.1:{two.port}/s/{key}/v1/chat/completions", json={"messages": [USER]}
        ) as no:
            assert no.status == 404, await no.text()

    # Counted together.
    async with http.get(f"http://127.0.0.1:{two.port}/metrics") as response:
        counted = dict(
            re.findall(r"^palmette_(turns_total|sessions_open) ([\d.]+)$", await response.text(), re.MULTILINE)
        )
    assert (float(counted["turns_total"]), float(counted["sessions_open"])) == (22, 5)

    # After a crash (nothing closed) other processes go on from the journal.
    await two._crew.close()  # as if they had been killed
    again = await open_gateway(ScriptedEngine(answers(say)), processes=2, journal=tmp_path)
    assert set(again.sessions) == set(two.sessions)
    back = again.sessions[spread[2].key]
    assert same_trees(back, spread[2])
    more = await converse(http, again, back, 6)
    assert more[:5] == told[1][2] or more[5]  # fresh samples of the same script
    assert back.turns == spread[2].turns + 6


async def test_failures_are_known_before_the_agent_knows(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    class Failing(ScriptedEngine):
        async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Any:
            if len(self.calls) == 1:
                self.calls.append(())
                raise EngineError("out of order")
            return await super().complete(prompt_ids, sampling)

    gateway = await open_gateway(Failing(lambda prompt: say("ok"), context_tokens=200, delay_s=0.05), processes=2)
    session = gateway.open_session(Sampling(max_tokens=99))
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"

    async def ask(content: str) -> tuple[int, Any]:
        async with http.post(url, json={"messages": [{"role": "user", "content": content}]}) as response:
            return response.status, session.failure

    assert await ask("a") == (200, None)
    assert await ask("b") == (503, Failure.ENGINE_ERROR)
    assert await ask("c") == (200, None)
    assert await ask("long " * 200) == (400, Failure.CONTEXT_EXHAUSTED)
    assert session.turns == 2

    await _go_from_session_to_session(gateway)

    # A process that dies takes its sessions with it, and no others.
    victim = owner_of(session.key, 2)
    program = gateway._crew._programs[victim]
    program.kill()
    while victim in gateway._crew._listening:
        await asyncio.sleep(0.001)
    await program.wait()  # until then its port may still take connections
    assert session.failure is Failure.ENGINE_ERROR
    async with aiohttp.ClientSession() as fresh:
        async with fresh.post(url, json={"messages": [USER]}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "engine_error")
        other = gateway.open_session(Sampling(max_tokens=99))
        assert owner_of(other.key, 2) != victim
        assert len(await converse(fresh, gateway, other, 1)) == 1

        # Another takes its place.
        while gateway._crew._replacing:
            await asyncio.sleep(0.01)
        later = [gateway.open_session(Sampling(max_tokens=99)) for _ in range(2)]
        assert {owner_of(each.key, 2) for each in later} == {0, 1}
        for each in later:
            assert len(await converse(fresh, gateway, each, 1)) == 1
        async with fresh.post(url, json={"messages": [USER]}) as response:
            assert response.status == 404, "what was lost stays lost"


async def _go_from_session_to_session(gateway: Gateway) -> None:
    """Ask for two sessions of two processes on one connection: first one behind the other, then one after the other."""
    sessions = [gateway.open_session(Sampling(max_tokens=99)) for _ in range(2)]
    body = json.dumps({"messages": [USER]}).encode()
    asks = [
        f"POST {s.base_url}/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        for s in sessions
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

    async def answered(times: int) -> list[bytes]:
        told = b""
        while told.count(b"HTTP/1.1 ") < times or not told.endswith(b"}"):
            told += await asyncio.wait_for(reader.read(65536), 30)
        return re.findall(rb"HTTP/1.1 (\d+)", told)

    for at in range(0, len(asks[0]), 7):  # in pieces
        writer.write(asks[0][at : at + 7])
        await writer.drain()
    writer.write(asks[1])
    assert await answered(2) == [b"200", b"421"]
    for ask in reversed(asks):  # now the connection is free to go
        writer.write(ask)
        assert await answered(1) == [b"200"]
    writer.close()
    assert [session.turns for session in sessions] == [2, 1]


@given(
    key=st.text("abcXYZ019-_", min_size=32, max_size=32) | st.sampled_from(["", "any"]),
    where=st.sampled_from(["path", "authorization", "x-api-key", "x-goog-api-key", "query"]),
    noise=st.lists(st.sampled_from(["host: a", "Accept: */*", "authorization:", "x-api-key: b"]), max_size=3),
)
def test_a_head_shows_the_key_that_its_request_has(key: str, where: str, noise: list[str]) -> None:
    query = f"alt=sse&key={key}" if where == "query" else ""
    lines = [*noise, f"{where.title()}: {'Bearer ' if where == 'authorization' else ''}{key}"]
    path = f"/s/{key}/v1/messages" if where == "path" and key else "/v1/messages"
    head = f"POST {path}?{query} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines)
    headers = [
        (name.lower().encode(), said.strip().encode()) for name, _, said in (line.partition(":") for line in lines)
    ]
    request = Request({"type": "http", "headers": headers, "query_string": query.encode()})
    meant = key if where == "path" and key else key_of(request)
    found = key_in(head.encode())
    assert found == meant or len(found) != KEY_LENGTH != len(meant), "what is no key of a session goes nowhere"


def test_there_is_at_least_one_process(renderer: Renderer) -> None:
    with pytest.raises(ValueError, match="at least one process"):
        Gateway(ScriptedEngine([]), renderer, processes=0)
