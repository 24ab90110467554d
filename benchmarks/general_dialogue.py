"""Draws a dialogue of the general domain: a real rollout (loop, gateway, sandboxes, services) that says the reference.

    python benchmarks/general_dialogue.py OUT.png [--family shop] [--tier 4] [--seed 3]

Prints outcome, reward and turns. The model is a script, so the picture shows the environment, not what a model can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.api import Step, Task
from palmette.envs.general.talk import memory, phones, shop, trips
from palmette.envs.grade import Grader
from palmette.envs.task import load_steps, write_task
from palmette.gateway.app import Gateway
from palmette.model.load import embedded_path
from palmette.rollout.pool import Pool
from palmette.rollout.run import Rollout
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import ToolLoop

SCENES = {"shop": shop.scene, "trips": trips.scene, "phones": phones.scene, "memory": memory.scene}
_WIDTH = 74  # characters of a bubble's line
_LOOK = {"user": ("#e8eef7", 0.0), "assistant": ("#e7f4e4", 0.16), "tool": ("#f3f3f3", 0.16)}


def main() -> None:
    """Roll out and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", choices=SCENES, default="shop")
    parser.add_argument("--tier", type=int, default=4)
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    scene = SCENES[given.family](random.Random(given.seed), "train", given.tier)
    with tempfile.TemporaryDirectory() as folder:
        task = write_task(scene.draft(tier=given.tier, split="train", name="general/picture"), Path(folder) / "task")
        rollout = asyncio.run(rolled(task, load_steps(task)))
    print(
        f"{rollout.outcome}, reward {rollout.reward}, {rollout.turns} turns in {rollout.wall_s:.2f} s: {rollout.detail}"
    )
    draw(rollout, given.out)


async def rolled(task: Task, steps: Sequence[Step]) -> Rollout:
    """Return a rollout in which the model says the steps."""
    renderer, asked = Renderer.from_dir(embedded_path()), iter(steps)
    engine = ScriptedEngine(lambda _: renderer.encode(_turn(next(asked)) + "<|im_end|>"))
    gateway, host, loop = Gateway(engine, renderer), open_host("namespace"), ToolLoop(max_turns=len(steps) + 1)
    await gateway.start()
    try:
        pool = Pool(gateway=gateway, host=host, grader=Grader(host), scaffold=loop, retries=0)
        (rollout,) = await pool.run([task], samples=1, sampling=Sampling(max_tokens=512))
    finally:
        await loop.aclose()
        await gateway.close()
        await host.close()
    return rollout


def draw(rollout: Rollout, path: Path) -> None:
    """Draw the conversation as bubbles, the first message (the policy) left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bubbles = [(role, _filled(text)) for role, text in map(_shown, rollout.conversation[1:]) if text]
    height = sum(1.0 + 0.75 * text.count("\n") + 0.55 for _, text in bubbles) + 1.2
    figure = plt.figure(figsize=(8.2, 0.19 * height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.axis("off")
    top = 0.9
    for role, text in bubbles:
        colour, left = _LOOK[role]
        box = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#b9c2cc", "linewidth": 0.6}
        family = "monospace" if role == "tool" or text.startswith("→") else "sans-serif"
        axes.text(0.03 + left, top, text, va="top", fontsize=7, family=family, bbox=box)
        top += 1.0 + 0.75 * text.count("\n") + 0.55
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _filled(text: str) -> str:
    return "\n".join(textwrap.fill(line, _WIDTH) for line in text.split("\n"))


def _turn(step: Step) -> str:
    if step.tool == "say":
        return step.arguments["text"]
    return f"<tool_call>\n{json.dumps({'name': step.tool, 'arguments': step.arguments})}\n</tool_call>"


def _shown(message: dict[str, Any]) -> tuple[str, str]:
    calls = message.get("tool_calls") or []
    if calls:
        made = [call.get("function", call) for call in calls]
        return "assistant", "→ " + ", ".join(f"{call['name']}({call['arguments']})" for call in made)
    return message["role"], str(message.get("content") or "")


if __name__ == "__main__":
    main()
