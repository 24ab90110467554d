"""Several processes behind one port, seen from the one that has the engine, opens the sessions and reads their trees.

Each session lives in one worker, which its key names (`palmette.gateway.door`). This process keeps a copy of it, made
of the records that would go to a journal: a worker sends each turn before it answers, and is told when it is kept. So
all that is read of a session here is what the agent has been told, and a journal is written here as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from palmette.engine.api import Sampling
from palmette.errors import UserError
from palmette.gateway.channel import Broken, Channel, Failed
from palmette.gateway.key import new_key, owner_of
from palmette.gateway.lending import Lender
from palmette.gateway.metrics import Metrics
from palmette.gateway.records import Opened, write

_LOG = logging.getLogger("palmette.gateway")
_START_S, _STOP_S = 120.0, 10.0
_PAUSE_S = 60.0  # at most, before a worker that keeps dying is started once more


class Start(msgspec.Struct, kw_only=True):
    """What a worker has to know before it listens. `journal` names files to find the sessions `keys` in."""

    index: int
    processes: int
    doors: str
    model: str
    hash: str
    engine: dict[str, Any]
    host: str
    port: int
    public_key: str | None
    public_sampling: Sampling
    max_under_way: int
    max_at_engine: int
    max_body_bytes: int
    max_delay_s: float | None
    journal: list[str]
    keys: list[str]


class Crew:
    """The workers. `keep` keeps a turn's record, `note` hears of a session what is no turn, `lost` hears of its end.

    One that dies takes its sessions with it; another is started in its place, later each time it happens.
    """

    def __init__(
        self,
        processes: int,
        lender: Lender,
        *,
        keep: Callable[[bytes], Awaitable[None]],
        note: Callable[[str, str, Any], None],
        lost: Callable[[Callable[[str], bool]], None],
    ) -> None:
        self.processes = processes
        self._lender, self._keep, self._note, self._lost = lender, keep, note, lost
        self._channels: list[Channel | None] = [None] * processes
        self._listening: set[int] = set()
        self._programs: dict[int, asyncio.subprocess.Process] = {}
        self._listener: socket.socket | None = None
        self._start: dict[str, Any] = {}
        self._deaths = Counter[int]()
        self._replacing: set[asyncio.Task[None]] = set()
        self._directory: Path | None = None
        self._next = 0
        self._keeping: set[asyncio.Task[None]] = set()
        self._at_work = False
        self._before: list[tuple[str, str, bytes | str]] = []  # what is said before there are workers

    def key(self) -> str:
        """Return a new key of the worker whose turn it is."""
        alive = sorted(self._listening) or range(self.processes)
        self._next += 1
        return self._key_of(alive[self._next % len(alive)])

    def key_beside(self, key: str) -> str:
        """Return a new key of the worker that has the session of another."""
        return self._key_of(owner_of(key, self.processes))

    async def start(self, listener: socket.socket, start: dict[str, Any]) -> None:
        """Start the workers on a bound socket, with what they have to know. Raises `UserError` if one does not."""
        listener.listen(4096)
        self._listener, self._start = listener, start
        self._directory = Path(tempfile.mkdtemp(prefix="palmette-"))
        try:
            answers = [await self._launched(index) for index in range(self.processes)]
            async with asyncio.timeout(_START_S):
                await asyncio.gather(*answers)
        except (TimeoutError, Failed, Broken) as error:
            await self.close()
            raise UserError(f"a process of the gateway does not start ({error or 'no answer'})") from error
        self._at_work = True
        self._listening.update(range(self.processes))
        for key, kind, said in self._before:
            self._say(key, kind, said)
        self._before.clear()

    @property
    def under_way(self) -> int:
        """Number of requests that are with the engine."""
        return self._lender.under_way

    def opened(self, record: Opened) -> None:
        """Have a session, or a fork of one, where its key says."""
        self._say(record.key, "open", write(record))

    def closed(self, key: str) -> None:
        """Have a session no more."""
        self._say(key, "close", key)

    async def drained(self, within_s: float) -> bool:
        """Admit nobody from here on, and say whether all under way has ended in time."""
        return all(await self._all("drain", within_s, missing=True))

    async def metrics(self) -> str:
        """Return what all of them counted, in the text format of Prometheus."""
        metrics, gauges = Metrics(), Counter[str]()
        for state in await self._all("count"):
            gauges.update(metrics.join(state))
        return metrics.text(gauges)

    async def close(self) -> None:
        """Stop the workers. Idempotent."""
        self._at_work = False
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._all("stop")
        for channel in self._channels:
            if channel is not None:
                channel.close()
        for program in self._programs.values():
            try:
                await asyncio.wait_for(program.wait(), _STOP_S)
            except TimeoutError:
                program.kill()
                await program.wait()
        self._programs.clear()
        if self._listener is not None:
            self._listener.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    async def _launched(self, index: int) -> asyncio.Future[Any]:
        """Start a worker; return its answer once it listens."""
        assert self._listener is not None
        ours, theirs = socket.socketpair()
        passed = (theirs.fileno(), self._listener.fileno())
        command = [sys.executable, "-m", "palmette.gateway.worker", *map(str, passed)]
        self._programs[index] = await asyncio.create_subprocess_exec(
            *command, pass_fds=passed, stdin=asyncio.subprocess.DEVNULL
        )
        theirs.close()
        channel = await Channel.over(ours, partial(self._take, index), partial(self._ended, index))
        self._channels[index] = channel
        told = Start(
            index=index,
            processes=self.processes,
            doors=str(self._directory),
            engine=self._lender.terms(),
            **self._start,
        )
        return channel.ask("start", told)[1]

    async def _replaced(self, index: int) -> None:
        """Start a worker in the place of one that has ended; if it ends before it listens, that is one more death."""
        await asyncio.sleep(min(2.0 ** self._deaths[index] - 1, _PAUSE_S))
        self._deaths[index] += 1
        self._start = {**self._start, "journal": [], "keys": []}  # what was there at the start is not there any more
        with contextlib.suppress(Failed, Broken):
            await (await self._launched(index))
            self._listening.add(index)
            _LOG.warning("process %d of the gateway was started again", index)

    def _key_of(self, index: int) -> str:
        while owner_of(key := new_key(), self.processes) != index:
            pass
        return key

    def _say(self, key: str, kind: str, said: bytes | str) -> None:
        channel = self._channels[owner_of(key, self.processes)]
        if channel is not None:
            channel.tell(kind, said)
        elif not self._programs:
            self._before.append((key, kind, said))

    async def _all(self, kind: str, *said: Any, missing: Any = None) -> list[Any]:
        """Ask all workers that are there; return their answers, `missing` for one that ends meanwhile."""
        asked = [channel.ask(kind, *said)[1] for channel in self._channels if channel is not None]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = [missing if isinstance(answer, BaseException) else answer for answer in answers]
        return [answer for answer in told if answer is not None]

    def _take(self, index: int, kind: str, number: int, said: list[Any]) -> None:
        channel = self._channels[index]
        if channel is None or self._lender.take(channel, kind, number, said):
            return
        match kind:
            case "turn":
                self._do(self._kept(channel, number, self._keep(said[0])))
            case "asked" | "failed":
                self._note(kind, said[0], said[1])
            case "noted":
                channel.answer(number)
            case "metrics":
                self._do(self._told(channel, number))
            case _:
                raise ValueError(f"a worker says {kind!r}, which nobody knows here")

    async def _kept(self, channel: Channel, number: int, keeping: Awaitable[None]) -> None:
        try:
            await keeping
        except (OSError, KeyError) as error:
            channel.fail(number, "kept", str(error))
        else:
            channel.answer(number)

    async def _told(self, channel: Channel, number: int) -> None:
        channel.answer(number, await self.metrics())

    def _ended(self, index: int) -> None:
        channel, self._channels[index] = self._channels[index], None
        self._listening.discard(index)
        if channel is not None:
            self._lender.forget(channel)
        if self._at_work:
            _LOG.error("process %d of the gateway has ended; its sessions are lost", index)
            self._lost(lambda key: owner_of(key, self.processes) == index)
            task = asyncio.ensure_future(self._replaced(index))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    def _do(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
