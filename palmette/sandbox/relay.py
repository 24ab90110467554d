"""The only network of a sandbox: a listening socket made inside it, served from the host's event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress

_CHUNK = 1 << 16


class Relay:
    """Passes bytes between connections accepted on `listener` (owned by this object) and the `upstream` address."""

    def __init__(self, listener: socket.socket, upstream: tuple[str, int]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._upstream = upstream
        self._connections: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Stop listening and cut every connection. Idempotent."""
        self._accepting.cancel()
        for connection in self._connections:
            connection.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
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
                inner, to_inner = await asyncio.open_connection(sock=client)
                ends.callback(to_inner.transport.abort)
                outer, to_outer = await asyncio.open_connection(*self._upstream)
                ends.callback(to_outer.transport.abort)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(inner, to_outer))
                    both.create_task(_copy(outer, to_inner))
            except* OSError:  # one end is gone: the other learns it by the close
                pass


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    with suppress(OSError):
        sink.write_eof()  # half-close: the other direction may still have much to say
