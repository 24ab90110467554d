"""Many rollouts at once: bounded, retried where a failure was nobody's fault, stopped promptly, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.gateway.app import Gateway
from palmette.rollout.attempt import Grades
from palmette.rollout.outcomes import RULES
from palmette.rollout.run import Rollout, cancelled, run_rollout
from palmette.sandbox.api import Host
from palmette.scaffolds.api import Scaffold

OnDone = Callable[[Rollout], None]


class Pool:
    """Runs rollouts, at most `concurrency` at a time over all calls of `run`.

    A rollout whose outcome may be retried is tried up to `retries` times more, each time in a fresh sandbox, after
    `backoff_s` doubled with every try; then its last record stands as it is.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        host: Host,
        grader: Grades,
        scaffold: Scaffold,
        concurrency: int = 32,
        retries: int = 2,
        backoff_s: float = 0.1,
    ) -> None:
        if concurrency < 1 or retries < 0:
            raise ValueError(f"concurrency must be at least 1 and retries at least 0, not {concurrency} and {retries}")
        self._gateway, self._host, self._grader, self._scaffold = gateway, host, grader, scaffold
        self._retries, self._backoff_s = retries, backoff_s
        self._room = asyncio.Semaphore(concurrency)
        self._running: set[asyncio.Task[Rollout]] = set()

    async def run(
        self, tasks: Sequence[Task], *, samples: int, sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """Attempt every task `samples` times; return the rollouts task-major (sample s of task g at g * samples + s).

        `on_done` is called once for each rollout as soon as it is final, so a caller that is cancelled has every
        finished one; what it raises ends the run. When the caller is cancelled, sandboxes are closed before
        `asyncio.CancelledError` leaves here.
        """
        places = [(group, sample) for group in range(len(tasks)) for sample in range(samples)]
        jobs = [asyncio.ensure_future(self._job(tasks[g], g, s, sampling, on_done)) for g, s in places]
        self._running.update(jobs)
        try:
            if jobs:
                done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
                for job in done:
                    if not job.cancelled() and (error := job.exception()) is not None:
                        raise error
            return [
                self._record(job, tasks[group], group, sample, on_done)
                for job, (group, sample) in zip(jobs, places, strict=True)
            ]
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            self._running.difference_update(jobs)

    def stop(self) -> None:
        """Call off what has not finished: `run` returns soon, with those rollouts as CANCELLED and all others whole."""
        for job in self._running:
            job.cancel()

    async def _job(self, task: Task, group: int, sample: int, sampling: Sampling, on_done: OnDone | None) -> Rollout:
        attempt = 1
        while True:
            async with self._room:
                rollout = await run_rollout(
                    task,
                    group=group,
                    sample=sample,
                    scaffold=self._scaffold,
                    gateway=self._gateway,
                    host=self._host,
                    grader=self._grader,
                    sampling=sampling,
                    attempt=attempt,
                )
            if not RULES[rollout.outcome].retryable or attempt > self._retries:
                break
            await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1))
            attempt += 1
        if on_done is not None:
            on_done(rollout)
        return rollout

    def _record(
        self, job: asyncio.Task[Rollout], task: Task, group: int, sample: int, on_done: OnDone | None
    ) -> Rollout:
        if not job.cancelled():
            return job.result()
        rollout = cancelled(task, group=group, sample=sample)
        if on_done is not None:
            on_done(rollout)
        return rollout
