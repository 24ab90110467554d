"""What was said in a session, for people to read and other tools to import: each message once, with what it follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palmette.chat.message import Message
from palmette.gateway.identity import Digest, Walk


class Transcript:
    """Plain dicts in order of arrival, in `messages`: ``role``, ``content``, ``tool_calls`` (name and arguments),
    ``turn``, ``parent`` (index of the message before it, None for a first one: this is a tree, and what is said again
    after other words is there again), and what is known of an answer.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._places: dict[Digest, int] = {}

    def add(
        self, messages: Sequence[Message], walk: Walk, answer: Message, end: Digest, turn: int, **facts: Any
    ) -> None:
        """Append what a request told that is not here yet, and its answer with `facts`.

        `walk` is the request's conversation, `end` the digest of it with the answer.
        """
        begun = len(messages)  # messages that are here: whatever is here stands behind what was before it
        while begun and walk.digests[begun] not in self._places:
            begun -= 1
        parent = self._places[walk.digests[begun]] if begun else None
        for message, digest in zip(messages[begun:], walk.digests[begun + 1 :], strict=True):
            self._places[digest] = len(self.messages)
            self.messages.append(_spoken(message) | {"turn": turn, "parent": parent})
            parent = self._places[digest]
        self._places[end] = len(self.messages)
        self.messages.append(_spoken(answer) | {"turn": turn, "parent": parent} | facts)

    def copy(self) -> Transcript:
        """Return the same, to grow apart from here."""
        copy = Transcript()
        copy.messages = [dict(said) for said in self.messages]
        copy._places = dict(self._places)
        return copy


def _spoken(message: Message) -> dict[str, Any]:
    spoken: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        spoken["tool_calls"] = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
    if message.reasoning:
        spoken["reasoning"] = message.reasoning
    if message.malformed:
        spoken["malformed"] = message.malformed
    return spoken
