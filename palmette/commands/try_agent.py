"""``palmette agents try``: an agent does one task, and its tree of tokens is shown."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from palmette.chat.template import Renderer
from palmette.commands.agents import find_agent, installed_with_progress, wide_console
from palmette.commands.engine import engine_of
from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_model
from palmette.engine.api import Engine, Sampling
from palmette.envs.api import Task
from palmette.envs.task import load_task
from palmette.errors import UserError
from palmette.progress import Progress
from palmette.rollout.outcomes import Outcome
from palmette.rollout.rehearse import INSTRUCTION, Rehearsal, rehearse, understood, write_rehearsal
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.agent import Agent
from palmette.scaffolds.cli_agents import CliAgent
from palmette.trajectory.node import GIVEN
from palmette.trajectory.tree import ROOT, Tree

SCRIPTED = "scripted"
_MAX_TOKENS = 2048  # of one turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to let an agent do: `task` is a directory, an instruction, or "" for one that takes one command.

    `engine` is "scripted", "local" for `model` in this process, or an address, of which `model` is the tokenizer.
    """

    task: str
    engine: str
    model: str
    runs: Path
    sandbox: str
    timeout_s: float


def try_agent(name: str, plan: Plan, *, file: Path | None, version: str, as_json: bool) -> int:
    """Print what came of it; returns 1 if the tree is not exact, or a scripted model did not solve the task.

    Raises `UserError`.
    """
    agent = find_agent(name, file=file, version=version)
    installed_with_progress(agent)
    scratch = Path(tempfile.mkdtemp(prefix="palmette-try-"))
    try:
        task = replace(_task(plan.task, scratch), agent_timeout_s=plan.timeout_s)
        seen = run_interruptibly(_rehearsed(agent, task, plan))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        print(json.dumps(_record(agent, seen), indent=1))
    else:
        _print(agent, seen)
    solved = seen.rollout.outcome is Outcome.OK and seen.rollout.reward == 1.0
    return 0 if seen.exactness.exact and (solved or plan.engine != SCRIPTED) else 1


def _task(given: str, scratch: Path) -> Task:
    """Return the task of a directory, or one with an instruction of the user's."""
    if given and (Path(given) / "task.toml").is_file():
        return load_task(Path(given))
    if given and Path(given).exists():
        raise UserError(f"--task {given}: there is no task.toml in it")
    return write_rehearsal(scratch / "task", given or INSTRUCTION)


async def _rehearsed(agent: Agent, task: Task, plan: Plan) -> Rehearsal:
    driver = CliAgent(agent, timeout_s=plan.timeout_s)
    async with AsyncExitStack() as stack:
        host = open_host(plan.sandbox)
        stack.push_async_callback(host.close)
        for weakness in host.weaknesses():
            print(f"warning: sandboxes ({host.name}): {weakness}", file=sys.stderr)
        engine, renderer = await _engine(plan, driver, task)
        stack.push_async_callback(engine.close)
        with Progress(f"agents/{agent.name}", unit="answers") as bar:
            return await rehearse(
                driver,
                task,
                engine,
                renderer,
                host,
                sampling=Sampling(max_tokens=_MAX_TOKENS),
                on_answer=lambda: bar.update(1),
            )


async def _engine(plan: Plan, agent: CliAgent, task: Task) -> tuple[Engine, Renderer]:
    """Return the engine that is meant, and what renders its prompts. Raises `UserError`."""
    if plan.engine == SCRIPTED:
        return await asyncio.to_thread(understood, agent, task)
    model_dir = find_model(plan.model, plan.runs)
    renderer = Renderer.from_dir(model_dir)
    return await engine_of(model_dir, renderer, "" if plan.engine == "local" else plan.engine), renderer


# What is printed


