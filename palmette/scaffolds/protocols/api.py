"""What a tool protocol is: how tools are described, how calls are written and read, how their results are told.

Messages are those of Chat Completions, plain dicts, as the built-in loop sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from palmette.chat.message import Tool, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """One call of several that cannot be read, and why; it is answered by that."""

    id: str
    name: str
    wrong: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What an answer calls for. `wrong` says why it cannot be read as a whole; it has then no calls."""

    calls: tuple[ToolCall | Unread, ...] = ()
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of one call; `id` is "" where calls are text."""

    id: str
    name: str
    text: str


class ToolProtocol(Protocol):
    """One way to call tools; `say` and `read` are each other's inverse for the calls."""

    name: str

    def brief(self, prompt: str, tools: Sequence[Tool]) -> str:
        """Return the system prompt with all that has to be said there about tools and how to call them."""
        ...

    def offered(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """Return the tools as a request offers them; none where they are described in the system prompt."""
        ...

    def say(self, text: str, calls: Sequence[ToolCall], tools: Sequence[Tool]) -> dict[str, Any]:
        """Return the assistant's message with a text and calls. Raises `ValueError` for a call that has no form."""
        ...

    def read(self, answer: Mapping[str, Any], tools: Sequence[Tool]) -> Heard:
        """Return the calls of an assistant's message; never raises. Whether tool and arguments exist is not asked."""
        ...

    def tell(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Return the messages that tell what came of the calls of one answer."""
        ...


def uncalled(answer: Mapping[str, Any], how: str) -> Heard | None:
    """Return what to say of function calls in an answer whose calls should be text; None where there are none."""
    if answer.get("malformed"):
        return Heard(wrong=f"{answer['malformed']}; {how}")
    calls = answer.get("tool_calls") or ()
    return Heard(calls=tuple(_unread(call, how) for call in calls)) if calls else None


def in_user_words(told: Sequence[Told], each: Sequence[str]) -> list[dict[str, Any]]:
    """Return one user message of texts, one for each call, and a tool message for those that were function calls."""
    answers = [{"role": "tool", "tool_call_id": one.id, "content": one.text} for one in told if one.id]
    words = [text for one, text in zip(told, each, strict=True) if not one.id]
    return [*answers, {"role": "user", "content": "\n".join(words)}] if words else answers


def _unread(call: Mapping[str, Any], how: str) -> Unread:
    return Unread(id=call["id"], name=call["function"]["name"], wrong=how)
