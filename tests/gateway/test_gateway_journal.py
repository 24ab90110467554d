"""What was acknowledged is there after a crash at any byte, and goes on as if there had been none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.gateway.journal import Journal, files, frames
from palmette.gateway.session import Session
from palmette.trajectory.record import pack

USER = {"role": "user", "content": "solve it"}
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"properties": {"command": {}}}}}]
Say = Callable[..., list[int]]


@settings(max_examples=8, deadline=None)
@given(payloads=st.lists(st.binary(max_size=12), min_size=1, max_size=4), data=st.data())
async def test_a_file_cut_at_any_byte_gives_the_whole_frames_before(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal(directory, data.draw(st.sampled_from(["fsync", "write"])))
    ends = []
    for payload in payloads:
        await journal.append(payload)
        ends.append(journal.path.stat().st_size)
    journal.close()
    whole, torn = journal.path.read_bytes(), directory / "torn"
    assert len(whole) == ends[-1]
    for length in range(len(whole) + 1):
        torn.write_bytes(whole[:length])
        assert list(frames(torn)) == payloads[: sum(end <= length for end in ends)]
        assert list(frames(torn)) == payloads[: sum(end <= length for end in ends)], "the torn end is gone"
    for at in range(ends[0] - len(payloads[0]) - 8, ends[0]):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        torn.write_bytes(changed)
        assert list(frames(torn)) == []
    torn.write_bytes(b"something else")
    with pytest.raises(UserError, match="no journal"):
        list(frames(torn))


async def test_a_full_disk_is_told_and_ends_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append(b"kept")
    os.close(journal._file)
    with pytest.raises(OSError, match="descriptor"):
        await journal.append(b"lost")
    with pytest.raises(OSError, match="descriptor"):
        await journal.append(b"also lost")
    journal._file = os.open(os.devnull, os.O_WRONLY)
    journal.close()
    assert list(frames(journal.path)) == [b"kept"]


async def ask(http: aiohttp.ClientSession, gateway: Gateway, session: Session, **body: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
    async with http.post(url, json={"tools": TOOLS, **body}) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return answer["choices"][0]["message"]


def same(one: Session, other: Session) -> None:
    ours, theirs = pack(one.tree), pack(other.tree)
    for name in ("node_id", "parent", "length", "turn", "token_ids", "logprob", "version"):
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    assert one.conversation == other.conversation
    assert (one.turns, one._asked, one._issued) == (other.turns, other._asked, other._issued)
    assert [turn.id for turn in one.recorded] == [turn.id for turn in other.recorded]
    assert [turn.completion for turn in one.recorded] == [turn.completion for turn in other.recorded]


async def test_sessions_come_back_and_go_on(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, tmp_path: Path
) -> None:
    answers = [say(f"turn {n}", ("bash", {"command": f"{n}", "n": 1.0})) for n in range(8)]
    gateway = await open_gateway(ScriptedEngine(answers), journal=tmp_path)
    session = gateway.open_session(Sampling(max_tokens=400, seed=3), max_completion_tokens=300)
    closed = gateway.open_session(Sampling())
    messages = [USER]
    for turn in range(4):
        message = await ask(http, gateway, session, messages=messages)
        call = message["tool_calls"][0]
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), indent=2)
        messages = [*messages, message, {"role": "tool", "tool_call_id": call["id"], "content": f"got {turn}"}]
        if turn == 1:
            await ask(http, gateway, session, messages=[USER, {"role": "user", "content": "a title"}], tools=[])
            fork = gateway.fork_session(session.key, Sampling(seed=4))
    gateway.close_session(closed.key)
    await ask(http, gateway, fork, messages=messages[:5])

    again = await open_gateway(ScriptedEngine([say("after")]), journal=tmp_path)  # as if the first had been killed
    assert again.sessions.keys() == {session.key, fork.key}
    same(again.sessions[session.key], session)
    same(again.sessions[fork.key], fork)
    back = again.sessions[session.key]
    await ask(http, again, back, messages=messages)
    [seen] = again.engine.calls
    before = session.tree.path_ids(session.recorded[-1].leaf)
    assert list(seen[: len(before)]) == before.tolist(), "sampled ids go on as they were"
    third = await open_gateway(ScriptedEngine([say("x")]), journal=tmp_path)
    same(third.sessions[session.key], back)
    assert len(files(tmp_path)) == 3


async def test_an_answer_that_cannot_be_kept_is_not_given(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, tmp_path: Path
) -> None:
    gateway = await open_gateway(ScriptedEngine([say("ok")]), journal=tmp_path)
    session = gateway.open_session(Sampling())
    await gateway._diary.journal.append(b"")
    journal = gateway._diary.journal
    kept, journal._file = journal._file, os.open(os.devnull, os.O_RDONLY)
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
    async with http.post(url, json={"messages": [USER]}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "journal_error")
    os.close(kept)


NURSERY = """
import asyncio, json, os, sys
from pathlib import Path
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway

