"""Connections that find their way: each session lives in one of several processes that listen on one port.

Whoever accepts a connection reads the head of every request before anything else does. If the key in it belongs to
another process, the connection goes there as a descriptor (SCM_RIGHTS) with the bytes that were read (a file in
memory), and lives on there: the client sees nothing of it. So a connection follows its session, and one that several
sessions share moves between requests. Requests without a session stay where they came in.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from palmette.gateway.key import KEY_LENGTH, owner_of

_PATH = re.compile(rb"[A-Z]+ (?:https?://[^/ ]+)?/s/([^/ ?]+)")
_SHOWN = tuple(
    re.compile(rb"\r\n" + name + rb":[ \t]*(?:[Bb]earer[ \t]+)?([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
    for name in (rb"authorization", rb"x-api-key", rb"x-goog-api-key")
)
_QUERY = re.compile(rb"[A-Z]+ [^ ]*[?&]key=([^& ]+)")
_AGAIN_S, _TRIES = 0.002, 500  # a full mailbox is tried again
_MAX_READ = 1 << 30
_LINGER_S = 2.0
_BODY = b'{"error":{"message":"The process of this session has ended.","type":"server_error","code":"engine_error"}}'
_NOBODY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
) % (len(_BODY), _BODY)


def key_in(head: bytes) -> str:
    """Return the key in the head of a request, "" for none; where it stands is as `palmette.gateway.incoming` says."""
    found = _PATH.match(head)
    if found:
        return unquote(found[1].decode("latin-1"))
    shown = (match[1] for pattern in _SHOWN if (match := pattern.search(head)) is not None)
    key = next((one for one in shown if one), None)
    if key is None:
        asked = _QUERY.match(head)
        return unquote(asked[1].decode("latin-1")) if asked else ""
    return key.decode("latin-1")


class Door:
    """The way from this process, number `index` of `processes`, to the others and back; mailboxes: in `directory`."""

    def __init__(self, directory: Path, index: int, processes: int) -> None:
        self._directory, self._index, self._processes = directory, index, processes
        self._box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._mailbox(index).unlink(missing_ok=True)  # of a process that died here
        self._box.bind(str(self._mailbox(index)))
        self._sending: set[asyncio.Task[None]] = set()

    def open(self, adopt: Callable[[socket.socket, bytes], None]) -> None:
        """Take connections from now on: `adopt` is given each that comes, with what was read from it."""
        self._adopt = adopt
        asyncio.get_running_loop().add_reader(self._box.fileno(), self._take)

    def close(self) -> None:
        """Take no more. Idempotent."""
        if self._box.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._box.fileno())
            self._box.close()
        for task in self._sending:
            task.cancel()

    def elsewhere(self, key: str) -> bool:
        """Say whether a key would be that of another process's session."""
        return len(key) == KEY_LENGTH and owner_of(key, self._processes) != self._index

    def hand_over(self, key: str, connection: int, read: bytes) -> None:
        """Send a connection (a descriptor) and what was `read` from it to the owner of a key.

        It is copied at once, so the caller may close its own. If nobody takes it, the client is told so (503).
        """
        copies = [os.dup(connection), os.memfd_create("read", os.MFD_CLOEXEC)]
        with open(os.dup(copies[1]), "wb") as file:
            file.write(read)
        task = asyncio.ensure_future(self._send(owner_of(key, self._processes), copies))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, owner: int, descriptors: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            for _ in range(_TRIES):
                try:
                    self._box.sendmsg([b"c"], rights, 0, str(self._mailbox(owner)))
                    return
                except BlockingIOError:
                    await asyncio.sleep(_AGAIN_S)
                except OSError:
                    break
            await _refuse(descriptors[0])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take(self) -> None:
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self._box, 1, 2)
            except (BlockingIOError, InterruptedError):
                return
            if len(descriptors) != 2:
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            with open(descriptors[1], "rb") as file:
                file.seek(0)
                read = file.read(_MAX_READ)
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._adopt(connection, read)

    def _mailbox(self, index: int) -> Path:
        return self._directory / f"{index}.door"


async def _refuse(descriptor: int) -> None:
    """Say that there is nobody. What comes is read to its end: else the client would see a reset before the answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(descriptor)) as connection, contextlib.suppress(OSError, TimeoutError):
        connection.setblocking(False)
        async with asyncio.timeout(_LINGER_S):
            await loop.sock_sendall(connection, _NOBODY)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, 1 << 16):
                pass
