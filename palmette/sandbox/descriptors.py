"""Descriptors that stand for more than files: data in memory, the end of a process."""

from __future__ import annotations

import asyncio
import fcntl
import os


def memory_file(data: bytes) -> int:
    """Return a sealed file in memory: no pipe to feed, no deadlock, nothing the sandbox can change."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


async def readable(fd: int, *, timeout_s: float) -> bool:
    """Wait until `fd` is readable (a pidfd: until its process has ended); False when that takes too long."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 may lose a cancellation
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True
