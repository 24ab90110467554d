"""HTTP to one inference server: pooled connections, time-outs, and patience with a server that is full."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import orjson

from palmette.engine.api import EngineError
from palmette.errors import UserError

_Answer = TypeVar("_Answer")
_CONNECT_S = 10.0
_KEEPALIVE_S = 2.0  # below the 5 s after which uvicorn, under both servers, hangs up on an idle connection
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0


class Refused(EngineError):
    """The server answered with an error; `status` is its HTTP status, `message` what it said."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the server answered {status}: {message}")
        self.status = status
        self.message = message


class Busy(EngineError):
    """The server took no work (429, 503, nobody listens): asking again can sample nothing twice.

    `wait_s` is what it asked for, None where it did not say.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Wire:
    """Requests to ``url``, e.g. ``Wire("http://10.0.0.7:8000")``; `key` is sent as bearer token and told to nobody.

    `timeout_s` bounds one request from its sending to its last byte. `patience_s` is how long `patiently` goes on
    asking a server that is full.
    """

    def __init__(self, url: str, *, key: str = "", timeout_s: float = 1800.0, patience_s: float = 120.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url} is no address of a server: it must begin with http:// or https://")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
        self._patience_s = patience_s
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> Any:
        """Return the JSON at `path`. Raises `Refused`, `Busy`, `EngineError`."""
        async with self._response("GET", path, None) as response:
            return _json(await response.read())

    async def post(self, path: str, body: Any = None) -> Any:
        """Return the JSON that answers `body`. Raises `Refused`, `Busy`, `EngineError`."""
        async with self._response("POST", path, body) as response:
            return _json(await response.read())

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        """Yield the JSON of each server-sent event up to [DONE]; close the iterator to hang up.

        Raises `Refused`, `Busy`, `EngineError`, the last also for a stream that ends without [DONE].
        """
        async with self._response("POST", path, body) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield _json(data)
        raise EngineError(f"{self.url} broke off its answer")

    async def patiently(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Return what `ask` does, asking again while it raises `Busy`, for at most `patience_s`.

        Raises what it raised last.
        """
        until, wait_s = time.monotonic() + self._patience_s, _FIRST_WAIT_S
        while True:
            try:
                return await ask()
            except Busy as busy:
                pause_s = busy.wait_s if busy.wait_s is not None else wait_s * random.uniform(0.5, 1.0)
                if time.monotonic() + pause_s > until:
                    raise
                await asyncio.sleep(pause_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def close(self) -> None:
        """Hang up. Idempotent."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _response(self, method: str, path: str, body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        data = orjson.dumps(body) if body is not None else None
        headers = self._headers | ({"content-type": "application/json"} if data is not None else {})
        try:
            async with self._opened().request(
                method, self.url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise _refusal(response, await response.read())
                yield response
        except aiohttp.ClientConnectorError as error:
            raise Busy(f"nobody answers at {self.url}: {error.os_error.strerror or error.os_error}") from error
        except TimeoutError as error:
            raise EngineError(f"{self.url} did not answer in time") from error
        except aiohttp.ClientError as error:
            raise EngineError(f"the connection to {self.url} broke: {error or type(error).__name__}") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
            self._session = aiohttp.ClientSession(connector=pool, timeout=self._timeout)
        return self._session


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> Refused | Busy:
    message = said(body) or response.reason or ""
    if response.status in (429, 503):
        after = response.headers.get("retry-after", "")
        return Busy(f"the server is full ({response.status}): {message}", float(after) if after.isdecimal() else None)
    return Refused(response.status, message)


def said(body: bytes) -> str:
    """Return the message in an error body: vLLM's and OpenAI's, SGLang's, FastAPI's, or the text itself."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return " ".join(body.decode(errors="replace").split())[:500]
    if isinstance(value, dict):
        error = value.get("error", value)
        told = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        return str(told if told is not None else value)[:500]
    return str(value)[:500]


def _json(data: bytes) -> Any:
    if not data:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EngineError(f"the server's answer is not JSON: {error}") from error
