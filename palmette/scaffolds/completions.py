"""Asks an endpoint for the next message over Chat Completions, patiently where it is overloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import orjson

from palmette.scaffolds.api import Endpoint, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The assistant's message, and the tokens of request and answer together (0 where the endpoint does not say)."""

    message: dict[str, Any]
    tokens: int


class Answers(Protocol):
    """Whoever answers a loop: an endpoint, or a reference in its place."""

    async def ask(
        self, endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Answer | Stop:
        """Return the next message, or why there is none."""
        ...

    async def aclose(self) -> None:
        """Let go of what is held. Idempotent."""
        ...


class Completions:
    """A client that serves many rollouts of one event loop at once, and waits `patience_s` a request at most."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._http: aiohttp.ClientSession | None = None

    async def ask(
        self, endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Answer | Stop:
        """Return the answer, or why there is none. Raises `RuntimeError` for a request that the endpoint refuses."""
        asked: dict[str, Any] = {"model": endpoint.model, "messages": messages}
        body = orjson.dumps(asked | {"tools": tools} if tools else asked)
        headers = {"authorization": f"Bearer {endpoint.api_key}", "content-type": "application/json"}
        patience_s = self.patience_s
        while True:
            try:
                async with self._client().post(
                    f"{endpoint.base_url}/chat/completions", data=body, headers=headers
                ) as response:
                    status, text = response.status, await response.read()
                    wait_s = _retry_after_s(response.headers)
            except (aiohttp.ClientError, TimeoutError):
                return Stop.ENGINE_ERROR
            if status != 429:
                return _answer(status, text)
            if wait_s > patience_s:
                return Stop.OVERLOADED
            patience_s -= wait_s
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),  # the rollout's own clock ends it
            )
        return self._http


def _answer(status: int, text: bytes) -> Answer | Stop:
    """Return the message of a response. Raises `RuntimeError` for a refusal that is nobody's but our own fault."""
    if status >= 500:
        return Stop.ENGINE_ERROR
    try:
        body = orjson.loads(text)
        if status == 200:
            message, usage = body["choices"][0]["message"], body.get("usage") or {}
            if not isinstance(message, dict):
                return Stop.ENGINE_ERROR
            return Answer(message=message, tokens=int(usage.get("total_tokens") or 0))
        error = body["error"]
        code, message = error.get("code"), error.get("message")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Stop.ENGINE_ERROR
    if code == "context_length_exceeded":
        return Stop.CONTEXT_EXHAUSTED
    raise RuntimeError(f"the endpoint refused a request of the built-in loop ({status}): {message}")


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after", "1")), 0.05), 3600.0)
    except ValueError:
        return 1.0
