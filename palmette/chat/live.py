"""What can already be said of an answer while it is being sampled.

Text leaves as soon as no later token can change what it means. Calls wait for the whole answer, which `parse` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from palmette.chat.message import Message

_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A piece of an answer's reasoning or content, never empty."""

    kind: Literal["reasoning", "content"]
    text: str


class _At(Enum):
    START = auto()  # it may begin with its reasoning
    REASONING = auto()
    GAP = auto()  # newlines between reasoning and content, which belong to neither
    CONTENT = auto()
    CALLS = auto()  # nothing more leaves before the end


class Live:
    """Follows one answer: `feed` every sampled id but the stop token, then `finish` with what it was read as.

    `step` turns the next id into the text that is complete with it (None: not yet). Text from the first of `marks`
    on, which begin calls, is held back, and all of it where one of `marks_at_start` (single characters) comes first.
    With `thinking` the prompt has opened the reasoning already. The pieces, joined by kind, are the message's
    reasoning and content, but for blanks at the beginning of the content of a message with calls.
    """

    def __init__(
        self,
        step: Callable[[int], str | None],
        *,
        marks: Sequence[str],
        marks_at_start: Sequence[str] = (),
        thinking: bool = False,
        silent: Collection[int] = (),
    ) -> None:
        self._step = step
        self._marks = marks
        self._marks_at_start = marks_at_start
        self._silent = silent
        self._at = _At.START
        self._thinking = thinking
        self._held = ""  # not said yet
        self._told = {"reasoning": "", "content": ""}

    def feed(self, token_id: int) -> list[Said]:
        """Take the next id; return what can be said now."""
        text = None if token_id in self._silent else self._step(token_id)
        if not text:
            return []
        self._held += text
        said: list[Said] = []
        while self._advance(said):
            pass
        return said

    def finish(self, message: Message) -> list[Said]:
        """Return what of the message has not been said, text only."""
        said: list[Said] = []
        for kind, whole in (("reasoning", message.reasoning or ""), ("content", message.content)):
            told = self._told[kind]
            if not whole.startswith(told):  # blanks in front that the parser took away
                told = told.lstrip()
            self._say(said, kind, whole[len(told) :] if whole.startswith(told) else "")
        return said

    def _advance(self, said: list[Said]) -> bool:
        """Say what the present part allows; True when another part begins."""
        match self._at:
            case _At.START:
                return self._start()
            case _At.REASONING:
                return self._reason(said)
            case _At.GAP:
                self._held = self._held.lstrip("\n")
                self._at = _At.CONTENT if self._held else _At.GAP
                return bool(self._held)
            case _At.CONTENT:
                return self._tell(said)
            case _At.CALLS:
                return False

    def _start(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(_OPEN):
            self._held, self._at = begun.removeprefix(_OPEN), _At.REASONING
        elif _OPEN.startswith(begun):  # also when nothing but blanks has come
            return False
        elif self._thinking:
            self._held, self._at = begun, _At.REASONING
        else:
            self._at = _At.CONTENT
        return True

    def _reason(self, said: list[Said]) -> bool:
        if not self._told["reasoning"]:
            self._held = self._held.lstrip("\n")
        reasoning, close, rest = self._held.partition(_CLOSE)
        if close:
            self._say(said, "reasoning", reasoning.rstrip("\n"))
            self._held, self._at = rest, _At.GAP
            return True
        safe = len(self._held) - _begun(self._held, (_CLOSE,))
        safe = len(self._held[:safe].rstrip("\n"))
        self._say(said, "reasoning", self._held[:safe])
        self._held = self._held[safe:]
        return False

    def _tell(self, said: list[Said]) -> bool:
        whole = self._told["content"] + self._held
        if any(whole.lstrip().startswith(mark) for mark in self._marks_at_start):
            self._at = _At.CALLS
            return False
        found = [place for mark in self._marks if (place := self._held.find(mark)) >= 0]
        safe = min(found) if found else len(self._held) - _begun(self._held, self._marks)
        safe = len(self._held[:safe].rstrip())
        self._say(said, "content", self._held[:safe])
        self._held = self._held[safe:]
        if found:
            self._at = _At.CALLS
        return False

    def _say(self, said: list[Said], kind: str, text: str) -> None:
        if text:
            self._told[kind] += text
            said.append(Said(kind="reasoning" if kind == "reasoning" else "content", text=text))


def _begun(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a mark."""
    longest = max(map(len, marks), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
