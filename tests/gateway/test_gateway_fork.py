"""A forked session goes on from the tokens of the old one, and then they know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from palmette.engine.api import Completion, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.session import Session, turn_seed


class Seeded(ScriptedEngine):
    """Keeps the seeds it was asked with."""

    async def complete(self, prompt_ids: Any, sampling: Sampling) -> Completion:
        self.seeds = [*getattr(self, "seeds", []), sampling.seed]
        return await super().complete(prompt_ids, sampling)


async def ask(
    http: aiohttp.ClientSession, gateway: Any, session: Session, messages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages with the answer to them and what it is told."""
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
    async with http.post(url, json={"messages": messages}) as response:
        assert response.status == 200, await response.text()
        answer = (await response.json())["choices"][0]["message"]
    call = answer["tool_calls"][0]
    return [*messages, answer, {"role": "tool", "tool_call_id": call["id"], "content": f"told {call['id']}"}]


async def test_forks_share_what_was_sampled_and_grow_apart(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]
):
    answers = [say("", ("bash", {"command": word})) for word in ("one", "two", "left", "right", "on")]
    engine = Seeded(answers)
    gateway = await open_gateway(engine)
    old = gateway.open_session(Sampling(max_tokens=400, seed=1))
    messages = await ask(http, gateway, old, [{"role": "user", "content": "solve it"}])
    messages = await ask(http, gateway, old, messages)
    before, said = old.tree.branches()[0].token_ids.tolist(), len(old.conversation)

    forks = [gateway.fork_session(old.key, Sampling(max_tokens=400, seed=seed)) for seed in (2, 3)]
    ended = await asyncio.gather(*[ask(http, gateway, fork, messages) for fork in forks])
    assert len({old.key, *(fork.key for fork in forks)}) == 3
    assert sorted(engine.seeds[2:]) == sorted([turn_seed(2, 2), turn_seed(3, 2)])
    for fork, grown in zip(forks, ended, strict=True):
        (branch,) = fork.tree.branches()
        assert branch.token_ids.tolist()[: len(before)] == before
        turns = [branch.token_ids[start:end].tolist() for start, end in branch.turns]
        assert turns[:2] == answers[:2]
        assert turns[2] in answers[2:4]
        assert (fork.turns, fork.tree.num_turns) == (3, 3)
        assert grown[-1]["content"] == "told call00002"  # ids of calls go on too
        assert len(fork.conversation) == said + 2  # what the second call was told, and the third

    assert old.tree.branches()[0].token_ids.tolist() == before  # of the forks' turns the original knows nothing
    assert (old.turns, len(old.conversation)) == (2, said)
    gateway.close_session(forks[0].key)
    await ask(http, gateway, old, messages)
    assert old.tree.branches()[0].token_ids.tolist()[-len(answers[4]) :] == answers[4]
    with pytest.raises(KeyError):
        gateway.fork_session(forks[0].key, Sampling())


async def test_what_is_written_on_a_fork_stays_there(open_gateway: Callable[..., Any]):
    gateway = await open_gateway(ScriptedEngine([[1]]))
    old = gateway.open_session(Sampling())
    leaf = old.tree.commit([1, 2], [3, 4], [-0.5, -0.25], 7)
    fork = gateway.fork_session(old.key, Sampling())
    fork.tree.write("advantage", leaf, [1.0, 2.0])
    fork.tree.commit([1, 9], [5], [-1.0], 7)  # cuts the node of the prompt
    assert old.tree.names == ()
    assert old.tree.branches()[0].token_ids.tolist() == [1, 2, 3, 4]
    assert fork.tree.branch(leaf).array("advantage").tolist() == [0.0, 0.0, 1.0, 2.0]
    assert len(old.tree.branches()) == 1
    assert len(fork.tree.branches()) == 2
