"""What sandboxes elsewhere have in common: all that can be done is to run commands in them, over some wire."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

from palmette.sandbox.api import Bounds, Result, SandboxLost, Spec, Status
from palmette.sandbox.shell_files import ShellFiles

_LONGEST = 128 * 1024  # of one argument, to the kernel


class CommandSandbox:
    """A sandbox whose host has to say only how a command runs (`_command`) and how it is ended (`_end`)."""

    def __init__(self, name: str, spec: Spec) -> None:
        self._id = name
        self._spec = spec
        self._lost: str | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._files = ShellFiles(self._quietly, workdir=spec.workdir, limit_bytes=spec.limits.disk_mb << 20)

    @property
    def id(self) -> str:
        """Name of the sandbox, unique in its host."""
        return self._id

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 60.0,
        bounds: Bounds | None = None,
    ) -> Result:
        """Run an argv, or a string through ``/bin/sh -c``. Raises `SandboxLost`; `bounds` only bound the output."""
        self._check()
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not argv:
            raise ValueError("an empty command")
        if any(len(word.encode()) >= _LONGEST for word in argv):
            text = b"cannot start a command: Argument list too long\n"
            return Result(status=Status.EXITED, exit_code=126, stdout=b"", stderr=text, truncated=False, wall_s=0.0)
        limit = (bounds and bounds.output_bytes) or self._spec.limits.output_bytes
        return await self._command(
            argv, stdin, env or {}, os.path.join(self._spec.workdir, cwd or ""), limit, timeout_s
        )

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        await self._files.unpack(files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        return await self._files.pack(path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        return await self._files.read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        self._check()
        await self._files.write(path, data, mode)

    async def close(self) -> None:
        """End the sandbox. Idempotent; never raises for one already gone."""
        self._begin_end("it was closed")
        assert self._closing
        await asyncio.shield(self._closing)

    def _live(self) -> None:
        """Let its time to live begin."""
        why = f"its time to live of {self._spec.ttl_s:g} s ended"
        self._expiry = asyncio.get_running_loop().call_later(self._spec.ttl_s, self._begin_end, why)

    def _begin_end(self, why: str) -> None:
        if self._closing is None:
            self._lost = self._lost or why
            if self._expiry:
                self._expiry.cancel()
            self._closing = asyncio.ensure_future(self._end())

    def _check(self) -> None:
        if self._lost is not None:
            raise SandboxLost(f"sandbox {self._id} is gone: {self._lost}")

    async def _quietly(self, argv: Sequence[str], stdin: bytes, limit: int) -> Result:
        return await self._command(list(argv), stdin, {}, "/", limit, 300.0)

    async def _command(
        self, argv: list[str], stdin: bytes, env: Mapping[str, str], cwd: str, limit: int, timeout_s: float
    ) -> Result:
        """Run a command; `limit` bounds each of its streams, in bytes. Raises `SandboxLost`."""
        raise NotImplementedError

    async def _end(self) -> None:
        """End every process and free everything; never raises for a sandbox already gone."""
        raise NotImplementedError
