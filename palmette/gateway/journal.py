"""Frames on disk, in the order they came: what was acknowledged is there after a crash at any byte.

A frame is its length and CRC-32 (two little-endian 32-bit numbers) and its bytes. A thread writes whatever has
gathered while it wrote before, and syncs once for all of it, so that many sessions share one sync. Every start begins a
new file; a torn end of an older one, which nobody was told of, is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from palmette.errors import UserError

Sync = Literal["fsync", "write"]
"""When a frame counts as written: "fsync" outlives the machine's power, "write" only the end of this process."""

_HEAD = struct.Struct("<II")
_MAGIC = b"palmette journal 1\n"
_MAX_FRAME = 1 << 30


class Journal:
    """An append-only file of frames in `directory`, e.g. ``await Journal(path).append(b"...")``.

    To be used from one event loop. Raises `UserError` when the directory cannot be written.
    """

    def __init__(self, directory: Path, sync: Sync = "fsync") -> None:
        self.path = directory / f"{len(files(directory)):08d}.journal"
        self._sync = sync
        self._waiting: SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = SimpleQueue()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(self._file, _MAGIC)
            self._sync_directory(directory)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); choose another directory") from error
        self._writing = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writing.start()

    def append(self, frame: bytes) -> asyncio.Future[None]:
        """Write a frame; the future is done once it is on disk and raises `OSError` if it will never be."""
        if len(frame) > _MAX_FRAME:
            raise ValueError(f"a frame of {len(frame)} bytes is too long")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda done: done.cancelled() or done.exception())  # not everybody waits
        self._waiting.put((_HEAD.pack(len(frame), zlib.crc32(frame)) + frame, written))
        return written

    def close(self) -> None:
        """Write what is waiting and stop. Idempotent."""
        self._waiting.put(None)
        self._writing.join()

    def _write(self) -> None:
        broken: OSError | None = None
        over = False
        while not over:
            gathered = [self._waiting.get()]
            while not self._waiting.empty():
                gathered.append(self._waiting.get())
            over = None in gathered
            frames = [one for one in gathered if one is not None]
            try:
                if broken is not None:
                    raise broken  # behind half a frame nothing could be read
                _write_all(self._file, b"".join(frame for frame, _ in frames))
                if frames and self._sync == "fsync":
                    os.fdatasync(self._file)
            except OSError as error:
                broken = error
            for loop in {written.get_loop() for _, written in frames}:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_settle, [written for _, written in frames], broken)
        os.close(self._file)

    def _sync_directory(self, directory: Path) -> None:
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def files(directory: Path) -> list[Path]:
    """Return the journal's files, oldest first."""
    return sorted(directory.glob("*.journal")) if directory.is_dir() else []


def frames(path: Path) -> Iterator[bytes]:
    """Yield the whole frames of a file and cut off what is torn behind them. Raises `UserError` for a foreign file."""
    data = path.read_bytes()
    at = len(_MAGIC)
    if data[:at] != _MAGIC[: len(data)]:
        raise UserError(f"{path} is no journal of this palmette; move it away")
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        frame = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(frame) < length or zlib.crc32(frame) != checksum:
            break
        yield frame
        at += _HEAD.size + length
    if at < len(data):
        os.truncate(path, at)


def _settle(waiting: list[asyncio.Future[None]], error: OSError | None) -> None:
    for written in waiting:
        if written.done():
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(file, view) :]
