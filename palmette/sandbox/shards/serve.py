"""A shard: a process with one namespace host that does what its front says: ``serve SOCKET SHARE [PROFILE]``

It ends with its front: when the socket closes, or the process that started it is gone. Then it closes its sandboxes,
slower the more shards there are (SHARE of the pace of one host).
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from palmette.sandbox.admission import RESERVED
from palmette.sandbox.api import Result, Sandbox, SandboxLost, Snapshot, Spec, StartFailed
from palmette.sandbox.namespace import CAPACITY, NamespaceHost, descriptors
from palmette.sandbox.namespace_sandbox import NamespaceSandbox
from palmette.sandbox.pace import KILLS_PER_S
from palmette.sandbox.profile import Profile, settle
from palmette.sandbox.reach import ROOTS
from palmette.sandbox.shards.link import Link
from palmette.sandbox.shards.message import CANCELLED, Answer, Born, Call, Command, File, described, pack, raw, unpack
from palmette.sandbox.stream import RunningProcess

_Reply = tuple[object, Sequence[int]]


class Service:
    """Answers the calls of one front, each in a task of its own."""

    def __init__(self, end: socket.socket, profile: Profile | None) -> None:
        self.ended = asyncio.Event()
        self._profile = settle(profile)
        self._host = NamespaceHost(profile=profile, on_end=self._left)
        self._link = Link(end, self._take, self.ended.set)
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._serial = 0
        self._sandboxes: dict[int, NamespaceSandbox] = {}
        self._numbers: dict[str, int] = {}  # of sandboxes, by id
        self._snapshots: dict[int, Snapshot] = {}
        self._processes: dict[int, RunningProcess] = {}
        self._last_words: dict[str, str] = {}
        self._burials: set[asyncio.Task[None]] = set()
        self._verbs: dict[str, Callable[[Call], Awaitable[_Reply]]] = {
            "hello": self._hello,
            "start": self._start,
            "exec": self._exec,
            "open": self._open,
            "wait": self._wait,
            "signal": self._signal,
            "running": self._running,
            "roll_call": self._roll_call,
            "socket": self._socket,
            "read": self._read,
            "write": self._write,
            "upload": self._upload,
            "download": self._download,
            "snapshot": self._snapshot,
            "fork": self._fork,
            "fork_snapshot": self._fork_snapshot,
            "close_snapshot": self._close_snapshot,
            "pause": self._pause,
            "resume": self._resume,
            "close": self._close,
        }

    async def close(self, share: float) -> None:
        """End all sandboxes, at `share` of the pace of a host that is alone."""
        self._link.close()
        for task in self._calls.values():
            task.cancel()
        closing = []
        for sandbox in list(self._sandboxes.values()):
            closing.append(asyncio.ensure_future(sandbox.close()))
            if share < 1:
                await asyncio.sleep(1 / (KILLS_PER_S * share))
        await asyncio.gather(*closing)
        await self._host.close()

    def _take(self, frame: bytes, fds: list[int]) -> None:
        for fd in fds:  # no call brings any
            os.close(fd)
        call = unpack(frame, Call)
        if call.verb == "cancel":
            if task := self._calls.get(call.target):
                task.cancel()
            return
        task = asyncio.ensure_future(self._answer(call))
        if call.number:
            self._calls[call.number] = task
            task.add_done_callback(lambda task: self._answered(call, task))

    async def _answer(self, call: Call) -> None:
        fds: Sequence[int] = ()
        try:
            value, fds = await self._verbs[call.verb](call)
            answer = Answer(call.number, "", raw(value))
        except Exception as error:
            name, text = described(error)
            answer = Answer(call.number, name, raw(text))
        if call.number:
            self._link.send(pack(answer), fds)
            self._calls.pop(call.number, None)
            await self._link.room()

    def _answered(self, call: Call, task: asyncio.Task[None]) -> None:
        if self._calls.pop(call.number, None) and task.cancelled():  # perhaps before it began
            self._link.send(pack(Answer(call.number, CANCELLED)))

    def _left(self, sandbox: NamespaceSandbox, why: str) -> None:
        """A sandbox has ended, however: tell the front when nothing is left of it."""
        self._last_words[sandbox.id] = why
        burial = asyncio.ensure_future(self._bury(sandbox))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _bury(self, sandbox: NamespaceSandbox) -> None:
        await sandbox.close()
        why = self._last_words.pop(sandbox.id)
        number = self._numbers.pop(sandbox.id, 0)
        if self._sandboxes.pop(number, None):
            self._link.send(pack(Answer(0, "", raw((number, why)))))

    def _born(self, sandbox: Sandbox) -> Born:
        assert isinstance(sandbox, NamespaceSandbox)
        if why := self._last_words.get(sandbox.id):  # already
            raise StartFailed(why)
        self._serial += 1
        self._sandboxes[self._serial] = sandbox
        self._numbers[sandbox.id] = self._serial
        return Born(self._serial, sandbox.id, sandbox.gateway_url)

    def _named(self, call: Call) -> NamespaceSandbox:
        try:
            return self._sandboxes[call.target]
        except KeyError:
            raise SandboxLost("the sandbox is gone") from None

    async def _hello(self, call: Call) -> _Reply:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(1, (limit - RESERVED - ROOTS) // descriptors(Spec(), self._profile))
        return (os.getpid(), min(CAPACITY, room)), ()

    async def _start(self, call: Call) -> _Reply:
        return self._born(await self._host.start(unpack(call.arguments, Spec))), ()

    async def _exec(self, call: Call) -> _Reply:
        a = unpack(call.arguments, Command)
        result = await self._named(call).exec(
            a.command, stdin=a.stdin, env=a.env, cwd=a.cwd, timeout_s=a.timeout_s, bounds=a.bounds
        )
        return result, ()

    async def _open(self, call: Call) -> _Reply:
        a = unpack(call.arguments, Command)
        process = await self._named(call).open(
            a.command, env=a.env, cwd=a.cwd, timeout_s=a.timeout_s, bounds=a.bounds, terminal=a.terminal
        )
        self._serial += 1
        self._processes[self._serial] = process
        return self._serial, process.hand_over()

    async def _wait(self, call: Call) -> _Reply:
        try:
            result: Result = await self._processes[call.target].wait()
            return result, ()
        finally:
            self._processes.pop(call.target, None)

    async def _signal(self, call: Call) -> _Reply:
        if process := self._processes.get(call.target):
            await process.signal(unpack(call.arguments, int))
        return None, ()

    async def _running(self, call: Call) -> _Reply:
        return await self._named(call).running(), ()

    async def _roll_call(self, call: Call) -> _Reply:
        return await self._host.roll_call(), ()

    async def _socket(self, call: Call) -> _Reply:
        made = await self._named(call).socket(unpack(call.arguments, int))
        return None, (made.detach(),)

    async def _read(self, call: Call) -> _Reply:
        return await self._named(call).read(unpack(call.arguments, File).path), ()

    async def _write(self, call: Call) -> _Reply:
        file = unpack(call.arguments, File)
        await self._named(call).write(file.path, file.data, file.mode)
        return None, ()

    async def _upload(self, call: Call) -> _Reply:
        file = unpack(call.arguments, File)
        await self._named(call).upload(file.data, file.path)
        return None, ()

    async def _download(self, call: Call) -> _Reply:
        return await self._named(call).download(unpack(call.arguments, File).path), ()

    async def _snapshot(self, call: Call) -> _Reply:
        snapshot = await self._named(call).snapshot()
        self._serial += 1
        self._snapshots[self._serial] = snapshot
        return self._serial, ()

    async def _fork(self, call: Call) -> _Reply:
        copies = await self._named(call).fork(unpack(call.arguments, int))
        return [self._born(copy) for copy in copies], ()

    async def _fork_snapshot(self, call: Call) -> _Reply:
        copies = await self._snapshots[call.target].fork(unpack(call.arguments, int))
        return [self._born(copy) for copy in copies], ()

    async def _close_snapshot(self, call: Call) -> _Reply:
        if snapshot := self._snapshots.pop(call.target, None):
            await snapshot.close()
        return None, ()

    async def _pause(self, call: Call) -> _Reply:
        await self._named(call).pause()
        return None, ()

    async def _resume(self, call: Call) -> _Reply:
        await self._named(call).resume()
        return None, ()

    async def _close(self, call: Call) -> _Reply:
        if sandbox := self._sandboxes.get(call.target):
            await sandbox.close()
        return None, ()


async def serve(end: socket.socket, share: float, profile: Profile | None) -> None:
    """Do what the front says until it is gone."""
    service = Service(end, profile)
    parent = os.pidfd_open(os.getppid())  # a socket that some other child of the front holds would stay open
    loop = asyncio.get_running_loop()
    loop.add_reader(parent, service.ended.set)
    await service.ended.wait()
    loop.remove_reader(parent)
    os.close(parent)
    await service.close(share)


def main() -> None:
    """Serve on the socket with the number of the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    number, share, *profile = sys.argv[1:]
    asyncio.run(serve(socket.socket(fileno=int(number)), float(share), Profile(profile[0]) if profile else None))


if __name__ == "__main__":
    main()
