"""A streamed answer: tokens leave as they are sampled, and calls are told once the whole of it has been read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from palmette.chat.template import Renderer
from palmette.gateway.call import Call
from palmette.gateway.dialect import Request, Writer
from palmette.gateway.incoming import done_or_gone
from palmette.gateway.refusal import Refusal, broken
from palmette.gateway.session import Session

_LOG = logging.getLogger(__name__)
PING_S = 15.0  # a call may take long to be written, and agents give up on a silent connection after minutes


async def events(request: Request, session: Session, call: Call, renderer: Renderer) -> AsyncGenerator[bytes, None]:
    """Yield the answer's events, the first of them with the first token.

    Raises `Refusal` before it yields anything; what goes wrong later is told within the stream. A call that is not
    followed to its end is left, so cancel by closing this iterator.
    """
    with call.following():
        writer: Writer | None = None
        live = renderer.live()
        try:
            async for token_ids, logprobs in call.tokens():
                if writer is None:
                    writer = request.writer(call, renderer)
                    yield writer.begin()
                    for token_id in call.forced_ids:
                        live.feed(token_id)
                pieces = [] if call.held else [piece for token_id in token_ids for piece in live.feed(token_id)]
                if told := writer.said(pieces, token_ids, logprobs):
                    yield told
            turn = await session.turn(call)
        except Exception as error:
            if writer is None:
                raise
            if not isinstance(error, Refusal):
                _LOG.exception("an answer broke off")
            await session.noted()
            yield writer.fail(error if isinstance(error, Refusal) else broken())
            return
        writer = writer or request.writer(call, renderer)
        rest = writer.said(live.finish(turn.answer), (), ())
        yield rest + writer.end(turn)
        call.delivered = True


class EventStream(Response):
    """Sends `first`, what `rest` yields, and a ping whenever `PING_S` pass in silence; ends when the client leaves."""

    def __init__(
        self, request: HttpRequest, first: bytes, rest: AsyncGenerator[bytes, None], *, media_type: str, ping: bytes
    ) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._request = request
        self._first = first
        self._rest = rest
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        try:
            with contextlib.suppress(ClientDisconnect):
                await done_or_gone(self._request, sending)
                sending.result()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(_paced(self._rest, self._ping)) as rest:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in rest:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _paced(events: AsyncGenerator[bytes, None], ping: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the events, and `ping` whenever there is none for `PING_S`."""
    upcoming: asyncio.Future[bytes] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((upcoming,), timeout=PING_S if ping else None)
            if not done:
                yield ping
                continue
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield event
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        await events.aclose()
