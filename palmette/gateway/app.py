"""The gateway: an HTTP server inside the caller's event loop, between agents and one engine.

    POST /s/{key}/v1/chat/completions      the session by URL path
    POST /v1/chat/completions              the session by ``Authorization: Bearer {key}``
    GET  /s/{key}/v1/models, /v1/models, /health

It installs no signal handlers and writes no access log, so a session's key appears nowhere but in its own URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, Sampling
from palmette.gateway import anthropic, gemini, openai_chat, openai_completions, openai_responses, refusal
from palmette.gateway.asker import dialect_of, from_google
from palmette.gateway.call import Call
from palmette.gateway.crew import Crew
from palmette.gateway.dialect import Dialect
from palmette.gateway.dialect import Request as Asked
from palmette.gateway.diary import Diary
from palmette.gateway.direct import Direct
from palmette.gateway.door import Door
from palmette.gateway.folding import FOLD_BYTES
from palmette.gateway.growing import Growing
from palmette.gateway.guided import Guided
from palmette.gateway.incoming import done_or_gone, key_of, name_of, read_body, while_connected
from palmette.gateway.journal import Sync, files
from palmette.gateway.lending import Lender
from palmette.gateway.listen import Connection, Server, bind
from palmette.gateway.metrics import MEDIA_TYPE, Counted, Metrics
from palmette.gateway.openapi import describe
from palmette.gateway.places import Full, Places
from palmette.gateway.records import Opened, Recorded, parse
from palmette.gateway.recover import recover, replay
from palmette.gateway.refusal import Refusal
from palmette.gateway.served import MODEL_NAME, google_model, openai_model
from palmette.gateway.session import Asked as Heard
from palmette.gateway.session import Failure, Session
from palmette.gateway.shared import Link, Shared
from palmette.gateway.stream import EventStream, events

DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": openai_chat.DIALECT,
    "/v1/completions": openai_completions.DIALECT,
    "/v1/responses": openai_responses.DIALECT,
    "/v1/messages": anthropic.DIALECT,
}
COUNTS: dict[str, tuple[Dialect, Callable[[int], dict[str, Any]]]] = {
    "/v1/responses/input_tokens": (openai_responses.DIALECT, openai_responses.count),
    "/v1/messages/count_tokens": (anthropic.DIALECT, anthropic.count),
}
NAMES = {path: dialect.name for path, dialect in DIALECTS.items()} | {  # of what metrics count, by the path's end
    "enerateContent": "gemini",
    "/metrics": "metrics",
    "/health": "health",
}
PUBLIC_SAMPLING = Sampling(max_tokens=2048)  # of a session that a request without a rollout opens for itself


class Gateway:
    """Serves sessions over HTTP on ``host:port`` (port 0: any free one, known after `start`).

    With `public_key` the gateway also answers requests that belong to no session: each opens a throw-away session
    and gets the sampling it asks for. An empty `public_key` lets anybody in; any other must come as bearer token.
    More than `max_under_way` requests at once, or a quarter of them of one session, are answered 429; at most
    `max_at_engine` of them are with the engine, sessions taking turns. Bodies over `max_body_bytes` are answered 413.

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
        self._public_key = public_key
        self._public_sampling = public_sampling
        self._max_body_bytes = max_body_bytes
        self._max_delay_s = max_delay_s
        self._growing = Growing()
        self.metrics = Metrics()
        self._places = Places(at_engine=max_at_engine, under_way=max_under_way)
        self._tokenising = ThreadPoolExecutor(1, "tokenising")
        before = Shared(tokenising=self._tokenising, places=self._places, metrics=Metrics())
        self._recovered = files(journal) if journal is not None else []
        self._sessions = recover(self._recovered, before)
        self._diary = Diary(journal, sync=sync, hold=hold_closed, fold_bytes=fold_bytes) if journal else None
        self._shared = replace(before, metrics=self.metrics, journal=self._diary.journal if self._diary else None)
        self._link: Link | None = None
        self._door: Door | None = None
        self._crew: Crew | None = None
        if processes > 1:
            self._crew = Crew(processes, Lender(engine), keep=self._keep, note=self._note, lost=self._lost)
            self._shared = before  # the workers count, and what they send is written down as it comes
        for session in self._sessions.values():
            session.join(self._shared)
        self._watching: asyncio.Task[None] | None = None
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
        self._link, self._door = link, door
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
        config = uvicorn.Config(
            Counted(self._app(), self.metrics, NAMES),
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
        self._watching = asyncio.create_task(self.metrics.watch_loop(), name="loop lag")
        return self._server

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests from here on (503); return when all under way have ended, False if not in time."""
        return await (self._crew or self._places).drained(within_s)

    @property
    def under_way(self) -> int:
        """Number of requests that are being answered."""
        return self._places.under_way

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
        if self._watching is not None:
            self._watching.cancel()
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
            "public_key": self._public_key,
            "public_sampling": self._public_sampling,
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
            session.requests.append(Heard(dialect=dialect, streamed=streamed, messages=messages, tools=tools))
        elif session is not None:
            session.failure = Failure(told) if told is not None else None

    def _lost(self, theirs: Callable[[str], bool]) -> None:
        for key, session in self._sessions.items():
            if theirs(key):
                session.failure = Failure.ENGINE_ERROR

    # ------------------------------------------------------------ routes

    def _app(self) -> Direct:
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/api/hello", _hello, methods=["GET"]),  # Claude Code knocks here first, with HEAD
            Route("/", _hello, methods=["GET"]),
        ]
        for base in ("", "/s/{key}"):
            if base:
                routes += [Route(base + "/api/hello", _hello, methods=["GET"]), Route(base, _hello, methods=["GET"])]
            for path, dialect in DIALECTS.items():  # POST goes directly; here is who says 405 to anything else
                routes.append(Route(base + path, partial(self._answer, dialect=dialect), methods=["POST"]))
            for path, (dialect, told) in COUNTS.items():
                routes.append(Route(base + path, partial(self._count, dialect=dialect, write=told), methods=["POST"]))
            for version in ("/v1beta", "/v1"):
                routes.append(Route(base + version + "/models", self._models, methods=["GET"]))
                routes.append(Route(base + version + "/models/{name:path}", self._model, methods=["GET"]))
                routes.append(Route(base + version + "/models/{name:path}", self._google, methods=["POST"]))
        rest = Starlette(
            routes=routes,
            exception_handlers={
                Refusal: _refused,
                HTTPException: _not_served,
                ClientDisconnect: _left,
                Exception: _broken,
            },
        )
        return Direct(rest, {path: partial(self._answer, dialect=each) for path, each in DIALECTS.items()}, _refused)

    async def _answer(self, request: Request, dialect: Dialect) -> Response:
        session = await self._session_of(request)
        try:
            return await self._answered(request, session, dialect)
        except Refusal:
            await session.noted()  # before the agent, and whoever reads the session, can go on
            raise

    async def _answered(self, request: Request, session: Session, dialect: Dialect) -> Response:
        with self._admitted(session) as slot:
            body = await read_body(request, self._max_body_bytes)
            asked, digest = self._growing.read(session.key if session.key in self._sessions else "", dialect, body)
            name, again = name_of(request, digest)
            call = session.ask(
                asked.ask,
                self.engine,
                self.renderer,
                name=name,
                again=again,
                live=asked.stream,
                dialect=dialect.name,
            )
            if asked.stream:
                return await self._streamed(request, session, asked, call, slot.pop_all())
            with call.following():
                if call.under_way is not None:
                    await done_or_gone(request, call.under_way)
                turn = await session.turn(call)
                call.delivered = True
            return Response(asked.write(turn, self.renderer), media_type="application/json")

    async def _count(self, request: Request, dialect: Dialect, write: Callable[[int], dict[str, Any]]) -> Response:
        session = await self._session_of(request)
        with self._admitted(session):
            asked = dialect.read(await read_body(request, self._max_body_bytes))
            return _json(write(await session.count(asked.ask, self.renderer)))

    async def _google(self, request: Request) -> Response:
        """Do what the verb behind the model's name says. Raises `HTTPException` (404) for another verb."""
        model, _, verb = request.path_params["name"].rpartition(":")
        if verb == "countTokens":
            return await self._count(request, replace(gemini.DIALECT, read=gemini.read_count), gemini.count)
        if verb not in ("generateContent", "streamGenerateContent"):
            raise HTTPException(404)
        stream, array = verb == "streamGenerateContent", request.query_params.get("alt") != "sse"
        return await self._answer(request, gemini.dialect(model, stream=stream, array=array))

    async def _streamed(
        self, request: Request, session: Session, asked: Asked, call: Call, slot: contextlib.ExitStack
    ) -> Response:
        """Return the stream once its first token is there; it holds the slot to its end. Raises `Refusal`."""

        async def held() -> AsyncGenerator[bytes, None]:
            with slot:
                async with contextlib.aclosing(events(asked, session, call, self.renderer)) as told:
                    async for event in told:
                        yield event

        rest = held()
        try:
            first = await while_connected(request, anext(rest))
        except BaseException:
            await rest.aclose()
            raise
        return EventStream(request, first, rest, media_type=asked.media_type, ping=asked.ping)

    @contextlib.contextmanager
    def _admitted(self, session: Session) -> Iterator[contextlib.ExitStack]:
        """Take one of the places of requests under way; the stack gives it back. Raises `Refusal` (429)."""
        with contextlib.ExitStack() as slot:
            try:
                slot.enter_context(self._places.admitted(session.key))
            except Full as full:
                session.failure = Failure.OVERLOADED
                self.metrics.count("rejected_total", f'reason="{full.reason}"')
                wait_s = max(1, min(30, math.ceil(self.metrics.mean_s)))
                refused = refusal.draining(wait_s) if full.reason == "draining" else None
                raise refused or refusal.overloaded(wait_s, full.reason) from None
            yield slot

    async def _models(self, request: Request) -> Response:
        """List the one model, in the words of all dialects at once but Google's, which has a path of its own."""
        await self._check_key(request)
        if from_google(request):
            return _json({"models": [google_model(MODEL_NAME, self.engine)]})
        ends = {"first_id": MODEL_NAME, "last_id": MODEL_NAME, "has_more": False}
        return _json({"object": "list", "data": [openai_model(MODEL_NAME, self.engine)]} | ends)

    async def _model(self, request: Request) -> Response:
        """Describe the model under the name that was asked for: a session has one model, reached under any name."""
        await self._check_key(request)
        name = request.path_params["name"]
        describe = google_model if from_google(request) else openai_model
        return _json(describe(name, self.engine))

    async def _health(self, request: Request) -> Response:
        draining = self._places.draining
        told = {"sessions": len(self._sessions), "under_way": self.under_way}
        return _json({"status": "draining" if draining else "ok"} | told, 503 if draining else 200)

    async def _metrics(self, request: Request) -> Response:
        """Tell what was counted, of all sessions together."""
        told = await self._link.metrics() if self._link else self.metrics.text(self.gauges())
        return Response(told, media_type=MEDIA_TYPE)

    async def _check_key(self, request: Request) -> None:
        """Refuse a path with a key that nobody issued. Raises `Refusal`."""
        if "key" in request.path_params:
            await self._session_of(request)

    async def _session_of(self, request: Request) -> Session:
        """Return the session a request belongs to. Raises `Refusal`: 404 by path, 401 by bearer token.

        Where another process opens the sessions, it may have done so just now. One that came behind a request of
        another session, on a connection that was not free to go, is refused (421).
        """
        key = request.path_params["key"] if "key" in request.path_params else key_of(request)
        session = self._sessions.get(key)
        if session is None and self._link is not None and key:
            if self._door is not None and self._door.elsewhere(key):
                raise refusal.misdirected()
            await self._link.noted()
            session = self._sessions.get(key)
        if session is not None:
            return session
        if "key" in request.path_params:
            raise refusal.unknown_session()
        if self._public_key is not None and (
            not self._public_key or secrets.compare_digest(key.encode(), self._public_key.encode())
        ):
            return Session(self._public_sampling, honour_sampling=True, shared=self._shared, throwaway=True)
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key", kind="authentication_error")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(dialect_of(request).refuse(error), error.status, error.headers)


def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refused(request, Refusal(error.status_code, f"{error.detail}: no such route here."))


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _broken(request: Request, error: Exception) -> Response:
    return _refused(request, refusal.broken())


async def _openapi(request: Request) -> Response:
    google = {
        f"/v1beta/models/{{name}}:{verb}": gemini.DIALECT for verb in ("generateContent", "streamGenerateContent")
    }
    counts = {path: dialect for path, (dialect, _) in COUNTS.items()}
    return _json(describe(DIALECTS | google, counts, ("/health", "/v1/models", "/v1beta/models")))


async def _hello(request: Request) -> Response:
    return _json({"service": "palmette gateway"})
