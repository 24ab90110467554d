"""What all sessions of one gateway share."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from palmette.gateway.metrics import Metrics
from palmette.gateway.places import Places


class Keeps(Protocol):
    """Whoever keeps turns before they are told: a journal, or another process."""

    def append(self, frame: bytes) -> asyncio.Future[None]:
        """Keep a frame; the future is done once it is kept, and raises `OSError` if it never will be."""
        ...


class Link(Keeps, Protocol):
    """The process that has opened the sessions which live here, and reads them there."""

    def asked(self, key: str, told: tuple[str, bool, int, int]) -> None:
        """Say that a session was asked something: dialect, streamed or not, messages, tools."""
        ...

    def failed(self, key: str, failure: str | None) -> None:
        """Say why the last call of a session was not answered, None if it was."""
        ...

    async def metrics(self) -> str:
        """Return what all processes counted, in the text format of Prometheus."""
        ...

    async def noted(self) -> None:
        """Return when all that was said has arrived, and all that the other process said before it heard that."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The thread that tokenises long texts, the places at the engine, the counters, and who keeps turns, if anybody.

    `link` is there where sessions live in one process and are read in another.
    """

    tokenising: Executor
    places: Places
    metrics: Metrics
    journal: Keeps | None = None
    link: Link | None = None
