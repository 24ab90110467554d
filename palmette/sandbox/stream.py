"""A running command and the host's ends of its streams: read as they come, never buffered here."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from palmette.sandbox.api import Result

_CHUNK = 1 << 16
_GRACE_S = 0.05  # how long output of children may still follow the end of the command


class Ends:
    """Both ends of a command's three streams: its own are `inner`, to be closed by whoever hands them over."""

    def __init__(self, terminal: tuple[int, int] | None, owner: int | None) -> None:
        self.terminal = terminal is not None
        if terminal:
            self.input, inner = pty.openpty()
            resize(self.input, *terminal)
            if owner is not None:
                os.fchown(inner, owner, owner)
            self.inner = [inner] * 3
            self.outputs = {self.input: "stdout"}
        else:
            theirs, self.input = os.pipe()
            out, out_inner = os.pipe()
            err, err_inner = os.pipe()
            self.inner = [theirs, out_inner, err_inner]
            self.outputs = {out: "stdout", err: "stderr"}
        for fd in {self.input, *self.outputs}:
            os.set_blocking(fd, False)

    @classmethod
    def received(cls, fds: Sequence[int], *, terminal: bool) -> Ends:
        """Return the host's ends that another process has made and handed over."""
        ends = cls.__new__(cls)
        ends.terminal, ends.inner, ends.input = terminal, [], fds[0]
        ends.outputs = {fds[0]: "stdout"} if terminal else {fds[1]: "stdout", fds[2]: "stderr"}
        return ends

    def close(self) -> None:
        """Let go of the host's ends, when there is no command to read from."""
        for fd in {self.input, *self.outputs}:
            os.close(fd)


class RunningProcess:
    """A command of any host: `done` is how it ends, `send(number)` signals it. Owns what `ends` has."""

    def __init__(self, ends: Ends, done: asyncio.Future[Result], send: Callable[[int], None]) -> None:
        self._outputs = ends.outputs
        self._input = ends.input
        self._terminal = ends.terminal
        self._writing = False  # somebody waits for room
        self._done = done
        self._send = send
        self._loop = asyncio.get_running_loop()
        done.add_done_callback(self._ended)

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield ("stdout" or "stderr", chunk) as they come, to the end of the command."""
        ended_at = None
        while self._outputs:
            got = False
            for fd, name in list(self._outputs.items()):
                data = self._read(fd)
                if data:
                    got = True
                    yield name, data
            if got or not self._outputs:
                continue
            if self._done.done():
                ended_at = ended_at or self._loop.time()
                if self._loop.time() - ended_at > _GRACE_S:  # a daemon has them still
                    break
            await self._wait_for_output(_GRACE_S / 10 if self._done.done() else None)
        for fd in list(self._outputs):
            self._forget(fd)

    async def write(self, data: bytes) -> None:
        """Give it input, waiting while it reads none. Raises `BrokenPipeError` when it will not read any more."""
        view = memoryview(data)
        while view:
            if self._input < 0:
                raise BrokenPipeError(errno.EPIPE, "the command takes no more input")
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await self._wait_for_input()
            if self._done.done():
                self._close_input()

    async def end_input(self) -> None:
        """Say that there is no more input (to a terminal: Ctrl-D). Idempotent."""
        if self._terminal:
            with suppress(BrokenPipeError):
                await self.write(b"\x04")
        else:
            self._close_input()

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        if not self._done.done():
            self._send(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal. Raises `ValueError` without one."""
        if not self._terminal:
            raise ValueError("the command has no terminal to resize")
        if self._input >= 0:
            resize(self._input, rows, columns)

    def hand_over(self) -> list[int]:
        """Return the descriptors of its streams, the caller's from now on: a terminal, or input and both outputs."""
        fds = [self._input] if self._terminal else [self._input, *self._outputs]
        self._input, self._outputs = -1, {}
        return fds

    async def wait(self) -> Result:
        """Return how it ended, throwing away what is still to be read. Raises `SandboxLost`."""
        async for _ in self.output():
            pass
        return await asyncio.shield(self._done)

    def _read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: nobody has the terminal any more
            data = b""
        if not data:
            self._forget(fd)
        return data

    def _forget(self, output: int) -> None:
        del self._outputs[output]
        os.close(output)
        if output == self._input:
            self._input = -1

    def _close_input(self) -> None:
        if self._input >= 0 and not self._terminal:
            os.close(self._input)
            self._input = -1

    def _ended(self, done: asyncio.Future[Result]) -> None:
        if not done.cancelled():
            done.exception()  # seen: nobody may be waiting
        if not self._writing:
            self._close_input()

    async def _wait_for_output(self, timeout_s: float | None) -> None:
        ready = asyncio.Event()
        awake = lambda *_: ready.set()  # noqa: E731
        for fd in self._outputs:
            self._loop.add_reader(fd, awake)
        if not self._done.done():
            self._done.add_done_callback(awake)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await ready.wait()
        finally:
            self._done.remove_done_callback(awake)
            for fd in self._outputs:
                self._loop.remove_reader(fd)

    async def _wait_for_input(self) -> None:
        ready = asyncio.Event()
        awake = lambda *_: ready.set()  # noqa: E731
        self._done.add_done_callback(awake)
        self._loop.add_writer(self._input, awake)
        self._writing = True
        try:
            await ready.wait()
        finally:
            self._writing = False
            self._done.remove_done_callback(awake)
            self._loop.remove_writer(self._input)

    def __del__(self) -> None:
        for fd in {*self._outputs, self._input} - {-1}:
            os.close(fd)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal by the descriptor of either end."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
