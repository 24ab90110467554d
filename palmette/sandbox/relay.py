"""Connections between a sandbox and its host: a listening socket on one side, served from the host's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

from palmette.sandbox.api import SandboxError

_CHUNK = 1 << 16

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Relay:
    """Gives every connection accepted on `listener` (owned by this object) to `handler`, and cuts it afterwards."""

    def __init__(self, listener: socket.socket, handler: Handler) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Stop listening and cut every connection. Idempotent."""
        self._accepting.cancel()
        for connection in self._connections:
            connection.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(
                self._listener
            )  # the cancelled accept would do so later, when the number is reused
            self._listener.close()

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # out of descriptors, or the peer is gone already: the next one may fare better
                await asyncio.sleep(0.05)
                continue
            connection = asyncio.ensure_future(self._serve(client))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket) -> None:
        with ExitStack() as ends:
            ends.callback(client.close)
            try:
                reader, writer = await asyncio.open_connection(sock=client)
                ends.callback(writer.transport.abort)
                await self._handler(reader, writer)
            except* (OSError, SandboxError):  # one end is gone: the other learns it by the close
                pass


def to_address(upstream: tuple[str, int]) -> Handler:
    """Return a handler that passes bytes between a connection and the server at `upstream`."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outer, to_outer = await asyncio.open_connection(*upstream)
        await join(reader, writer, outer, to_outer)

    return handler


def to_socket(connect: Callable[[], Awaitable[socket.socket]]) -> Handler:
    """Return a handler that passes bytes between a connection and a socket that `connect` makes for it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outer, to_outer = await asyncio.open_connection(sock=await connect())
        await join(reader, writer, outer, to_outer)

    return handler


async def join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    outer: asyncio.StreamReader,
    to_outer: asyncio.StreamWriter,
    *,
    passed: Callable[[int], None] = lambda _: None,
) -> None:
    """Pass bytes both ways to the end of both, then close them; `passed` is told how many, and may raise OSError."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, to_outer, passed))
            both.create_task(_copy(outer, writer, passed))
        for end in (writer, to_outer):  # what is buffered still goes out
            end.close()
            await end.wait_closed()
    finally:
        to_outer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, passed: Callable[[int], None]) -> None:
    while data := await source.read(_CHUNK):
        passed(len(data))
        sink.write(data)
        await sink.drain()
    with suppress(OSError):
        sink.write_eof()  # half-close: the other direction may still have much to say
