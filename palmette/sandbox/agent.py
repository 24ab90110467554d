"""The host's end of a sandbox's control socket: commands out, results back (frames: native/wire.h)."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from palmette.sandbox.api import Bounds, Result, SandboxLost, StartFailed, Status, Usage
from palmette.sandbox.descriptors import memory_file

_SPAWN, _KILL, _QUIET, _SIGNAL, _COUNT, _JOIN = 1, 2, 3, 4, 5, 6
_STARTED, _READY, _FAILED, _OUTPUT, _DONE, _QUIETED = 2, 3, 4, 5, 6, 7
_WORD = struct.Struct("=I")
_PAIR = struct.Struct("=Ii")
_SPAWN_HEAD = struct.Struct("=11I")
_DONE_HEAD = struct.Struct("=3Ii4I3Q")
_PACKET_MAX = 160 * 1024
_RECEIVE = 64 * 1024
_NO_LIMITS = (None, None, None, None)
_HOW = (Status.EXITED, Status.SIGNALLED, Status.TIMEOUT)


@dataclass(slots=True)
class Box:
    """The descriptors that came with the start of a sandbox, -1 where absent."""

    pid: int = 0  # as this process sees it
    pidfd: int = -1  # opened when its end begins
    certain: bool = False  # that the pidfd is its: it lived when that was opened
    root: int = -1
    listener: int = -1
    mounts: int = -1  # its mount namespace, where a pidfd does not give that


@dataclass(slots=True)
class _Command:
    future: asyncio.Future[Result]
    output: bytearray = field(default_factory=bytearray)


class Agent:
    """Talks to pid 1 of one sandbox over `control`, which it owns; `on_end(reason)` is called once at the end."""

    def __init__(self, control: socket.socket, on_end: Callable[[str], None]) -> None:
        self._control = control
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._commands: dict[int, _Command] = {}
        self._asked: dict[int, asyncio.Future[int]] = {}  # how many commands run
        self._serial = 0
        self.cpu_us = 0  # of all commands that have ended, and of pid 1
        self._outbox: deque[tuple[bytes, Sequence[int]]] = deque()
        self._ended: str | None = None
        self._taken = False
        self._waiting = False  # for the socket to take more
        self.box = Box()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(control.fileno(), self._readable)  # by number: looking up a socket is slow

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int] = (),
        terminal: bool = False,
        env: Mapping[str, str],
        cwd: str,
        timeout_s: float,
        bounds: Bounds | None = None,
    ) -> tuple[int, asyncio.Future[Result]]:
        """Start one command with `fds` (none, stdin, or all three streams; sent and closed here).

        Returns its number and how it will end. Raises `SandboxLost`.
        """
        words = [cwd, *argv, *map("=".join, env.items()), ""]
        strings = os.fsencode("\0".join(words))
        problem = None
        if self._ended is not None:
            problem = SandboxLost(self._ended)
        elif strings.count(b"\0") != len(words) - 1:
            problem = ValueError("a command, directory or variable holds a NUL character")
        if problem:
            _close(fds)
            raise problem
        future: asyncio.Future[Result] = self._loop.create_future()
        if _SPAWN_HEAD.size + len(strings) > _PACKET_MAX:
            _close(fds)
            future.set_result(_too_long())
            return 0, future
        self._serial = serial = (self._serial + 1) & 0xFFFFFFFF
        timeout_ms = min(max(int(timeout_s * 1000), 1), 0xFFFFFFFF)
        limits = (bounds.memory_mb, bounds.cpu_s, bounds.file_mb, bounds.output_bytes) if bounds else _NO_LIMITS
        numbers = serial, timeout_ms, len(argv), len(env), len(fds), terminal, *(limit or 0 for limit in limits)
        self._commands[serial] = _Command(future)
        future.add_done_callback(lambda _: self._commands.pop(serial, None))
        self._send(_SPAWN_HEAD.pack(_SPAWN, *numbers) + strings, fds)
        return serial, future

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes,
        env: Mapping[str, str],
        cwd: str,
        timeout_s: float,
        bounds: Bounds | None = None,
    ) -> Result:
        """Run one command to its end. Raises `SandboxLost`; cancelling kills the command."""
        fds = [memory_file(stdin)] if stdin else ()
        serial, future = self.spawn(argv, fds=fds, env=env, cwd=cwd, timeout_s=timeout_s, bounds=bounds)
        try:
            return await future
        except asyncio.CancelledError:
            self.kill(serial)
            raise

    def kill(self, serial: int) -> None:
        """Kill a command and what it started."""
        if self._ended is None:
            self._send(struct.pack("=II", _KILL, serial))

    def signal(self, serial: int, number: int) -> None:
        """Send a signal to a command's process group; SIGKILL also to children in sessions of their own."""
        if number == signal.SIGKILL:
            self.kill(serial)
        elif self._ended is None:
            self._send(struct.pack("=III", _SIGNAL, serial, number))

    async def quiet(self) -> int:
        """End all that is left of earlier commands; return how many commands run, in which case nothing was done.

        Raises `SandboxLost`.
        """
        return await self._ask(_QUIET)

    async def running(self) -> int:
        """Return how many commands run, as pid 1 says. Raises `SandboxLost`."""
        return await self._ask(_COUNT)

    def join(self, cgroups: Sequence[int]) -> None:
        """Have pid 1, and all that it starts from now on, join these (sent and closed here); else the sandbox ends."""
        for fd in cgroups:
            self._send(_WORD.pack(_JOIN), (fd,))

    def open_pidfd(self) -> int:
        """Return a new descriptor of pid 1. Raises `OSError` when it has ended."""
        fd = os.pidfd_open(self.box.pid)
        return self._checked(fd)

    def open_root(self) -> int:
        """Return a new descriptor of the sandbox's root. Raises `OSError` when it has ended or is not ours to see."""
        fd = os.open(f"/proc/{self.box.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._checked(fd)

    def take_box(self) -> Box:
        """Return what came with the start; its descriptors are the caller's from now on."""
        self._taken = True
        return self.box

    def close(self, reason: str) -> None:
        """Let go of the sandbox, which ends it; whoever waits gets `SandboxLost(reason)`. Idempotent."""
        if self._ended is not None:
            return
        self._ended = reason
        if self.box.pid:
            with suppress(OSError):
                self.box.pidfd = os.pidfd_open(self.box.pid)
                self.box.certain = self._connected()
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        for _, fds in self._outbox:
            _close(fds)
        self._outbox.clear()
        if not self.ready.done():
            self.ready.set_exception(StartFailed(reason))
            self.ready.exception()  # mark as seen: nobody may be waiting any more
        for fd in (self.box.root, self.box.listener, self.box.mounts):
            if fd >= 0 and not self._taken:
                os.close(fd)
        for command in list(self._commands.values()):
            if not command.future.done():
                command.future.set_exception(SandboxLost(reason))
        for future in self._asked.values():
            if not future.done():
                future.set_exception(SandboxLost(reason))
        self._on_end(reason)

    async def _ask(self, kind: int) -> int:
        if self._ended is not None:
            raise SandboxLost(self._ended)
        self._serial = serial = (self._serial + 1) & 0xFFFFFFFF
        future = self._asked[serial] = self._loop.create_future()
        self._send(struct.pack("=II", kind, serial))
        try:
            return await future
        finally:
            del self._asked[serial]

    def _checked(self, fd: int) -> int:
        if self._ended is None and self._connected():  # so the number was not another process's when it was used
            return fd
        os.close(fd)
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _connected(self) -> bool:
        """Whether pid 1 has the other end of the socket still, which only it has."""
        poll = select.poll()
        poll.register(self._control, select.POLLRDHUP)
        return not poll.poll(0)

    def _send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        self._outbox.append((packet, fds))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            packet, fds = self._outbox[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._control.sendmsg([packet], rights)
            except BlockingIOError:
                self._waiting = True
                self._loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError:  # it died; the reader hears of it and says so
                return
            self._outbox.popleft()
            _close(fds)
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._control.fileno())

    def _readable(self) -> None:
        for _ in range(32):  # then let others have the loop
            try:
                packet, rights, _, _ = self._control.recvmsg(_RECEIVE, socket.CMSG_SPACE(12), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(f"its control socket failed ({error.strerror})")
                return
            if not packet:
                self.close("its first process ended")
                return
            if self._take(packet, _descriptors(rights) if rights else []) or self._ended is not None:
                return

    def _take(self, packet: bytes, fds: list[int]) -> bool:
        """Take it in; return whether it was the last of a command, after which nothing is likely to follow at once."""
        (kind,) = _WORD.unpack_from(packet)
        if kind == _DONE:
            self._finish(packet)
            return True
        if kind == _READY and not fds:
            self.close("this process has no descriptors left (raise the limit, ulimit -n)")
        elif kind == _OUTPUT:
            (serial,) = _WORD.unpack_from(packet, 4)
            if command := self._commands.get(serial):
                command.output += packet[8:]
        elif kind == _STARTED:
            self.box.pid = _PAIR.unpack_from(packet)[1]
        elif kind == _READY:
            (listens,) = _WORD.unpack_from(packet, 4)
            self.box.root, *others = fds
            self.box.listener = others.pop(0) if listens else -1
            self.box.mounts = others.pop(0) if others else -1
        elif kind == _QUIETED:
            future = self._asked.get(_WORD.unpack_from(packet, 4)[0])
            if future and not future.done():
                future.set_result(_WORD.unpack_from(packet, 8)[0])
        elif kind == _FAILED:
            code = _PAIR.unpack_from(packet)[1]
            self.close(f"{packet[_PAIR.size :].decode(errors='replace')}: {os.strerror(code)}")
        if self.box.pid and self.box.root >= 0 and not self.ready.done():  # these two come in either order
            self.ready.set_result(None)
        return False

    def _finish(self, packet: bytes) -> None:
        _, serial, how, code, truncated, out_bytes, err_bytes, peak_kib, *times_us = _DONE_HEAD.unpack_from(packet)
        wall_us, cpu_us, self.cpu_us = times_us
        command = self._commands.get(serial)
        if command is None or command.future.done():
            return
        output = bytes(command.output) + packet[_DONE_HEAD.size :] if command.output else packet[_DONE_HEAD.size :]
        command.future.set_result(
            Result(
                status=_HOW[how],
                exit_code=code,
                stdout=output[:out_bytes],
                stderr=output[out_bytes : out_bytes + err_bytes],
                truncated=bool(truncated),
                wall_s=wall_us / 1e6,
                usage=Usage(cpu_s=cpu_us / 1e6, peak_mb=peak_kib / 1024),
            )
        )


def _close(fds: Sequence[int]) -> None:
    for fd in set(fds):
        os.close(fd)


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _too_long() -> Result:
    text = b"cannot start a command: Argument list too long\n"
    return Result(status=Status.EXITED, exit_code=126, stdout=b"", stderr=text, truncated=False, wall_s=0.0)
