"""Everything that was said."""

from __future__ import annotations

from palmette.scaffolds.contexts.api import Ask, History, Messages


class Full:
    """Shows all of it, so that every request goes on from the last; `size` means nothing."""

    name = "full"

    def __init__(self, size: int = 0) -> None:
        self.size = size

    async def shown(self, history: History, ask: Ask) -> Messages:
        """Return all messages."""
        return history.messages
