"""One attempt under way: its phases one by one, what escapes them kept as the ending, everything closed at the end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.envs.grade import Verdict
from palmette.envs.patch import patch_of
from palmette.envs.prepare import prepare, spec_when_made
from palmette.envs.services import Services, start_services
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.rollout.classify import Ending, Phase, classify
from palmette.rollout.offer import offer_of
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.watch import Watched
from palmette.sandbox.api import Host, Sandbox, SandboxError, Snapshot, Spec
from palmette.scaffolds.api import Endpoint, Offer, Pause, Scaffold, Stop
from palmette.trajectory.tree import Tree

_MOST_PICTURE_BYTES = 256 << 10  # of one that is kept with its rollout
_PATCHED = "swe"  # the domain whose rollouts are handed in as patches
_log = logging.getLogger(__name__)

Drive = Callable[[Sandbox, Endpoint], Awaitable[Stop | Pause]]


class Grades(Protocol):
    """What a rollout needs of a grader (`palmette.envs.grade.Grader` is the one in use)."""

    async def grade(self, task: Task, sandbox: Sandbox, services: Services | None = None) -> Verdict: ...


class Attempt:
    """The phases of one attempt at one task, to be gone through inside ``async with``.

    Example: ``async with Attempt(...) as attempt: await attempt.start(host, sampling); await attempt.work(drive);
    await attempt.grade(grader)``. An exception of any phase ends the block and becomes part of `ending`; only a
    cancellation passes. Sandbox and session are closed at the end of the block, whatever happens. `sandbox` and
    `session` are None before they are there; `left_s` is what the agent has left of the task's time, and `began_s` (of
    `time.monotonic`) is when it began, which for one that goes on from another is when that one began.
    """

    def __init__(self, task: Task, scaffold: Scaffold, gateway: Gateway) -> None:
        self.task = task
        self.sandbox: Watched | None = None
        self.services = Services(task, {})
        self.session: Session | None = None
        self.verdict: Verdict | None = None
        self.patch: str | None = None
        self.began_s = time.monotonic()
        self.left_s = task.agent_timeout_s
        self.scaffold, self._gateway = scaffold, gateway
        self._version = gateway.engine.version
        self._phase = Phase.START
        self._stop: Stop | None = None
        self._error: Exception | None = None
        self._out_of_memory = False

    async def __aenter__(self) -> Attempt:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._end_session()
        if isinstance(error, Exception):  # the edge of the house: nothing but a cancellation may pass it
            _log.debug("rollout of %s failed in phase %s", self.task.name, self._phase, exc_info=error)
            self._error = error
        try:
            if self.sandbox is not None:
                await close(self.sandbox)
        finally:
            await close(self.services)
        return isinstance(error, Exception)

    async def start(self, host: Host, sampling: Sampling) -> None:
        """Start and prepare a sandbox with the task's side services, and open a session."""
        sandbox = await host.start(await _spec(self.task, self.scaffold, self._gateway))
        self.sandbox = Watched(sandbox)
        self.services = await start_services(self.task, host, owner=f"rollout/{self.task.name}")
        await self.services.attach(sandbox)
        await prepare(self.sandbox, self.task)
        self.session = self._gateway.open_session(sampling, label=label_of(self.task, self.scaffold))

    async def start_from(self, before: Attempt, files: Snapshot, session: Session, sampling: Sampling) -> None:
        """Go on from where another attempt paused: its `files`, a fork of its `session`, what is left of its time."""
        (copy,) = await files.fork(1)
        self.sandbox = Watched(copy, out_of_memory=before._out_of_memory)
        self.session = self._gateway.fork_session(session.key, sampling)
        self.began_s, self.left_s = before.began_s, before.left_s

    async def work(self, drive: Drive) -> Stop | Pause:
        """Let a scaffold drive the model for at most the time that is left; a stop ends the session, a pause does not.

        Raises what the scaffold and the sandbox raise.
        """
        assert self.sandbox is not None
        assert self.session is not None
        self._phase = Phase.WORK
        began_s = time.monotonic()
        clock = asyncio.timeout(self.left_s)
        try:
            async with clock:
                ended = await drive(self.sandbox, self._endpoint(self.session, self.sandbox))
        except TimeoutError:
            if not clock.expired():
                raise
            ended = Stop.TIMEOUT
        finally:
            self._out_of_memory = self.sandbox.out_of_memory
            self.left_s -= time.monotonic() - began_s
        if isinstance(ended, Stop):
            self._stop = ended
            self._end_session()
        return ended

    async def grade(self, grader: Grades) -> None:
        """Keep the patch and ask for the verdict, where one could be trusted. Raises what the grader raises."""
        if self.sandbox is not None and RULES[self.outcome].trust_reward:
            self._phase = Phase.GRADE
            await self.services.detach()
            if self.task.domain == _PATCHED:
                self.patch = await patch_of(self.task, self.sandbox)
            self.verdict = await grader.grade(self.task, self.sandbox, self.services)

    @property
    def pictures(self) -> dict[str, str]:
        """What the verifier saw: PNG in base64, by the name of its file."""
        files = self.verdict.files if self.verdict else {}
        return {
            name.removesuffix(".png"): base64.b64encode(data).decode()
            for name, data in files.items()
            if name.endswith(".png") and len(data) <= _MOST_PICTURE_BYTES
        }

    @property
    def offer(self) -> Offer:
        """What the task brings for the scaffold, once it is started."""
        return offer_of(self.task, self.services)

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return classify(self.ending)

    @property
    def ending(self) -> Ending:
        """All that is known about how it ended."""
        return Ending(
            phase=self._phase,
            stop=self._stop,
            error=self._error,
            engine_stop=Stop(self.session.failure) if self.session and self.session.failure else None,
            out_of_memory=self._out_of_memory,
            weights_changed=self._gateway.engine.version != self._version,
        )

    @property
    def reward(self) -> float | None:
        """The verifier's number where it may be trusted; an agent that made grading impossible earned nothing."""
        outcome = self.outcome
        if outcome is Outcome.POLICY_VIOLATION:
            return 0.0
        return self.verdict.reward if self.verdict is not None and RULES[outcome].trust_reward else None

    @property
    def detail(self) -> str:
        """Why it ended as it did, in one line."""
        if self._error is not None:
            return f"{self._phase}: {type(self._error).__name__}: {self._error}"
        if self._stop is Stop.TIMEOUT and self.verdict is not None:
            return f"out of time; {self.verdict.detail}"
        return self.verdict.detail if self.verdict else f"{self._stop}"

    @property
    def tree(self) -> Tree:
        """Every token the model saw."""
        return self.session.tree if self.session else Tree()

    @property
    def turns(self) -> int:
        """Number of answers."""
        return self.session.turns if self.session else 0

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages, for people to read."""
        return list(self.session.conversation) if self.session else []

    def _end_session(self) -> None:
        if self.session is not None:
            close_session(self._gateway, self.session)

    def _endpoint(self, session: Session, sandbox: Sandbox) -> Endpoint:
        """Say where the model is, as seen from where the scaffold's requests leave."""
        inside = _runs_inside(self.scaffold)
        outer = sandbox.gateway_url if inside else f"http://{self._gateway.host}:{self._gateway.port}"
        if outer is None:
            name = self.scaffold.name
            raise SandboxError(f"scaffold {name} runs inside the sandbox, which has no network to the gateway")
        return Endpoint(base_url=outer.rstrip("/") + session.base_url, api_key=session.key)


