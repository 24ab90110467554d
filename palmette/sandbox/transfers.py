"""Files of a sandbox of the namespace host, in and out: from the host's side, through a descriptor of its root."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from palmette.sandbox.as_user import as_user
from palmette.sandbox.files import Files
from palmette.sandbox.server import Server


class Transfers:
    """The part of a sandbox that moves files: what has `_server` and `_transfer` only inherits it."""

    _server: Server

    def _transfer(self) -> AbstractAsyncContextManager[Files]:
        """Hold the files for the time of one transfer. Raises `SandboxLost`."""
        raise NotImplementedError

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`. Raises `PathRefused`, `SandboxLost`."""
        async with self._transfer() as files:
            await asyncio.to_thread(as_user, self._server.actor, files.unpack, files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar. Raises `PathRefused`, `SandboxLost`."""
        async with self._transfer() as files:
            return await asyncio.to_thread(as_user, self._server.actor, files.pack, path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises `PathRefused`, `SandboxLost`."""
        async with self._transfer() as files:
            return as_user(self._server.actor, files.read, path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises `PathRefused`, `SandboxLost`."""
        async with self._transfer() as files:
            as_user(self._server.actor, files.write, path, data, mode)
