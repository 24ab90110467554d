"""The door of a sandbox host: a unix socket at which another process of the same user opens a terminal in a sandbox.

The host's process serves it, beside its journal, for this user alone (0600 in a directory of 0700). One visit is one
command. Frames of both directions are a letter, a length and bytes: first ``c`` (the command, in JSON), then ``d``
(input; none is its end), ``r`` (rows and columns), ``s`` (a signal); back come ``o`` and ``e`` (output and errors),
last ``x`` (how it ended) or ``f`` (why it did not).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from palmette.sandbox.api import Bounds, Process, Result, Sandbox, SandboxError, SandboxLost, Status, Streams
from palmette.sandbox.layout import argv_of
from palmette.sandbox.ledger import Journal
from palmette.sandbox.relay import Relay

_HEAD = struct.Struct("=cI")
_LONGEST, _CHUNK = 1 << 20, 1 << 16  # of a frame
_HANG_UP_S = 1.0  # from SIGHUP to SIGKILL when the visitor is gone
_ANSWER_S = 10.0
_DAY_S = 24 * 3600.0


class Door:
    """Lets visitors into `sandboxes` (by id, as the host keeps them); `path` is removed at the end."""

    def __init__(self, path: Path, sandboxes: Mapping[str, Sandbox]) -> None:
        self._path = path
        self._sandboxes = sandboxes
        self._relay = Relay(_listening(path), self._let_in)

    def close(self) -> None:
        """Show every visitor out. Idempotent."""
        self._relay.close()
        self._path.unlink(missing_ok=True)

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            process = await self._opened(json.loads((await _received(reader))[1]))
        except asyncio.IncompleteReadError:
            return
        except (SandboxError, ValueError, TypeError, LookupError) as error:
            writer.write(_frame(b"f", str(error).encode()))
            await writer.drain()
            return
        writer.write(_frame(b"o", b""))  # it runs
        feeding = asyncio.ensure_future(_feed(reader, process))
        showing = asyncio.ensure_future(_show(process, writer))
        try:
            await asyncio.wait((feeding, showing), return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                await showing
        finally:
            feeding.cancel()
            await asyncio.shield(_hung_up(process, showing))

    async def _opened(self, asked: dict[str, Any]) -> Process:
        sandbox = self._sandboxes.get(str(asked["sandbox"]))
        if sandbox is None:
            raise SandboxLost(f"sandbox {asked['sandbox']} is gone")
        if not isinstance(sandbox, Streams):
            raise SandboxError("this host cannot open commands that one talks to")
        size = asked["terminal"]
        terminal = (int(size[0]), int(size[1])) if size else None
        return await sandbox.open(
            [str(word) for word in asked["argv"]],
            env={str(name): str(value) for name, value in asked["env"].items()},
            cwd=asked["cwd"],
            timeout_s=float(asked["timeout_s"]),
            terminal=terminal,
        )


class Neighbour:
    """A running sandbox of another process, as far as its door lets one in: the protocol `Streams`."""

    def __init__(self, journal: Journal, sandbox: str) -> None:
        self._journal = journal
        self._sandbox = sandbox

    async def open(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = _DAY_S,
        bounds: Bounds | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Visit:
        """Start a command; `bounds` are not for visitors. Raises `SandboxLost`, and `SandboxError` where it cannot."""
        if bounds:
            raise ValueError("a visitor's command cannot be bounded")
        asked = {"sandbox": self._sandbox, "argv": argv_of(command), "env": dict(env or {}), "cwd": cwd}
        asked |= {"terminal": terminal, "timeout_s": timeout_s}
        owner = f"process {self._journal.pid}, which owns sandbox {self._sandbox},"
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_connection(sock=await _connected(door_path(self._journal.path)))
                writer.write(_frame(b"c", json.dumps(asked).encode()))
                kind, said = await _received(reader)
        except TimeoutError:
            raise SandboxError(f"{owner} does not answer: it is busy, or stopped") from None
        except (OSError, asyncio.IncompleteReadError):
            raise SandboxLost(f"{owner} has no open door") from None
        if kind == b"f":
            writer.close()
            raise SandboxError(said.decode(errors="replace"))
        return Visit(reader, writer)


class Visit:
    """A command in a sandbox of another process, which ends when this object is closed; made by `Neighbour.open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._result: Result | None = None

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield ("stdout" or "stderr", chunk) as they come, to the end of the command. Raises `SandboxLost`."""
        while self._result is None:
            try:
                kind, data = await _received(self._reader)
            except (OSError, asyncio.IncompleteReadError):
                raise SandboxLost("the process that owns the sandbox is gone") from None
            if kind == b"f":
                raise SandboxLost(data.decode(errors="replace"))
            if kind == b"x":
                status, code, wall_s = json.loads(data)
                self._result = Result(
                    status=Status(status), exit_code=code, stdout=b"", stderr=b"", truncated=False, wall_s=wall_s
                )
            else:
                yield "stderr" if kind == b"e" else "stdout", data

    async def write(self, data: bytes) -> None:
        """Give it input. Raises `BrokenPipeError` when nobody takes it any more."""
        for at in range(0, len(data), _CHUNK):
            await self._send(b"d", data[at : at + _CHUNK])

    async def end_input(self) -> None:
        """Say that there is no more input (to a terminal: Ctrl-D). Idempotent."""
        await self._send(b"d", b"")

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        with suppress(BrokenPipeError):
            await self._send(b"s", b"%d" % number)

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of its terminal."""
        with suppress(BrokenPipeError):
            await self._send(b"r", b"%d %d" % (rows, columns))

    async def wait(self) -> Result:
        """Return how it ended, throwing away what is still to be read. Raises `SandboxLost`."""
        async for _ in self.output():
            pass
        assert self._result
        return self._result

    async def close(self) -> None:
        """Hang up. Idempotent."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _send(self, kind: bytes, data: bytes) -> None:
        try:
            self._writer.write(_frame(kind, data))
            await self._writer.drain()
        except OSError:
            raise BrokenPipeError(errno.EPIPE, "the command takes no more input") from None


def open_door(path: Path, sandboxes: Mapping[str, Sandbox]) -> Door | None:
    """Return the door of the host with the journal `path`, None where there can be none: it works without."""
    with suppress(OSError):
        return Door(door_path(path), sandboxes)
    return None


def door_path(journal: Path) -> Path:
    """Return where the door of the host with this journal is."""
    return journal.with_suffix(".door")


def _listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as place:
        before = os.umask(0o177)
        try:
            door.bind(place)
        finally:
            os.umask(before)
    door.listen(16)
    return door


async def _connected(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.setblocking(False)
    try:
        with _short(path) as place:
            await asyncio.get_running_loop().sock_connect(door, place)
    except BaseException:
        door.close()
        raise
    return door


class _short:
    """A name for `path` that fits into a socket's address, whatever its length."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


async def _feed(reader: asyncio.StreamReader, process: Process) -> None:
    """Give the command what the visitor types, to the end of the visit."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while True:
            kind, data = await _received(reader)
            if kind == b"r":
                rows, columns = map(int, data.split())
                await process.resize(rows, columns)
            elif kind == b"s":
                await process.signal(int(data))
            elif not data:
                await process.end_input()
            else:
                with suppress(BrokenPipeError):
                    await process.write(data)


async def _show(process: Process, writer: asyncio.StreamWriter) -> None:
    """Tell the visitor what the command says, and how it ends."""
    try:
        async for name, data in process.output():
            writer.write(_frame(b"e" if name == "stderr" else b"o", data))
            await writer.drain()
        ended = await process.wait()
        last = _frame(b"x", json.dumps((ended.status, ended.exit_code, ended.wall_s)).encode())
    except SandboxError as error:
        last = _frame(b"f", str(error).encode())
    writer.write(last)
    await writer.drain()


async def _hung_up(process: Process, showing: asyncio.Future[None]) -> None:
    """End a command whose visitor is gone, as a terminal that is closed does."""
    with suppress(SandboxError):
        if not showing.done():
            await process.signal(signal.SIGHUP)
            await asyncio.wait([showing], timeout=_HANG_UP_S)
            await process.signal(signal.SIGKILL)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)


async def _received(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > _LONGEST:
        raise OSError("a frame is too long")
    return kind, await reader.readexactly(length)


def _frame(kind: bytes, data: bytes) -> bytes:
    return _HEAD.pack(kind, len(data)) + data
