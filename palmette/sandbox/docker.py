"""Sandboxes as containers of Docker or Podman, through the Docker Engine API over its unix socket; no SDK.

API: https://docs.docker.com/reference/api/engine/version/v1.41/ (Podman speaks it too). A sandbox starts from the image
of `Spec.root`, which is imported into the engine once, or from $PALMETTE_DOCKER_IMAGE. It is a heavy host: some 100 ms
a start and a shim process each; use ``namespace`` where you can.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from palmette.sandbox import enter_box
from palmette.sandbox.api import Result, SandboxLost, Spec, StartFailed, Status
from palmette.sandbox.capture import Capture
from palmette.sandbox.cgroup import own_name
from palmette.sandbox.command_sandbox import CommandSandbox
from palmette.sandbox.docker_engine import Engine, EngineError, find_socket
from palmette.sandbox.docker_orphans import LABEL
from palmette.sandbox.layout import DIRECTORIES, check_spec, environment
from palmette.sandbox.ledger import Cost, Ledger, entry
from palmette.sandbox.ports import Helper, Reachable, Ways
from palmette.sandbox.reap import reap

_USER = "1000:1000"
_DEFAULT_IMAGE = "debian:bookworm-slim"
_HOLD = "while :; do sleep 3600; done"
_POLL_S, _GRACE_S = 0.1, 0.1
_SETUP = """
for d in "$@"; do mkdir -p "$d" && chown 1000:1000 "$d" && chmod 755 "$d"; done
chmod 1777 /tmp /var/tmp; mkdir -p /.palmette && chmod 1777 /.palmette; chown -R 1000:1000 "$1"
grep -q '^agent:' /etc/passwd || echo "agent:x:1000:1000:agent:$1:/bin/sh" >> /etc/passwd
"""
_LEAD = 'echo $$ > "/.palmette/$1"; shift; exec "$@"'


class DockerHost:
    """Starts containers of one engine; `path` is its socket, found by `find_socket` if not given."""

    name = "docker"
    lacks = frozenset(
        {"processes", "walls", "user", "filter", "root", "memory", "pids", "disk", "fork", "pause", "streams", "bounds"}
        | {"system", "cpu"}
    )

    def __init__(self, path: str | None = None, *, image: str | None = None) -> None:
        self._path = path and os.path.abspath(path)
        self._image = image or os.environ.get("PALMETTE_DOCKER_IMAGE", _DEFAULT_IMAGE)
        self._engine: Engine | None = None
        self._sandboxes: dict[str, DockerSandbox] = {}
        self._ledger: Ledger | None = None
        self._finding = asyncio.Lock()

    def weaknesses(self) -> tuple[str, ...]:
        """Say which walls and limits are the engine's or do not hold."""
        return (
            "limits on memory and processes are the engine's; an out-of-memory end looks like any other kill",
            "disk_mb and inodes do not hold",
            "a signalled command cannot be told from an exit code above 128",
            "a daemon outlives the command that started it, though not the sandbox",
        )

    async def start(self, spec: Spec) -> DockerSandbox:
        """Start a container. Raises `StartFailed`, and `ValueError` for a spec that makes no sense."""
        check_spec(spec)
        async with self._finding:
            if self._engine is None:
                path = self._path or find_socket()
                if path is None:
                    raise StartFailed("no Docker or Podman socket is here: start one, or use the host 'namespace'")
                await asyncio.to_thread(reap)
                self._ledger = Ledger(f"docker-{own_name()}", engine=path)
                self._ledger.keep_beating()
                self._engine = Engine(path)
        assert self._ledger
        name = f"palmette-{uuid.uuid4().hex[:12]}"
        self._ledger.opened(entry(name, spec.owner, spec.ttl_s))
        sandbox = self._sandboxes[name] = DockerSandbox(name, spec, self._engine, self)
        try:
            await sandbox.begin(await self._imported(spec) if spec.root else self._image, self._ledger.name)
        except EngineError as error:
            await asyncio.shield(sandbox.close())
            hint = f": docker pull {self._image}, or set PALMETTE_DOCKER_IMAGE" if error.status == 404 else ""
            raise StartFailed(f"the engine says: {error}{hint}") from None
        except BaseException:
            await asyncio.shield(sandbox.close())
            raise
        return sandbox

    async def close(self) -> None:
        """Remove every container. Idempotent."""
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes.values())))
        if self._engine:
            await self._engine.close()
            self._engine = None
        if self._ledger:
            self._ledger.close()
            self._ledger = None

    def forget(self, name: str, cost: Cost) -> None:
        """Take a sandbox that is gone off the books."""
        self._sandboxes.pop(name, None)
        if self._ledger:
            self._ledger.closed(name, cost)

    async def _imported(self, spec: Spec) -> str:
        """Return the engine's name for the image of `spec.root`, importing it at first."""
        assert self._engine
        tag = Path(spec.root).parent.name if Path(spec.root).name == "root" else Path(spec.root).name
        name = "palmette-" + re.sub("[^a-z0-9]+", "-", tag.lower()).strip("-")  # Podman 4.3 forgets tags
        try:
            await self._engine.ask("GET", f"/images/{quote(name)}/json")
        except EngineError as error:
            if error.status != 404:
                raise
            if not await asyncio.to_thread(os.path.isdir, spec.root):
                raise StartFailed(f"Spec.root: {spec.root}: No such directory") from None
            archive = await asyncio.create_subprocess_exec(
                "tar", "-c", "-C", spec.root, "--numeric-owner", ".", stdout=asyncio.subprocess.PIPE
            )
            assert archive.stdout
            await self._engine.ask("POST", "/images/create", data=archive.stdout, fromSrc="-", repo=name)
            await archive.wait()
        return name


