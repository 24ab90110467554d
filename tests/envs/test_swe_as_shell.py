"""Proves: a SWE task told as shell work needs all its sub-goals, and its own hidden tests still decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from palmette.chat.message import ToolCall
from palmette.envs.api import Task
from palmette.envs.attacks import attacks_on
from palmette.envs.build import build_tasks
from palmette.envs.check import check_tasks
from palmette.envs.grade import Grader
from palmette.envs.prepare import prepare, spec_when_made
from palmette.envs.task import load_steps
from palmette.envs.terminal.from_swe import CHECK, REPORT, as_shell_work
from palmette.errors import UserError
from palmette.sandbox.api import Host
from palmette.scaffolds.tools import act


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    root = tmp_path_factory.mktemp("swe")
    found = build_tasks("swe", root / "swe", count=3, tiers=(1, 2, 3), split="heldout", seed=4)
    return [as_shell_work(task, root / "shell" / task.path.name) for task in found]


async def test_the_reference_solves_it_and_no_attack_does(tasks: list[Task], host: Host) -> None:
    reports = await check_tasks(tasks[:1], host, attacks=attacks_on, repeats=2, concurrency=3)
    reports += await check_tasks(tasks[1:], host, concurrency=3)
    assert [report.reason for report in reports] == ["ok"] * 3
    assert {task.domain for task in tasks} == {"terminal"}
    assert all(task.name.endswith("-shell") for task in tasks)


SPOILED = {
    "": 1.0,
    f"rm {CHECK}": 0.0,
    f"echo exit 0 > {CHECK}": 0.0,  # finds nothing
    f"echo exit 1 > {CHECK}": 0.0,  # finds what is not there
    f"echo a/b.py >> {REPORT}": 0.0,
    f"rm {REPORT}": 0.0,
    "touch left_over": 0.0,
    "echo >> tests/test_*.py": 0.0,
    "git checkout -q -- .": 0.0,  # the bug is back
    "mkdir -p __pycache__ && touch __pycache__/x.pyc; git add -A": 1.0,  # what no one minds
}


@pytest.mark.parametrize("spoil", SPOILED)
async def test_each_sub_goal_counts(tasks: list[Task], host: Host, spoil: str) -> None:
    task = tasks[0]
    sandbox = await host.start(await spec_when_made(task, owner="test"))
    try:
        await prepare(sandbox, task)
        for step in load_steps(task):
            told = await act(ToolCall(id="", name=step.tool, arguments=step.arguments), sandbox)
            assert told == step.observation
        await sandbox.exec(spoil or "true")
        verdict = await Grader(host).grade(task, sandbox)
    finally:
        await sandbox.close()
    assert (verdict.reward, verdict.detail) == (SPOILED[spoil], verdict.detail)


def test_what_is_no_swe_task_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    [task] = build_tasks("terminal", tmp_path, count=1, tiers=[1], split="train", seed=0)
    with pytest.raises(UserError, match="only SWE tasks"):
        as_shell_work(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