def label_of(task: Task, scaffold: Scaffold) -> str:
    """Return what a journal is to say of a rollout's session: fields of a `palmette.rollout.run.Rollout`, as JSON."""
    facts = {"task": task.name, "domain": task.domain, "tier": task.tier, "intent": task.intent}
    return json.dumps(facts | {"scaffold": scaffold.name})


async def _spec(task: Task, scaffold: Scaffold, gateway: Gateway) -> Spec:
    """Return the task's sandbox with what the scaffold needs in it.

    A scaffold that runs inside brings its programs and the room they take, and is the only kind that gets a network:
    with the built-in loop no command of the agent can reach the gateway.
    """
    owner = f"rollout/{task.name}"
    if not _runs_inside(scaffold):
        return await spec_when_made(task, owner=owner)
    spec = await spec_when_made(task, owner=owner, gateway=(gateway.host, gateway.port))
    programs = await asyncio.to_thread(getattr, scaffold, "readonly", ())  # the first time, this installs the agent
    limits = replace(
        spec.limits,
        memory_mb=max(spec.limits.memory_mb, getattr(scaffold, "memory_mb", 0)),
        pids=max(spec.limits.pids, getattr(scaffold, "pids", 0)),
    )
    return replace(spec, readonly=tuple(dict.fromkeys((*spec.readonly, *programs))), limits=limits)


def _runs_inside(scaffold: Scaffold) -> bool:
    return getattr(scaffold, "inside", False)


def close_session(gateway: Gateway, session: Session) -> None:
    """Close a session. Idempotent."""
    if not session.closed:
        gateway.close_session(session.key)


async def close(what: Sandbox | Snapshot | Services) -> None:
    """Close it to the end even when this task is cancelled meanwhile; its failure is the host's affair."""
    closing = asyncio.ensure_future(what.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        raise
    except Exception:
        _log.warning("%s could not be closed", getattr(what, "id", "a snapshot"), exc_info=True)
