"""The way of requests for answers, past the framework's layers, which cost as much as half of what is left.

A path that is in the table, with a session's key before it or without, goes to its handler at once; what that raises is
answered as the framework's own handlers would. Everything else goes to the framework.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from palmette.gateway.refusal import Refusal, broken

_LOG = logging.getLogger(__name__)
_KEYED = "/s/"

Handler = Callable[[Request], Awaitable[Response]]


class Direct:
    """An application that answers POST of the paths in `handlers` itself, and leaves the others to `app`.

    `refuse` writes a `Refusal` as the sender's dialect does.
    """

    def __init__(
        self, app: ASGIApp, handlers: Mapping[str, Handler], refuse: Callable[[Request, Refusal], Response]
    ) -> None:
        self._app, self._handlers, self._refuse = app, handlers, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        handler: Handler | None = None
        parameters: dict[str, str] = {}
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            if path.startswith(_KEYED):
                key, slash, rest = path[len(_KEYED) :].partition("/")
                path, parameters = slash + rest, {"key": key}
            handler = self._handlers.get(path)
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["path_params"] = parameters
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except Refusal as refusal:
            response = self._refuse(request, refusal)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it
        except Exception:
            _LOG.exception("a request failed")
            response = self._refuse(request, broken())
        await response(scope, receive, send)
