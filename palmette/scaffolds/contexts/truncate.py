"""Short results: each is shown in full once, and then only its beginning and its end."""

from __future__ import annotations

from palmette.scaffolds.contexts.api import Ask, History, Messages
from palmette.scaffolds.tools import shorten


class Truncate:
    """Shows results of earlier turns with at most `size` characters; the tree forks where one was longer."""

    name = "truncate"

    def __init__(self, size: int = 0) -> None:
        self.size = size or 400

    async def shown(self, history: History, ask: Ask) -> Messages:
        """Return the messages, with long results of all turns but the last shortened."""
        messages, answers = list(history.messages), history.answers
        for at, before in history.ages().items():
            if before < answers:
                messages[at] = messages[at] | {"content": shorten(messages[at]["content"], self.size)}
        return messages
