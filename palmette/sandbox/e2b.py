"""Sandboxes of a service that speaks E2B's API: E2B itself and the several that are compatible. No SDK.

Two ends (written against the protocol of e2b 2.63): a REST service that makes and ends sandboxes, and in each of them
a daemon that runs commands (Connect over HTTP, JSON) and takes files. Named by the variables its users know:
E2B_API_KEY, E2B_DOMAIN, E2B_API_URL, E2B_SANDBOX_URL. A sandbox there cannot reach this machine: a gateway needs an
address of yours that it can reach, in PALMETTE_GATEWAY_URL.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from palmette.sandbox.api import Result, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.capture import Capture
from palmette.sandbox.cgroup import own_name
from palmette.sandbox.command_sandbox import CommandSandbox
from palmette.sandbox.layout import DIRECTORIES, PATH, check_spec
from palmette.sandbox.ledger import Cost, Ledger, entry

_TEMPLATE = "base"
_DAEMON_PORT = 49983
_LAST = 2  # flag of the frame that ends a stream
_SETUP = """
for d in "$@"; do mkdir -p "$d" && chown user:user "$d" && chmod 755 "$d"; done; chmod 1777 /tmp /var/tmp
mkdir -p /.palmette && chmod 1777 /.palmette; chown -R user:user "$1"
"""
_LEAD = 'echo $$ > "/.palmette/$1"; i="$2"; shift 2; exec "$@" < "$i"'


class E2BHost:
    """Starts sandboxes of one service. `lacks` is what the API does not promise, not what a service may well have."""

    name = "e2b"
    lacks = frozenset(
        {"processes", "walls", "user", "network", "filter", "root", "memory", "pids", "disk", "fork", "pause"}
        | {"streams", "bounds", "system", "ports", "cpu", "allow"}
    )

    def __init__(self, *, api_url: str = "", sandbox_url: str = "", key: str = "", template: str = "") -> None:
        self._domain = os.environ.get("E2B_DOMAIN", "e2b.app")
        self._api = api_url or os.environ.get("E2B_API_URL", f"https://api.{self._domain}")
        self._sandbox_url = sandbox_url or os.environ.get("E2B_SANDBOX_URL", "")
        self._key = key or os.environ.get("E2B_API_KEY", "")
        self._template = template or os.environ.get("PALMETTE_E2B_TEMPLATE", _TEMPLATE)
        self._session: aiohttp.ClientSession | None = None
        self._sandboxes: dict[str, E2BSandbox] = {}
        self._ledger: Ledger | None = None

    def weaknesses(self) -> tuple[str, ...]:
        """Say what is the service's business."""
        return (
            "walls and limits are the service's: memory, processes and disk as its template says",
            "a command's daemons hold up its end while they hold its output",
            "a signalled command cannot be told from an exit code above 128",
        )

    async def start(self, spec: Spec) -> E2BSandbox:
        """Start a sandbox. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        check_spec(spec)
        for what, wrong in (("root", spec.root), ("readonly", spec.readonly)):
            if wrong:
                raise StartFailed(f"Spec.{what}: files of this machine are not there; build an E2B template instead")
        if not self._key:
            raise StartFailed("E2B_API_KEY is not set: set it, or use the host 'namespace'")
        if spec.network:
            raise StartFailed(
                "Spec.network: the proxy that would allow it runs on this machine; use the host 'namespace'"
            )
        gateway = os.environ.get("PALMETTE_GATEWAY_URL", "")
        if spec.gateway and not gateway:
            raise StartFailed("an E2B sandbox cannot reach this machine: set PALMETTE_GATEWAY_URL to an address it can")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0))
        fixed = {"PATH": PATH, "HOME": spec.workdir, "USER": "agent", "LANG": "C.UTF-8", **spec.env}
        body = {
            "templateID": self._template,
            "timeout": max(1, int(spec.ttl_s)),
            "secure": True,
            "metadata": {"palmette.owner": spec.owner},
            "allow_internet_access": bool(spec.gateway),
        }
        try:
            made = await self._ask("POST", "/sandboxes", body)
        except (aiohttp.ClientError, OSError) as error:
            raise StartFailed(f"the service at {self._api} says: {error}") from None
        domain = made.get("domain") or self._domain
        url = self._sandbox_url or f"https://{_DAEMON_PORT}-{made['sandboxID']}.{domain}"
        headers = {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": str(_DAEMON_PORT)}
        if token := made.get("envdAccessToken"):
            headers["X-Access-Token"] = token
        daemon = Daemon(self._session, url, headers)
        sandbox = E2BSandbox(made["sandboxID"], spec, daemon, self, fixed, gateway if spec.gateway else None)
        self._sandboxes[sandbox.id] = sandbox
        if self._ledger is None:
            self._ledger = Ledger(f"e2b-{own_name()}")  # for the eye: what a dead owner leaves the service ends in time
            self._ledger.keep_beating()
        self._ledger.opened(entry(sandbox.id, spec.owner, spec.ttl_s))
        try:
            await sandbox.begin()
        except BaseException:
            await asyncio.shield(sandbox.close())
            raise
        return sandbox

    async def close(self) -> None:
        """End every sandbox. Idempotent."""
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        if self._session:
            await self._session.close()
            self._session = None
        if self._ledger:
            self._ledger.close()
            self._ledger = None

    async def forget(self, name: str, cost: Cost) -> None:
        """End a sandbox at the service, if it is still there."""
        self._sandboxes.pop(name, None)
        if self._ledger:
            self._ledger.closed(name, cost)
        with suppress(aiohttp.ClientError, OSError):
            await self._ask("DELETE", f"/sandboxes/{name}")

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        assert self._session
        headers = {"X-API-Key": self._key}
        async with self._session.request(method, self._api + path, json=body, headers=headers) as answer:
            if answer.status >= 400:
                raise aiohttp.ClientError(f"{answer.status} {(await answer.text())[:200]}")
            return await answer.json() if answer.content_type == "application/json" else None


class Daemon:
    """The daemon of one sandbox."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self._session = session
        self._url = url
        self._headers = headers

    async def events(self, user: str, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> AsyncIterator[Any]:
        """Run a command and yield its events: start, data, end. Raises `SandboxLost`."""
        process = {"cmd": argv[0], "args": list(argv[1:]), "envs": dict(env), "cwd": cwd}
        body = json.dumps({"process": process, "stdin": False}).encode()
        headers = {**self._headers, **_as(user), "Content-Type": "application/connect+json"}
        headers["Connect-Protocol-Version"] = "1"
        try:
            async with self._session.post(
                f"{self._url}/process.Process/Start",
                data=io.BytesIO(struct.pack(">BI", 0, len(body)) + body),
                headers=headers,
            ) as answer:
                if answer.status != 200:
                    raise SandboxLost(f"the sandbox's daemon says: {answer.status} {(await answer.text())[:200]}")
                while True:
                    flags, length = struct.unpack(">BI", await answer.content.readexactly(5))
                    message = json.loads(await answer.content.readexactly(length))
                    if flags & _LAST:
                        if error := message.get("error"):
                            yield {"end": {"exitCode": 126, "error": error.get("message", str(error))}}
                        return
                    yield message["event"]
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            raise SandboxLost(f"the sandbox's daemon broke off ({error})") from None

    async def put(self, user: str, path: str, data: bytes) -> None:
        """Write a file. Raises `SandboxLost`."""
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(data), filename=path, content_type="application/octet-stream")
        query = {"path": path, "username": user}
        try:
            async with self._session.post(
                f"{self._url}/files", data=form, params=query, headers={**self._headers, **_as(user)}
            ) as answer:
                if answer.status >= 400:
                    raise SandboxLost(f"the sandbox's daemon says: {answer.status} {(await answer.text())[:200]}")
        except (aiohttp.ClientError, OSError) as error:
            raise SandboxLost(f"the sandbox's daemon broke off ({error})") from None


