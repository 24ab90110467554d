"""Checks tasks before they are used: doing nothing scores 0, the reference solution scores 1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palmette.envs.api import Task
from palmette.envs.grade import Grader, VerifierError
from palmette.envs.prepare import prepare, spec_for, tar_directory
from palmette.sandbox.api import Host, SandboxError


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Whether a task may be used, and if not, why."""

    task: Task
    ok: bool
    reason: str


async def check_tasks(
    tasks: Sequence[Task],
    host: Host,
    *,
    grader: Grader | None = None,
    concurrency: int = 8,
    on_done: Callable[[CheckReport], None] | None = None,
) -> list[CheckReport]:
    """Check tasks in parallel sandboxes and report in their order; verdicts stay in `grader` for later rollouts."""
    grader = grader or Grader(host)
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> CheckReport:
        async with gate:
            reason = await _fault(task, host, grader)
        report = CheckReport(task=task, ok=not reason, reason=reason or "ok")
        if on_done:
            on_done(report)
        return report

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task)) for task in tasks]
    return [future.result() for future in running]


async def _fault(task: Task, host: Host, grader: Grader) -> str:
    """Return what is wrong with a task, or an empty string."""
    try:
        sandbox = await host.start(spec_for(task, owner=f"check/{task.name}"))
        try:
            await prepare(sandbox, task)
            if task.separate_verifier:  # a shared verifier would leave its traces for the reference solution
                idle = await grader.grade(task, sandbox)
                if idle.reward != 0.0:
                    return f"doing nothing scores {idle.reward:g}, expected 0"
            await sandbox.upload(tar_directory(task.path / "solution"), "/solution")
            solved = await sandbox.exec(["sh", "/solution/solve.sh"], timeout_s=task.agent_timeout_s)
            if solved.exit_code != 0:
                return f"solution/solve.sh exits {solved.exit_code}: {_tail(solved.stderr)}"
            verdict = await grader.grade(task, sandbox)
        finally:
            await sandbox.close()
    except (VerifierError, SandboxError) as error:
        return str(error)
    return "" if verdict.reward == 1.0 else f"the reference scores {verdict.reward:g}, expected 1: {verdict.detail}"


def _tail(output: bytes) -> str:
    return output.decode(errors="replace").strip()[-200:]
