"""What has been said in a rollout, and what a context manager is: it decides what of that the model is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Messages = list[dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class History:
    """What has been said: messages of Chat Completions, which of them tell results, and what the last request took.

    `opening` is what it began with: the system prompt and the task. `turns` counts the agent's answers, `tokens` those
    of the last request and its answer (0: nobody said), and what was added since, at as many a character.
    """

    messages: Messages
    opening: tuple[dict[str, Any], ...]
    observed: list[int] = field(default_factory=list)
    turns: int = 0
    tokens: int = 0

    def tell(self, told: Sequence[dict[str, Any]]) -> None:
        """Add messages that tell results."""
        self._grow(sum(len(message["content"]) for message in told))
        self.observed += range(len(self.messages), len(self.messages) + len(told))
        self.messages += told

    def add(self, words: str) -> None:
        """Add words of the user, to a message of the user if that is the last: many templates want roles in turn."""
        self._grow(len(words))
        if self.messages and self.messages[-1]["role"] == "user":
            last = self.messages[-1]
            self.messages[-1] = last | {"content": f"{last['content']}\n\n{words}"}
        else:
            self.messages.append({"role": "user", "content": words})

    def ages(self) -> dict[int, int]:
        """Return for each message that tells results how many answers there are, and how many before it."""
        answers_before, found = 0, dict[int, int]()
        observed = set(self.observed)
        for at, message in enumerate(self.messages):
            answers_before += message["role"] == "assistant"
            if at in observed:
                found[at] = answers_before
        return found

    @property
    def answers(self) -> int:
        """Number of answers among the messages."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def _grow(self, chars: int) -> None:
        there = sum(len(message.get("content") or "") for message in self.messages)
        self.tokens += round(self.tokens * chars / max(there, 1))


Ask = Callable[[Messages], Awaitable[str | None]]
"""Asks the model something aside, the same tools offered; None where there is no answer."""


class Context(Protocol):
    """Decides what of a history the model is shown. Where that differs from what it saw before, the tree forks."""

    name: str
    size: int

    async def shown(self, history: History, ask: Ask) -> Messages:
        """Return the messages of the next request; may shorten the history itself, for good."""
        ...
