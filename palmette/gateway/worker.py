"""One of several processes behind the gateway's port: sessions live here, and are opened and read in another.

Started by `palmette.gateway.crew`, with two descriptors: a channel to it, and the socket that all of them listen on.
An answer leaves after the turn has arrived there, just as it leaves after it is in a journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from palmette.chat.template import Renderer
from palmette.gateway.app import Gateway
from palmette.gateway.channel import Broken, Channel, Failed
from palmette.gateway.crew import Start
from palmette.gateway.door import Door
from palmette.gateway.garbage import look_once
from palmette.gateway.lending import Borrowed, Streamed
from palmette.gateway.records import Opened, parse


class Worker:
    """Does what the crew says, and tells it what happens."""

    def __init__(self, listener: socket.socket) -> None:
        self.over = asyncio.Event()
        self.channel: Channel
        self._listener = listener
        self._gateway: Gateway
        self._engine: Borrowed
        self._ready = False
        self._early: list[tuple[str, int, list[Any]]] = []
        self._doing: set[asyncio.Task[None]] = set()

    def take(self, kind: str, number: int, said: list[Any]) -> None:
        """Take a message; those that come while this process starts wait until it has."""
        if kind == "start":
            self._do(self._start(number, msgspec.convert(said[0], Start)))
        elif not self._ready:
            self._early.append((kind, number, said))
        elif not self._engine.take(kind, number, said):
            self._obey(kind, number, said)

    # ------------------------------------------------------------ palmette.gateway.shared.Link

    def append(self, frame: bytes) -> asyncio.Future[None]:
        """Keep a turn in the other process."""
        return asyncio.ensure_future(self._kept(frame))

    def asked(self, key: str, told: tuple[str, bool, int, int]) -> None:
        """Say that a session was asked something."""
        self.channel.tell("asked", key, told)

    def failed(self, key: str, failure: str | None) -> None:
        """Say why a session's last call was not answered."""
        self.channel.tell("failed", key, failure)

    async def noted(self) -> None:
        """Wait until the other process has heard all of this."""
        with contextlib.suppress(Broken):
            await self.channel.ask("noted")[1]

    # ------------------------------------------------------------

    async def _start(self, number: int, start: Start) -> None:
        try:
            renderer = Renderer.from_dir(Path(start.model))
            if renderer.hash != start.hash:
                raise ValueError(f"{start.model} is not what it was when the gateway started")
            kind: Callable[..., Borrowed] = Streamed if start.engine.pop("streams") else Borrowed
            self._engine = kind(self.channel, **start.engine)
            self._gateway = Gateway(
                self._engine,
                renderer,
                host=start.host,
                port=start.port,
                public_key=start.public_key,
                public_sampling=start.public_sampling,
                max_under_way=start.max_under_way,
                max_at_engine=start.max_at_engine,
                max_body_bytes=start.max_body_bytes,
                max_delay_s=start.max_delay_s,
            )
            door = Door(Path(start.doors), start.index, start.processes)
            await self._gateway.work(self, self._listener, door, [Path(path) for path in start.journal], start.keys)
        except Exception as error:  # told to whoever started this process
            self.channel.fail(number, "start", f"{type(error).__name__}: {error}")
            return
        look_once()
        self._ready = True
        for kind_of, number_of, said in self._early:
            self.take(kind_of, number_of, said)
        self._early.clear()
        self.channel.answer(number)

    def _obey(self, kind: str, number: int, said: list[Any]) -> None:
        match kind:
            case "open":
                record = parse(said[0])
                assert isinstance(record, Opened)
                self._gateway.open_as(record)
            case "close":
                with contextlib.suppress(KeyError):
                    self._gateway.close_session(said[0])
            case "drain":
                self._do(self._drain(number, said[0]))
            case "count":
                self.channel.answer(number, self._gateway.metrics.state(self._gateway.gauges()))
            case "stop":
                self._do(self._stop(number))
            case _:
                raise ValueError(f"the crew says {kind!r}, which no worker knows")

    async def metrics(self) -> str:
        """Return what all workers counted."""
        return await self.channel.ask("metrics")[1]

    async def _kept(self, frame: bytes) -> None:
        try:
            await self.channel.ask("turn", frame)[1]
        except (Failed, Broken) as error:
            raise OSError(str(error)) from None

    async def _drain(self, number: int, within_s: float) -> None:
        self.channel.answer(number, await self._gateway.drain(within_s))

    async def _stop(self, number: int) -> None:
        await self._gateway.close()
        self.channel.answer(number)
        self.channel.close()

    def _do(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)


async def work(channel: int, listener: int) -> None:
    """Be a worker until the other end of the channel hangs up."""
    worker = Worker(socket.socket(fileno=listener))
    end = socket.socket(fileno=channel)
    worker.channel = await Channel.over(end, worker.take, worker.over.set)
    await worker.over.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who started us drains first
    uvloop.run(work(int(sys.argv[1]), int(sys.argv[2])))
    os._exit(0)  # not held up by threads that tokenise
