"""Grades what an agent left behind: hidden tests in a clean sandbox, once for every distinct end state.

The end state is the exported work directory, and the state of the task's side services. Verifiers of generated tasks
are deterministic, so equal end states get equal verdicts; in reinforcement learning most rollouts of a group end alike,
and grading once saves most of its cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import posixpath
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from palmette.envs.api import Task
from palmette.envs.brought import brought
from palmette.envs.prepare import prepare_clean, spec_when_made, tar_directory
from palmette.envs.services import Services
from palmette.sandbox.api import Host, PathRefused, Sandbox, SandboxError, Status

_REWARD_FILE = "/logs/verifier/reward.txt"
_CACHED_VERDICTS = 65_536
_MOST_EVIDENCE_BYTES = 4 << 20
_IN_PLACE_OF_A_TRAP = b"a link out of the work directory\n"
_TRAPS = {"", "dev", "proc", "sys", "logs", "tests", "solution", "services"}  # at the top; "" is the top itself


class VerifierError(Exception):
    """The verifier did not produce a number: an infrastructure failure, never a reward."""


class VerifierTimeout(VerifierError):
    """The verifier did not end within the task's `verifier_timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A reward in [0, 1], the tail of what the verifier printed, and what it left of `Task.evidence`, by name.

    A verdict that was known already comes without files.
    """

    reward: float
    detail: str
    files: Mapping[str, bytes] = field(default_factory=dict)


class Grader:
    """Grades end states with the sandboxes of one host."""

    def __init__(self, host: Host, *, cache: bool = True) -> None:
        self._host = host
        self._verdicts: OrderedDict[str, Verdict] | None = OrderedDict() if cache else None
        self._running: dict[str, asyncio.Future[Verdict]] = {}
        self.graded = 0  # end states that ran a verifier
        self.reused = 0  # end states answered from the record

    async def grade(self, task: Task, sandbox: Sandbox, services: Services | None = None) -> Verdict:
        """Return the verdict on the sandbox's end state; call it only after the agent has stopped.

        The verifier finds the state of `services` below /services. Raises `VerifierError`, `VerifierTimeout`,
        `SandboxError`, and `UserError` where a file of the verifier cannot be fetched.
        """
        states = await services.states() if services else {}
        if not task.separate_verifier:
            self.graded += 1
            return await _run_tests(task, sandbox, states)
        state = await sandbox.download(task.workdir)
        if self._verdicts is None:
            return await self._grade_clean(task, state, states)
        key = hashlib.sha256(b"\0".join([str(task.path).encode(), state, *states.values()])).hexdigest()
        if key in self._verdicts:
            self.reused += 1
            self._verdicts.move_to_end(key)
            return self._verdicts[key]
        if key in self._running:  # the same end state is being graded at this moment
            self.reused += 1
            return await asyncio.shield(self._running[key])
        return await self._grade_first(key, task, state, states)

    async def _grade_first(self, key: str, task: Task, state: bytes, states: Mapping[str, bytes]) -> Verdict:
        assert self._verdicts is not None
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._running[key] = future
        try:
            verdict = await self._grade_clean(task, state, states)
        except BaseException as error:
            failure = error if isinstance(error, Exception) else VerifierError("grading was cancelled")
            future.set_exception(failure)
            future.exception()  # whoever waits gets it; nobody waiting is no mistake
            raise
        finally:
            del self._running[key]
        future.set_result(verdict)
        self._verdicts[key] = replace(verdict, files={})
        if len(self._verdicts) > _CACHED_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    async def _grade_clean(self, task: Task, state: bytes, states: Mapping[str, bytes]) -> Verdict:
        self.graded += 1
        clean = await self._host.start(await spec_when_made(task, owner=f"verify/{task.name}"))
        try:
            await prepare_clean(clean, task)
            await clean.upload(_without_traps(state, task.workdir), task.workdir)
            return await _run_tests(task, clean, states)
        finally:
            await clean.close()


def _without_traps(state: bytes, workdir: str) -> bytes:
    """Return an exported work directory in which links to tests, logs, devices or processes are plain files.

    Something stays in their place: what was to be deleted is not, because there is a link now.
    """
    with tarfile.open(fileobj=io.BytesIO(state)) as tar:
        members = tar.getmembers()
        if not any(_is_trap(member, workdir) for member in members):
            return state
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as clean:
            for member in members:
                if _is_trap(member, workdir):
                    plain = tarfile.TarInfo(member.name)
                    plain.size = len(_IN_PLACE_OF_A_TRAP)
                    clean.addfile(plain, io.BytesIO(_IN_PLACE_OF_A_TRAP))
                else:
                    clean.addfile(member, tar.extractfile(member) if member.isreg() else None)
    return out.getvalue()


def _is_trap(member: tarfile.TarInfo, workdir: str) -> bool:
    if not member.issym():
        return False
    target = posixpath.normpath(posixpath.join(workdir, posixpath.dirname(member.name), member.linkname))
    return target.strip("/").split("/")[0] in _TRAPS


async def _run_tests(task: Task, sandbox: Sandbox, states: Mapping[str, bytes]) -> Verdict:
    for name, state in states.items():
        await sandbox.upload(state, f"/services/{name}")
    await sandbox.upload(tar_directory(task.path / "tests"), "/tests")
    for name, path in (await asyncio.to_thread(brought, task.path)).items():
        await sandbox.write(f"/tests/{name}", await asyncio.to_thread(path.read_bytes))
    result = await sandbox.exec(["sh", "/tests/test.sh"], timeout_s=task.verifier_timeout_s)
    detail = (result.stdout + result.stderr).decode(errors="replace").strip()[-500:]
    if result.status is Status.TIMEOUT:
        raise VerifierTimeout(f"{task.name}: tests/test.sh ran longer than {task.verifier_timeout_s:g} s")
    if result.status is Status.SIGNALLED and task.separate_verifier:
        # Nothing but what the agent left runs beside the verifier in a clean sandbox: killing it must not pay.
        return Verdict(reward=0.0, detail=f"the verifier was killed from inside ({result.exit_code}): {detail}")
    try:
        text = (await sandbox.read(_REWARD_FILE)).decode().strip()
        reward = float(text)
    except (PathRefused, UnicodeDecodeError, ValueError):
        raise VerifierError(
            f"{task.name}: tests/test.sh wrote no number to {_REWARD_FILE}; it said: {detail}"
        ) from None
    except SandboxError as error:
        raise VerifierError(f"{task.name}: the verifier's sandbox failed: {error}") from error
    if not 0.0 <= reward <= 1.0:  # also refuses NaN
        raise VerifierError(f"{task.name}: the reward {text!r} is not between 0 and 1")
    return Verdict(reward=reward, detail=detail, files=await _evidence(task, sandbox))


async def _evidence(task: Task, sandbox: Sandbox) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in task.evidence:
        with suppress(SandboxError):
            data = await sandbox.read(f"/logs/verifier/{name}")
            if len(data) <= _MOST_EVIDENCE_BYTES:
                found[name] = data
    return found
