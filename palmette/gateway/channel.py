"""Messages between two processes over a socket: some told, some asked and answered, in the order they were sent."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

_HEAD = struct.Struct("<I")
_ANSWER, _FAILURE = "answer", "failure"

Take = Callable[[str, int, list[Any]], None]  # takes a message: its kind, its number (0: nobody waits), what it says


class Broken(ConnectionError):
    """The other process is gone."""


class Failed(Exception):
    """The other process could not do what it was asked; `kind` says why, in a word."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Channel(asyncio.Protocol):
    """One end. Messages of the other go to `take`; `ended` is called once, when there will be no more.

    What is said is whatever msgpack holds, bytes as they are.
    """

    def __init__(self, take: Take, ended: Callable[[], None]) -> None:
        self._take, self._ended = take, ended
        self._got = bytearray()
        self._number = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._transport: Any = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder().decode

    @classmethod
    async def over(cls, end: socket.socket, take: Take, ended: Callable[[], None]) -> Channel:
        """Return a channel over one end of a socket pair."""
        end.setblocking(False)
        _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: cls(take, ended), sock=end)
        return channel

    def tell(self, kind: str, *said: Any, number: int = 0) -> None:
        """Send a message. One that cannot be sent, as nobody is there any more, is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            frame = self._encode((kind, number, said))
            self._transport.writelines((_HEAD.pack(len(frame)), frame))

    def ask(self, kind: str, *said: Any) -> tuple[int, asyncio.Future[Any]]:
        """Send a message and return its number and its answer to come, which raises `Failed` or `Broken`."""
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # not everybody waits
        if self._transport is None or self._transport.is_closing():
            answer.set_exception(Broken("the other process is gone"))
        else:
            self._asked[number] = answer
            self.tell(kind, *said, number=number)
        return number, answer

    def answer(self, number: int, value: Any = None) -> None:
        """Answer a message."""
        self.tell(_ANSWER, value, number=number)

    def fail(self, number: int, kind: str, text: str) -> None:
        """Say that what a message asks for cannot be done."""
        self.tell(_FAILURE, kind, text, number=number)

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(Broken("the other process is gone"))
        self._ended()

    def data_received(self, data: bytes) -> None:
        """Take whole messages."""
        self._got += data
        at = 0
        while len(self._got) - at >= _HEAD.size:
            stop = at + _HEAD.size + _HEAD.unpack_from(self._got, at)[0]
            if stop > len(self._got):
                break
            kind, number, said = self._decode(bytes(memoryview(self._got)[at + _HEAD.size : stop]))
            at = stop
            if kind in (_ANSWER, _FAILURE):
                answer = self._asked.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(said[0]) if kind == _ANSWER else answer.set_exception(Failed(*said))
            else:
                self._take(kind, number, said)
        del self._got[:at]
