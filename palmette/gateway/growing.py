"""Bodies that grow: agents send all of a conversation each time, and nearly all of it is what they sent before.

Of the bodies that sessions have lately sent, everything up to the last item of the conversation is kept. One that
begins with the same bytes, up to a place between the last few items, is read from there on, and shares its messages
with the one before; any other is read whole. What comes out is the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np

from palmette.chat.message import Tool
from palmette.gateway.dialect import Dialect, Growth, Request
from palmette.gateway.refusal import Refusal
from palmette.gateway.told import Place, Told

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
        growth = dialect.growth
        if growth is None or not key:
            return dialect.read(body), sha256(body).digest()
        for begun in self._of.get(key, ()):
            known = begun.common(body) if begun.dialect == dialect.name else ()
            asked = self._read_on(key, growth, begun, known, body) if known else None
            if asked is not None:
                return asked, _digest(body, known)
        asked = dialect.read(body)
        items = _find(body, growth.items)
        steps = _steps(body, items, 0, asked.told, ()) if items else ()
        if steps and items:
            self._keep(key, _Beginning(dialect.name, body[: steps[-1].end], items.start, steps, asked))
        return asked, _digest(body, steps)

    def forget(self, key: str) -> None:
        """Forget what a session sent."""
        for begun in self._of.pop(key, ()):
            self._drop(begun)

    def _read_on(
        self, key: str, growth: Growth, begun: _Beginning, known: tuple[_Step, ...], body: bytes
    ) -> Request | None:
        """Read a body from where it parts with what is known; None if it is no more of the same list."""
        last = known[-1]
        more = body[last.end :].lstrip(b" \t\r\n")
        if not more.startswith(b","):
            return None
        small = body[: begun.start] + more[1:]
        items = _find(small, growth.items)
        if items is None or small[begun.start : items.start].strip(b" \t\r\n"):
            return None  # the list that counts is another one, further on
        try:
            asked = growth.read(small, begun.asked.told.up_to(last.place))
        except Refusal:
            return None  # the whole tells which of all messages is wrong
        if asked.ask.tools == begun.asked.ask.tools:
            asked = _with_tools(asked, begun.asked.ask.tools)
        steps = _steps(body, items, len(body) - len(small), asked.told, known)
        self._keep(key, _Beginning(begun.dialect, body[: steps[-1].end], begun.start, steps, asked), instead=begun)
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


@dataclass(frozen=True, slots=True)
class _Step:
    """A place in a body: where its bytes end, and their SHA-256, to go on from."""

    place: Place
    end: int
    hashed: Any


@dataclass(frozen=True, slots=True, eq=False)
class _Beginning:
    """A body up to its last place, and what was asked with it."""

    dialect: str
    text: bytes
    start: int  # of the first item
    steps: tuple[_Step, ...]
    asked: Request

    def common(self, body: bytes) -> tuple[_Step, ...]:
        """Return the steps up to which a body has the same bytes."""
        if body.startswith(self.text):
            return self.steps
        same = 0
        for number, step in enumerate(self.steps):
            if not body.startswith(self.text[same : step.end], same):
                return self.steps[:number]
            same = step.end
        return self.steps


class _Items:
    """Where the items of a list lie in a body."""

    def __init__(self, body: bytes, items: list[msgspec.Raw]) -> None:
        self._origin = _address(body)
        self._items = items
        self.start = _address(items[0]) - self._origin

    def end(self, index: int) -> int:
        """Return where an item ends."""
        item = self._items[index]
        return _address(item) - self._origin + len(memoryview(item))


def _find(body: bytes, name: str) -> _Items | None:
    """Return the items of a list at the top of a JSON object, None where there are none."""
    try:
        items = _DECODERS[name].decode(body).items
    except (msgspec.MsgspecError, RecursionError):  # the latter for what is nested too deeply, which `read` refuses
        return None
    return _Items(body, items) if items else None


def _steps(body: bytes, items: _Items, left_out: int, told: Told, known: tuple[_Step, ...]) -> tuple[_Step, ...]:
    """Return the steps at the places of what was told, `known` ones first.

    `items` are those behind the last of `known`, in a body that is shorter by `left_out` bytes.
    """
    steps = list(known)
    before = known[-1].place.items if known else 0
    for place in told.places:
        if place.items > before:
            end = items.end(place.items - before - 1) + left_out
            hashed = steps[-1].hashed.copy() if steps else sha256()
            hashed.update(body[steps[-1].end if steps else 0 : end])
            steps.append(_Step(place, end, hashed))
    return tuple(steps[-len(told.places) :])


def _digest(body: bytes, steps: tuple[_Step, ...]) -> bytes:
    """Return the SHA-256 of a body, from the last step on."""
    if not steps:
        return sha256(body).digest()
    hashed = steps[-1].hashed.copy()
    hashed.update(body[steps[-1].end :])
    return hashed.digest()


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]


def _with_tools(asked: Request, tools: tuple[Tool, ...]) -> Request:
    changed: Any = asked
    return replace(changed, ask=replace(asked.ask, tools=tools))


class _Messages(msgspec.Struct):
    items: list[msgspec.Raw] = msgspec.field(name="messages", default_factory=list)


class _Contents(msgspec.Struct):
    items: list[msgspec.Raw] = msgspec.field(name="contents", default_factory=list)


class _Input(msgspec.Struct):
    items: list[msgspec.Raw] = msgspec.field(name="input", default_factory=list)


_DECODERS = {
    "messages": msgspec.json.Decoder(_Messages),
    "contents": msgspec.json.Decoder(_Contents),
    "input": msgspec.json.Decoder(_Input),
}
