"""What a request brings, read within bounds: its body, its key, whether it comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from hashlib import blake2b
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from palmette.gateway.listen import ENDS, Ending
from palmette.gateway.refusal import Refusal

_T = TypeVar("_T")


async def read_body(request: Request, limit: int) -> bytes:
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


def key_of(request: Request) -> str:
    """Return the key a client shows in the way of its dialect, "" for none."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    shown = (bearer, request.headers.get("x-api-key"), request.headers.get("x-goog-api-key"))
    return next((key for key in (*shown, request.query_params.get("key")) if key), "")


def name_of(request: Request, digest: bytes) -> tuple[str, bool]:
    """Return the name of what is asked, by its body's digest, and whether the request says that it was asked before.

    A client says so by an idempotency key, which the first request and its retries share, or by counting its retries
    (the official clients of OpenAI and Anthropic do).
    """
    content = blake2b(request.url.path.encode() + b"\0" + digest, digest_size=16).hexdigest()
    own = request.headers.get("idempotency-key") or request.headers.get("x-request-id")
    if own:
        return f"{own}/{content}", True
    retries = request.headers.get("x-stainless-retry-count", "")
    return content, len(retries) < 9 and retries.isdecimal() and int(retries) > 0


async def while_connected(request: Request, awaited: Awaitable[_T]) -> _T:
    """Await, cancelling what is awaited when the client goes away. Raises `ClientDisconnect`."""
    answer = asyncio.ensure_future(awaited)
    try:
        await done_or_gone(request, answer)
        return answer.result()
    finally:
        answer.cancel()


async def done_or_gone(request: Request, awaited: asyncio.Future[_T]) -> None:
    """Return when `awaited` is done. Raises `ClientDisconnect` when the client goes away; it must have sent all."""
    ending: Ending | None = request.scope.get(ENDS)
    if ending is None:  # a connection of another server
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait((awaited, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
    elif not ending.come and not awaited.done():
        either: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: object = None) -> None:
            if not either.done():
                either.set_result(None)

        awaited.add_done_callback(wake)
        ending.listeners.add(wake)
        try:
            await either
        finally:
            awaited.remove_done_callback(wake)
            ending.listeners.discard(wake)
    if not awaited.done():
        raise ClientDisconnect


async def disconnected(request: Request) -> None:
    """Return when the client has gone away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
