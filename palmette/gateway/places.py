"""Places at the engine, given to sessions in turn, and the bound on all that is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterator

from palmette.gateway.pace import Pace

_LEAST_SHARE = 16  # of requests under way: parallel sub-agents of one agent


class Full(Exception):
    """No more requests can be under way; `reason` is ``gateway_full``, ``gateway_slow``, ``session_full`` or
    ``draining``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Places:
    """At most `at_engine` requests are with the engine; `under_way` are admitted, and a quarter of these of a session.

    Whoever is admitted waits for a place at the engine; places that become free go round the sessions that wait, so
    that one with many requests delays the others by one each, not by all of them. With a `pace` no more are admitted
    than it allows of those that neither are with the engine nor wait for a place there.
    """

    def __init__(self, *, at_engine: int, under_way: int, pace: Pace | None = None) -> None:
        self.at_engine, self.most = at_engine, under_way
        self.share = max(_LEAST_SHARE, under_way // 4)
        self.pace = pace
        self.taken = 0  # places at the engine
        self.draining = False
        self._admitted: Counter[str] = Counter()
        self._under_way = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def under_way(self) -> int:
        """Number of admitted requests."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a place at the engine."""
        return sum(map(len, self._waiting.values()))

    @contextlib.contextmanager
    def admitted(self, session: str) -> Iterator[None]:
        """Be one of the requests under way. Raises `Full`."""
        if self.draining:
            raise Full("draining")
        if self._under_way >= self.most:
            raise Full("gateway_full")
        if self._admitted[session] >= self.share:
            raise Full("session_full")
        if self.pace is not None and not self.pace.admits(self._under_way - self.taken - self.waiting):
            raise Full("gateway_slow")
        self._admitted[session] += 1
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            self._admitted[session] -= 1
            if not self._admitted[session]:
                del self._admitted[session]
            if not self._under_way:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def place(self, session: str) -> AsyncIterator[None]:
        """Have a place at the engine, after those whose turn is before."""
        if self.taken < self.at_engine and not self._waiting:
            self.taken += 1
        else:
            await self._wait(session)
        try:
            yield
        finally:
            self.taken -= 1
            self._pass_on()

    async def drained(self, within_s: float) -> bool:
        """Admit nobody from here on, and say whether all under way has ended in time."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return not self._under_way

    async def _wait(self, session: str) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session, deque()).append(called)
        try:
            await called  # whoever calls has taken the place for us
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self.taken -= 1
                self._pass_on()
            elif session in self._waiting:
                with contextlib.suppress(ValueError):
                    self._waiting[session].remove(called)
                if not self._waiting[session]:
                    del self._waiting[session]
            raise

    def _pass_on(self) -> None:
        while self._waiting and self.taken < self.at_engine:
            session, queue = next(iter(self._waiting.items()))
            called = queue.popleft()
            if queue:
                self._waiting.move_to_end(session)
            else:
                del self._waiting[session]
            if not called.done():
                self.taken += 1
                called.set_result(None)
