"""A sliding window: the results of the last turns, and of older ones only that there were some."""

from __future__ import annotations

from palmette.scaffolds.contexts.api import Ask, History, Messages


class Sliding:
    """Shows the results of at least the last `size` turns; calls and words stay, so that it is known what was done.

    The window moves by `size` turns at a time: each move makes the engine read the rest anew, and forks the tree.
    """

    name = "sliding"

    def __init__(self, size: int = 0) -> None:
        self.size = size or 4

    async def shown(self, history: History, ask: Ask) -> Messages:
        """Return the messages, with the results of old turns left out."""
        out_of_sight = max(0, (history.answers - self.size) // self.size * self.size)
        messages = list(history.messages)
        for at, answers in history.ages().items():
            if answers <= out_of_sight:
                messages[at] = messages[at] | {"content": f"[{len(messages[at]['content'])} characters left out]"}
        return messages
