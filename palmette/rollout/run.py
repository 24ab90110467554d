"""One attempt at one task: sandbox up, agent at work, verifier's word, sandbox gone, one typed outcome."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.envs.grade import Verdict
from palmette.envs.prepare import prepare, spec_for
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.rollout.classify import Ending, Phase, classify
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.watch import Watched
from palmette.sandbox.api import Host, Sandbox, SandboxError, Spec
from palmette.scaffolds.api import Endpoint, Scaffold, Stop
from palmette.trajectory.tree import Tree

_log = logging.getLogger(__name__)


class Grades(Protocol):
    """What a rollout needs of a grader (`palmette.envs.grade.Grader` is the one in use)."""

    async def grade(self, task: Task, sandbox: Sandbox) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One attempt at one task, finished: how it ended, what it earned, and every token the model saw.

    `reward` is None where nobody can be trusted to know it (never 0). `group` is the index of the task in the run's
    list, `sample` the index within the group, `attempt` counts from 1 over retries. `conversation` holds the
    messages as plain dicts, for people to read; training reads `tree` only.
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


def sample_seed(seed: int | None, group: int, sample: int) -> int | None:
    """Return the seed of one sample: the first 63 bits of BLAKE2b("seed/group/sample"), or None without a seed.

    The attempt is left out on purpose: a rollout retried after an infrastructure failure repeats what the lost one
    would have said, so failures change no result.
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(f"{seed}/{group}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


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
    started_s = time.monotonic()
    sampling = replace(sampling, seed=sample_seed(sampling.seed, group, sample))
    ended = await _attempt(task, sampling, scaffold=scaffold, gateway=gateway, host=host, grader=grader)
    outcome = classify(ended.ending)
    tree = ended.session.tree if ended.session else Tree()
    return Rollout(
        task=task.name,
        domain=task.domain,
        tier=task.tier,
        group=group,
        sample=sample,
        outcome=outcome,
        reward=_reward(outcome, ended.verdict),
        tree=tree,
        turns=ended.session.turns if ended.session else 0,
        sampled_tokens=tree.num_sampled,
        wall_s=time.monotonic() - started_s,
        conversation=list(ended.session.conversation) if ended.session else [],
        detail=_detail(ended),
        attempt=attempt,
    )


def cancelled(task: Task, *, group: int, sample: int) -> Rollout:
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
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    ending: Ending
    session: Session | None
    verdict: Verdict | None


async def _attempt(
    task: Task, sampling: Sampling, *, scaffold: Scaffold, gateway: Gateway, host: Host, grader: Grades
) -> _Ended:
    """Go through the phases; whatever escapes becomes part of the ending, with the phase it escaped from."""
    phase, sandbox, session, stop, verdict, error = Phase.START, None, None, None, None, None
    version, out_of_memory = gateway.engine.version, False

    def ending() -> Ending:
        return Ending(
            phase=phase,
            stop=stop,
            error=error,
            engine_stop=Stop(session.failure) if session and session.failure else None,
            out_of_memory=out_of_memory,
            weights_changed=gateway.engine.version != version,
        )

    try:
        sandbox = Watched(await host.start(await _spec(task, scaffold, gateway)))
        await prepare(sandbox, task)
        phase, session = Phase.WORK, gateway.open_session(sampling)
        try:
            stop = await _work(task, scaffold, sandbox, _endpoint(scaffold, gateway, session, sandbox))
        finally:
            gateway.close_session(session.key)
            out_of_memory = sandbox.out_of_memory
        if RULES[classify(ending())].trust_reward:
            phase = Phase.GRADE
            verdict = await grader.grade(task, sandbox)
    except Exception as caught:  # the edge of the house: nothing but a cancellation may pass it
        _log.debug("rollout of %s failed in phase %s", task.name, phase, exc_info=True)
        error = caught
    finally:
        if sandbox is not None:
            await _close(sandbox)
    return _Ended(ending=ending(), session=session, verdict=verdict)


async def _spec(task: Task, scaffold: Scaffold, gateway: Gateway) -> Spec:
    """Return the task's sandbox with what the scaffold needs in it.

    A scaffold that runs inside brings its programs and the room they take, and is the only kind that gets a network:
    with the built-in loop no command of the agent can reach the gateway.
    """
    owner = f"rollout/{task.name}"
    if not _runs_inside(scaffold):
        return spec_for(task, owner=owner)
    spec = spec_for(task, owner=owner, gateway=(gateway.host, gateway.port))
    programs = await asyncio.to_thread(getattr, scaffold, "readonly", ())  # the first time, this installs the agent
    limits = replace(
        spec.limits,
        memory_mb=max(spec.limits.memory_mb, getattr(scaffold, "memory_mb", 0)),
        pids=max(spec.limits.pids, getattr(scaffold, "pids", 0)),
    )
    return replace(spec, readonly=tuple(dict.fromkeys((*spec.readonly, *programs))), limits=limits)


def _runs_inside(scaffold: Scaffold) -> bool:
    return getattr(scaffold, "inside", False)


async def _work(task: Task, scaffold: Scaffold, sandbox: Sandbox, endpoint: Endpoint) -> Stop:
    """Let the scaffold drive the model for at most the task's own time."""
    clock = asyncio.timeout(task.agent_timeout_s)
    try:
        async with clock:
            return await scaffold.run(task.instruction, sandbox, endpoint)
    except TimeoutError:
        if clock.expired():
            return Stop.TIMEOUT
        raise


def _endpoint(scaffold: Scaffold, gateway: Gateway, session: Session, sandbox: Sandbox) -> Endpoint:
    """Say where the model is, as seen from where the scaffold's requests leave."""
    outer = sandbox.gateway_url if _runs_inside(scaffold) else f"http://{gateway.host}:{gateway.port}"
    if outer is None:
        raise SandboxError(f"scaffold {scaffold.name} runs inside the sandbox, which has no network to the gateway")
    return Endpoint(base_url=outer.rstrip("/") + session.base_url, api_key=session.key)


async def _close(sandbox: Sandbox) -> None:
    """Close a sandbox to the end even when this task is cancelled meanwhile; its failure is the host's affair."""
    closing = asyncio.ensure_future(sandbox.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        raise
    except Exception:
        _log.warning("sandbox %s could not be closed", sandbox.id, exc_info=True)


def _reward(outcome: Outcome, verdict: Verdict | None) -> float | None:
    """Return the verifier's number where it may be trusted; an agent that made grading impossible earned nothing."""
    if outcome is Outcome.POLICY_VIOLATION:
        return 0.0
    return verdict.reward if verdict is not None and RULES[outcome].trust_reward else None


def _detail(ended: _Ended) -> str:
    """Say in one line why the rollout ended as it did."""
    error, stop = ended.ending.error, ended.ending.stop
    if error is not None:
        return f"{ended.ending.phase}: {type(error).__name__}: {error}"
    if stop is Stop.TIMEOUT and ended.verdict is not None:
        return f"out of time; {ended.verdict.detail}"
    return ended.verdict.detail if ended.verdict else f"{stop}"
