"""One shard as its front sees it: a process, the calls it owes an answer to, and the sandboxes it holds."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import palmette
from palmette.sandbox.api import SandboxLost, StartFailed
from palmette.sandbox.namespace_snapshot import settled
from palmette.sandbox.profile import Profile
from palmette.sandbox.reap import reap
from palmette.sandbox.shards.link import Link
from palmette.sandbox.shards.message import CANCELLED, Answer, Call, pack, raw, revived, unpack

LAUNCH_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 120.0


class ShardLost(SandboxLost):
    """The shard itself is gone, and all its sandboxes with it."""


class Shard:
    """A running shard; `launch` makes one. `on_lost(shard)` is called once if it ends before it is closed."""

    def __init__(self, process: subprocess.Popen[bytes], end: socket.socket, on_lost: Callable[[Shard], None]) -> None:
        self._process = process
        self._on_lost = on_lost
        self._calls: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._serial = 0
        self._ends: dict[int, Callable[[str], None]] = {}
        self._link = Link(end, self._take, self._lose)
        self.starting = 0
        self.capacity = 0
        self.lost: str | None = None

    @classmethod
    async def launch(cls, share: float, profile: Profile | None, on_lost: Callable[[Shard], None]) -> Shard:
        """Start one that ends its sandboxes at `share` of a lone host's pace. Raises `StartFailed`."""
        shard = cls(*_launch(share, profile), on_lost)
        try:
            async with asyncio.timeout(LAUNCH_TIMEOUT_S):
                (_, shard.capacity), _ = await shard.call("hello", kind=tuple[int, int])
        except BaseException as error:
            shard.kill()
            await shard.close()
            if not isinstance(error, TimeoutError | SandboxLost):
                raise
            raise StartFailed("a process for sandboxes does not start (its reason is on standard error)") from None
        return shard

    @property
    def load(self) -> int:
        """How many sandboxes it has or is about to have."""
        return len(self._ends) + self.starting

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def hold(self, number: int, on_end: Callable[[str], None]) -> None:
        """Count a sandbox as live; `on_end(why)` is called if it ends by itself."""
        self._ends[number] = on_end

    def release(self, number: int) -> None:
        """Take a sandbox that is gone off the books. Idempotent."""
        self._ends.pop(number, None)

    async def call(
        self,
        verb: str,
        target: int = 0,
        arguments: object = None,
        *,
        kind: Any = None,
        undo: Callable[[Any], Awaitable[None]] | None = None,
    ) -> tuple[Any, list[int]]:
        """Have something done; return its value, of type `kind`, and descriptors that came with it.

        With `undo` a cancelled call waits until it is known to have done nothing, or what it did is undone. Raises
        what the shard raised, and `ShardLost`.
        """
        if self.lost is not None:
            raise ShardLost(self.lost)
        self._serial = number = self._serial + 1
        future: asyncio.Future[tuple[Any, list[int]]] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._link.send(pack(Call(number, verb, target, raw(arguments))))
        try:
            await self._link.room()
            value, fds = await (future if undo is None else asyncio.shield(future))
        except asyncio.CancelledError:
            self._link.send(pack(Call(0, "cancel", number)))
            if undo is not None:
                await self._undone(future, kind, undo)
            self._calls.pop(number, None)
            raise
        return (None if kind is None else unpack(value, kind)), fds

    def cast(self, verb: str, target: int, arguments: object = None) -> None:
        """Have something done without asking how it went."""
        self._link.send(pack(Call(0, verb, target, raw(arguments))))

    async def close(self) -> None:
        """End it, and wait until its sandboxes are gone."""
        self.lost = self.lost or "its host was closed"
        self._link.close()
        self._fail()
        await asyncio.shield(asyncio.to_thread(self._end))

    def kill(self) -> None:
        """End it at once: it does not answer."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _undone(
        self, future: asyncio.Future[tuple[Any, list[int]]], kind: Any, undo: Callable[[Any], Awaitable[None]]
    ) -> None:
        async def wait() -> None:
            with suppress(Exception, asyncio.CancelledError):
                value, fds = await future
                for fd in fds:
                    os.close(fd)
                await undo(unpack(value, kind))

        await settled(asyncio.ensure_future(wait()))

    def _take(self, frame: bytes, fds: list[int]) -> None:
        answer = unpack(frame, Answer)
        future = self._calls.pop(answer.number, None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
            if not answer.number:
                number, why = unpack(answer.value, tuple[int, str])
                if on_end := self._ends.pop(number, None):
                    on_end(why)
        elif not answer.error:
            future.set_result((answer.value, fds))
        elif answer.error == CANCELLED:
            future.cancel()
        else:
            future.set_exception(revived(answer.error, unpack(answer.value, str)))

    def _lose(self) -> None:
        if self.lost is None:
            self.lost = "the process that held it ended"
            self._fail()
            self._on_lost(self)

    def _fail(self) -> None:
        ends, self._ends = self._ends, {}
        for on_end in ends.values():
            on_end(self.lost or "")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ShardLost(self.lost))
                future.exception()  # seen: nobody may be waiting
        self._calls.clear()

    def _end(self) -> None:
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            reap()


def _launch(share: float, profile: Profile | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    home = str(Path(palmette.__file__).parents[1])
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    command = [sys.executable, "-m", "palmette.sandbox.shards.serve"]
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(share), *([profile] if profile else [])],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the front
        )
    return process, ours
