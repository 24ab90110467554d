"""Frames on disk, in the order they came: what was acknowledged is there after a crash at any byte.

A frame is its length and CRC-32 (two little-endian 32-bit numbers) and its bytes. A thread writes whatever has
gathered while it wrote before, and syncs once for all of it, so that many sessions share one sync. Every start begins a
new file; a torn end of an older one, which nobody was told of, is cut off.

Files have numbers: ``00000003.journal``. A folded file, ``00000003.folded``, stands for all files of lower numbers, and
appears by a rename: whatever is killed when, either it counts or they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from palmette.errors import UserError
from palmette.run import sync

Sync = Literal["fsync", "write"]
"""When a frame counts as written: "fsync" outlives the machine's power, "write" only the end of this process."""

_HEAD = struct.Struct("<II")
_MAGIC = b"palmette journal 1\n"
_MAX_FRAME = 1 << 30


_Frame = tuple[bytes, "asyncio.Future[None]"]


class Journal:
    """An append-only file of frames in `directory`, e.g. ``await Journal(path).append(b"...")``.

    `size` is that of all files that count, in bytes, as far as written. To be used from one event loop. Raises
    `UserError` when the directory cannot be written.
    """

    def __init__(self, directory: Path, sync: Sync = "fsync") -> None:
        self.path = directory / "00000000.journal"
        self._sync = sync
        self._waiting: SimpleQueue[_Frame | asyncio.Future[Path] | None] = SimpleQueue()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            sweep(directory)
            last = max(map(_number, _all(directory)), default=-1)
            self.path = directory / f"{last + 1:08d}.journal"
            self.size = sum(path.stat().st_size for path in files(directory))
            self._file = _begun(self.path)
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
        self._waiting.put((_framed(frame), written))
        return written

    def turn_over(self) -> asyncio.Future[Path]:
        """Begin another file; the result is where a folded one may stand for all that was appended before.

        Raises `OSError` through the future, and goes on with the old file, where none can be made.
        """
        turned: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        turned.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.put(turned)
        return turned

    def folded(self, path: Path) -> None:
        """Take note that a folded file counts in the place of those before it."""
        self.size = sum(path.stat().st_size for path in files(path.parent))

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
            frames: list[_Frame] = []
            for each in gathered:
                if isinstance(each, asyncio.Future):
                    broken = self._keep(frames, broken)
                    frames = []
                    self._turn(each)
                elif each is not None:
                    frames.append(each)
            broken = self._keep(frames, broken)
        os.close(self._file)

    def _keep(self, frames: list[_Frame], broken: OSError | None) -> OSError | None:
        """Write frames and tell those who wait; returns why nothing can be written any more."""
        data = b"".join(frame for frame, _ in frames)
        try:
            if broken is not None:
                raise broken  # behind half a frame nothing could be read
            _write_all(self._file, data)
            if frames and self._sync == "fsync":
                os.fdatasync(self._file)
            self.size += len(data)
        except OSError as error:
            broken = error
        for loop in {written.get_loop() for _, written in frames}:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, [written for _, written in frames], broken)
        return broken

    def _turn(self, turned: asyncio.Future[Path]) -> None:
        number, error, between = _number(self.path), None, self.path
        try:
            following = self.path.with_name(f"{number + 2:08d}.journal")
            opened, before = _begun(following), self._file
            between = self.path.with_name(f"{number + 1:08d}.folded")
            self.path, self._file = following, opened
            os.fsync(before)
            os.close(before)
        except OSError as failure:
            error = failure

        def tell() -> None:
            if not turned.done():
                turned.set_exception(error) if error else turned.set_result(between)

        with contextlib.suppress(RuntimeError):
            turned.get_loop().call_soon_threadsafe(tell)


def files(directory: Path) -> list[Path]:
    """Return the journal's files that count, oldest first."""
    found = sorted(_all(directory), key=_number)
    folded = [at for at, path in enumerate(found) if path.suffix == ".folded"]
    return found[folded[-1] :] if folded else found


def sweep(directory: Path) -> None:
    """Remove what a folded file stands for, and half-made ones."""
    counted = files(directory)
    for path in _all(directory):
        if path not in counted:
            path.unlink()
    for path in directory.glob("*.part"):
        path.unlink()


def fold(path: Path, kept: Iterable[bytes]) -> None:
    """Make the folded file of these frames at a place that `Journal.turn_over` gave, then remove what it stands for.

    Raises `OSError`, after which what was there still counts.
    """
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(_MAGIC)
            for frame in kept:
                file.write(_framed(frame))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)
    sweep(path.parent)


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


def _all(directory: Path) -> list[Path]:
    return [path for suffix in ("journal", "folded") for path in directory.glob(f"*.{suffix}")]


def _number(path: Path) -> int:
    return int(path.stem)


def _begun(path: Path) -> int:
    """Return a new file, open for writing and there after a crash."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(opened, _MAGIC)
    sync(path.parent)
    return opened


def _framed(frame: bytes) -> bytes:
    return _HEAD.pack(len(frame), zlib.crc32(frame)) + frame


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
