"""Frames over a stream socket between two processes of one machine, in batches, with descriptors.

A frame is its length, the number of descriptors that come with it, and its bytes. One that is large travels as a file
in memory instead, so that it does not hold up those behind it.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from palmette.sandbox.descriptors import memory_file

_HEAD = struct.Struct("=II")
_ELSEWHERE = 1 << 31  # of the count of descriptors: the first of them is the frame
_LARGE = 128 * 1024
_CROWDED = 1 << 20  # bytes that wait to be sent
_BATCH = 256  # frames
_RECEIVE = 256 * 1024
_DESCRIPTORS = 8  # at most with one frame


class Link:
    """One end of the socket, which it owns; `on_frame(bytes, descriptors)` owns the descriptors it gets.

    `on_end()` is called once, when the other end is gone.
    """

    def __init__(
        self, end: socket.socket, on_frame: Callable[[bytes, list[int]], None], on_end: Callable[[], None]
    ) -> None:
        end.setblocking(False)
        self._end = end
        self._on_frame = on_frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting_bytes = 0
        self._flushing = False  # a flush is due
        self._inbox = bytearray()
        self._fds: deque[int] = deque()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._open = True
        self._loop.add_reader(end, self._readable)

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame soon, with `fds`, which are closed here then. Nothing happens when the other end is gone."""
        if not self._open:
            _close(fds)
            return
        count = len(fds)
        if len(frame) > _LARGE:
            fds = (memory_file(frame), *fds)
            head, frame = _HEAD.pack(0, count | _ELSEWHERE), b""
        else:
            head = _HEAD.pack(len(frame), count)
        self._outbox.append((memoryview(head + frame), fds))
        self._waiting_bytes += _HEAD.size + len(frame)
        if self._waiting_bytes > _CROWDED:
            self._roomy.clear()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def room(self) -> None:
        """Wait while too much waits to be sent already."""
        await self._roomy.wait()

    def close(self) -> None:
        """Let go of the socket. Idempotent; does not call `on_end`."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
        for _, fds in self._outbox:
            _close(fds)
        self._outbox.clear()
        _close(self._fds)
        self._roomy.set()

    def _flush(self) -> None:
        while self._open and self._outbox:
            parts, rights = self._batch()
            try:
                sent = self._end.sendmsg(parts, rights)
            except BlockingIOError:
                self._loop.add_writer(self._end, self._flush_on)
                return
            except OSError:
                self._lose()
                return
            self._sent(sent)
        self._flushing = False
        if self._waiting_bytes <= _CROWDED // 2:
            self._roomy.set()

    def _flush_on(self) -> None:
        self._loop.remove_writer(self._end)
        self._flush()

    def _batch(self) -> tuple[list[memoryview], list[tuple[int, int, array.array[int]]]]:
        """Return frames that can go at once: descriptors come with the first byte of what is sent with them."""
        fds = self._outbox[0][1]
        parts = []
        for number, (part, others) in enumerate(self._outbox):
            if number == _BATCH or (number and others):
                break
            parts.append(part)
        return parts, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []

    def _sent(self, count: int) -> None:
        self._waiting_bytes -= count
        while count:
            part, fds = self._outbox.popleft()
            _close(fds)
            if len(part) > count:
                self._outbox.appendleft((part[count:], ()))
                return
            count -= len(part)

    def _readable(self) -> None:
        try:
            space = socket.CMSG_SPACE(4 * (_DESCRIPTORS + 1))
            data, rights, _, _ = self._end.recvmsg(_RECEIVE, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, rights = b"", []
        for level, kind, packed in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(memoryview(packed).cast("i"))
        if not data:
            self._lose()
            return
        self._inbox += data
        self._take_frames()

    def _take_frames(self) -> None:
        at, inbox = 0, self._inbox
        found: list[tuple[bytes, list[int]]] = []
        while len(inbox) - at >= _HEAD.size:
            length, count = _HEAD.unpack_from(inbox, at)
            if len(inbox) - at - _HEAD.size < length:
                break
            at += _HEAD.size
            frame = bytes(inbox[at : at + length])
            at += length
            try:
                if count & _ELSEWHERE:
                    frame = _contents(self._fds.popleft())
                found.append((frame, [self._fds.popleft() for _ in range(count & ~_ELSEWHERE)]))
            except IndexError:  # this process has no descriptors left, so the kernel has dropped some
                self._lose()
                return
        del inbox[:at]
        for frame, fds in found:
            self._on_frame(frame, fds)

    def _lose(self) -> None:
        if self._open:
            self.close()
            self._on_end()


def _contents(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _close(fds: Sequence[int] | deque[int]) -> None:
    for fd in fds:
        os.close(fd)
