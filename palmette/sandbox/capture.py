"""Output of a command within bounds: its head and tail are kept, what was between them is counted."""

from __future__ import annotations

import asyncio
import os


class Capture:
    """Keeps the head and the tail of a stream within `limit_bytes` and marks what was cut between them."""

    def __init__(self, limit_bytes: int) -> None:
        self._head_limit = (limit_bytes + 1) // 2
        self._tail_limit = limit_bytes - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self.cut = 0  # bytes

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        room = self._head_limit - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        if (over := len(self._tail) - self._tail_limit) > 0:
            del self._tail[:over]
            self.cut += over

    def value(self) -> bytes:
        """Return what was kept."""
        mark = b"\n[... %d bytes cut ...]\n" % self.cut if self.cut else b""
        return bytes(self._head) + mark + bytes(self._tail)


class Output:
    """One output stream of a command; read to its end, since closing it early would kill daemons that write on."""

    def __init__(self, limit_bytes: int, open_outputs: set[Output]) -> None:
        self.capture = Capture(limit_bytes)
        self._read_end, self.write_end = os.pipe()  # the caller closes the latter
        self._loop = asyncio.get_running_loop()
        self._open_outputs = open_outputs
        open_outputs.add(self)
        os.set_blocking(self._read_end, False)
        self._loop.add_reader(self._read_end, self._readable)

    @property
    def ended(self) -> bool:
        """Whether nobody can write any more."""
        return self not in self._open_outputs

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if not self.ended:
            self._open_outputs.discard(self)
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)

    def _readable(self) -> None:
        if data := os.read(self._read_end, 1 << 16):
            self.capture.feed(data)
        else:
            self.close()
