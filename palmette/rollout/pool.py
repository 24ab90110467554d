"""Many rollouts at once: bounded, retried where a failure was nobody's fault, stopped promptly, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.gateway.app import Gateway
from palmette.rollout.attempt import Grades
from palmette.rollout.branch import Trunk
from palmette.rollout.casting import Casting
from palmette.rollout.outcomes import RULES
from palmette.rollout.run import Rollout, cancelled, run_rollout
from palmette.sandbox.api import Host
from palmette.scaffolds.api import Scaffold

OnDone = Callable[[Rollout], None]
_Tried = TypeVar("_Tried", Rollout, Rollout | None)


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
        self._running: set[asyncio.Task[Any]] = set()

    async def run(
        self,
        tasks: Sequence[Task],
        *,
        samples: int,
        sampling: Sampling,
        on_done: OnDone | None = None,
        branch_at: int | None = None,
        casting: Casting | None = None,
    ) -> list[Rollout]:
        """Attempt every task `samples` times; return the rollouts task-major (sample s of task g at g * samples + s).

        With `branch_at` the samples of a task branch from one trunk of so many turns (`palmette.rollout.branch`), and
        a sample that is lost goes on from the trunk again. Where the trunk ends before, it is sample 0, and the other
        samples are attempted from the beginning. `casting` says how each sample is told its task and who drives it (the
        pool's scaffold, where nobody says); a trunk is what it says of sample 0.

        `on_done` is called once for each rollout as soon as it is final, so a caller that is cancelled has every
        finished one; what it raises ends the run. When the caller is cancelled, sandboxes are closed before
        `asyncio.CancelledError` leaves here. Raises `UserError` where `branch_at` asks for what the scaffold or
        the host cannot do.
        """
        places = [
            _Place(group, sample, *(casting(task, group, sample) if casting else (task, self._scaffold)))
            for group, task in enumerate(tasks)
            for sample in range(samples)
        ]
        first = [] if branch_at is None else [place for place in places if place.sample == 0]
        trunks = [self._trunk(place, sampling, branch_at or 0) for place in first]
        groups = [_Group(trunk, asyncio.ensure_future(self._tried(trunk.grow)), samples) for trunk in trunks]
        jobs = [
            asyncio.ensure_future(self._job(place, sampling, on_done, groups[place.group] if groups else None))
            for place in places
        ]
        under_way = [*jobs, *(group.growing for group in groups)]
        self._running.update(under_way)
        try:
            if jobs:
                done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
                for job in done:
                    if not job.cancelled() and (error := job.exception()) is not None:
                        raise error
            return [self._record(job, place, on_done) for job, place in zip(jobs, places, strict=True)]
        finally:
            for job in under_way:
                job.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            self._running.difference_update(under_way)
            for trunk in trunks:
                await trunk.close()

    def stop(self) -> None:
        """Call off what has not finished: `run` returns soon, with those rollouts as CANCELLED and all others whole."""
        for job in self._running:
            job.cancel()

    def _trunk(self, place: _Place, sampling: Sampling, branch_at: int) -> Trunk:
        return Trunk(
            place.task,
            at_turn=branch_at,
            group=place.group,
            scaffold=place.scaffold,
            gateway=self._gateway,
            host=self._host,
            grader=self._grader,
            sampling=sampling,
        )

    async def _job(self, place: _Place, sampling: Sampling, on_done: OnDone | None, group: _Group | None) -> Rollout:
        async def alone(attempt: int) -> Rollout:
            return await run_rollout(
                place.task,
                group=place.group,
                sample=place.sample,
                scaffold=place.scaffold,
                gateway=self._gateway,
                host=self._host,
                grader=self._grader,
                sampling=sampling,
                attempt=attempt,
            )

        if group is None:
            rollout = await self._tried(alone)
        else:
            async with group as ended:
                if ended is None:
                    rollout = await self._tried(lambda attempt: group.trunk.branch(place.sample, attempt))
                else:
                    rollout = ended if place.sample == 0 else await self._tried(alone)
        if on_done is not None:
            on_done(rollout)
        return rollout

    async def _tried(self, attempting: Callable[[int], Awaitable[_Tried]]) -> _Tried:
        """Return the last of as many attempts as it takes; one without a rollout needs no further."""
        attempt = 1
        while True:
            async with self._room:
                rollout = await attempting(attempt)
            if rollout is None or not RULES[rollout.outcome].retryable or attempt > self._retries:
                return rollout
            await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1))
            attempt += 1

    def _record(self, job: asyncio.Task[Rollout], place: _Place, on_done: OnDone | None) -> Rollout:
        if not job.cancelled():
            return job.result()
        rollout = cancelled(place.task, group=place.group, sample=place.sample, scaffold=place.scaffold.name)
        if on_done is not None:
            on_done(rollout)
        return rollout


@dataclass(frozen=True, slots=True)
class _Place:
    """One sample: the task as it is told it, and who drives it."""

    group: int
    sample: int
    task: Task
    scaffold: Scaffold


class _Group:
    """A trunk whose samples, each inside ``async with``, wait until it is grown; the last to leave closes it."""

    def __init__(self, trunk: Trunk, growing: asyncio.Task[Rollout | None], samples: int) -> None:
        self.trunk, self.growing = trunk, growing
        self._left = samples

    async def __aenter__(self) -> Rollout | None:
        return await asyncio.shield(self.growing)

    async def __aexit__(self, *_: object) -> None:
        self._left -= 1
        if not self._left:
            await self.trunk.close()
