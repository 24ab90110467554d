"""The only network of a sandbox: a listening socket made inside it, served from the host's event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

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
        writers: list[asyncio.StreamWriter] = []
        try:
            inner = await asyncio.open_connection(sock=client)
            writers.append(inner[1])
            outer = await asyncio.open_connection(*self._upstream)
            writers.append(outer[1])
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(inner[0], outer[1]))
                both.create_task(_copy(outer[0], inner[1]))
        except (OSError, ExceptionGroup):  # either end is gone: the other learns it by the close below
            pass
        finally:
            client.close() if not writers else None
            for writer in writers:
                writer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    with suppress(OSError):
        sink.write_eof()  # half-close: the other direction may still have much to say
