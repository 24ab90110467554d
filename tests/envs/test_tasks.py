"""Proves: task directories round-trip, reference solutions score 1 and doing nothing 0 in real sandboxes, the predicted
observations are what a sandbox says, and a verifier that does not answer properly is an error and never a reward."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.chat.message import ToolCall
from palmette.envs.api import Draft, Step
from palmette.envs.build import build_tasks
from palmette.envs.check import check_tasks
from palmette.envs.grade import Grader, VerifierError, VerifierTimeout
from palmette.envs.names import DOMAINS, domain
from palmette.envs.prepare import prepare, spec_for
from palmette.envs.services import opened
from palmette.envs.task import load_steps, load_task, load_tasks, write_task
from palmette.envs.tools import SAY
from palmette.errors import UserError
from palmette.rollout.offer import offer_of
from palmette.sandbox.api import Host
from palmette.scaffolds.loop import act


def a_draft(**changes: object) -> Draft:
    draft = domain("terminal").draft(random.Random(0), tier=1, split="train", name="terminal/one")
    return replace(draft, **changes)  # type: ignore[arg-type]


def with_test(script: str) -> Draft:
    return a_draft(test_files={"test.sh": script})


@pytest.mark.parametrize("name", DOMAINS)
def test_a_task_directory_round_trips(name: str, tmp_path: Path) -> None:
    draft = domain(name).draft(random.Random(1), tier=2, split="heldout", name=f"{name}/x")
    task = write_task(draft, tmp_path / "x")
    assert (task.name, task.domain, task.instruction) == (draft.name, draft.domain, draft.instruction)
    assert (task.tier, task.split, task.skills) == (draft.tier, draft.split, draft.skills)
    assert task.separate_verifier
    assert load_steps(task) == draft.steps
    assert load_tasks(tmp_path) == [task]
    for path, text in draft.files.items():
        assert (tmp_path / "x/environment/files" / path).read_text() == text
    assert (tmp_path / "x/environment/files/.git").is_dir() == draft.git


def test_a_directory_in_the_way_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/precious").touch()
    with pytest.raises(UserError, match="exists already"):
        write_task(a_draft(), tmp_path / "x")
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "precious"]


def test_broken_directories_are_named(tmp_path: Path) -> None:
    task = write_task(a_draft(), tmp_path / "x")
    (task.path / "instruction.md").unlink()
    with pytest.raises(UserError, match=r"x/instruction\.md is missing"):
        load_task(task.path)
    (task.path / "task.toml").write_text("[task\n")
    with pytest.raises(UserError, match=r"task\.toml is not valid TOML"):
        load_task(task.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no task\.toml"):
        load_tasks(tmp_path / "empty")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("RUN apt-get install x", "Dockerfile: FROM scratch cannot be changed by RUN; name an image"),
        ("COPY --chown=a b c", "Dockerfile:2: COPY: --chown is not understood"),
        ("nonsense", "Dockerfile:2: NONSENSE: is outside the subset"),
    ],
)
def test_a_dockerfile_outside_the_subset_is_refused_with_its_line(line: str, said: str, tmp_path: Path) -> None:
    task = write_task(a_draft(dockerfile=f"FROM scratch\n{line}\n"), tmp_path / "x")
    with pytest.raises(UserError, match=said):
        spec_for(task, owner="test")


async def test_references_score_one_idling_scores_nothing(host: Host, tmp_path: Path) -> None:
    tasks = [
        task
        for name in DOMAINS
        for task in build_tasks(name, tmp_path, count=9, tiers=DOMAINS[name].tiers, split="train", seed=7)
    ]
    reports = await check_tasks(tasks, host, concurrency=4)
    assert {report.reason for report in reports} == {"ok"}


async def test_predicted_observations_are_what_the_sandbox_says(host: Host, tmp_path: Path) -> None:
    for name in DOMAINS:
        for task in build_tasks(name, tmp_path, count=12, tiers=DOMAINS[name].tiers, split="heldout", seed=8):
            async with opened(task, host, owner="test") as (sandbox, services):
                offer = offer_of(task, services)
                for number, step in enumerate(load_steps(task)):
                    if step.tool == SAY:
                        told = await services.say(step.arguments["text"])
                    else:
                        call = ToolCall(id=f"call{number}", name=step.tool, arguments=step.arguments)
                        told = await act(call, sandbox, offer=offer)
                    assert (told or "") == step.observation, (task.path, step)


async def test_check_names_the_fault(host: Host, tmp_path: Path) -> None:
    free = write_task(with_test("mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt"), tmp_path / "free")
    wrong = write_task(a_draft(steps=(Step(tool="submit", arguments={}, observation=""),)), tmp_path / "wrong")
    reports = await check_tasks([free, wrong], host)
    assert [report.ok for report in reports] == [False, False]
    assert "doing nothing scores 1" in reports[0].reason
    assert "the reference scores 0" in reports[1].reason


@pytest.mark.parametrize("text", ["", "nan", "two", "1.5", "-1"])
async def test_a_reward_that_is_no_number_between_0_and_1_is_an_error(host: Host, tmp_path: Path, text: str) -> None:
    script = f"mkdir -p /logs/verifier; echo '{text}' > /logs/verifier/reward.txt"
    task = write_task(with_test(script), tmp_path / "x")
    sandbox = await host.start(spec_for(task, owner="test"))
    with pytest.raises(VerifierError):
        await Grader(host).grade(task, sandbox)


async def test_a_verifier_that_does_not_end_times_out(host: Host, tmp_path: Path) -> None:
    task = replace(write_task(with_test("sleep 60"), tmp_path / "x"), verifier_timeout_s=0.2)
    sandbox = await host.start(spec_for(task, owner="test"))
    with pytest.raises(VerifierTimeout, match=r"longer than 0\.2 s"):
        await Grader(host).grade(task, sandbox)


async def test_equal_end_states_are_graded_once(host: Host, tmp_path: Path) -> None:
    task = write_task(a_draft(), tmp_path / "x")
    grader = Grader(host)
    for number in range(3):
        sandbox = await host.start(spec_for(task, owner="test"))
        await prepare(sandbox, task)
        if number == 2:
            await sandbox.write("other.txt", b"1")
        assert (await grader.grade(task, sandbox)).reward == 0.0
    assert (grader.graded, grader.reused) == (2, 1)


async def test_the_agent_sees_neither_tests_nor_solution(host: Host, tmp_path: Path) -> None:
    task = build_tasks("swe", tmp_path, count=1, tiers=[1], split="train", seed=1)[0]
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    seen = await sandbox.exec(
        "ls -A /tests /solution /logs; find / -name expected.json -o -name steps.json 2>/dev/null"
    )
    assert b".json" not in seen.stdout
    assert b"test.sh" not in seen.stdout
    log = await sandbox.exec("git log --oneline && git status --short")
    assert log.stdout.count(b"\n") == 1, log
