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
from palmette.gateway.dialect import Dialect
from palmette.gateway.dialect import Request as Asked
from palmette.gateway.diary import Diary
from palmette.gateway.direct import Direct
from palmette.gateway.folding import FOLD_BYTES
from palmette.gateway.growing import Growing
from palmette.gateway.incoming import done_or_gone, key_of, name_of, read_body, while_connected
from palmette.gateway.journal import Sync
from palmette.gateway.listen import Connection, Server, bind
from palmette.gateway.metrics import MEDIA_TYPE, Counted, Metrics
from palmette.gateway.openapi import describe
from palmette.gateway.places import Full, Places
from palmette.gateway.records import Opened
from palmette.gateway.recover import recover
from palmette.gateway.refusal import Refusal
from palmette.gateway.served import MODEL_NAME, google_model, openai_model
from palmette.gateway.session import Failure, Session
from palmette.gateway.shared import Shared
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
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.host = host
        self.port = port
        self._public_key = public_key
        self._public_sampling = public_sampling
        self._max_body_bytes = max_body_bytes
        self._growing = Growing()
        self.metrics = Metrics()
        self._places = Places(at_engine=max_at_engine, under_way=max_under_way)
        self._tokenising = ThreadPoolExecutor(1, "tokenising")
        before = Shared(tokenising=self._tokenising, places=self._places, metrics=Metrics())
        self._sessions = recover(journal, before) if journal is not None else {}
        self._diary = Diary(journal, sync=sync, hold=hold_closed, fold_bytes=fold_bytes) if journal else None
        self._shared = replace(before, metrics=self.metrics, journal=self._diary.journal if self._diary else None)
        for session in self._sessions.values():
            session.join(self._shared)
        self._watching: asyncio.Task[None] | None = None
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve. Raises `UserError` when the address cannot be had."""
        listener = bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            Counted(self._app(), self.metrics, NAMES),
            proxy_headers=False,
            loop="none",
            http=Connection,
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

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests from here on (503); return when all under way have ended, False if not in time."""
        return await self._places.drained(within_s)

    @property
    def under_way(self) -> int:
        """Number of requests that are being answered."""
        return self._places.under_way

    async def close(self) -> None:
        """Close every session and stop serving, for good. Idempotent."""
        for key in list(self._sessions):
            self.close_session(key)
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
        session = Session(sampling, max_completion_tokens=max_completion_tokens, shared=self._shared, label=label)
        self._sessions[session.key] = session
        if self._diary is not None:
            self._diary.opened(Opened(session.key, sampling, max_completion_tokens, label=label))
        return session

    def fork_session(self, key: str, sampling: Sampling) -> Session:
        """Return a new session that goes on from where an open one is (`Session.forked`). Raises `KeyError`."""
        session = self._sessions[key].forked(sampling)
        self._sessions[session.key] = session
        if self._diary is not None:
            self._diary.opened(Opened(session.key, sampling, forked_from=key, label=session.label))
        return session

    def close_session(self, key: str) -> Session:
        """Stop what the session has under way and return it with its final tree. Raises `KeyError`."""
        session = self._sessions.pop(key)
        self._growing.forget(key)
        session.close()
        if self._diary is not None:
            self._diary.closed(key)
        return session

    def settle(self) -> None:
        """Be done with all sessions that were closed: what they said is kept elsewhere (see `hold_closed`)."""
        if self._diary is not None:
            self._diary.settle()

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open sessions by their keys."""
        return self._sessions

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
        session = self._session_of(request)
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
        session = self._session_of(request)
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
        self._check_key(request)
        if from_google(request):
            return _json({"models": [google_model(MODEL_NAME, self.engine)]})
        ends = {"first_id": MODEL_NAME, "last_id": MODEL_NAME, "has_more": False}
        return _json({"object": "list", "data": [openai_model(MODEL_NAME, self.engine)]} | ends)

    async def _model(self, request: Request) -> Response:
        """Describe the model under the name that was asked for: a session has one model, reached under any name."""
        self._check_key(request)
        name = request.path_params["name"]
        describe = google_model if from_google(request) else openai_model
        return _json(describe(name, self.engine))

    async def _health(self, request: Request) -> Response:
        draining = self._places.draining
        told = {"sessions": len(self._sessions), "under_way": self.under_way}
        return _json({"status": "draining" if draining else "ok"} | told, 503 if draining else 200)

    async def _metrics(self, request: Request) -> Response:
        """Tell what was counted, of all sessions together."""
        gauges = {
            "sessions_open": len(self._sessions),
            "under_way": self._places.under_way,
            "at_engine": self._places.taken,
            "waiting": self._places.waiting,
        }
        return Response(self.metrics.text(gauges), media_type=MEDIA_TYPE)

    def _check_key(self, request: Request) -> None:
        """Refuse a path with a key that nobody issued. Raises `Refusal`."""
        if "key" in request.path_params:
            self._session_of(request)

    def _session_of(self, request: Request) -> Session:
        """Return the session a request belongs to. Raises `Refusal`: 404 by path, 401 by bearer token."""
        if "key" in request.path_params:
            session = self._sessions.get(request.path_params["key"])
            if session is None:
                raise refusal.unknown_session()
            return session
        key = key_of(request)
        session = self._sessions.get(key)
        if session is not None:
            return session
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
