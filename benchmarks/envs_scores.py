"""What policies score on every tier of every domain: nothing, random calls, the reference acted out, embedded base.

    python benchmarks/envs_scores.py [--count N] [--policies nothing,random,reference,base] [--domains swe,web]
                                     [--json PATH] [--quick]

Rows are {policy, domain, tier, pass_1, low, high, tasks, excluded}; held-out tasks, one attempt each, 95 % intervals
(Wilson). `nothing` submits at once. `random` makes four calls of the tools that the task offers, with words of the
instruction and of what it has been answered, then submits. `reference` makes the calls of steps.json through the same
tools (solve.sh where a task has no steps). `base` is palmette:base, greedy, in the built-in loop. The first two should
score 0 and the third 1: they bound what a score can mean. `--quick` is three tasks a tier, without the base.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.chat.message import Tool, ToolCall
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.api import Task
from palmette.envs.build import build_tasks
from palmette.envs.grade import Grader
from palmette.envs.names import DOMAINS
from palmette.envs.prepare import tar_directory
from palmette.envs.task import load_steps
from palmette.envs.tools import SAY
from palmette.evaluate.run import Evaluation, evaluate
from palmette.gateway.app import Gateway
from palmette.model.load import embedded_path
from palmette.rollout.pool import Pool
from palmette.sandbox.api import Sandbox
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Scaffold, Stop
from palmette.scaffolds.loop import SUBMIT, ToolLoop, act, toolset

Row = dict[str, str | int | float | None]
POLICIES = ("nothing", "random", "reference", "base")
_CALLS = 4
_WAYS = 4
_COMMANDS = (
    "ls",
    "cat {0}",
    "echo {0} > {1}",
    "mv {0} {1}",
    "rm {0}",
    "cp {0} {1}",
    "sed -i s/{0}/{1}/ {2}",
    "grep {0} *",
)


def main() -> None:
    """Measure, print, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="tasks a tier")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--domains", default=",".join(DOMAINS))
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="three tasks a tier, without the base")
    given = parser.parse_args()
    policies = [name for name in given.policies.split(",") if not (given.quick and name == "base")]
    scratch = Path(tempfile.mkdtemp(prefix="palmette-scores-"))
    rows: list[Row] = []
    try:
        for domain in given.domains.split(","):
            count = 3 if given.quick else given.count
            tiers = DOMAINS[domain].tiers
            tasks = build_tasks(domain, scratch, count=count * len(tiers), tiers=tiers, split="heldout", seed=11)
            for policy in policies:
                for row in rows_of(policy, domain, asyncio.run(scored(policy, tasks))):
                    print(
                        f"{policy:10} {domain:10} tier {row['tier']}  {row['pass_1']:6.1%}  "
                        f"[{row['low']:.1%}, {row['high']:.1%}]  {row['tasks']} tasks, {row['excluded']} excluded",
                        flush=True,
                    )
                    rows.append(row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))


def rows_of(policy: str, domain: str, result: Evaluation) -> list[Row]:
    """Return a row a tier."""
    return [
        {
            "policy": policy,
            "domain": domain,
            "tier": tier,
            "pass_1": score.pass_1,
            "low": score.interval[0],
            "high": score.interval[1],
            "tasks": score.tasks,
            "excluded": score.excluded,
        }
        for tier, score in result.tiers[domain].items()
    ]


async def scored(policy: str, tasks: Sequence[Task]) -> Evaluation:
    """Attempt every task once with a policy."""
    renderer = Renderer.from_dir(embedded_path())
    engine: Any = ScriptedEngine([])  # nobody asks it but the loop
    if policy == "base":
        from palmette.engine.local import LocalEngine
        from palmette.model.load import load_model

        engine = LocalEngine(load_model(embedded_path()), stop_ids=renderer.stop_ids, max_batch=_WAYS)
    host, gateway, loop = open_host("namespace"), Gateway(engine, renderer), ToolLoop()
    by_hand: dict[str, Scaffold] = {"nothing": Idle(), "random": Random(), "reference": Reference(tasks), "base": loop}
    await gateway.start()
    try:
        pool = Pool(gateway=gateway, host=host, grader=Grader(host), scaffold=by_hand[policy], concurrency=_WAYS)
        return await evaluate(tasks, pool=pool, sampling=Sampling(max_tokens=256, temperature=0.0, seed=1))
    finally:
        await loop.aclose()
        await gateway.close()
        await host.close()
        await engine.close()


class Idle:
    """Submits at once."""

    name = "nothing"

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Do nothing."""
        return Stop.SUBMITTED


class Random:
    """Makes calls that could be somebody's, of words that it has met."""

    name = "random"

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Make some calls; the same instruction gets the same."""
        rng, met = random.Random(instruction), instruction
        tools = [tool for tool in toolset(offer) if tool.name != SUBMIT]
        for _ in range(_CALLS):
            words = re.findall(r"[\w./-]*\w", met)
            if offer.say is not None and rng.random() < 0.25:
                met += "\n" + (await offer.say(" ".join(rng.choices(words, k=5))) or "")
                continue
            tool = rng.choice(tools)
            call = ToolCall(id="", name=tool.name, arguments=_arguments(tool, words, rng))
            met += "\n" + await act(call, sandbox, offer=offer)
        return Stop.SUBMITTED


class Reference:
    """Acts out the reference of each task, which it knows by its instruction."""

    name = "reference"

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.instruction: task for task in tasks}

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Make the calls of the reference, or run its script."""
        task = self._tasks[instruction]
        if not (task.path / "solution" / "steps.json").is_file():
            await sandbox.upload(tar_directory(task.path / "solution"), "/solution")
            await sandbox.exec(["sh", "/solution/solve.sh"], timeout_s=task.agent_timeout_s)
            return Stop.SUBMITTED
        for step in load_steps(task):
            if step.tool == SAY and offer.say is not None:
                await offer.say(step.arguments["text"])
            elif step.tool != SUBMIT:
                await act(ToolCall(id="", name=step.tool, arguments=step.arguments), sandbox, offer=offer)
        return Stop.SUBMITTED


def _arguments(tool: Tool, words: Sequence[str], rng: random.Random) -> dict[str, Any]:
    if tool.name == "bash":
        return {"command": rng.choice(_COMMANDS).format(*rng.choices(words, k=3))}
    fitting = {"integer": rng.randint(0, 9), "number": rng.randint(0, 9), "boolean": rng.random() < 0.5, "array": []}
    properties = tool.parameters.get("properties", {})
    return {name: fitting.get(schema.get("type", ""), rng.choice(words)) for name, schema in properties.items()}


if __name__ == "__main__":
    main()
