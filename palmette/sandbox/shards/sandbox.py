"""A sandbox that another process of ours holds, and its snapshots: every method is a call to that process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from palmette.sandbox.api import Bounds, Result, SandboxError, SandboxLost, StartFailed
from palmette.sandbox.layout import argv_of
from palmette.sandbox.ports import Reachable, Ways
from palmette.sandbox.shards.message import Born, Command, File
from palmette.sandbox.shards.shard import Shard
from palmette.sandbox.stream import Ends, RunningProcess

if TYPE_CHECKING:
    from palmette.sandbox.shards.host import ShardsHost


class ShardSandbox(Reachable):
    """One running sandbox; made by `ShardsHost.start`."""

    def __init__(self, born: Born, shard: Shard, host: ShardsHost) -> None:
        self._number = born.number
        self._id = born.id
        self._gateway_url = born.gateway_url
        self._shard = shard
        self._host = host
        self._lost: str | None = None
        self._ways = Ways(born.id, self._socket, self._living)
        self._closing: asyncio.Task[None] | None = None
        shard.hold(born.number, self._end)
        host.hold(self)

    @property
    def id(self) -> str:
        """Name of the sandbox, unique on this machine while it lives."""
        return self._id

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway inside the sandbox, or None without a network."""
        return self._gateway_url

    @property
    def shard(self) -> int:
        """Pid of the process that holds it."""
        return self._shard.pid

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
        """Run an argv, or a string through ``/bin/sh -c``. Raises `SandboxLost`."""
        arguments = _command(command, stdin=stdin, env=env, cwd=cwd, timeout_s=timeout_s, bounds=bounds)
        return await self._call("exec", arguments, Result)

    async def open(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> RunningProcess:
        """Start a command with pipes, or with a terminal of (rows, columns). Raises `SandboxLost`."""
        arguments = _command(command, env=env, cwd=cwd, timeout_s=timeout_s, bounds=bounds, terminal=terminal)
        shard = self._living()

        async def abandon(number: int) -> None:
            shard.cast("signal", number, 9)
            await shard.call("wait", number)

        number, fds = await shard.call("open", self._number, arguments, kind=int, undo=abandon)

        async def end() -> Result:
            result, _ = await shard.call("wait", number, kind=Result)
            return result

        ends = Ends.received(fds, terminal=terminal is not None)
        return RunningProcess(ends, asyncio.ensure_future(end()), lambda signal: shard.cast("signal", number, signal))

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        await self._call("upload", File(path, bytes(files_tar)))

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        return await self._call("download", File(path), bytes)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        return await self._call("read", File(path), bytes)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        await self._call("write", File(path, bytes(data), mode))

    async def running(self) -> int:
        """Ask its first process how many commands run. Raises `SandboxLost`."""
        return await self._call("running", None, int)

    async def snapshot(self) -> ShardSnapshot:
        """Keep the files as they are. Raises `Busy`, `SandboxLost`."""
        shard = self._living()

        async def abandon(number: int) -> None:
            await shard.call("close_snapshot", number)

        number, _ = await shard.call("snapshot", self._number, kind=int, undo=abandon)
        return ShardSnapshot(number, shard, self._host)

    async def fork(self, n: int = 1) -> list[ShardSandbox]:
        """Start `n` copies, in the same shard. Raises `Busy`, `SandboxLost`, `StartFailed`."""
        return await _copies(self._living(), self._host, "fork", self._number, n)

    async def pause(self) -> None:
        """Stop every process where it is. Idempotent. Raises `SandboxLost`, and `SandboxError` without a freezer."""
        await self._call("pause")

    async def resume(self) -> None:
        """Let the processes go on. Idempotent. Raises `SandboxLost`."""
        await self._call("resume")

    async def close(self) -> None:
        """End every process and free everything. Idempotent; never raises for a sandbox already gone."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._lost = self._lost or "it was closed"
        self._ways.close()
        await self._host.kills.turn()
        with suppress(SandboxError):
            await self._shard.call("close", self._number)
        self._shard.release(self._number)
        self._host.forget(self)

    async def _socket(self, family: int) -> socket.socket:
        _, fds = await self._living().call("socket", self._number, int(family))
        return socket.socket(fileno=fds[0])

    async def _call(self, verb: str, arguments: object = None, kind: Any = None) -> Any:
        value, _ = await self._living().call(verb, self._number, arguments, kind=kind)
        return value

    def _living(self) -> Shard:
        if self._lost is not None:
            raise SandboxLost(f"sandbox {self._id} is gone: {self._lost}")
        return self._shard

    def _end(self, why: str) -> None:
        """It has ended by itself, or with its shard."""
        self._lost = self._lost or why
        self._ways.close()
        self._host.forget(self)


class ShardSnapshot:
    """Files kept in a shard; made by `ShardSandbox.snapshot`."""

    def __init__(self, number: int, shard: Shard, host: ShardsHost) -> None:
        self._number = number
        self._shard = shard
        self._host = host
        self._open = True

    async def fork(self, n: int = 1) -> list[ShardSandbox]:
        """Start `n` sandboxes from these files. Raises `StartFailed`; then none of them is left."""
        if not self._open:
            raise StartFailed("the snapshot is closed")
        try:
            return await _copies(self._shard, self._host, "fork_snapshot", self._number, n)
        except SandboxLost as error:
            raise StartFailed(f"the snapshot is gone: {error}") from None

    async def close(self) -> None:
        """Let go of the files. Idempotent."""
        if self._open:
            self._open = False
            with suppress(SandboxLost):
                await self._shard.call("close_snapshot", self._number)


async def _copies(shard: Shard, host: ShardsHost, verb: str, number: int, n: int) -> list[ShardSandbox]:
    async def abandon(copies: list[Born]) -> None:
        await asyncio.gather(*(shard.call("close", copy.number) for copy in copies))

    shard.starting += max(n, 0)
    try:
        copies, _ = await shard.call(verb, number, n, kind=list[Born], undo=abandon)
        return [ShardSandbox(copy, shard, host) for copy in copies]
    finally:
        shard.starting -= max(n, 0)


def _command(
    command: str | Sequence[str],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None,
    cwd: str | None,
    timeout_s: float,
    bounds: Bounds | None,
    terminal: tuple[int, int] | None = None,
) -> Command:
    words = command if isinstance(command, str) else list(argv_of(command))
    return Command(words, bytes(stdin), dict(env) if env else None, cwd, timeout_s, bounds, terminal)
