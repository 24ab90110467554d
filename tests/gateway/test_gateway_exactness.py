"""Sampled ids stay as they were sampled, whatever agents do to the messages on their way back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import OFF_LOOP_CHARS, Session

SAMPLING = Sampling(max_tokens=400)
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"properties": {"command": {}}}}}]
Say = Callable[..., list[int]]


class Agent:
    """A conversation over plain HTTP in which every echo can be tampered with."""

    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway, session: Session) -> None:
        self.http = http
        self.url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": "solve it"}]
        self.tools: list[dict[str, Any]] = TOOLS

    async def ask(self, messages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        body = {"messages": self.messages if messages is None else messages, "tools": self.tools}
        async with self.http.post(self.url, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        return answer["choices"][0]["message"]

    def answer(self, message: dict[str, Any], *observations: str) -> None:
        self.messages.append(message)
        for call, text in zip(message["tool_calls"], observations, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


def reserialised(message: dict[str, Any]) -> None:
    for call in message["tool_calls"]:
        arguments = json.loads(call["function"]["arguments"])
        call["function"]["arguments"] = json.dumps(dict(reversed(arguments.items())), indent=3)


def other_ids(message: dict[str, Any]) -> None:
    for call in message["tool_calls"]:
        call["id"] = "x" + call["id"]


def litellm_keys(message: dict[str, Any]) -> None:
    message |= {"provider_specific_fields": {"refusal": None}, "function_call": None, "annotations": []}


def cache_marks(message: dict[str, Any]) -> None:
    message["content"] = [{"type": "text", "text": message["content"], "cache_control": {"type": "ephemeral"}}]


def stripped(message: dict[str, Any]) -> None:
    message["content"] = message["content"].strip() + "\n"


def javascript_numbers(message: dict[str, Any]) -> None:
    for call in message["tool_calls"]:
        call["function"]["arguments"] = call["function"]["arguments"].replace("1.0", "1")


def reasoning_added(message: dict[str, Any]) -> None:
    message["reasoning_content"] = "I thought"


CHANGES = [
    reserialised,
    other_ids,
    litellm_keys,
    cache_marks,
    stripped,
    javascript_numbers,
    reasoning_added,
]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_harmless_change_keeps_the_sampled_ids(
    open_gateway: Callable[..., Any],
    http: aiohttp.ClientSession,
    say: Say,
    renderer: Renderer,
    change: Callable[[dict[str, Any]], None],
) -> None:
    turns = [
        say("first", ("bash", {"command": "ls", "n": 1.0}), ("bash", {"command": "pwd"})),
        say("second", ("bash", {"command": "cat a"})),
        say("done"),
    ]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    for observations in (("a", "/app"), ("kavo",)):
        message = await agent.ask()
        change(message)
        agent.answer(message, *observations)
    await agent.ask()
    for earlier, later, sampled in zip(engine.calls, engine.calls[1:], turns, strict=False):
        assert list(later[: len(earlier) + len(sampled)]) == [*earlier, *sampled]
    [branch] = session.tree.branches()
    assert branch.token_ids.tolist() == [*engine.calls[-1], *turns[-1]]
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns
    assert "kavo" in renderer.decode(engine.calls[2])
    assert (session.turns, session.sampled_tokens) == (3, sum(map(len, turns)))


async def test_long_conversations_are_as_exact(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, renderer: Renderer
) -> None:
    """They are tokenised in a thread; the prompt must be the same."""
    turns = [say("one", ("bash", {"command": "ls"})), say("two")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    agent.messages[0]["content"] = "wörd " * (OFF_LOOP_CHARS // 4)
    agent.answer(await agent.ask(), "seen")
    await agent.ask()
    assert agent.messages[0]["content"] in renderer.decode(engine.calls[0])
    assert list(engine.calls[1][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]


async def test_a_changed_argument_forks(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, renderer: Renderer
) -> None:
    turns = [say("go", ("bash", {"command": "ls"})), say("done")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    message = await agent.ask()
    message["tool_calls"][0]["function"]["arguments"] = '{"command": "rm"}'
    agent.answer(message, "gone")
    await agent.ask()
    assert '"rm"' in renderer.decode(engine.calls[1])
    paths = sorted(branch.token_ids.tolist() for branch in session.tree.branches())
    assert paths == sorted([[*engine.calls[0], *turns[0]], [*engine.calls[1], *turns[1]]])
    rewritten = next(b for b in session.tree.branches() if b.token_ids.tolist() == [*engine.calls[1], *turns[1]])
    assert [rewritten.token_ids[a:b].tolist() for a, b in rewritten.turns][-1] == turns[1]


async def test_a_dropped_turn_leaves_a_sibling_and_keeps_earlier_turns(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    """What mini-swe-agent does with a turn it could not read: the next request extends the previous prompt."""
    turns = [say("one", ("bash", {"command": "ls"})), say("bad turn"), say("better")]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    agent.answer(await agent.ask(), "a")
    await agent.ask()
    agent.messages.append({"role": "user", "content": "no tool call found"})
    await agent.ask()
    assert list(engine.calls[2][: len(engine.calls[0]) + len(turns[0])]) == [*engine.calls[0], *turns[0]]
    branches = session.tree.branches()
    assert sorted(len(branch.turns) for branch in branches) == [2, 2]
    assert session.sampled_tokens == sum(map(len, turns))


async def test_other_tools_are_another_prompt(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = ScriptedEngine([say("one", ("bash", {"command": "ls"})), say("two")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    agent.answer(await agent.ask(), "a")
    agent.tools = [*TOOLS, {"type": "function", "function": {"name": "other"}}]
    await agent.ask()
    assert len(session.tree.branches()) == 2


async def test_the_conversation_is_everything_said_once(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = ScriptedEngine([say("one", ("bash", {"command": "ls"})), say("bad"), say("two")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    agent = Agent(http, gateway, session)
    agent.answer(await agent.ask(), "a")
    await agent.ask()
    agent.messages.append({"role": "user", "content": "again"})
    await agent.ask()
    assert [(m["turn"], m["role"], m["content"]) for m in session.conversation] == [
        (0, "user", "solve it"),
        (0, "assistant", "one"),
        (1, "tool", "a"),
        (1, "assistant", "bad"),
        (2, "user", "again"),
        (2, "assistant", "two"),
    ]
    assert session.conversation[1]["tool_calls"] == [{"name": "bash", "arguments": {"command": "ls"}}]
    assert session.conversation[1]["prompt_tokens"] == len(engine.calls[0])
    json.dumps(session.conversation)


async def test_an_identical_request_is_a_fresh_sample_unless_it_carries_the_same_key(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = ScriptedEngine([say("one"), say("two"), say("three")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(SAMPLING)
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"

    async def ask(**headers: str) -> str:
        body = {"messages": [{"role": "user", "content": "x"}]}
        async with http.post(url, json=body, headers=headers) as response:
            return (await response.json())["choices"][0]["message"]["content"]

    assert [await ask(), await ask()] == ["one", "two"]
    assert [await ask(**{"x-request-id": "r1"}), await ask(**{"x-request-id": "r1"})] == ["three", "three"]
    assert session.turns == 3
    assert len(session.tree.branches()) == 3


async def test_seeds_differ_by_turn_and_repeat_by_session(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    seen: list[Sampling] = []

    class Watching(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            seen.append(copy.copy(sampling))
            return await super().complete(prompt_ids, sampling)

    gateway = await open_gateway(Watching(lambda prompt: say("ok")))
    for _ in range(2):
        session = gateway.open_session(Sampling(max_tokens=50, temperature=0.7, seed=3))
        agent = Agent(http, gateway, session)
        await agent.ask()
        async with http.post(agent.url, json={"messages": agent.messages, "temperature": 0, "seed": 9, "top_p": 0.1}):
            pass
    assert [s.seed for s in seen[:2]] == [s.seed for s in seen[2:]]
    assert seen[0].seed != seen[1].seed
    assert {(s.temperature, s.top_p, s.max_tokens) for s in seen} == {(0.7, 1.0, 50)}
