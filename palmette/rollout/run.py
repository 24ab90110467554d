"""One attempt at one task: sandbox up, agent at work, verifier's word, sandbox gone, one typed outcome."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.gateway.app import Gateway
from palmette.rollout.attempt import Attempt, Grades
from palmette.rollout.outcomes import Outcome
from palmette.sandbox.api import Host
from palmette.scaffolds.api import Scaffold
from palmette.trajectory.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One attempt at one task, finished: how it ended, what it earned, and every token the model saw.

    `reward` is None where nobody can be trusted to know it (never 0). `group` is the index of the task in the run's
    list, `sample` the index within the group, `attempt` counts from 1 over retries. `conversation` holds the
    messages as plain dicts, for people to read; training reads `tree` only. `patch` is what a rollout of the swe domain
    changed in its work directory, None where nobody looked. `scaffold` drove the model, and `intent` (of
    `palmette.envs.api.INTENTS`) is how the task was phrased; "" where nobody knows. `pictures` are what the verifier
    saw, PNG in base64 by name, where it ran and its task keeps such evidence.
    """

    task: str
    domain: str
    group: int
    sample: int
    outcome: Outcome
    reward: float | None
    tree: Tree
    turns: int
    sampled_tokens: int
    wall_s: float
    conversation: list[dict[str, Any]]
    detail: str
    attempt: int
    tier: int = 1
    patch: str | None = None
    scaffold: str = ""
    intent: str = ""
    pictures: dict[str, str] = field(default_factory=dict)


def sample_seed(seed: int | None, group: int, sample: int) -> int | None:
    """Return the seed of one sample: the first 63 bits of BLAKE2b("seed/group/sample"), or None without a seed.

    The attempt is left out on purpose: a rollout retried after an infrastructure failure repeats what the lost one
    would have said, so failures change no result.
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(f"{seed}/{group}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def sampling_of(sampling: Sampling, group: int, sample: int) -> Sampling:
    """Return how one sample is drawn: as the whole run of rollouts, with its own seed."""
    return replace(sampling, seed=sample_seed(sampling.seed, group, sample))


async def run_rollout(
    task: Task,
    *,
    group: int,
    sample: int,
    scaffold: Scaffold,
    gateway: Gateway,
    host: Host,
    grader: Grades,
    sampling: Sampling,
    attempt: int = 1,
) -> Rollout:
    """Attempt `task` once and return what came of it; raises nothing but `asyncio.CancelledError`.

    The sandbox and the session are closed whatever happens, cancellation included. `sampling.seed` is the seed of
    the whole run of rollouts; this sample draws with `sample_seed` of it.
    """
    under_way = Attempt(task, scaffold, gateway)
    async with under_way:
        await under_way.start(host, sampling_of(sampling, group, sample))
        offer = under_way.offer
        await under_way.work(lambda sandbox, endpoint: scaffold.run(task.instruction, sandbox, endpoint, offer=offer))
        await under_way.grade(grader)
    return concluded(under_way, group=group, sample=sample, number=attempt)


def concluded(attempt: Attempt, *, group: int, sample: int, number: int) -> Rollout:
    """Return the record of an attempt that has ended, the `number`-th for this sample."""
    return Rollout(
        task=attempt.task.name,
        domain=attempt.task.domain,
        tier=attempt.task.tier,
        group=group,
        sample=sample,
        outcome=attempt.outcome,
        reward=attempt.reward,
        tree=attempt.tree,
        turns=attempt.turns,
        sampled_tokens=attempt.tree.num_sampled,
        wall_s=time.monotonic() - attempt.began_s,
        conversation=attempt.conversation,
        detail=attempt.detail,
        attempt=number,
        patch=attempt.patch,
        pictures=attempt.pictures,
        scaffold=attempt.scaffold.name,
        intent=attempt.task.intent,
    )


def cancelled(task: Task, *, group: int, sample: int, scaffold: str) -> Rollout:
    """Return the record of a rollout that was called off before it could end."""
    return Rollout(
        task=task.name,
        domain=task.domain,
        tier=task.tier,
        group=group,
        sample=sample,
        outcome=Outcome.CANCELLED,
        reward=None,
        tree=Tree(),
        turns=0,
        sampled_tokens=0,
        wall_s=0.0,
        conversation=[],
        detail="called off",
        attempt=1,
        scaffold=scaffold,
        intent=task.intent,
    )
