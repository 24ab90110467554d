"""Bodies that grow: agents send all of a conversation each time, and nearly all of it is what they sent before.

Of the bodies that sessions have lately sent, everything up to the last message is kept. One that begins with the same
bytes is read from there on, and shares its messages with the one before; any other is read whole. What comes out is
the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np

from palmette.chat.message import Message, Tool
from palmette.gateway.ask import Ask
from palmette.gateway.dialect import Dialect, Request
from palmette.gateway.fields import MAX_MESSAGES
from palmette.gateway.refusal import Refusal

MAX_BYTES = 1 << 30  # of beginnings that are kept, over all sessions
_PER_SESSION = 3  # the main conversation, a sub-agent's, a side request's


class Growing:
    """The beginnings of the last bodies of all sessions; the longest unused are forgotten first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._begun: OrderedDict[_Beginning, str] = OrderedDict()  # with the session of each
        self._of: dict[str, list[_Beginning]] = {}

    def read(self, key: str, dialect: Dialect, body: bytes) -> tuple[Request, bytes]:
        """Return what `dialect` reads in a body of the session `key`, and the body's SHA-256. Raises `Refusal`.

        Of a body without a session (an empty key) nothing is kept.
        """
        if dialect.items is None or not key:
            return dialect.read(body), sha256(body).digest()
        for begun in self._of.get(key, ()):
            if begun.dialect is dialect and body.startswith(begun.text):
                rest = body[len(begun.text) :]
                digest = begun.hashed.copy()
                digest.update(rest)
                asked = self._read_on(key, begun, rest)
                if asked is not None:
                    return asked, digest.digest()
        asked, digest = dialect.read(body), sha256(body).digest()
        at = _items(body, dialect.items)
        if at is not None:
            start, stop = at
            text = body[:stop]
            self._keep(key, _Beginning(dialect, text, start, sha256(text), asked.ask.messages, asked.ask.tools))
        return asked, digest

    def forget(self, key: str) -> None:
        """Forget what a session sent."""
        for begun in self._of.pop(key, ()):
            self._drop(begun)

    def _read_on(self, key: str, begun: _Beginning, rest: bytes) -> Request | None:
        """Read a body from where it goes on; None if it is no more of the same list."""
        more = rest.lstrip(b" \t\r\n")
        if not more.startswith(b","):
            return None
        small = begun.text[: begun.start] + more[1:]
        at = _items(small, begun.dialect.items or "")
        if at is None or small[begun.start : at[0]].strip(b" \t\r\n"):
            return None  # the list that counts is another one, further on
        try:
            asked = begun.dialect.read(small)
        except Refusal:
            return None  # the whole tells which of all messages is wrong
        messages = (*begun.messages, *asked.ask.messages)
        if len(messages) > MAX_MESSAGES:
            return None
        tools = begun.tools if asked.ask.tools == begun.tools else asked.ask.tools
        asked = _with_ask(asked, replace(asked.ask, messages=messages, tools=tools))
        grown = len(rest) - (len(small) - at[1])  # bytes of the rest up to the end of its last item
        hashed = begun.hashed.copy()
        hashed.update(rest[:grown])
        text = begun.text + rest[:grown]
        self._keep(key, _Beginning(begun.dialect, text, begun.start, hashed, messages, tools), instead=begun)
        return asked

    def _keep(self, key: str, begun: _Beginning, instead: _Beginning | None = None) -> None:
        mine = self._of.get(key, [])
        kept = [old for old in mine if old is not instead and old.text != begun.text][: _PER_SESSION - 1]
        for old in mine:
            if old not in kept:
                self._drop(old)
        self._of[key] = [begun, *kept]
        self._bytes += len(begun.text)
        self._begun[begun] = key
        while self._bytes > self._max_bytes:
            oldest, owner = next(iter(self._begun.items()))
            self._of[owner].remove(oldest)
            self._drop(oldest)

    def _drop(self, begun: _Beginning) -> None:
        self._bytes -= len(begun.text)
        del self._begun[begun]


@dataclass(frozen=True, slots=True, eq=False)
class _Beginning:
    """A body up to the end of its last message, and what it says."""

    dialect: Dialect
    text: bytes
    start: int  # of the first message
    hashed: Any  # SHA-256 of the text, to go on from
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


def _items(body: bytes, name: str) -> tuple[int, int] | None:
    """Return where the items of a list at the top of a JSON object begin and end, None where there are none."""
    try:
        items = _DECODERS[name].decode(body).items
    except msgspec.MsgspecError:
        return None
    if not items:
        return None
    origin = _address(body)
    return _address(items[0]) - origin, _address(items[-1]) - origin + len(memoryview(items[-1]))


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]


def _with_ask(asked: Request, ask: Ask) -> Request:
    changed: Any = asked
    return replace(changed, ask=ask)


class _Messages(msgspec.Struct):
    items: list[msgspec.Raw] = msgspec.field(name="messages", default_factory=list)


_DECODERS = {"messages": msgspec.json.Decoder(_Messages)}