class DockerSandbox(CommandSandbox, Reachable):
    """One running container; made by `DockerHost.start`."""

    def __init__(self, name: str, spec: Spec, engine: Engine, host: DockerHost) -> None:
        super().__init__(name, spec)
        self._engine = engine
        self._host = host
        self._began = time.monotonic()
        self._serial = 0
        self._helper: Helper | None = None
        self._ways = Ways(name, self._socket, self._check)
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway inside the sandbox, or None without a network."""
        return "http://{}:{}".format(*enter_box.GATEWAY) if self._spec.gateway else None

    async def begin(self, image: str, host: str) -> None:
        """Create and start the container, and make its directories. Raises `EngineError`, `StartFailed`."""
        spec = self._spec
        memory = spec.limits.memory_mb << 20
        body = {
            "Image": image,
            "Cmd": ["/bin/sh", "-c", _HOLD],
            "Entrypoint": [],
            "User": _USER,
            "Env": [f"{name}={value}" for name, value in environment(spec).items()],
            "Hostname": "sandbox",
            "Labels": {"palmette.owner": spec.owner, "palmette.pid": str(os.getpid()), LABEL: host},
            "HostConfig": {
                "Init": True,
                "AutoRemove": True,
                "NetworkMode": "none",
                "Memory": memory,
                "MemorySwap": memory,
                "NanoCpus": round((spec.limits.cpus or 0) * 1e9),
                "PidsLimit": spec.limits.pids + 3,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "Binds": [f"{path}:{path}:ro" for path in spec.readonly],
            },
        }
        await self._engine.ask("POST", "/containers/create", body, name=self._id)
        await self._engine.ask("POST", f"/containers/{self._id}/start")
        directories = list(dict.fromkeys((spec.workdir, *DIRECTORIES)))
        setup = {"User": "0:0", "Privileged": True, "WorkingDir": "/"}
        done = await self._inside(["/bin/sh", "-c", _SETUP, "sh", *directories], b"", setup, 1 << 16, 60.0)
        if done.exit_code:
            raise StartFailed(f"image {image}: {done.stderr.decode(errors='replace').strip()[-200:] or 'has no sh'}")
        await self._ways.serve(spec)
        self._live()

    async def _command(
        self, argv: list[str], stdin: bytes, env: Mapping[str, str], cwd: str, limit: int, timeout_s: float
    ) -> Result:
        config = {"Env": [f"{name}={value}" for name, value in env.items()], "WorkingDir": cwd}
        return await self._tracked(self._inside(argv, stdin, config, limit, timeout_s))

    async def _tracked(self, work: Any) -> Result:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        try:
            result = await task
            self._check()
            return result
        except (EngineError, asyncio.CancelledError) as error:
            if isinstance(error, EngineError) and self._lost is None and error.status not in (0, 404, 409):
                raise SandboxLost(f"sandbox {self._id}: the engine says: {error}") from None
            if isinstance(error, EngineError) or self._lost is not None:
                self._lost = self._lost or str(error)
                self._check()
            raise
        finally:
            self._running.discard(task)

    async def _inside(
        self, argv: list[str], stdin: bytes, config: dict[str, Any], limit: int, timeout_s: float
    ) -> Result:
        self._serial += 1
        number, began = str(self._serial), time.monotonic()
        if "Privileged" not in config:  # its process id is written down first, to be found by `_kill`
            argv = ["/bin/sh", "-c", _LEAD, "sh", number, *argv]
        body = {"Cmd": argv, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "User": _USER, **config}
        created = await self._engine.ask("POST", f"/containers/{self._id}/exec", body)
        reader, writer = await self._engine.attach(created["Id"])
        captures = Capture(limit), Capture(limit)
        feeding = asyncio.ensure_future(_feed(writer, stdin))
        reading = asyncio.ensure_future(_take(reader, captures))
        try:
            state = await self._ended(created["Id"], reading, began + timeout_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._kill(number))
            raise
        finally:
            feeding.cancel()
            reading.cancel()
            await asyncio.gather(feeding, reading, return_exceptions=True)
            writer.transport.abort()
        if state is None:
            await self._kill(number)
        code = 128 + signal.SIGKILL if state is None else int(state["ExitCode"])
        signalled = 128 < code <= 128 + 64
        return Result(
            status=Status.TIMEOUT if state is None else Status.SIGNALLED if signalled else Status.EXITED,
            exit_code=code,
            stdout=captures[0].value(),
            stderr=captures[1].value(),
            truncated=any(capture.cut for capture in captures),
            wall_s=time.monotonic() - began,
        )

    async def _ended(self, exec_id: str, reading: asyncio.Future[None], deadline: float) -> dict[str, Any] | None:
        """Return the engine's last word on an exec, None at the deadline. A daemon may hold its output for ever.

        Before it begins an exec does not run either, and Podman gives it an exit code of 0 already.
        """
        ran = False
        while True:
            left = deadline - time.monotonic()
            await asyncio.wait([reading], timeout=max(0.0, min(_POLL_S, left)))
            state = await self._engine.ask("GET", f"/exec/{exec_id}/json")
            ran = ran or state["Running"] or any(state.get(sign) for sign in ("Pid", "CanRemove", "ExitCode"))
            if not state["Running"] and (ran or reading.done()):
                await asyncio.wait([reading], timeout=_GRACE_S)
                return state
            if left <= 0:
                return None
            if reading.done():  # all its output is closed, and yet it runs
                await asyncio.sleep(min(_POLL_S, max(left, 0.0)))

    async def _kill(self, number: str) -> None:
        script = f'p=$(cat /.palmette/{number}) && kill -9 "-$p"'
        body = {"Cmd": ["/bin/sh", "-c", script], "User": _USER, "AttachStdout": True}
        with suppress(EngineError):
            created = await self._engine.ask("POST", f"/containers/{self._id}/exec", body)
            reader, writer = await self._engine.attach(created["Id"])
            await reader.read()
            writer.transport.abort()

    async def _socket(self, family: int) -> socket.socket:
        """Return a socket of the container's network, made from outside: the engine must be on this machine."""
        if self._helper is None:
            pid = (await self._engine.ask("GET", f"/containers/{self._id}/json"))["State"]["Pid"]
            self._helper = Helper(pid)
        try:
            return await self._helper.socket(family)
        except StartFailed as error:
            raise StartFailed(f"{error}; this needs root on the engine's machine") from None

    async def _end(self) -> None:
        self._ways.close()
        if self._helper:
            await self._helper.close()
        with suppress(EngineError):
            await self._engine.ask("DELETE", f"/containers/{self._id}", force="true", v="true")
        for task in list(self._running):
            task.cancel()
        self._host.forget(self._id, Cost(wall_s=time.monotonic() - self._began, network_mb=self._ways.passed_mb))


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(OSError):
        writer.write(data)
        await writer.drain()
        writer.write_eof()


async def _take(reader: asyncio.StreamReader, captures: tuple[Capture, Capture]) -> None:
    """Read frames (one byte of stream, three of nothing, four of length) to their end."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            kind, length = struct.unpack(">BxxxI", await reader.readexactly(8))
            captures[kind == 2].feed(await reader.readexactly(length))
