"""The built-in loop over the real gateway, a scripted model and a real file system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.sandbox.api import Sandbox, SandboxLost, Spec
from palmette.sandbox.fake import FakeHost
from palmette.scaffolds.api import Endpoint, Stop
from palmette.scaffolds.loop import SYSTEM_PROMPT, ToolLoop

OpenGateway = Callable[..., Awaitable[Gateway]]
Say = Callable[..., list[int]]
SAMPLING = Sampling(max_tokens=300)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    host = FakeHost()
    yield await host.start(Spec())
    await host.close()


@pytest.fixture
async def loop() -> AsyncIterator[ToolLoop]:
    scaffold = ToolLoop(max_turns=5)
    yield scaffold
    await scaffold.aclose()


def endpoint(gateway: Gateway, session: Session) -> Endpoint:
    return Endpoint(base_url=f"http://{gateway.host}:{gateway.port}{session.base_url}", api_key=session.key)


async def drive(gateway: Gateway, loop: ToolLoop, sandbox: Sandbox) -> tuple[Stop, Session]:
    session = gateway.open_session(SAMPLING)
    return await loop.run("make f say two", sandbox, endpoint(gateway, session)), session


def observations(session: Session) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in session.conversation if m["role"] in ("tool", "user")][1:]


async def test_a_solved_task(
    open_gateway: OpenGateway, say: Say, loop: ToolLoop, sandbox: Sandbox, renderer: Renderer
) -> None:
    turns = [
        say("", ("bash", {"command": "echo one > f; cat f"}), ("bash", {"command": "exit 2"})),
        say("now", ("edit", {"path": "f", "old": "one", "new": "two"})),
        say("", ("submit", {}), ("bash", {"command": "rm f"})),
    ]
    engine = ScriptedEngine(turns)
    stop, session = await drive(await open_gateway(engine), loop, sandbox)
    assert stop is Stop.SUBMITTED
    assert await sandbox.read("f") == b"two\n"
    assert observations(session) == [("tool", "one"), ("tool", "(no output)\n[exit 2]"), ("tool", "ok")]
    assert session.conversation[0]["content"] == SYSTEM_PROMPT
    [branch] = session.tree.branches()
    assert branch.token_ids.tolist() == [*engine.calls[-1], *turns[-1]]
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns
    first = renderer.decode(engine.calls[0])
    assert SYSTEM_PROMPT in first
    assert "replace old by new once in a file" in first


async def test_what_cannot_be_read_is_told_and_the_loop_goes_on(
    open_gateway: OpenGateway, say: Say, loop: ToolLoop, sandbox: Sandbox, renderer: Renderer
) -> None:
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    turns = [
        renderer.encode('<tool_call>\n{"name": "bash"\n</tool_call><|im_end|>'),
        say("", ("rm", {"path": "/"}), ("bash", {"cmd": "ls"})),
        say("", ("bash", {"command": 10**30})),
        say("", ("bash", {"command": "ls", "deep": deep})),
        say("", ("submit", {})),
    ]
    stop, session = await drive(await open_gateway(ScriptedEngine(turns)), loop, sandbox)
    assert stop is Stop.SUBMITTED
    told = observations(session)
    assert [role for role, _ in told] == ["user", "tool", "tool", "user", "user"]
    assert told[0][1].startswith("error: malformed tool call: ")
    assert told[1][1] == "error: unknown tool rm; the tools are bash, edit, submit"
    assert told[2][1] == "error: bash needs the argument command as a string"
    assert told[3][1] == told[4][1]
    assert told[3][1].startswith("error: malformed tool call: the arguments of bash are nested too deeply")
    [branch] = session.tree.branches()
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == turns


@pytest.mark.parametrize(
    ("texts", "context", "stop", "turns"),
    [
        (["I cannot do it"], 10_000, Stop.GAVE_UP, 1),
        ([("bash", {"command": "true"})] * 9, 10_000, Stop.TURN_LIMIT, 5),
        ([("bash", {"command": "seq 400"})] * 9, 700, Stop.CONTEXT_EXHAUSTED, 1),
        ([("bash", {"command": "true"})], 10_000, Stop.ENGINE_ERROR, 1),
    ],
)
async def test_how_it_stops(
    open_gateway: OpenGateway,
    say: Say,
    loop: ToolLoop,
    sandbox: Sandbox,
    texts: list[Any],
    context: int,
    stop: Stop,
    turns: int,
) -> None:
    script = [say(text) if isinstance(text, str) else say("", text) for text in texts]
    gateway = await open_gateway(ScriptedEngine(script, context_tokens=context))
    stopped, session = await drive(gateway, loop, sandbox)
    assert (stopped, session.turns) == (stop, turns)
    failed = stop in (Stop.CONTEXT_EXHAUSTED, Stop.ENGINE_ERROR)
    assert session.failure == (stop.value if failed else None)


async def test_an_overloaded_gateway_is_waited_for_within_patience(
    open_gateway: OpenGateway, say: Say, sandbox: Sandbox
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("", ("submit", {})), delay_s=0.5), max_under_way=1)
    patient, hasty = ToolLoop(patience_s=5), ToolLoop(patience_s=0)
    stops = await asyncio.gather(*(drive(gateway, loop, sandbox) for loop in (patient, patient)))
    assert [stop for stop, _ in stops] == [Stop.SUBMITTED, Stop.SUBMITTED]
    began = time.monotonic()
    first = asyncio.create_task(drive(gateway, patient, sandbox))
    await asyncio.sleep(0.1)
    assert (await drive(gateway, hasty, sandbox))[0] is Stop.OVERLOADED
    assert time.monotonic() - began < 0.5
    await first
    await patient.aclose()
    await hasty.aclose()


async def test_no_endpoint_is_an_engine_error_and_a_closed_session_a_bug(
    open_gateway: OpenGateway, loop: ToolLoop, sandbox: Sandbox
) -> None:
    gateway = await open_gateway(ScriptedEngine([]))
    session = gateway.open_session(SAMPLING)
    gateway.close_session(session.key)
    with pytest.raises(RuntimeError, match=r"refused a request of the built-in loop \(404\)") as refused:
        await loop.run("x", sandbox, endpoint(gateway, session))
    assert session.key not in str(refused.value)
    nowhere = Endpoint(base_url="http://127.0.0.1:1/v1", api_key="x")
    assert await loop.run("x", sandbox, nowhere) is Stop.ENGINE_ERROR


async def test_a_lost_sandbox_raises(open_gateway: OpenGateway, say: Say, loop: ToolLoop, sandbox: Sandbox) -> None:
    gateway = await open_gateway(ScriptedEngine([say("", ("bash", {"command": "ls"}))]))
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await drive(gateway, loop, sandbox)
