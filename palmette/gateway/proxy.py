"""A recording proxy: passes requests on to somebody's endpoint as they are, and keeps what was said as text.

    POST /s/{name}/v1/chat/completions     recorded under `name`; without it, under "default"
    POST /s/{name}/v1/responses, /v1/messages, /v1beta/models/MODEL:generateContent: the same, in other dialects
    anything else                          passed on, not recorded

What it records is **not exact**: the endpoint's tokens, log-probs and weights are not known, so there is no tree of
tokens. The endpoint's key comes from this program's environment and is put into each request on its way out; it is
neither stored nor written anywhere. Recorded is what was answered whole, whatever the status was before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from palmette.engine.api import Completion, FinishReason
from palmette.errors import UserError
from palmette.gateway.ask import Ask
from palmette.gateway.call import Turn
from palmette.gateway.identity import Known
from palmette.gateway.incoming import key_of, read_body, while_connected
from palmette.gateway.listen import Connection, Server, bind
from palmette.gateway.overheard import LISTENINGS, Ear, Listening, Overheard, overhear, read_asked
from palmette.gateway.refusal import Refusal, openai_error
from palmette.gateway.transcript import Transcript
from palmette.trajectory.tree import ROOT, Tree

_MAX_BODY_BYTES = 64 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=900)
_NOT_PASSED_ON = {
    "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
    "proxy-authorization", "proxy-authenticate", "accept-encoding", "expect",
}  # fmt: skip
_NOT_PASSED_BACK = _NOT_PASSED_ON | {"content-encoding", "set-cookie"}
_KEYS = ("authorization", "x-api-key", "x-goog-api-key")
_NO_TREE = Tree()
_NO_TOKENS = Completion(token_ids=(), logprobs=(), finish_reason=FinishReason.STOP, version=0)


class Recording:
    """One conversation tree as text: its transcript, how many answers are in it, and the tools last offered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.transcript = Transcript()
        self.turns = 0
        self.tools: list[dict[str, Any]] = []
        self._known = Known()

    def add(self, ask: Ask, heard: Overheard) -> None:
        """Keep one request and its answer."""
        walk = self._known.walk(ask.messages, ask.tools)
        turn = Turn(
            id="",
            messages=ask.messages,
            tools=ask.tools,
            prompt_tokens=0,
            completion=_NO_TOKENS,
            answer=heard.message,
            tree=_NO_TREE,
            leaf=ROOT,
            number=self.turns,
        )
        counts = {"prompt_tokens": heard.prompt_tokens, "completion_tokens": heard.completion_tokens}
        end = self._known.learn(walk, turn)
        self.transcript.add(ask.messages, walk, heard.message, end, self.turns, **counts, leaf=None)
        self.turns += 1
        self.tools = [
            {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
            for tool in ask.tools
        ] or self.tools


class Proxy:
    """Passes requests to ``host:port`` on to `upstream`, such as ``https://api.openai.com/v1``.

    `secret` is the endpoint's key, put into requests in place of what the client sent, as their dialect does. With
    `key`, a client must show that one, which goes no further. `on_turn` is called with a recording that has one answer
    more. `passed` counts requests, `missed` those whose text could not be read.
    """

    def __init__(
        self,
        upstream: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        secret: str = "",
    ) -> None:
        if not upstream.startswith(("http://", "https://")):
            raise UserError(f"{upstream} is no address of an endpoint: it must begin with http:// or https://")
        if "@" in upstream or "?" in upstream:
            raise UserError("the endpoint's address must not hold a key or a query: put the key into the environment")
        self.host = host
        self.port = port
        self.recordings: dict[str, Recording] = {}
        self.passed = self.missed = 0
        self._upstream = upstream.rstrip("/").removesuffix("/v1")
        self._key = key
        self._secret = secret
        self.on_turn: Callable[[Recording], None] | None = None
        self._client: aiohttp.ClientSession | None = None
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve. Raises `UserError` when the address cannot be had."""
        listener = bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._client = aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0))
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        routes = [Route(path, self._pass, methods=methods) for path in ("/s/{name}/{path:path}", "/{path:path}")]
        app = Starlette(routes=routes, exception_handlers={Refusal: _refused, ClientDisconnect: _left})
        config = uvicorn.Config(
            app, loop="none", http=Connection, ws="none", lifespan="off", access_log=False, log_config=None,
            server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="proxy")
        await self._server.ready.wait()

    async def close(self) -> None:
        """Stop serving. Idempotent."""
        if self._server is not None and self._serving is not None and self._client is not None:
            self._server.should_exit = True
            await self._serving
            await self._client.close()
            self._server = self._serving = None

    async def _pass(self, request: Request) -> Response:
        if self._key and key_of(request) != self._key:
            raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key", kind="authentication_error")
        self.passed += 1
        body = await read_body(request, _MAX_BODY_BYTES)
        path = "/" + request.path_params["path"]
        listening = _listening(path)
        assert self._client is not None
        asked = list(request.query_params.multi_items())
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_PASSED_ON}
        if self._secret or self._key:
            headers = {name: value for name, value in headers.items() if name not in _KEYS}
            asked = [(name, value) for name, value in asked if name != "key"]  # Google's other way to show it
        if self._secret:
            header = listening.key if listening else _key_header(path)
            headers[header] = f"Bearer {self._secret}" if header == "authorization" else self._secret
        target = f"{self._upstream}{path}" + (f"?{urlencode(asked)}" if asked else "")
        asking = self._client.request(request.method, target, data=body or None, headers=headers, allow_redirects=False)
        try:
            answer = await while_connected(request, asking)
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"The endpoint does not answer: {error or type(error).__name__}"
            raise Refusal(502, message, kind="server_error", code="bad_gateway") from error
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_BACK}
        recorded = listening if request.method == "POST" and answer.status == 200 else None
        name = request.path_params.get("name", "default")
        return StreamingResponse(self._through(answer, body, recorded, name), answer.status, kept)

    async def _through(
        self, answer: aiohttp.ClientResponse, asked: bytes, listening: Listening | None, name: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answer as it comes; it is recorded before its end leaves."""
        stream = answer.headers.get("content-type", "").startswith("text/event-stream")
        async with answer:
            if listening and not stream:
                heard = await answer.read()
                self._record(listening, asked, heard, name, stream=False)
                yield heard
                return
            ear = Ear(listening) if listening else None
            async for chunk in answer.content.iter_any():
                if listening and ear and ear.take(chunk):
                    self._record(listening, asked, bytes(ear.heard), name, stream=True)
                    ear = None
                yield chunk
            if listening and ear:
                self._record(listening, asked, bytes(ear.heard), name, stream=True)  # it may have broken off

    def _record(self, listening: Listening, asked: bytes, answer: bytes, name: str, *, stream: bool) -> None:
        heard, ask = overhear(listening, answer, stream=stream), read_asked(listening, asked)
        if heard is None or ask is None:
            self.missed += 1
            return
        recording = self.recordings.setdefault(name, Recording(name))
        recording.add(ask, heard)
        if self.on_turn:
            self.on_turn(recording)


def _listening(path: str) -> Listening | None:
    return next((one for end, one in LISTENINGS.items() if path.endswith(end)), None)


def _key_header(path: str) -> str:
    """Return the header for a key on a path that is not listened to, such as that of the models."""
    if "/messages" in path:
        return "x-api-key"
    return "x-goog-api-key" if "/v1beta/" in path else "authorization"


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    listening = _listening(request.url.path)
    refuse = listening.dialect.refuse if listening else openai_error
    return JSONResponse(refuse(error), error.status)


def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
