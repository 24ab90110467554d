"""What the gateway answers over HTTP.

POST /s/{key}/v1/chat/completions      the session by URL path
POST /v1/chat/completions              the session by ``Authorization: Bearer {key}``
GET  /s/{key}/v1/models, /v1/models, /health
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, Sampling
from palmette.gateway import anthropic, gemini, openai_chat, openai_completions, openai_responses, refusal
from palmette.gateway.asker import dialect_of, from_google
from palmette.gateway.call import Call
from palmette.gateway.dialect import Dialect
from palmette.gateway.dialect import Request as Asked
from palmette.gateway.direct import Direct
from palmette.gateway.door import Door
from palmette.gateway.growing import Growing
from palmette.gateway.incoming import done_or_gone, key_of, name_of, read_body, while_connected
from palmette.gateway.metrics import MEDIA_TYPE, Counted
from palmette.gateway.openapi import describe
from palmette.gateway.places import Full
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What requests without a session may do: with a `key` ("": any) each gets a throw-away session that samples by
    `sampling` and what it asks for. Nobody may with None."""

    key: str | None
    sampling: Sampling


class Routes:
    """The routes to `sessions`, which others open and close; `model` and `gauges` tell of the moment.

    Where sessions live in several processes, `door` says which belong here, and `shared` has a link to who opens them.
    """

    def __init__(
        self,
        model: Callable[[], tuple[Engine, Renderer]],
        sessions: Mapping[str, Session],
        shared: Shared,
        *,
        growing: Growing,
        gauges: Callable[[], Mapping[str, float]],
        public: Public,
        max_body_bytes: int,
        door: Door | None = None,
    ) -> None:
        self._model_now, self._sessions, self._shared = model, sessions, shared
        self._metrics, self._places, self._link = shared.metrics, shared.places, shared.link
        self._growing, self._gauges, self._public, self._door = growing, gauges, public, door
        self._max_body_bytes = max_body_bytes

    @property
    def _engine(self) -> Engine:
        return self._model_now()[0]

    @property
    def _renderer(self) -> Renderer:
        return self._model_now()[1]

    def app(self) -> ASGIApp:
        """Return the application, whose answers are counted."""
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/openapi.json", _openapi, methods=["GET"]),
            Route("/metrics", self._tell_metrics, methods=["GET"]),
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
        direct = {path: partial(self._answer, dialect=each) for path, each in DIALECTS.items()}
        return Counted(Direct(rest, direct, _refused), self._metrics, NAMES)

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
                self._engine,
                self._renderer,
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
            return Response(asked.write(turn, self._renderer), media_type="application/json")

    async def _count(self, request: Request, dialect: Dialect, write: Callable[[int], dict[str, Any]]) -> Response:
        session = await self._session_of(request)
        with self._admitted(session):
            asked = dialect.read(await read_body(request, self._max_body_bytes))
            return _json(write(await session.count(asked.ask, self._renderer)))

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
                async with contextlib.aclosing(events(asked, session, call, self._renderer)) as told:
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
                self._metrics.count("rejected_total", f'reason="{full.reason}"')
                wait_s = max(1, min(30, math.ceil(self._metrics.mean_s)))
                refused = refusal.draining(wait_s) if full.reason == "draining" else None
                raise refused or refusal.overloaded(wait_s, full.reason) from None
            yield slot

    async def _models(self, request: Request) -> Response:
        """List the one model, in the words of all dialects at once but Google's, which has a path of its own."""
        await self._check_key(request)
        if from_google(request):
            return _json({"models": [google_model(MODEL_NAME, self._engine)]})
        ends = {"first_id": MODEL_NAME, "last_id": MODEL_NAME, "has_more": False}
        return _json({"object": "list", "data": [openai_model(MODEL_NAME, self._engine)]} | ends)

    async def _model(self, request: Request) -> Response:
        """Describe the model under the name that was asked for: a session has one model, reached under any name."""
        await self._check_key(request)
        name = request.path_params["name"]
        describe = google_model if from_google(request) else openai_model
        return _json(describe(name, self._engine))

    async def _health(self, request: Request) -> Response:
        draining = self._places.draining
        told = {"sessions": len(self._sessions), "under_way": self._places.under_way}
        return _json({"status": "draining" if draining else "ok"} | told, 503 if draining else 200)

    async def _tell_metrics(self, request: Request) -> Response:
        """Tell what was counted, of all sessions together."""
        told = await self._link.metrics() if self._link else self._metrics.text(self._gauges())
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
        if self._public.key is not None and (
            not self._public.key or secrets.compare_digest(key.encode(), self._public.key.encode())
        ):
            return Session(self._public.sampling, honour_sampling=True, shared=self._shared, throwaway=True)
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
