"""What a dialect is: a translation of requests to an `Ask`, and of turns, whole or while they are sampled, back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from palmette.chat.live import Said
from palmette.chat.template import Renderer
from palmette.gateway.ask import Ask
from palmette.gateway.call import Call, Turn
from palmette.gateway.fields import Fate
from palmette.gateway.refusal import Refusal
from palmette.gateway.told import Told


class Writer(Protocol):
    """Writes one streamed answer; what a method returns is sent at once, b"" for nothing."""

    def begin(self) -> bytes:
        """Return what comes before everything; the first token has been sampled by then."""
        ...

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Return what tells these pieces of text, and the tokens that came since the last call."""
        ...

    def end(self, turn: Turn) -> bytes:
        """Return the rest: calls, why it ended, usage. All text has been said."""
        ...

    def fail(self, refusal: Refusal) -> bytes:
        """Return what says that the answer has broken off."""
        ...


class Request(Protocol):
    """A request as its dialect reads it."""

    @property
    def ask(self) -> Ask:
        """What is asked of the model."""
        ...

    @property
    def told(self) -> Told:
        """What its list of items said, to be gone on from."""
        ...

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted as it is sampled."""
        ...

    @property
    def media_type(self) -> str:
        """Content type of a streamed answer."""
        ...

    @property
    def ping(self) -> bytes:
        """What keeps a streamed answer's idle connection alive and says nothing, b"" for none."""
        ...

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of the whole answer, JSON."""
        ...

    def writer(self, call: Call, renderer: Renderer) -> Writer:
        """Return what writes the answer of `call` while it is sampled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How a body that goes on from an earlier one is read: the list `items` at its top holds what is behind `told`."""

    items: str
    read: Callable[[bytes, Told], Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One wire format. `read` raises `Refusal` (400) naming the field that is wrong; `refuse` writes an error body.

    `fields` says what becomes of each field; one that is not named there is ignored, as agents send many of their own.
    `growth` is for those whose conversation is a list of items (`palmette.gateway.growing`).
    """

    name: str
    fields: Mapping[str, Fate]
    read: Callable[[bytes], Request]
    refuse: Callable[[Refusal], dict[str, Any]]
    growth: Growth | None = None
