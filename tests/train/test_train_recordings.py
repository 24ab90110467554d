"""A conversation known as text becomes sequences in which every answer is imitated once, in the context it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import palmette
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.ask import Ask
from palmette.gateway.openai_messages import read_messages, read_tools
from palmette.gateway.session import Session
from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import to_metadata
from palmette.rollout.retell import retell
from palmette.rollout.run import Rollout
from palmette.train.recordings import recorded_samples, refuse_inexact
from palmette.train.sft import SftConfig
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree

TOOLS = [{"name": "bash", "description": "run", "parameters": {"type": "object", "properties": {"command": {}}}}]
CHAT_TOOLS = read_tools([{"type": "function", "function": tool} for tool in TOOLS])


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.from_dir(Path(palmette.__file__).parent / "model" / "base")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def spoken(renderer: Renderer) -> Session:
    """A session in which a run of three turns forks at its second, the model writing as its own template does."""
    call = '<tool_call>\n{"name": "bash", "arguments": {"command": "%s"}}\n</tool_call><|im_end|>'
    said = [call % "ls", call % "cat a", "done<|im_end|>", "other<|im_end|>"]
    engine = ScriptedEngine([renderer.encode(text) for text in said])
    session = Session(Sampling(max_tokens=200))

    async def ask(messages: list[Any]) -> Any:
        told = read_messages(messages).messages
        asked = session.ask(Ask(messages=told, tools=CHAT_TOOLS), engine, renderer)
        answer = (await session.turn(asked)).answer
        calls = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": dict(one.arguments)}}
            for one in answer.tool_calls
        ]
        return {"role": "assistant", "content": answer.content, "tool_calls": calls}

    def result(answer: Any, text: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": text}

    first = await ask([user("look")])
    start = [user("look"), first, result(first, "a b")]
    second = await ask(start)
    await ask([*start, second, result(second, "text")])
    await ask([*start, user("instead")])
    return session


async def test_text_alone_gives_the_tokens_that_its_words_had(renderer: Renderer) -> None:
    """What a model said in its own tokenisation comes back token for token, shared answers in one branch only."""
    session = await spoken(renderer)
    retold = retell(session.conversation, TOOLS, renderer)
    branches = session.tree.branches()
    assert sorted(list(one.token_ids) for one in retold) == sorted(b.token_ids.tolist() for b in branches)
    assert sum(sum(one.sampled) for one in retold) == session.sampled_tokens
    whole = {tuple(b.token_ids.tolist()): b.sampled.tolist() for b in branches}
    for one in retold:
        assert all(marked <= there for marked, there in zip(one.sampled, whole[one.token_ids], strict=True))


def recorded(run: Path, session: Session, **facts: Any) -> Path:
    rollout = Rollout(
        task="t", domain="recorded", group=0, sample=0, outcome=Outcome.CANCELLED, reward=facts.pop("reward", None),
        tree=facts.pop("tree", Tree()), turns=4, sampled_tokens=0, wall_s=0.0, attempt=1,
        conversation=session.conversation, detail="",
    )  # fmt: skip
    TreeStore(run / "trees").extend([(to_metadata(rollout, tools=TOOLS, **facts), rollout.tree)])
    return run


async def test_sft_takes_text_only_when_told_to(renderer: Renderer, tmp_path: Path) -> None:
    session = await spoken(renderer)
    text = recorded(tmp_path / "text", session, stage="proxy", exact=False)
    with pytest.raises(UserError, match=r"sft\.retokenise = true"):
        recorded_samples(SftConfig(recordings=[str(text)]), renderer, 2048)
    asked = SftConfig(recordings=[str(text)], retokenise=True)
    samples, too_long = recorded_samples(asked, renderer, 2048)
    assert (sum(sample.num_sampled for sample in samples), too_long) == (session.sampled_tokens, 0)
    shortest = min(len(sample.token_ids_T) for sample in samples)
    kept, too_long = recorded_samples(asked, renderer, shortest)
    assert (len(kept), too_long) == (1, 1)
    exact = recorded(tmp_path / "exact", session, stage="evaluate", tree=session.tree, reward=1.0)
    failed = recorded(tmp_path / "failed", session, stage="evaluate", tree=session.tree, reward=0.0)
    samples, _ = recorded_samples(SftConfig(recordings=[str(exact)]), renderer, 2048)
    assert sum(sample.num_sampled for sample in samples) == session.sampled_tokens
    for wrong, said in ((failed, "nothing to imitate"), (tmp_path / "nowhere", "no run")):
        with pytest.raises(UserError, match=said):
            recorded_samples(SftConfig(recordings=[str(wrong)]), renderer, 2048)


def test_reinforcement_refuses_text(tmp_path: Path) -> None:
    refuse_inexact({"exact": True}, tmp_path)
    refuse_inexact({}, tmp_path)
    with pytest.raises(UserError, match="cannot be learned from by reinforcement"):
        refuse_inexact({"exact": False}, tmp_path)
