"""A sandbox that remembers how its last command ended, so that a rollout's outcome can name the cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from palmette.sandbox.api import Bounds, Result, Sandbox, Status


class Watched:
    """A sandbox seen through: every call goes to `inner`; `out_of_memory` tells of the last finished command."""

    def __init__(self, inner: Sandbox, *, out_of_memory: bool = False) -> None:
        self._inner = inner
        self.out_of_memory = out_of_memory

    @property
    def inner(self) -> Sandbox:
        """The sandbox itself, for what it may offer besides."""
        return self._inner

    @property
    def id(self) -> str:
        """Id of the sandbox."""
        return self._inner.id

    @property
    def gateway_url(self) -> str | None:
        """Address of the gateway as processes in the sandbox see it."""
        return self._inner.gateway_url

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
        """Run a command and remember whether the memory limit killed it."""
        result = await self._inner.exec(command, stdin=stdin, env=env, cwd=cwd, timeout_s=timeout_s, bounds=bounds)
        self.out_of_memory = result.status is Status.OOM
        return result

    async def upload(self, files_tar: bytes, path: str = ".") -> None:
        """Unpack a tar archive below `path`."""
        await self._inner.upload(files_tar, path)

    async def download(self, path: str = ".") -> bytes:
        """Return the directory or file as a deterministic tar."""
        return await self._inner.download(path)

    async def read(self, path: str) -> bytes:
        """Return a regular file's bytes."""
        return await self._inner.read(path)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file, making parent directories."""
        await self._inner.write(path, data, mode)

    async def close(self) -> None:
        """End every process and free everything."""
        await self._inner.close()
