"""Rollouts that part after a common trunk: the sandbox is forked together with the token tree, at any turn.

The trunk is the beginning of sample 0: with a seed, branch 0 says what the unbranched sample 0 would have said, and
branch k goes on with the seed of sample k. Every branch has the trunk's files, tokens and what is left of its time;
commands that the trunk left running have ended (`palmette.sandbox.api.State`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.rollout.attempt import Attempt, Grades, close, close_session
from palmette.rollout.offer import offer_of
from palmette.rollout.run import Rollout, concluded, sampling_of
from palmette.sandbox.api import Host, Sandbox, Snapshot, State
from palmette.scaffolds.api import Endpoint, Pause, Pausing, Scaffold, Stop


async def branch(
    task: Task,
    *,
    at_turn: int,
    n: int,
    group: int,
    scaffold: Scaffold,
    gateway: Gateway,
    host: Host,
    grader: Grades,
    sampling: Sampling,
    attempt: int = 1,
) -> list[Rollout]:
    """Attempt `task` once for `at_turn` turns and `n` times from there; return a rollout for every branch, in order.

    The tree of each rollout holds the trunk and its own branch, and its turns, sampled tokens and wall time count the
    trunk too. A trunk that ends, or fails, before a turn more is due is the one rollout returned. What goes wrong in
    one branch touches no other; everything is closed whatever happens. Raises `UserError` for a scaffold that cannot
    pause and a host that cannot fork, `ValueError` for a negative `at_turn` and an `n` below 1.
    """
    if n < 1:
        raise ValueError(f"a trunk needs at least one branch, not {n}")
    async with Trunk(
        task,
        at_turn=at_turn,
        group=group,
        scaffold=scaffold,
        gateway=gateway,
        host=host,
        grader=grader,
        sampling=sampling,
    ) as trunk:
        if (ended := await trunk.grow(attempt)) is not None:
            return [ended]
        async with asyncio.TaskGroup() as group_of:
            branches = [group_of.create_task(trunk.branch(sample, attempt)) for sample in range(n)]
        return [done.result() for done in branches]


class Trunk:
    """The first `at_turn` turns of a task, grown once, and what its branches need to go on, kept until `close`.

    Raises `UserError` for a scaffold that cannot pause and a task with side services, `ValueError` for a negative
    `at_turn`.
    """

    def __init__(
        self,
        task: Task,
        *,
        at_turn: int,
        group: int,
        scaffold: Scaffold,
        gateway: Gateway,
        host: Host,
        grader: Grades,
        sampling: Sampling,
    ) -> None:
        if at_turn < 0:
            raise ValueError(f"at_turn must be at least 0, not {at_turn}")
        if task.services:
            raise UserError(f"{task.name} has side services, which cannot be forked; leave branch_at out for it")
        if not isinstance(scaffold, Pausing):
            raise UserError(f"scaffold '{scaffold.name}' cannot pause, so its rollouts cannot branch; use 'loop'")
        self._task, self._at_turn, self._group, self._sampling = task, at_turn, group, sampling
        self._scaffold, self._gateway, self._host, self._grader = scaffold, gateway, host, grader
        self._grown: _Grown | None = None
        self._kept = AsyncExitStack()

    async def __aenter__(self) -> Trunk:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def grow(self, attempt: int = 1) -> Rollout | None:
        """Go the first turns; return the rollout, of sample 0, if that was its end: then there are no branches.

        May be called again after such an end, for a retry. Raises `UserError` for a host that cannot fork.
        """
        first, forks = Attempt(self._task, self._scaffold, self._gateway), True
        async with first:
            await first.start(self._host, sampling_of(self._sampling, self._group, 0))
            assert first.sandbox is not None
            assert first.session is not None
            whole = first.sandbox.inner
            if forks := isinstance(whole, State):
                ended = await first.work(self._begin)
                if isinstance(ended, Pause):
                    files = await whole.snapshot()
                    self._kept.push_async_callback(close, files)
                    session = self._gateway.fork_session(first.session.key, self._sampling)
                    self._kept.callback(close_session, self._gateway, session)
                    self._grown = _Grown(first=first, pause=ended, files=files, session=session)
                else:
                    await first.grade(self._grader)
        if not forks:
            raise UserError(
                f"host '{self._host.name}' cannot fork a sandbox, so rollouts cannot branch; use 'namespace'"
            )
        return None if self._grown else concluded(first, group=self._group, sample=0, number=attempt)

    async def branch(self, sample: int, attempt: int = 1) -> Rollout:
        """Go on to the end as sample number `sample`, again for a retry. Raises nothing but a cancellation."""
        assert self._grown is not None
        own, grown = Attempt(self._task, self._scaffold, self._gateway), self._grown
        async with own:
            sampling = sampling_of(self._sampling, self._group, sample)
            await own.start_from(grown.first, grown.files, grown.session, sampling)
            offer = own.offer
            await own.work(lambda sandbox, endpoint: self._scaffold.go_on(grown.pause, sandbox, endpoint, offer=offer))
            await own.grade(self._grader)
        return concluded(own, group=self._group, sample=sample, number=attempt)

    async def close(self) -> None:
        """Let go of the trunk's files and session; its branches keep theirs. Idempotent."""
        await self._kept.aclose()

    async def _begin(self, sandbox: Sandbox, endpoint: Endpoint) -> Stop | Pause:
        offer = offer_of(self._task)
        opening = self._scaffold.opening(self._task.instruction, offer)
        return await self._scaffold.go_on(opening, sandbox, endpoint, until=self._at_turn, offer=offer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grown:
    """A trunk that paused: `session` is a fork of its own that never asks, kept to be forked again."""

    first: Attempt
    pause: Pause
    files: Snapshot
    session: Session
