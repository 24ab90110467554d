"""The gateway: an HTTP server inside the caller's event loop, between agents and one engine.

It installs no signal handlers and writes no access log, so a session's key appears nowhere but in its own URL.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, Sampling
from palmette.gateway.crew import Crew
from palmette.gateway.diary import Diary
from palmette.gateway.door import Door
from palmette.gateway.folding import FOLD_BYTES
from palmette.gateway.growing import Growing
from palmette.gateway.guided import Guided
from palmette.gateway.journal import Sync, files
from palmette.gateway.lending import Lender
from palmette.gateway.listen import Connection, Server, bind
from palmette.gateway.metrics import Metrics
from palmette.gateway.pace import Pace
from palmette.gateway.places import Places
from palmette.gateway.records import Opened, Recorded, parse
from palmette.gateway.recover import recover, replay
from palmette.gateway.routes import Public, Routes
from palmette.gateway.session import Asked, Failure, Session
from palmette.gateway.shared import Link, Shared

PUBLIC_SAMPLING = Sampling(max_tokens=2048)  # of a session that a request without a rollout opens for itself


class Gateway:
    """Serves sessions over HTTP on ``host:port`` (port 0: any free one, known after `start`).

    With `public_key` the gateway also answers requests that belong to no session: each opens a throw-away session
    and gets the sampling it asks for. An empty `public_key` lets anybody in; any other must come as bearer token.
    More than `max_under_way` requests at once, or a quarter of them of one session, are answered 429; at most
    `max_at_engine` of them are with the engine, sessions taking turns. Bodies over `max_body_bytes` are answered 413.
    With `max_delay_s` requests that would have to wait longer for this process are answered 429 (`gateway.pace`).

    With `processes` above 1 as many others answer on the port, each with its share of these bounds and of the sessions,
    and this one has the engine (`palmette.gateway.crew`).

    With a directory for a `journal` an answer leaves after its turn is written there (`palmette.gateway.journal.Sync`),
    and the sessions that a gateway before this one left open there are open again (`sessions`). With `hold_closed` so
    are those that it closed, unless `settle` was called since. What is done with is folded away from `fold_bytes` on.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        public_key: str | None = None,
        public_sampling: Sampling = PUBLIC_SAMPLING,
        max_under_way: int = 2048,
        max_at_engine: int = 512,
        max_body_bytes: int = 32 << 20,
        journal: Path | None = None,
        sync: Sync = "fsync",
        hold_closed: bool = False,
        fold_bytes: int = FOLD_BYTES,
        processes: int = 1,
        max_delay_s: float | None = None,
    ) -> None:
        if processes < 1:
            raise ValueError(f"a gateway has at least one process, not {processes}")
        self.engine = engine
        self.renderer = renderer
        self.host = host
        self.port = port
        self._public = Public(key=public_key, sampling=public_sampling)
        self._max_body_bytes = max_body_bytes
        self._max_delay_s = max_delay_s
        self._growing = Growing()
        self.metrics = Metrics()
        pace = Pace(max_delay_s) if max_delay_s is not None else None
        self._places = Places(at_engine=max_at_engine, under_way=max_under_way, pace=pace)
        self._tokenising = ThreadPoolExecutor(1, "tokenising")
        before = Shared(tokenising=self._tokenising, places=self._places, metrics=Metrics())
        self._recovered = files(journal) if journal is not None else []
        self._sessions = recover(self._recovered, before)
        self._diary = Diary(journal, sync=sync, hold=hold_closed, fold_bytes=fold_bytes) if journal else None
        self._shared = replace(before, metrics=self.metrics, journal=self._diary.journal if self._diary else None)
        self._door: Door | None = None
        self._crew: Crew | None = None
        if processes > 1:
            self._crew = Crew(processes, Lender(engine), keep=self._keep, note=self._note, lost=self._lost)
            self._shared = before  # the workers count, and what they send is written down as it comes
        for session in self._sessions.values():
            session.join(self._shared)
        self._watching: list[asyncio.Task[None]] = []
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._adopting: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Bind and serve. Raises `UserError` when the address cannot be had, or a process does not start."""
        listener = bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        if self._crew is not None:
            await self._crew.start(listener, self._orders(self._crew.processes))
            return
        await self._serve(listener, Connection)

    async def work(self, link: Link, listener: socket.socket, door: Door, journal: list[Path], keys: list[str]) -> None:
        """Serve as one of the processes of another gateway, which opens and reads the sessions over `link`.

        Of the sessions in the files of a `journal` those of the `keys` that belong here are open again.
        """
        self._door = door
        self._shared = replace(self._shared, journal=link, link=link)
        here = [key for key in keys if not door.elsewhere(key)]
        found = recover(journal, replace(self._shared, journal=None, link=None, metrics=Metrics())) if here else {}
        self._sessions = {key: found[key] for key in here}
        for session in self._sessions.values():
            session.join(self._shared)
        server = await self._serve(listener, partial(Guided, door=door))
        loop = asyncio.get_running_loop()

        def adopt(connection: socket.socket, read: bytes) -> None:
            made = partial(Guided, server.config, server.server_state, {}, door=door, read=read)
            self._adopting.add(task := asyncio.ensure_future(loop.connect_accepted_socket(made, connection)))
            task.add_done_callback(self._adopting.discard)

        door.open(adopt)

    async def _serve(self, listener: socket.socket, connection: Any) -> Server:
        routes = Routes(
            lambda: (self.engine, self.renderer),
            self._sessions,
            self._shared,
            growing=self._growing,
            gauges=self.gauges,
            public=self._public,
            max_body_bytes=self._max_body_bytes,
            door=self._door,
        )
        config = uvicorn.Config(
            routes.app(),
            proxy_headers=False,
            loop="none",
            http=connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=4096,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="gateway")
        await self._server.ready.wait()
        self._watching.append(asyncio.create_task(self.metrics.watch_loop(), name="loop lag"))
        if self._places.pace is not None:
            self._watching.append(asyncio.create_task(self._places.pace.watch(), name="pace"))
        return self._server

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests from here on (503); return when all under way have ended, False if not in time."""
        return await (self._crew or self._places).drained(within_s)

    @property
    def under_way(self) -> int:
        """Number of requests that are being answered."""
        return self._crew.under_way if self._crew else self._places.under_way

    async def close(self) -> None:
        """Close every session and stop serving, for good. Idempotent."""
        for key in list(self._sessions):
            self.close_session(key)
        if self._crew is not None:
            await self._crew.close()
        if self._door is not None:
            self._door.close()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
        for watching in self._watching:
            watching.cancel()
        if self._diary is not None:
            await self._diary.close()
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    def open_session(self, sampling: Sampling, *, max_completion_tokens: int | None = None, label: str = "") -> Session:
        """Return a new session that samples by `sampling` whatever the agent asks; an answer may have at most
        `max_completion_tokens` and what the agent asks for, if that is less. The journal keeps its `label`."""
        key = self._crew.key() if self._crew else None
        session = Session(
            sampling, max_completion_tokens=max_completion_tokens, shared=self._shared, key=key, label=label
        )
        return self._opened(session, Opened(session.key, sampling, max_completion_tokens, label=label))

    def fork_session(self, key: str, sampling: Sampling) -> Session:
        """Return a new session that goes on from where an open one is (`Session.forked`). Raises `KeyError`."""
        beside = self._crew.key_beside(key) if self._crew else None
        session = self._sessions[key].forked(sampling, key=beside)
        return self._opened(session, Opened(session.key, sampling, forked_from=key, label=session.label))

    def close_session(self, key: str) -> Session:
        """Stop what the session has under way and return it with its final tree. Raises `KeyError`."""
        session = self._sessions.pop(key)
        self._growing.forget(key)
        session.close()
        if self._diary is not None:
            self._diary.closed(key)
        if self._crew is not None:
            self._crew.closed(key)
        return session

    def settle(self) -> None:
        """Be done with all sessions that were closed: what they said is kept elsewhere (see `hold_closed`)."""
        if self._diary is not None:
            self._diary.settle()

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open sessions by their keys."""
        return self._sessions

    def gauges(self) -> dict[str, float]:
        """Return what is the case at this moment, for metrics."""
        return {
            "sessions_open": len(self._sessions),
            "under_way": self._places.under_way,
            "at_engine": self._places.taken,
            "waiting": self._places.waiting,
        }

    # ------------------------------------------------------------ several processes

    def open_as(self, record: Opened) -> None:
        """Have a session, or a fork of one, that another process has opened."""
        if record.forked_from is not None:
            session = self._sessions[record.forked_from].forked(record.sampling, key=record.key)
        else:
            session = Session(
                record.sampling,
                max_completion_tokens=record.cap,
                shared=self._shared,
                key=record.key,
                label=record.label,
            )
        self._sessions[record.key] = session

    def _opened(self, session: Session, record: Opened) -> Session:
        self._sessions[session.key] = session
        if self._diary is not None:
            self._diary.opened(record)
        if self._crew is not None:
            self._crew.opened(record)
        return session

    def _orders(self, processes: int) -> dict[str, Any]:
        """Return what each worker has to know."""
        return {
            "model": str(self.renderer.source),
            "hash": self.renderer.hash,
            "host": self.host,
            "port": self.port,
            "public_key": self._public.key,
            "public_sampling": self._public.sampling,
            "max_under_way": math.ceil(self._places.most / processes),
            "max_at_engine": math.ceil(self._places.at_engine / processes),
            "max_body_bytes": self._max_body_bytes,
            "max_delay_s": self._max_delay_s,
            "journal": [str(path) for path in self._recovered],
            "keys": list(self._sessions),
        }

    async def _keep(self, frame: bytes) -> None:
        """Record a worker's turn, and write it down. Raises `KeyError` for a session that is closed, and `OSError`."""
        record = parse(frame)
        assert isinstance(record, Recorded)
        replay(self._sessions[record.key], record)
        if self._diary is not None:
            await self._diary.journal.append(frame)

    def _note(self, kind: str, key: str, told: Any) -> None:
        session = self._sessions.get(key)
        if session is not None and kind == "asked":
            dialect, streamed, messages, tools = told
            session.requests.append(Asked(dialect=dialect, streamed=streamed, messages=messages, tools=tools))
        elif session is not None:
            session.failure = Failure(told) if told is not None else None

    def _lost(self, theirs: Callable[[str], bool]) -> None:
        for key, session in self._sessions.items():
            if theirs(key):
                session.failure = Failure.ENGINE_ERROR
