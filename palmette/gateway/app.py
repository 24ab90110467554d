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
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, TypeVar

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, Sampling
from palmette.errors import UserError
from palmette.gateway import openai_chat, refusal
from palmette.gateway.refusal import Refusal
from palmette.gateway.session import Failure, Session

MODEL_NAME = "palmette"
PUBLIC_SAMPLING = Sampling(max_tokens=2048)  # of a session that a request without a rollout opens for itself

_T = TypeVar("_T")


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
        chat = "/v1/chat/completions"
        return Starlette(
            routes=[
                Route("/s/{key}" + chat, self._chat, methods=["POST"]),
                Route(chat, self._chat, methods=["POST"]),
                Route("/s/{key}/v1/models", self._models, methods=["GET"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            exception_handlers={
                Refusal: _refused,
                HTTPException: _not_served,
                ClientDisconnect: _left,
                Exception: _broken,
            },
        )

    async def _chat(self, request: Request) -> Response:
        session = self._session_of(request)
        if self._under_way >= self._max_under_way:
            session.failure = Failure.OVERLOADED
            raise refusal.overloaded(retry_after_s=1)
        self._under_way += 1
        try:
            body = await _body(request, self._max_body_bytes)
            asked = openai_chat.read(body)
            answering = session.answer(asked.ask, self.engine, self.renderer, once=_once(request, body))
            turn = await _while_connected(request, answering)
        finally:
            self._under_way -= 1
        if asked.stream:
            events = openai_chat.stream(asked, turn, self.renderer)
            return StreamingResponse(
                _each(events), media_type="text/event-stream", headers={"cache-control": "no-cache"}
            )
        return Response(openai_chat.write(asked, turn, self.renderer), media_type="application/json")

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
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        session = self._sessions.get(bearer)
        if session is not None:
            return session
        if self._public_key is not None and (
            not self._public_key or secrets.compare_digest(bearer.encode(), self._public_key.encode())
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


async def _body(request: Request, limit: int) -> bytes:
    """Return the body. Raises `Refusal` (413) as soon as it is known to pass `limit` bytes."""
    too_large = Refusal(413, f"The request body is larger than {limit} bytes.", code="request_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


async def _while_connected(request: Request, answering: Coroutine[Any, Any, _T]) -> _T:
    """Await `answering`, cancelling it when the client goes away. Raises `ClientDisconnect`."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _once(request: Request, body: bytes) -> str | None:
    """Return the name under which a retry of this request is recognised: its idempotency key and its content."""
    name = request.headers.get("idempotency-key") or request.headers.get("x-request-id")
    return f"{name}/{blake2b(body, digest_size=16).hexdigest()}" if name else None


async def _each(events: Iterator[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(error.body, error.status, error.headers)


def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json(Refusal(error.status_code, f"{error.detail}: no such route here.").body, error.status_code)


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def _broken(request: Request, error: Exception) -> Response:
    return _json(Refusal(500, "The gateway failed; its log says why.", kind="server_error").body, 500)
