"""Proves: every family of jobs is solved by its reference and by nothing else, held-out families are never trained on,
and the tiers that recipes were measured with still make the same tasks."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.commands.tasks import stats
from palmette.envs.api import INTENTS, Split
from palmette.envs.build import build_tasks, drafts
from palmette.envs.check import check_tasks
from palmette.envs.checks import judged
from palmette.envs.names import domain
from palmette.envs.task import write_task
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.jobs import FAMILIES
from palmette.sandbox.hosts import open_host

# Of what an agent sees and should do, with the seed of recipes/demo.toml: its figures were measured on these tasks.
DEMO = {
    ("terminal", "train", 420): "2139ed6277ce43e5",
    ("terminal", "heldout", 100): "30469cd7a86b79a0",
    ("swe", "train", 340): "9c1dbc743bde6b32",
    ("swe", "heldout", 100): "74f522973af8a68a",
}


@pytest.mark.parametrize(("name", "split", "count"), DEMO)
def test_the_tasks_of_the_demo_are_what_they_were(name: str, split: Split, count: int) -> None:
    seen = [
        (
            x.name,
            x.instruction,
            sorted(x.files.items()),
            [(s.tool, sorted(s.arguments.items()), s.observation) for s in x.steps],
            x.dockerfile,
            x.git,
        )
        for x in drafts(name, count=count, tiers=[1, 2, 3], split=split, seed=11)
    ]
    assert hashlib.sha256(repr(seen).encode()).hexdigest()[:16] == DEMO[name, split, count]


async def test_every_family_is_solved_by_its_reference_and_not_by_idling(tmp_path: Path) -> None:
    empty = domain("terminal").draft(random.Random(0), tier=1, split="train", name="terminal/x")
    tasks = []
    for split, families in FAMILIES.items():
        for family in families:
            job = family(Names(random.Random(family.__name__), split))
            draft = replace(empty, files=job.files or {".keep": ""}, modes=job.modes, histories=job.histories)
            solved = "\n".join(("set -e", *(command for command, _ in job.commands), ""))
            draft = replace(draft, solution=solved, test_files=judged([(job.family, list(job.checks))]))
            assert job.family == family.__name__
            tasks.append(write_task(draft, tmp_path / job.family))
    assert len(tasks) >= 20
    host = open_host("namespace")
    reports = await check_tasks(tasks, host, concurrency=4)
    await host.close()
    assert {report.task.path.name: report.reason for report in reports if not report.ok} == {}


def test_no_family_is_both_trained_on_and_held_out() -> None:
    made = {split: drafts("terminal", count=60, tiers=[5, 6, 7, 8], split=split, seed=2) for split in FAMILIES}
    train, heldout = ({skill for draft in made[split] for skill in draft.skills} for split in ("train", "heldout"))
    assert train & heldout == {"packing"}
    assert len(train) == 1 + len(FAMILIES["train"]) >= 13
    assert not {draft.template for draft in made["train"]} & {draft.template for draft in made["heldout"]}


def test_every_phrasing_names_what_is_to_be_made_and_says_less_and_less() -> None:
    lengths = dict.fromkeys(INTENTS, 0)
    for split, families in FAMILIES.items():
        for family in families:
            job = family(Names(random.Random(1), split))
            for intent in INTENTS:
                said = job.asked(intent)
                lengths[intent] += len(said)
                assert all(path.rpartition("/")[2] in said for path in job.outputs), (job.family, intent)
    assert lengths["specification"] > lengths["request"] > lengths["colloquial"]


def test_what_is_known_about_a_task_is_kept_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (task,) = build_tasks("terminal", tmp_path / "a", count=1, tiers=[6], split="train", seed=3)
    assert (task.intent, task.source, task.license) == ("request", "palmette", "Apache-2.0")
    assert task.template == "terminal/" + "+".join(sorted(task.skills))
    assert task.complexity.steps is not None
    assert task.complexity.steps >= 3
    assert task.complexity.tokens is not None
    assert task.complexity.tokens > 20
    assert {path.stem for path in (task.path / "phrasings").iterdir()} == set(INTENTS)
    build_tasks("terminal", tmp_path / "b", count=1, tiers=[1], split="train", seed=3)
    build_tasks("terminal", tmp_path / "b", count=1, tiers=[1], split="heldout", seed=3)
    stats(tmp_path, as_json=False)
    told = capsys.readouterr().out
    assert "train and heldout share 1 templates: terminal/1" in told
    assert "licences: Apache-2.0 3" in told
