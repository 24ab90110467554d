"""The listening side: an address of our own, and a server that lives inside the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from palmette.errors import UserError

ENDS = "palmette.ends"
MAX_HEAD_BYTES = 65_536  # of a request's line and headers together; real agents send less than 2 KiB
_TOO_LARGE = (
    b'{"error":{"message":"The headers are too large.","type":"invalid_request_error","param":null,"code":null}}'
)


class Ending:
    """Tells whoever listens that a connection has ended; each in `listeners` is called once, at most."""

    __slots__ = ("come", "listeners")

    def __init__(self) -> None:
        self.come = False
        self.listeners: set[Callable[[], None]] = set()

    def tell(self) -> None:
        """The connection has ended."""
        self.come = True
        for listener in tuple(self.listeners):
            listener()


class Connection(HttpToolsProtocol):
    """A connection on which the head of a request is bounded; uvicorn itself would take any size.

    Requests find its `Ending` in their scope under `ENDS`: to wait for the server's word of it takes a task each.
    """

    _head: int | None = None  # bytes of the head so far, None when no head is being read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here."""
        super().connection_made(transport)
        self._ending = Ending()

    def data_received(self, data: bytes) -> None:
        """Parse what has come; answer 431 and hang up when a head does not end in time."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES and not self.transport.is_closing():
                head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(_TOO_LARGE)
                self.transport.write(head + length + _TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = 0
        scope: Any = self.scope
        scope[ENDS] = self._ending

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._head = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or we have hung up."""
        super().connection_lost(exc)
        self._ending.tell()


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its host program and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on an address, any free port for 0. Raises `UserError` when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is in use by another program" if taken else f"cannot be had ({error})"
        raise UserError(f"port {port} on {host} {why}: choose another, or 0 for any free one") from error
    listener.setblocking(False)
    return listener
