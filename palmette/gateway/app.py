"""The gateway: an HTTP server inside the caller's event loop, between agents and one engine.

    POST /s/{key}/v1/chat/completions      the session by URL path
    POST /v1/chat/completions              the session by ``Authorization: Bearer {key}``
    GET  /s/{key}/v1/models, /v1/models, /health

It installs no signal handlers and writes no access log, so a session's key appears nowhere but in its own URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from palmette.errors import UserError
from palmette.gateway import openai_chat, refusal
from palmette.gateway.call import Call
from palmette.gateway.dialect import Dialect
from palmette.gateway.dialect import Request as Asked
from palmette.gateway.incoming import key_of, name_of, read_body, while_connected
from palmette.gateway.refusal import Refusal
from palmette.gateway.session import Failure, Session
from palmette.gateway.stream import EventStream, events

DIALECTS: dict[str, Dialect] = {"/v1/chat/completions": openai_chat.DIALECT}
MODEL_NAME = "palmette"
PUBLIC_SAMPLING = Sampling(max_tokens=2048)  # of a session that a request without a rollout opens for itself


class Gateway:
    """Serves sessions over HTTP on ``host:port`` (port 0: any free one, known after `start`).

    With `public_key` the gateway also answers requests that belong to no session: each opens a throw-away session
    and gets the sampling it asks for. An empty `public_key` lets anybody in; any other must come as bearer token.
    More than `max_under_way` requests at once are answered 429; bodies over `max_body_bytes` 413.
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
        max_under_way: int = 1024,
        max_body_bytes: int = 32 << 20,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.host = host
        self.port = port
        self._public_key = public_key
        self._public_sampling = public_sampling
        self._max_under_way = max_under_way
        self._max_body_bytes = max_body_bytes
        self._under_way = 0
        self._sessions: dict[str, Session] = {}
        self._tokenising = ThreadPoolExecutor(1, "tokenising")
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve. Raises `UserError` when the address cannot be had."""
        listener = _bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="gateway")
        await self._server.ready.wait()

    async def close(self) -> None:
        """Close every session and stop serving, for good. Idempotent."""
        for key in list(self._sessions):
            self.close_session(key)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
        self._tokenising.shutdown(wait=False, cancel_futures=True)

    def open_session(self, sampling: Sampling, *, max_completion_tokens: int | None = None) -> Session:
        """Return a new session that samples by `sampling` whatever the agent asks; an answer may have at most
        `max_completion_tokens` and what the agent asks for, if that is less."""
        session = Session(sampling, max_completion_tokens=max_completion_tokens, tokenising=self._tokenising)
        self._sessions[session.key] = session
        return session

    def close_session(self, key: str) -> Session:
        """Stop what the session has under way and return it with its final tree. Raises `KeyError`."""
        session = self._sessions.pop(key)
        session.close()
        return session

    # ------------------------------------------------------------ routes

    def _app(self) -> Starlette:
        routes: list[Route] = [Route("/health", self._health, methods=["GET"])]
        for base in ("", "/s/{key}"):
            for path, dialect in DIALECTS.items():
                routes.append(Route(base + path, self._answering(dialect), methods=["POST"]))
            routes.append(Route(base + "/v1/models", self._models, methods=["GET"]))
        return Starlette(
            routes=routes,
            exception_handlers={
                Refusal: _refused,
                HTTPException: _not_served,
                ClientDisconnect: _left,
                Exception: _broken,
            },
        )

    def _answering(self, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            session = self._session_of(request)
            with self._admitted(session) as slot:
                body = await read_body(request, self._max_body_bytes)
                asked = dialect.read(body)
                name, again = name_of(request, body)
                call = session.ask(asked.ask, self.engine, self.renderer, name=name, again=again, live=asked.stream)
                if asked.stream:
                    return await self._streamed(request, session, asked, call, slot.pop_all())
                with call.following():
                    turn = await while_connected(request, session.turn(call))
                    call.delivered = True
                return Response(asked.write(turn, self.renderer), media_type="application/json")

        return answer

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
        if self._under_way >= self._max_under_way:
            session.failure = Failure.OVERLOADED
            raise refusal.overloaded(retry_after_s=1)
        self._under_way += 1
        with contextlib.ExitStack() as slot:
            slot.callback(self._leave)
            yield slot

    def _leave(self) -> None:
        self._under_way -= 1

    async def _models(self, request: Request) -> Response:
        if "key" in request.path_params:
            self._session_of(request)
        model = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "palmette"}
        return _json({"object": "list", "data": [model | {"max_model_len": self.engine.context_tokens}]})

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "sessions": len(self._sessions), "under_way": self._under_way})

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
            return Session(self._public_sampling, honour_sampling=True, tokenising=self._tokenising)
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key", kind="authentication_error")


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its host program and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is in use by another program" if taken else f"cannot be had ({error})"
        raise UserError(f"port {port} on {host} {why}: choose another, or 0 for any free one") from error
    listener.setblocking(False)
    return listener


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(_dialect_of(request).refuse(error), error.status, error.headers)


def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refused(request, Refusal(error.status_code, f"{error.detail}: no such route here."))


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _broken(request: Request, error: Exception) -> Response:
    return _refused(request, refusal.broken())


def _dialect_of(request: Request) -> Dialect:
    """Return the dialect whose errors the sender of a request understands, also where no route is."""
    path = request.url.path
    return next((dialect for end, dialect in DIALECTS.items() if path.endswith(end)), openai_chat.DIALECT)
