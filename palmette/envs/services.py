"""Side services: programs of a task that run beside the agent's sandbox, each in one of its own.

``environment/services/NAME/`` holds a ``serve.py``, run with Python's standard library, and with the packages of a
``python.json`` (`palmette.envs.locked`) and the files of a ``clone.json`` (`palmette.envs.clones`) where it has them.
It listens on $PORT of its loopback, answers GET /health with 200 when it is ready, and keeps what the verifier is to
see below $STATE, written through before it answers. The agent's sandbox reaches that port and nothing else of it, at
``127.77.1.N:8080`` for the N-th service by name; the verifier finds $STATE at /services/NAME. What the agent does there
can so be logged and judged without its being able to forge it. A service that ends, or answers 5xx, is a failure of the
infrastructure.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from palmette.envs.api import Task
from palmette.envs.prepare import prepare, service_spec, spec_when_made, tar_directory
from palmette.envs.tools import PORT, address_of
from palmette.errors import UserError
from palmette.sandbox.api import Exposed, Host, Ports, Result, Sandbox, SandboxError, SandboxLost

_READY_S = 20.0
_CALL_S = 20.0
_MOST_BYTES = 8 << 20  # of one answer
_SERVE = 'mkdir -p "$STATE" && exec python3 -S serve.py'


class Services:
    """The side services of one rollout, from `start_services` on; empty where its task has none.

    `call` and `say` raise `SandboxError` when a service is gone or fails.
    """

    def __init__(self, task: Task, running: Mapping[str, _Service]) -> None:
        self._task = task
        self._running = running
        self._offered: list[Exposed] = []

    def __bool__(self) -> bool:
        return bool(self._running)

    async def attach(self, sandbox: Sandbox) -> None:
        """Let the agent's sandbox reach every service. Raises `UserError` for a host that cannot do that."""
        for name, service in self._running.items():
            if not isinstance(sandbox, Ports):
                raise UserError(_refusal(self._task, "this host's sandboxes"))
            address = address_of(self._task.services, name)
            self._offered.append(await sandbox.offer(address, service.connect))

    async def detach(self) -> None:
        """Cut the agent's sandbox off, so that the state stands still. Idempotent."""
        while self._offered:
            await self._offered.pop().close()

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """Call one of the task's tools and return what its service says."""
        service = next(each.service for each in self._task.tools if each.tool.name == tool)
        _, text = await self._running[service].post(f"/tools/{tool}", arguments)
        return text

    async def say(self, text: str) -> str | None:
        """Say something to the task's user and return the answer; None (status 204) when the user has left."""
        status, answer = await self._running[self._task.user].post("/say", {"text": text})
        return None if status == 204 else answer

    async def states(self) -> dict[str, bytes]:
        """Return the state of each service as a tar. Raises `SandboxLost` for one that has ended."""
        return {name: await service.state() for name, service in self._running.items()}

    async def close(self) -> None:
        """End all services. Idempotent."""
        await self.detach()
        for service in self._running.values():
            await service.close()


async def start_services(task: Task, host: Host, *, owner: str) -> Services:
    """Start a task's services, side by side, and return when all are ready.

    Raises `SandboxError` for one that does not get ready, `UserError` for a host whose sandboxes have no port, or no
    network, of their own.
    """
    if task.services and "walls" in getattr(host, "lacks", ()):
        raise UserError(_refusal(task, f"host '{host.name}'"))
    jobs = {name: asyncio.ensure_future(_started(task, name, host, owner)) for name in task.services}
    try:
        for job in jobs.values():
            await job
    except BaseException:
        for job in jobs.values():
            job.cancel()
        await asyncio.gather(*jobs.values(), return_exceptions=True)
        for job in jobs.values():
            if not job.cancelled() and job.exception() is None:
                await job.result().close()
        raise
    return Services(task, {name: job.result() for name, job in jobs.items()})


