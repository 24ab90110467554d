"""What a gateway notes of its sessions: when one begins and when it is done with; the journal is folded as it grows."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from palmette.errors import UserError
from palmette.gateway.folding import FOLD_BYTES, due, fold_closed
from palmette.gateway.journal import Journal, Sync
from palmette.gateway.records import Closed, Opened, write

_LOG = logging.getLogger("palmette.gateway")


class Diary:
    """The journal of one gateway, in `directory`.

    A closed session is done with, or with `hold` only at the next `settle`: until then a gateway that is started on the
    same directory has it again. Folded in the background when it has grown to twice what was left, and to `fold_bytes`.
    """

    def __init__(self, directory: Path, *, sync: Sync, hold: bool = False, fold_bytes: int = FOLD_BYTES) -> None:
        self.journal = Journal(directory, sync)
        self._hold, self._least = hold, fold_bytes
        self._held: list[str] = []
        self._after_last = 0  # bytes, when it was folded last
        self._folding: asyncio.Task[None] | None = None

    def opened(self, record: Opened) -> None:
        """Note a session, before any turn of it, as frames keep their order."""
        self.journal.append(write(record))

    def closed(self, key: str) -> None:
        """Note that a session has ended."""
        self._held.append(key)
        if not self._hold:
            self.settle()

    def settle(self) -> None:
        """Be done with all sessions that have ended: what they said is kept elsewhere."""
        for key in self._held:
            self.journal.append(write(Closed(key)))
        if self._held and self._folding is None and due(self.journal.size, self._after_last, least=self._least):
            self._folding = asyncio.ensure_future(self._fold())
        self._held.clear()

    async def close(self) -> None:
        """Write what is waiting, finish what is being folded, and stop. Idempotent."""
        if self._folding is not None:
            await self._folding
        self.journal.close()

    async def _fold(self) -> None:
        try:
            path = await self.journal.turn_over()
            await asyncio.to_thread(fold_closed, path)
            self.journal.folded(path)
            _LOG.debug("%s: %d bytes", path, self.journal.size)
        except (OSError, UserError) as error:
            _LOG.warning("the journal could not be folded, and grows on: %s", error)
        finally:
            self._after_last, self._folding = self.journal.size, None
