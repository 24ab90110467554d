"""What a verifier saw stays with the rollout, and the page of a run shows it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.api import Draft, Step
from palmette.envs.grade import Grader
from palmette.envs.task import write_task
from palmette.gateway.app import Gateway
from palmette.report.pick import Shown
from palmette.report.tree_view import TokenTable, view
from palmette.rollout.pool import Pool
from palmette.rollout.record import load_rollouts, save_rollouts
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import ToolLoop
from palmette.trajectory.store import TreeStore

PNG = b"\x89PNG\r\n\x1a\n-not-much-of-one"
TEST = (
    "#!/bin/sh\nprintf '\\211PNG\\r\\n\\032\\n-not-much-of-one' > /logs/verifier/desktop.png\n"
    "head -c 300000 /dev/zero > /logs/verifier/huge.png\necho 1 > /logs/verifier/reward.txt\n"
)


async def test_pictures_are_kept_with_the_rollout_and_shown(tmp_path: Path, renderer: Renderer):
    draft = Draft(
        name="seen/page",
        domain="web",
        instruction="Do nothing.",
        files={"a": "b"},
        test_files={"test.sh": TEST},
        steps=(Step(tool="submit", arguments={}, observation="submitted"),),
        tier=1,
        split="train",
        skills=(),
        evidence=("desktop.png", "huge.png", "never.png"),
    )
    task = write_task(draft, tmp_path / "task")

    def script(prompt_ids: Sequence[int]) -> list[int]:
        said = json.dumps({"name": "submit", "arguments": {}})
        return renderer.encode(f"<tool_call>\n{said}\n</tool_call><|im_end|>")

    gateway, host, loop = Gateway(ScriptedEngine(script), renderer), open_host("namespace"), ToolLoop()
    await gateway.start()
    try:
        pool = Pool(gateway=gateway, host=host, grader=Grader(host), scaffold=loop, retries=0)
        rollouts = await pool.run([task], samples=1, sampling=Sampling(max_tokens=64))
    finally:
        await loop.aclose()
        await gateway.close()
        await host.close()
    seen = {"desktop": base64.b64encode(PNG).decode()}
    save_rollouts(TreeStore(tmp_path / "trees"), rollouts, stage="rl")
    ((rollout, metadata),) = load_rollouts(TreeStore(tmp_path / "trees"))
    assert rollout.reward == 1.0
    assert rollout.pictures == seen
    shown = view(Shown(index=0, metadata=metadata, tree=rollout.tree), TokenTable(None))
    assert shown["pictures"] == seen
