"""Files of a sandbox of the namespace host at one moment: frozen layers, and the uid they belong to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from palmette.sandbox.api import Spec, StartFailed
from palmette.sandbox.layers import Stack
from palmette.sandbox.server import Server

if TYPE_CHECKING:
    from palmette.sandbox.namespace import NamespaceHost
    from palmette.sandbox.namespace_sandbox import NamespaceSandbox


class NamespaceSnapshot:
    """Frozen layers; made by `NamespaceSandbox.snapshot`."""

    def __init__(self, spec: Spec, lowers: tuple[str, ...], uid: int, host: NamespaceHost, server: Server) -> None:
        self._spec = spec
        self._stack = Stack(lowers=lowers)
        self._uid = server.hold_uid(uid)
        self._host = host
        self._server = server
        self._open = True
        server.layers.hold(self._stack.names)

    async def fork(self, n: int = 1) -> list[NamespaceSandbox]:
        """Start `n` sandboxes from these files. Raises `StartFailed`; then none of them is left."""
        if not self._open:
            raise StartFailed("the snapshot is closed")
        if n < 1:
            raise ValueError(f"fork(n) needs n of at least 1, not {n}")
        start = self._host.start_copy
        starts = [asyncio.ensure_future(start(self._spec, self._stack.lowers, self._uid)) for _ in range(n)]
        try:
            return await asyncio.gather(*starts)
        except BaseException:
            for task in starts:
                task.cancel()
            done = await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.gather(*(copy.close() for copy in done if not isinstance(copy, BaseException)))
            raise

    async def close(self) -> None:
        """Let go of the files. Idempotent."""
        if self._open:
            self._open = False
            self._server.layers.release(self._stack.names)
            self._server.return_uid(self._uid)


async def settled(task: asyncio.Future[None]) -> None:
    """Wait for the end of what must not be left half done, however often somebody cancels."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # told to whoever asked already
    if cancelled:
        raise cancelled
