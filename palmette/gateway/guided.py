"""A connection that goes to another process when the next request on it is for a session that lives there."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from palmette.gateway.door import Door, key_in
from palmette.gateway.listen import MAX_HEAD_BYTES, Connection

_BEGINS = re.compile(rb"[A-Z]{1,16}(?: |$)")
_AGAIN_S = 0.002


class Guided(Connection):
    """Reads the head of each request before anything else does. `read` is what was read of it in another process."""

    def __init__(self, *given: Any, door: Door, read: bytes = b"", **named: Any) -> None:
        super().__init__(*given, **named)
        self._door = door
        self._read = bytearray(read)
        self._between = True  # requests: the next byte begins one
        self._leaving = ""  # the key of the session it goes to

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here, or has come over."""
        super().connection_made(transport)
        if self._read:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Take what has come, or go where it is for."""
        if not self._between and not self._leaving:
            super().data_received(data)
            return
        self._read += data
        if self._leaving:
            return
        end = self._read.find(b"\r\n\r\n")
        if end < 0 and len(self._read) <= MAX_HEAD_BYTES and _BEGINS.match(self._read):
            return
        free = self.cycle is None or self.cycle.response_complete
        key = key_in(bytes(self._read[: end + 2])) if end >= 0 and free else ""
        if self._door.elsewhere(key):
            self._leaving = key
            self.transport.pause_reading()
            self._leave()
            return
        read, self._read = bytes(self._read), bytearray()
        super().data_received(read)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._between = False

    def on_message_complete(self) -> None:
        """A request has been read."""
        super().on_message_complete()
        self._between = True

    def _leave(self) -> None:
        """Go, once the answer before has left."""
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_AGAIN_S, self._leave)
            return
        connection = self.transport.get_extra_info("socket")
        self._door.hand_over(self._leaving, connection.fileno(), bytes(self._read))
        self.transport.abort()  # closes our descriptor; the connection lives on