def _record(agent: Agent, seen: Rehearsal) -> dict[str, Any]:
    rollout, tree = seen.rollout, seen.rollout.tree
    return {
        "agent": agent.name,
        "version": agent.version,
        "outcome": str(rollout.outcome),
        "reward": rollout.reward,
        "detail": rollout.detail,
        "wall_s": round(rollout.wall_s, 1),
        "requests": [asdict(each) for each in seen.requests],
        "turns": rollout.turns,
        "calls": dict(seen.calls),
        "branches": len(tree.branches()),
        "forks_at": forks(tree),
        "tokens": {"sampled": tree.num_sampled, "given": tree.num_tokens - tree.num_sampled},
        "exact": seen.exactness.exact,
        "exactness": asdict(seen.exactness),
    }


def _print(agent: Agent, seen: Rehearsal) -> None:
    rollout, tree, exactness = seen.rollout, seen.rollout.tree, seen.exactness
    reward = "no reward" if rollout.reward is None else f"reward {rollout.reward:g}"
    dialects = Counter((each.dialect, "streamed" if each.streamed else "whole") for each in seen.requests)
    wrong = f"{exactness.found} of {exactness.turns} turns found, {exactness.foreign} branches that nobody said"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("agent", f"{agent.name} {agent.version}".strip())
    table.add_row("outcome", f"{rollout.outcome}, {reward}, {rollout.wall_s:.1f} s" + _why(seen))
    table.add_row("dialect", ", ".join(f"{name} ({how}) x{n}" for (name, how), n in dialects.items()) or "none seen")
    table.add_row("messages", ", ".join(str(each.messages) for each in seen.requests) or "no request came")
    table.add_row("tools", ", ".join(dict.fromkeys(str(each.tools) for each in seen.requests)) or "-")
    table.add_row("calls", ", ".join(f"{name} x{n}" for name, n in seen.calls.items()) or "none")
    table.add_row("tokens", f"{tree.num_sampled:,} sampled, {tree.num_tokens - tree.num_sampled:,} given")
    table.add_row("exact", f"yes: {exactness.tokens:,} tokens compared" if exactness.exact else f"NO: {wrong}")
    branches, at = len(tree.branches()), ", ".join(f"{depth:,}" for depth in forks(tree))
    table.add_row("branches", f"{branches}" + (f", forks at token {at}" if at else ", no fork"))
    console = wide_console()
    console.print(table)
    for line in drawn(tree):
        console.print(escape(line), soft_wrap=True)


def _why(seen: Rehearsal) -> str:
    ok = seen.rollout.outcome is Outcome.OK and seen.rollout.reward == 1.0
    return "" if ok or not seen.rollout.detail else f" ({seen.rollout.detail.strip().splitlines()[-1]})"


def forks(tree: Tree) -> list[int]:
    """Return at how many tokens the tree forks, once a branch that leaves there."""
    found: list[int] = []
    below: Counter[int] = Counter(tree.node(node).parent for node in tree.nodes())
    for parent, children in below.items():
        depth = tree.node(parent).end if parent != ROOT else 0
        found += [depth] * (children - 1)
    return sorted(found)


def drawn(tree: Tree) -> list[str]:
    """Return a drawing of the tree: a line for each stretch without a fork, with its given and sampled tokens."""
    children: dict[int, list[int]] = {}
    for node in tree.nodes():
        children.setdefault(tree.node(node).parent, []).append(node)
    lines: list[str] = []

    def draw(node: int, indent: str, mark: str) -> None:
        stretch = [node]
        while len(below := children.get(stretch[-1], [])) == 1:
            stretch.append(below[0])
        nodes = [tree.node(each) for each in stretch]
        words = [f"{len(each):,} {'given' if each.turn == GIVEN else 'sampled'}" for each in nodes]
        lines.append(f"{indent}{mark}{' · '.join(words)}")
        for child in below:
            last = child == below[-1]
            draw(child, indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[mark], "└─ " if last else "├─ ")

    for root in children.get(ROOT, []):
        draw(root, "", "")
    return lines