class E2BSandbox(CommandSandbox):
    """One running sandbox; made by `E2BHost.start`."""

    def __init__(
        self, name: str, spec: Spec, daemon: Daemon, host: E2BHost, env: Mapping[str, str], gateway: str | None
    ) -> None:
        super().__init__(name, spec)
        self._daemon = daemon
        self._host = host
        self._env = env
        self._gateway = gateway
        self._serial = 0
        self._began = time.monotonic()
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def gateway_url(self) -> str | None:
        """The public address of the gateway, or None without one."""
        return self._gateway

    async def begin(self) -> None:
        """Make its directories. Raises `StartFailed`."""
        argv = ["/bin/sh", "-c", _SETUP, "sh", *dict.fromkeys((self._spec.workdir, *DIRECTORIES))]
        captures = Capture(4096), Capture(4096)
        code = -1
        with suppress(SandboxLost, TimeoutError):
            async with asyncio.timeout(60.0):
                code = await self._follow("root", argv, {}, "/", captures)
        if code:
            said = captures[1].value().decode(errors="replace").strip()
            raise StartFailed(f"the template's directories cannot be made: {said or f'exit {code}'}")
        self._live()

    async def _command(
        self, argv: list[str], stdin: bytes, env: Mapping[str, str], cwd: str, limit: int, timeout_s: float
    ) -> Result:
        self._check()
        self._serial += 1
        number, began = str(self._serial), time.monotonic()
        source = "/dev/null"
        if stdin:
            source = f"/.palmette/{number}.in"
            await self._daemon.put("user", source, stdin)
        captures = Capture(limit), Capture(limit)
        lead = ["setsid", "-w", "/bin/sh", "-c", _LEAD, "sh", number, source, *argv]
        work = asyncio.ensure_future(self._follow("user", lead, {**self._env, **env}, cwd, captures))
        self._running.add(work)
        ended = False
        try:
            ended = bool((await asyncio.wait([work], timeout=timeout_s))[0])
        finally:
            self._running.discard(work)
            if not ended and self._lost is None:
                await asyncio.shield(self._kill(number))
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if ended and (work.cancelled() or work.exception()):
            self._lost = self._lost or str(work.exception() if not work.cancelled() else "it was closed")
        self._check()
        code = work.result() if ended else 128 + signal.SIGKILL
        signalled = 128 < code <= 128 + 64
        return Result(
            status=Status.TIMEOUT if not ended else Status.SIGNALLED if signalled else Status.EXITED,
            exit_code=code,
            stdout=captures[0].value(),
            stderr=captures[1].value(),
            truncated=any(capture.cut for capture in captures),
            wall_s=time.monotonic() - began,
        )

    async def _follow(
        self, user: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, captures: tuple[Capture, Capture]
    ) -> int:
        async for event in self._daemon.events(user, argv, env, cwd):
            for name, capture in zip(("stdout", "stderr"), captures, strict=True):
                if text := event.get("data", {}).get(name):
                    capture.feed(base64.b64decode(text))
            if end := event.get("end"):
                if end.get("error") and not end.get("exited"):
                    captures[1].feed(f"{end['error']}\n".encode())
                return int(end.get("exitCode", 0))
        raise SandboxLost("the sandbox's daemon did not say how a command ended")

    async def _kill(self, number: str) -> None:
        argv = ["/bin/sh", "-c", f'kill -9 "-$(cat /.palmette/{number})"']
        with suppress(SandboxLost):
            await self._follow("user", argv, {}, "/", (Capture(4096), Capture(4096)))

    async def _end(self) -> None:
        for work in list(self._running):
            work.cancel()
        await self._host.forget(self._id, Cost(wall_s=time.monotonic() - self._began))


def _as(user: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:'.encode()).decode()}"}