renderer, journal, sync, answer = Renderer.from_dir(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
end = renderer.stop_ids[0]

async def serve():
    ids = renderer.encode(answer)
    engine = ScriptedEngine(lambda prompt: [*ids, 65 + len(prompt) % 26, end])
    gateway = Gateway(engine, renderer, journal=journal, sync=sync)
    await gateway.start()
    sessions = gateway.sessions or [gateway.open_session(Sampling()).key for _ in range(6)]
    print(json.dumps([os.getpid(), gateway.port, list(sessions)]), flush=True)
    await asyncio.Event().wait()

for _ in sys.stdin:
    if not os.fork():
        asyncio.run(serve())
    os.wait()
    print("ended", flush=True)
"""


def told_by_lines(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a Python program that runs until its standard input ends."""
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@pytest.fixture
def nursery(renderer: Renderer, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has everything imported and forks a gateway for every line it reads."""
    yield from told_by_lines(NURSERY, str(renderer.source), str(tmp_path / "journal"), "fsync", "said ")


@pytest.mark.slow
async def test_killed_at_any_moment_no_acknowledged_answer_is_lost(
    nursery: subprocess.Popen[str], renderer: Renderer, tmp_path: Path, open_gateway: Callable[..., Any]
) -> None:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    told: dict[str, list[tuple[list[int], list[int]]]] = {}  # by session: prompt and answer of each acknowledged turn
    conversations: dict[str, list[dict[str, Any]]] = {}

    async def work(http: aiohttp.ClientSession, port: int, key: str) -> None:
        while True:
            messages = conversations.setdefault(key, [USER])
            body = {"messages": messages, "return_token_ids": True}
            async with http.post(f"http://127.0.0.1:{port}/s/{key}/v1/chat/completions", json=body) as response:
                answer = await response.json()
                assert response.status == 200, answer
            choice = answer["choices"][0]
            told.setdefault(key, []).append((answer["prompt_token_ids"], choice["token_ids"]))
            conversations[key] = [*messages, choice["message"], {"role": "user", "content": f"{len(messages)}"}]

    for round_ in range(12):
        nursery.stdin.write("go\n")
        nursery.stdin.flush()
        pid, port, keys = json.loads(await asyncio.to_thread(nursery.stdout.readline))
        assert set(keys) >= set(told)
        async with aiohttp.ClientSession() as http:
            working = [asyncio.ensure_future(work(http, port, key)) for key in keys]
            await asyncio.sleep(0.05 + 0.013 * round_)
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(nursery.stdout.readline) == "ended\n"
            ended = await asyncio.gather(*working, return_exceptions=True)
        assert all(isinstance(error, aiohttp.ClientError) for error in ended), ended

    gateway = await open_gateway(ScriptedEngine([[1]]), journal=tmp_path / "journal")
    assert len(gateway.sessions) == 6
    assert sum(map(len, told.values())) > len(told)
    for key, turns in told.items():
        tree = gateway.sessions[key].tree
        paths = {
            tuple(tree.path_ids(turn.leaf).tolist()): turn.prompt_tokens for turn in gateway.sessions[key].recorded
        }
        for prompt, sampled in turns:
            assert paths[*prompt, *sampled] == len(prompt)
        assert len(turns) <= tree.num_turns <= len(turns) + 12, "at most one a kill that nobody was told of"


async def test_folding_keeps_what_open_sessions_and_their_forks_stand_on(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, tmp_path: Path
) -> None:
    answers = [say(f"turn {n}") for n in range(40)]
    gateway = await open_gateway(ScriptedEngine(answers), journal=tmp_path, fold_bytes=1)
    kept = gateway.open_session(Sampling(seed=3), label="kept")
    await ask(http, gateway, kept, messages=[USER], tools=[])
    parent = gateway.open_session(Sampling(), label="parent")
    await ask(http, gateway, parent, messages=[USER], tools=[])
    fork = gateway.fork_session(parent.key, Sampling(seed=5))
    gone: list[Session] = []
    for _ in range(6):
        gone.append(gateway.open_session(Sampling()))
        await ask(http, gateway, gone[-1], messages=[{"role": "user", "content": "x" * 2000}], tools=[])
        gateway.close_session(gone[-1].key)
        await gateway._diary._folding
    gateway.close_session(parent.key)
    await ask(http, gateway, kept, messages=[{"role": "user", "content": "behind the fold"}], tools=[])
    await ask(http, gateway, fork, messages=[{"role": "user", "content": "as well"}], tools=[])
    assert len(files(tmp_path)) == 2, "one folded file and the one that is written"
    text = b"".join(path.read_bytes() for path in files(tmp_path))
    assert b"x" * 2000 not in text
    assert parent.key.encode() in text
    assert gateway._diary.journal.size == len(text)
    again = await open_gateway(ScriptedEngine([say("x")]), journal=tmp_path)
    assert again.sessions.keys() == {kept.key, fork.key}
    same(again.sessions[kept.key], kept)
    same(again.sessions[fork.key], fork)
    assert [again.sessions[key].label for key in (kept.key, fork.key)] == ["kept", "parent"]


async def test_closed_sessions_are_held_until_they_are_settled(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say, tmp_path: Path
) -> None:
    gateway = await open_gateway(ScriptedEngine([say("a"), say("b")]), journal=tmp_path, hold_closed=True)
    first, second = gateway.open_session(Sampling()), gateway.open_session(Sampling())
    await ask(http, gateway, first, messages=[USER], tools=[])
    gateway.close_session(first.key)
    gateway.settle()
    await ask(http, gateway, second, messages=[USER], tools=[])
    await gateway.close()
    again = await open_gateway(ScriptedEngine([say("x")]), journal=tmp_path)
    assert again.sessions.keys() == {second.key}
    same(again.sessions[second.key], second)


CHURN = """
import asyncio, os, sys
from pathlib import Path
from palmette.chat.message import Message
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.ask import Ask

renderer, journal = Renderer.from_dir(Path(sys.argv[1])), Path(sys.argv[2])
end = renderer.stop_ids[0]

def tell(what):  # print may be killed between a line and its end
    os.write(1, f"{what}\\n".encode())

async def turn(gateway, session, text):
    ask = Ask(messages=(Message(role="user", content=text),))
    call = session.ask(ask, gateway.engine, renderer)
    with call.following():
        return await session.turn(call)

async def serve():
    engine = ScriptedEngine(lambda prompt: [65 + len(prompt) % 26, end])
    gateway = Gateway(engine, renderer, journal=journal, fold_bytes=4096)
    lasting = [session for session in gateway.sessions.values() if session.label] or [
        gateway.open_session(Sampling(), label=f"{n}") for n in range(3)
    ]
    tell(os.getpid())
    while True:
        for session in lasting:
            said = f"{session.label} {session.turns}"
            await turn(gateway, session, said)
            tell(said)  # acknowledged
        passing = gateway.open_session(Sampling())
        await turn(gateway, passing, "y" * 3000)
        gateway.close_session(passing.key)

for _ in sys.stdin:
    if not os.fork():
        asyncio.run(serve())
    os.wait()
    tell("ended")
"""


@pytest.fixture
def churning(renderer: Renderer, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """As `nursery`, but its children ask themselves, and open and close sessions all the time."""
    yield from told_by_lines(CHURN, str(renderer.source), str(tmp_path / "journal"))


@pytest.mark.slow
async def test_killed_while_it_folds_nothing_is_lost(
    churning: subprocess.Popen[str], tmp_path: Path, open_gateway: Callable[..., Any]
) -> None:
    assert churning.stdin is not None
    assert churning.stdout is not None
    directory, told, folds = tmp_path / "journal", set[str](), set[str]()
    for round_ in range(10):
        churning.stdin.write("go\n")
        churning.stdin.flush()
        child = int(await asyncio.to_thread(churning.stdout.readline))
        await asyncio.sleep(0.1 + 0.017 * round_)
        os.kill(child, signal.SIGKILL)
        while (line := await asyncio.to_thread(churning.stdout.readline)) != "ended\n":
            told.add(line.strip())
        folds |= {path.name for path in files(directory) if path.suffix == ".folded"}
    assert len(told) > 50
    assert len(folds) > 3, "it was folded while it was killed"
    size = sum(path.stat().st_size for path in files(directory))
    assert size < max(400_000, 1_200 * len(told))  # a faster machine tells more in the same time
    gateway = await open_gateway(ScriptedEngine([[1]]), journal=directory)
    found = {
        f"{session.label} {number}"
        for session in gateway.sessions.values()
        for number, message in enumerate(m for m in session.conversation if m["role"] == "user")
        if message["content"] == f"{session.label} {number}"
    }
    assert told <= found
