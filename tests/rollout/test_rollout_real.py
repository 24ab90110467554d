"""The whole way, nothing faked but the model: real tasks, real sandboxes, real verifiers, the gateway in between."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.grade import Grader
from palmette.envs.names import DOMAINS
from palmette.envs.task import write_task
from palmette.gateway.app import Gateway
from palmette.rollout.demonstrate import demonstrate
from palmette.rollout.outcomes import Outcome
from palmette.rollout.pool import Pool
from palmette.rollout.run import Rollout
from palmette.sandbox.api import StartFailed
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.style import Style

STYLES = [Style.read(short) for short in ("", "xml", "code", "text,names=7", "json", "names=3")]


async def attempt(
    task, renderer: Renderer, host, completions: list[tuple[int, ...]], style: Style = STYLES[0]
) -> Rollout:
    engine, scaffold = ScriptedEngine(completions), ToolLoop(200, style=style)
    gateway = Gateway(engine, renderer)
    await gateway.start()
    try:
        pool = Pool(gateway=gateway, host=host, grader=Grader(host), scaffold=scaffold, retries=0)
        (rollout,) = await pool.run([task], samples=1, sampling=Sampling(max_tokens=4096))
    finally:
        await scaffold.aclose()
        await gateway.close()
    return rollout


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DOMAINS))
async def test_a_demonstration_replayed_is_a_solved_rollout_of_the_same_tokens(
    name: str, renderer: Renderer, tmp_path: Path
):
    draft = DOMAINS[name].draft(random.Random(11), tier=DOMAINS[name].tiers[-1], split="train", name=f"test/{name}")
    task = write_task(draft, tmp_path / name)
    host = open_host("namespace")
    try:
        try:
            demonstration = await demonstrate(task, renderer, host)
        except StartFailed as error:
            pytest.skip(str(error))
        solved = await attempt(task, renderer, host, turns_of(demonstration.token_ids, demonstration.sampled))
        (branch,) = solved.tree.branches()
        assert (solved.outcome, solved.reward) == (Outcome.OK, 1.0), solved.detail
        assert branch.token_ids.tolist() == list(demonstration.token_ids)
        assert branch.sampled.tolist() == list(demonstration.sampled)

        last = turns_of(demonstration.token_ids, demonstration.sampled)[-1:]
        idle = await attempt(task, renderer, host, last)  # submits at once
        assert (idle.outcome, idle.reward, idle.turns) == (Outcome.OK, 0.0, 1)
    finally:
        await host.close()


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.short or "plain")
async def test_a_demonstration_is_what_a_loop_of_its_style_would_have_left(
    style: Style, renderer: Renderer, tmp_path: Path
):
    draft = DOMAINS["terminal"].draft(random.Random(3), tier=1, split="train", name="test/style")
    task = write_task(draft, tmp_path / "style")
    host = open_host("namespace")
    try:
        shown = await demonstrate(task, renderer, host, style)
        solved = await attempt(task, renderer, host, turns_of(shown.token_ids, shown.sampled), style)
    finally:
        await host.close()
    (branch,) = solved.tree.branches()
    assert (solved.outcome, solved.reward) == (Outcome.OK, 1.0), solved.detail
    assert branch.token_ids.tolist() == list(shown.token_ids)
    assert branch.sampled.tolist() == list(shown.sampled)
    assert ("<function=" in renderer.decode(shown.token_ids)) == (style.protocol == "xml")


def turns_of(token_ids: tuple[int, ...], sampled: tuple[bool, ...]) -> list[tuple[int, ...]]:
    """Return the runs of sampled tokens."""
    turns: list[list[int]] = []
    for before, token, now in zip((False, *sampled), token_ids, sampled, strict=False):
        if now:
            if not before:
                turns.append([])
            turns[-1].append(token)
    return [tuple(turn) for turn in turns]
