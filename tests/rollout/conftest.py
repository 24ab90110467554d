"""Tasks that can be told to go wrong: the fault is written in the task's name, and every part obeys it.

All parts are the real ones (gateway over HTTP, tool loop, sandboxes as processes); what fails is wrapped around them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, ContextExhausted, EngineError, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.envs.api import Task
from palmette.envs.grade import Verdict, VerifierError, VerifierTimeout
from palmette.envs.services import Services
from palmette.gateway.app import Gateway
from palmette.rollout.pool import Pool
from palmette.sandbox.api import (
    Bounds,
    Busy,
    PathRefused,
    Result,
    Sandbox,
    SandboxLost,
    Spec,
    StartFailed,
    Status,
)
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.api import NOTHING, Offer, Pause
from palmette.scaffolds.loop import ToolLoop
from palmette.train.base.tokenizer import train_tokenizer


def fault_of(name: str) -> str:
    """Return the fault in a task's name or a sandbox's owner, e.g. "lost" of "rollout/t/3.lost"."""
    return name.rsplit(".", 1)[-1]


class Script:
    """Says what an agent of each fault says."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.seed: int | None = None  # of the request

    def __call__(self, prompt_ids: Sequence[int]) -> list[int]:
        text = self.renderer.decode(prompt_ids)
        fault = fault_of(text.split("<task>")[1].split("</task>")[0])
        first = text.count("<|im_start|>assistant") == 1
        then_submit = self._call("submit")
        if fault == "seeded" or fault.startswith(("second-", "later-")):
            return self._seeded(text.count("<|im_start|>assistant"))
        match fault:
            case "engine":
                raise EngineError("out of luck")
            case "engine-bug":
                raise KeyError("a bug in the engine")
            case "no-room":
                raise ContextExhausted("too long")
            case "talks":
                return self._say("I would rather not.")
            case "talks-right" if not first:
                return self._say("Done.")
            case "hungry" if not first:
                return self._say("Enough.")
            case "endless":
                return self._call("bash", command="true")
            case "wrong":
                return self._call("bash", command="echo 41 > answer.txt") if first else then_submit
        return self._call("bash", command="echo 42 > answer.txt") if first else then_submit

    def _seeded(self, turn: int) -> list[int]:
        """Make a file in the first turn, and in the second one that is named for the seed, which says the answer."""
        if turn > 2:
            return self._call("submit")
        made = "trunk.txt" if turn == 1 else f"branch-{self.seed}.txt"
        return self._call("bash", command=f"echo {42 - (self.seed or 0) % 2} > answer.txt; touch {made}")

    def _call(self, name: str, **arguments: str) -> list[int]:
        return self._say(f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>")

    def _say(self, text: str) -> list[int]:
        return self.renderer.encode(f"{text}<|im_end|>")


class Engine(ScriptedEngine):
    """A scripted engine that keeps the seeds it was asked with, and is slow where a task wants it."""

    def __init__(self, renderer: Renderer) -> None:
        self.script = Script(renderer)
        super().__init__(self.script)
        self.renderer = renderer
        self.seeds: list[int | None] = []
        self.slow_s = 0.0
        self.under_way = 0

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        self.seeds.append(sampling.seed)
        self.under_way += 1
        try:
            await asyncio.sleep(30.0 if self._slow(self.renderer.decode(prompt_ids)) else self.slow_s)
            self.script.seed = sampling.seed
            return await super().complete(prompt_ids, sampling)
        finally:
            self.under_way -= 1

    def _slow(self, text: str) -> bool:
        later = ".later-slow</task>" in text and text.count("<|im_start|>assistant") > 1
        return later or ".slow</task>" in text


class Host:
    """Sandboxes of another host that fail as their task's name says; counts those open and the most there were.

    `failing_starts` says how many starts more fail for an owner before one goes well.
    """

    name = "faulty"

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.open: set[str] = set()
        self.started = self.most_open = self.snapshots = 0
        self.failing_starts: Counter[str] = Counter()

    async def start(self, spec: Spec) -> Sandbox:
        fault = fault_of(spec.owner)
        if fault == "start" or self.failing_starts[spec.owner] > 0:
            self.failing_starts[spec.owner] -= 1
            raise StartFailed("no namespaces here")
        return self.wrap(await self._inner.start(spec), fault)

    def wrap(self, inner: Any, fault: str) -> Faulty:
        sandbox = Faulty(inner, self, fault)
        self.started += 1
        self.open.add(sandbox.id)
        self.most_open = max(self.most_open, len(self.open))
        return sandbox

    def weaknesses(self) -> tuple[str, ...]:
        return self._inner.weaknesses()

    async def close(self) -> None:
        await self._inner.close()


class Faulty:
    """One sandbox that fails as its fault says."""

    def __init__(self, inner: Any, host: Host, fault: str) -> None:
        self._inner, self._host, self._fault = inner, host, fault

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def gateway_url(self) -> str | None:
        return self._inner.gateway_url

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
    ) -> Result:
        if self._fault == "lost":
            await self._inner.close()
        result = await self._inner.exec(command, stdin=stdin, env=env, cwd=cwd, timeout_s=timeout_s, bounds=bounds)
        return replace(result, status=Status.OOM) if self._fault.startswith("hungry") else result

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        if self._fault == "prepare":
            raise PathRefused("the environment climbs out")
        await self._inner.upload(files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        return await self._inner.download(path)

    async def read(self, path: str) -> bytes:
        if self._fault == "lost-grading":
            raise SandboxLost("expired")
        if self._fault == "tampers":
            raise PathRefused(f"{path}: neither a regular file nor a directory")
        return await self._inner.read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        await self._inner.write(path, data, mode)

    async def snapshot(self) -> FaultySnapshot:
        if self._fault == "busy":
            raise Busy("a command runs")
        snapshot = FaultySnapshot(await self._inner.snapshot(), self._host, self._fault)
        self._host.snapshots += 1
        return snapshot

    async def fork(self, n: int = 1) -> list[Faulty]:
        raise NotImplementedError("rollouts fork snapshots")

    async def pause(self) -> None:
        await self._inner.pause()

    async def resume(self) -> None:
        await self._inner.resume()

    async def close(self) -> None:
        self._host.open.discard(self.id)
        await self._inner.close()


class FaultySnapshot:
    """Files of a sandbox, whose second copy fails as the fault behind "second-" says; any further one does not."""

    def __init__(self, inner: Any, host: Host, fault: str) -> None:
        self._inner, self._host, self._fault = inner, host, fault
        self._copies = 0
        self._open = True

    async def fork(self, n: int = 1) -> list[Faulty]:
        (copy,) = await self._inner.fork(n)
        self._copies += 1
        fault = self._fault.removeprefix("second-")
        if fault != self._fault and self._copies != 2:
            fault = "seeded"
        if fault == "start":
            await copy.close()
            raise StartFailed("no namespaces here")
        return [self._host.wrap(copy, fault)]

    async def close(self) -> None:
        self._host.snapshots -= self._open
        self._open = False
        await self._inner.close()


class AnswerGrader:
    """Reads answer.txt: 42 is worth 1, anything else 0; fails as the task's name says."""

    async def grade(self, task: Task, sandbox: Sandbox, services: Services | None = None) -> Verdict:
        match fault_of(task.name):
            case "verifier":
                raise VerifierError("no number")
            case "verifier-bug":
                raise ZeroDivisionError
            case "verifier-slow":
                raise VerifierTimeout("too long")
        answer = await sandbox.read("answer.txt")
        return Verdict(reward=float(answer == b"42\n"), detail=f"found {answer!r}")


class Loop(ToolLoop):
    """The built-in loop, with a bug for the tasks that want one."""

    def opening(self, instruction: str, offer: Offer = NOTHING) -> Pause:
        if instruction.endswith(".scaffold-bug</task>"):
            raise AttributeError("a bug in the scaffold")
        return super().opening(instruction, offer)


class Bench:
    """One gateway, host and pool to throw tasks at."""

    def __init__(self, renderer: Renderer, tasks_dir: Path, host: str) -> None:
        self.engine, self.host, self.grader = Engine(renderer), Host(open_host(host)), AnswerGrader()
        self.gateway = Gateway(self.engine, renderer)
        self.scaffold = Loop(max_turns=3)
        self._tasks_dir = tasks_dir

    def pool(self, **options: Any) -> Pool:
        parts = {"gateway": self.gateway, "host": self.host, "grader": self.grader, "scaffold": self.scaffold}
        return Pool(**parts | {"retries": 0, "backoff_s": 0.0} | options)

    def tasks(self, *faults: str) -> list[Task]:
        return [self._task(number, fault) for number, fault in enumerate(faults)]

    def _task(self, number: int, fault: str) -> Task:
        name = f"t/{number}.{fault}"
        return Task(
            name=name,
            path=self._tasks_dir,
            domain="swe" if number % 2 else "terminal",
            instruction=f"Write 42 to answer.txt. <task>{name}</task>",
            agent_timeout_s=0.4 if fault == "slow" else 20.0,
            tier=1 + number % 3,
        )


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A small real tokenizer with the embedded base's template."""
    directory = tmp_path_factory.mktemp("tokenizer")
    texts = ["You are an agent in a Linux shell. Write 42 to answer.txt."]
    train_tokenizer(texts, vocab_size=300, context_tokens=4096).save_pretrained(str(directory))
    return Renderer.from_dir(directory)


@pytest.fixture(scope="session")
def open_bench(renderer: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Context manager of a bench; after it nothing may be left open."""
    tasks_dir = tmp_path_factory.mktemp("task")
    (tasks_dir / "environment" / "files").mkdir(parents=True)
    (tasks_dir / "environment" / "Dockerfile").write_text("FROM scratch\nWORKDIR /app\nCOPY files/ /app/\n")
    (tasks_dir / "environment" / "files" / "answer.txt").write_text("")

    @asynccontextmanager
    async def opened(host: str = "fake") -> AsyncIterator[Bench]:
        bench = Bench(renderer, tasks_dir, host)
        await bench.gateway.start()
        try:
            yield bench
            assert bench.host.open == set()
            assert bench.host.snapshots == 0
            assert bench.engine.under_way == 0
            assert bench.gateway._sessions == {}
        finally:
            await bench.scaffold.aclose()
            await bench.gateway.close()
            await bench.host.close()

    return opened
