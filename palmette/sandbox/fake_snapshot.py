"""Files of a fake sandbox at one moment: a copy of its directory."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING

from palmette.sandbox.api import Spec, StartFailed
from palmette.sandbox.namespace_snapshot import settled

if TYPE_CHECKING:
    from palmette.sandbox.fake import FakeHost, FakeSandbox


class FakeSnapshot:
    """A copy of the files; made by `FakeSandbox.snapshot`."""

    def __init__(self, root: str, spec: Spec, host: FakeHost) -> None:
        self._root = root
        self._spec = spec
        self._host = host

    async def fork(self, n: int = 1) -> list[FakeSandbox]:
        """Start `n` sandboxes from a copy of the copy each. Raises `StartFailed` when closed."""
        if not self._root:
            raise StartFailed("the snapshot is closed")
        if n < 1:
            raise ValueError(f"fork(n) needs n of at least 1, not {n}")
        roots: list[str] = []
        try:
            for _ in range(n):
                roots.append(await copied(self._root, self._host))
        except BaseException:
            for root in roots:
                shutil.rmtree(root, ignore_errors=True)
            raise
        return [self._host.inhabit(root, self._spec) for root in roots]

    async def close(self) -> None:
        """Remove the copy. Idempotent."""
        root, self._root = self._root, ""
        if root:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


async def copied(root: str, host: FakeHost) -> str:
    """Return a new directory of `host` with a copy of what is below `root`; when cancelled there is none."""
    to = host.scratch()
    copying = asyncio.ensure_future(asyncio.to_thread(_copy_files, root, to))
    try:
        await settled(copying)  # a thread cannot be stopped, and would write into what is removed
        copying.result()
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    return to


def _copy_files(root: str, to: str) -> None:
    subprocess.run(["cp", "-a", f"{root}/.", to], check=True, capture_output=True)  # links, fifos, holes and all
