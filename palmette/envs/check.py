"""Checks tasks before they are used: the reference scores 1, doing nothing and every attack 0, and verdicts repeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from palmette.envs.api import Task
from palmette.envs.attacks import Attack
from palmette.envs.grade import Grader, Verdict, VerifierError
from palmette.envs.prepare import tar_directory
from palmette.envs.services import Services, opened
from palmette.errors import UserError
from palmette.sandbox.api import Host, PathRefused, Sandbox, SandboxError

_ATTACK_S = 20.0
_SLACK_S = 120.0  # starts and queues, on top of what a task and its verifier may take
IDLE, REFERENCE = "nothing", "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing tried on a task; `reward` is None where there was no verdict, `grading_s` is the verifier's share."""

    name: str
    reward: float | None
    detail: str
    grading_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Whether a task may be used, and if not, why; `trials` are what was tried, in order, up to the first fault."""

    task: Task
    ok: bool
    reason: str
    trials: tuple[Trial, ...] = field(default=())


async def check_tasks(
    tasks: Sequence[Task],
    host: Host,
    *,
    grader: Grader | None = None,
    attacks: Callable[[str], Sequence[Attack]] = lambda _: (),
    repeats: int = 1,
    concurrency: int = 8,
    on_done: Callable[[CheckReport], None] | None = None,
) -> list[CheckReport]:
    """Check tasks in parallel sandboxes and report in their order; verdicts stay in `grader` for later rollouts.

    `attacks` gives those on a domain, `repeats` is how often the verifier judges the reference's end state anew. What
    goes wrong with one task, or takes too long, is its report's reason and touches no other. Raises `UserError` for
    attacks on a host that would not hold them.
    """
    if "walls" in getattr(host, "lacks", ()) and any(attacks(task.domain) for task in tasks):
        raise UserError(f"host '{host.name}' has no walls, so attacks are not run on it; use another, or --quick")
    known = grader or Grader(host)
    anew = Grader(host, cache=False)
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> CheckReport:
        trials: list[Trial] = []
        async with gate:
            reason = await _fault(task, host, known, anew, attacks(task.domain), repeats, trials)
        report = CheckReport(task=task, ok=not reason, reason=reason or "ok", trials=tuple(trials))
        if on_done:
            on_done(report)
        return report

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    return [future.result() for future in running]


async def _fault(
    task: Task,
    host: Host,
    grader: Grader,
    anew: Grader,
    attacks: Sequence[Attack],
    repeats: int,
    trials: list[Trial],
) -> str:
    """Return what is wrong with a task, or an empty string; stops at the first fault."""
    limit_s = task.agent_timeout_s + (1 + repeats) * task.verifier_timeout_s + _SLACK_S
    try:
        async with asyncio.timeout(limit_s):
            if reason := await _honest(task, host, grader, anew, repeats, trials):
                return reason
        for attack in attacks:
            async with asyncio.timeout(limit_s):
                trials.append(trial := await _attacked(task, host, anew, attack))
            if trial.reward is None:
                return f"attack {attack.name} gets no verdict: {trial.detail}"
            if trial.reward > 0.0:
                return f"attack {attack.name} scores {trial.reward:g}, expected 0: {attack.says}"
    except TimeoutError:
        return f"did not end within {limit_s:g} s"
    except (VerifierError, SandboxError, UserError, OSError) as error:
        return str(error)
    return ""


async def _honest(task: Task, host: Host, grader: Grader, anew: Grader, repeats: int, trials: list[Trial]) -> str:
    async with opened(task, host, owner=f"check/{task.name}") as (sandbox, services):
        if task.separate_verifier:  # a shared verifier would leave its traces for the reference solution
            idle = await _graded(IDLE, task, sandbox, services, grader, trials)
            if idle.reward != 0.0:
                return f"doing nothing scores {idle.reward:g}, expected 0"
        solution = task.path / "solution"
        if not (solution / "solve.sh").is_file():
            return f"{solution / 'solve.sh'} is missing: without a reference nobody knows that the task can be solved"
        await sandbox.upload(tar_directory(solution), "/solution")
        solved = await sandbox.exec(["sh", "/solution/solve.sh"], timeout_s=task.agent_timeout_s)
        if solved.exit_code != 0:
            return f"{solution / 'solve.sh'} exits {solved.exit_code}: {_tail(solved.stderr)}"
        first = await _graded(REFERENCE, task, sandbox, services, grader, trials)
        for _ in range(1, repeats):
            again = await _graded(REFERENCE, task, sandbox, services, anew, trials)
            if again.reward != first.reward:
                return f"the verifier says {first.reward:g}, then {again.reward:g} of the same end state"
    if first.reward != 1.0:
        return f"the reference scores {first.reward:g}, expected 1: {first.detail}"
    if task.separate_verifier:
        return ""
    async with opened(task, host, owner=f"check/{task.name}") as (sandbox, services):
        idle = await _graded(IDLE, task, sandbox, services, grader, trials)
    return f"doing nothing scores {idle.reward:g}, expected 0" if idle.reward != 0.0 else ""


async def _graded(
    name: str, task: Task, sandbox: Sandbox, services: Services, grader: Grader, trials: list[Trial]
) -> Verdict:
    began_s = time.monotonic()
    verdict = await grader.grade(task, sandbox, services)
    took_s = time.monotonic() - began_s
    trials.append(Trial(name=name, reward=verdict.reward, detail=verdict.detail, grading_s=took_s))
    return verdict


async def _attacked(task: Task, host: Host, grader: Grader, attack: Attack) -> Trial:
    """Return what an attack earns; what cannot even be taken out to be graded earns nothing, as in a rollout."""
    found: list[Trial] = []
    told = {"TASK_INSTRUCTION": task.instruction}
    try:
        async with opened(task, host, owner=f"attack/{attack.name}") as (sandbox, services):
            await sandbox.exec(["sh", "-c", attack.script], env=told, timeout_s=_ATTACK_S)
            await _graded(attack.name, task, sandbox, services, grader, found)
    except PathRefused as error:
        return Trial(name=attack.name, reward=0.0, detail=str(error), grading_s=0.0)
    except VerifierError as error:
        return Trial(name=attack.name, reward=None, detail=str(error), grading_s=0.0)
    return found[0]


def _tail(output: bytes) -> str:
    return output.decode(errors="replace").strip()[-200:]