@asynccontextmanager
async def opened(task: Task, host: Host, *, owner: str) -> AsyncIterator[tuple[Sandbox, Services]]:
    """Start a prepared sandbox for a task, with its services attached, and close all of it at the end."""
    sandbox = await host.start(await spec_when_made(task, owner=owner))
    try:
        services = await start_services(task, host, owner=owner)
        try:
            await services.attach(sandbox)
            await prepare(sandbox, task)
            yield sandbox, services
        finally:
            await services.close()
    finally:
        await sandbox.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """One that runs: its sandbox, and the command that serves."""

    name: str
    sandbox: Sandbox
    serving: asyncio.Future[Result]

    async def connect(self) -> socket.socket:
        assert isinstance(self.sandbox, Ports)
        return await self.sandbox.connect(PORT)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        """Return (status, text); raises `SandboxError` when that is no answer a tool may give."""
        try:
            async with asyncio.timeout(_CALL_S):
                status, text = await _ask(self.connect, "POST", path, json.dumps(body).encode())
        except TimeoutError:
            raise SandboxError(f"service {self.name} did not answer {path} within {_CALL_S:g} s") from None
        except OSError as error:
            self.check()
            raise SandboxError(f"service {self.name} did not answer {path}: {error}") from None
        if status >= 500 or status < 200:
            self.check()
            raise SandboxError(f"service {self.name} answered {path} with {status}: {text[:200]}")
        return status, text

    async def ready(self) -> None:
        """Return when it is; raises `SandboxError` when it does not get there."""
        pause_s = 0.005
        try:
            async with asyncio.timeout(_READY_S):
                while True:
                    self.check()
                    try:
                        if (await _ask(self.connect, "GET", "/health", b""))[0] == 200:
                            return
                    except OSError:
                        pass
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, 0.2)
        except TimeoutError:
            raise SandboxError(f"service {self.name} was not ready within {_READY_S:g} s (GET /health: 200)") from None

    async def state(self) -> bytes:
        self.check()
        return await self.sandbox.download("state")

    def check(self) -> None:
        """Raise `SandboxLost` if it has ended."""
        if self.serving.done():
            if self.serving.cancelled():
                raise SandboxLost(f"service {self.name} was ended")
            if error := self.serving.exception():
                raise SandboxLost(f"service {self.name} is gone: {error}")
            result = self.serving.result()
            said = (result.stdout + result.stderr).decode(errors="replace").strip().rpartition("\n")[2][-300:]
            raise SandboxLost(f"service {self.name} ended ({result.status} {result.exit_code}): {said}")

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        await self.sandbox.close()


async def _started(task: Task, name: str, host: Host, owner: str) -> _Service:
    env = {"PORT": str(PORT), "STATE": "/service/state"}
    spec = await asyncio.to_thread(service_spec, task, name, owner=f"{owner}/{name}", env=env)
    sandbox = await host.start(spec)
    try:
        if not isinstance(sandbox, Ports):
            raise UserError(_refusal(task, f"host '{host.name}'"))
        await sandbox.upload(tar_directory(task.path / "environment" / "services" / name), "/service")
        serving = asyncio.ensure_future(sandbox.exec(_SERVE, timeout_s=spec.ttl_s))
        service = _Service(name=name, sandbox=sandbox, serving=serving)
        try:
            await service.ready()
        except BaseException:
            await service.close()
            raise
    except BaseException:
        await sandbox.close()
        raise
    return service


def _refusal(task: Task, who: str) -> str:
    return f"{task.name} has side services, which {who} cannot run; use the host 'namespace'"


async def _ask(connect: Callable[[], Awaitable[socket.socket]], method: str, path: str, body: bytes) -> tuple[int, str]:
    """Return (status, text) of one request over a connection of its own. Raises `OSError`."""
    reader, writer = await asyncio.open_connection(sock=await connect(), limit=_MOST_BYTES)
    try:
        writer.write(
            f"{method} {path} HTTP/1.0\r\nHost: service\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        parts, size = [], 0
        while (part := await reader.read(1 << 16)) and size <= _MOST_BYTES:
            parts.append(part)
            size += len(part)
    finally:
        writer.transport.abort()
    head, _, text = b"".join(parts).partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit() or size > _MOST_BYTES:
        raise ConnectionError("it gave no answer in HTTP" if size <= _MOST_BYTES else "its answer is too long")
    return int(words[1]), text.decode(errors="replace")
