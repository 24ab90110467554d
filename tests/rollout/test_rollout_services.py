"""Rollouts of tasks with side services: tools are called, the user is talked to, the services' state is judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from palmette.chat.message import Tool
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.api import Draft, ServiceTool, Step, Task
from palmette.envs.grade import Grader
from palmette.envs.task import write_task
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.rollout.demonstrate import demonstrate
from palmette.rollout.outcomes import Outcome
from palmette.rollout.pool import Pool
from palmette.rollout.run import Rollout
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import ToolLoop

SERVE = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, "")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("word") == "crash":
            os._exit(1)
        with open(os.environ["STATE"] + "/log", "a") as file:
            file.write(" ".join([self.path, *asked.values()]) + "\\n")
        self.answer(204 if asked.get("text") == "bye" else 200, "noted")
    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
TEST = """#!/bin/sh
if [ "$(cat /services/desk/log)" = "/tools/note kavo
/say hello
/say bye" ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    note = ServiceTool(tool=Tool(name="note", description="note a word", parameters=parameters), service="desk")
    draft = Draft(
        name="services/desk",
        domain="general",
        instruction="Note kavo, then say hello.",
        files={".keep": ""},
        test_files={"test.sh": TEST},
        steps=(
            Step(tool="note", arguments={"word": "kavo"}, observation="noted"),
            Step(tool="say", arguments={"text": "hello"}, observation="noted"),
            Step(tool="say", arguments={"text": "bye"}, observation=""),
        ),
        tier=1,
        split="train",
        skills=(),
        services={"desk": {"serve.py": SERVE}},
        tools=(note,),
        shell=False,
        user="desk",
        system="You work at a desk.",
    )
    return write_task(draft, tmp_path / "task")


async def rolled(task: Task, renderer: Renderer, *turns: str, **more: Any) -> tuple[Rollout, list[str]]:
    """Run one rollout of a model that says these turns; return it, and the prompts."""
    prompts: list[str] = []

    def script(prompt_ids: Sequence[int]) -> list[int]:
        prompts.append(renderer.decode(prompt_ids))
        return renderer.encode(turns[len(prompts) - 1] + "<|im_end|>")

    gateway, host, loop = Gateway(ScriptedEngine(script), renderer), open_host("namespace"), ToolLoop()
    await gateway.start()
    try:
        pool = Pool(gateway=gateway, host=host, grader=Grader(host), scaffold=loop, retries=0)
        (rollout,) = await pool.run([task], samples=1, sampling=Sampling(max_tokens=64), **more)
        assert not getattr(host, "_sandboxes", {})
    finally:
        await loop.aclose()
        await gateway.close()
        await host.close()
    return rollout, prompts


def note(word: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'note', 'arguments': {'word': word}})}\n</tool_call>"


async def test_tools_are_called_and_words_reach_the_user(task: Task, renderer: Renderer):
    rollout, prompts = await rolled(task, renderer, note("kavo"), "hello", "bye")
    assert (rollout.outcome, rollout.reward) == (Outcome.OK, 1.0), rollout.detail
    assert "You work at a desk.\nsubmit(): finish the task\nnote(word): note a word<|im_end|>" in prompts[0]
    assert "noted" in prompts[1]
    assert prompts[2].rstrip().endswith("<|im_start|>user\nnoted<|im_end|>\n<|im_start|>assistant")


async def test_a_demonstration_is_laid_out_as_the_rollout(task: Task, renderer: Renderer):
    rollout, _ = await rolled(task, renderer, note("kavo"), "hello", "bye")
    host = open_host("namespace")
    try:
        shown = await demonstrate(task, renderer, host)
    finally:
        await host.close()
    (path,) = rollout.tree.branches()
    assert renderer.decode(shown.token_ids) == renderer.decode(path.token_ids.tolist())


async def test_a_service_that_ends_is_nobodys_reward(task: Task, renderer: Renderer):
    rollout, _ = await rolled(task, renderer, note("kavo"), note("crash"))
    assert (rollout.outcome, rollout.reward) == (Outcome.SANDBOX_LOST, None)
    assert "service desk" in rollout.detail


async def test_such_rollouts_do_not_branch(task: Task, renderer: Renderer):
    with pytest.raises(UserError, match=r"^services/desk has side services, which cannot be forked[^\n]*$"):
        await rolled(task, renderer, branch_at=1)
