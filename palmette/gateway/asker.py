"""Who asks, as far as a path and headers tell: whose words an error or a list must be told in."""

from __future__ import annotations

from starlette.requests import Request

from palmette.gateway import anthropic, gemini, openai_chat
from palmette.gateway.dialect import Dialect


def dialect_of(request: Request) -> Dialect:
    """Return the dialect whose errors the sender of a request understands, also where no route is."""
    if from_google(request):
        return gemini.DIALECT
    return anthropic.DIALECT if "/v1/messages" in request.url.path else openai_chat.DIALECT


def from_google(request: Request) -> bool:
    """Say whether a client of Google's asks: its models have the paths of OpenAI's, in one of its two versions."""
    path = request.url.path
    verb = "/v1/models/" in path and request.method == "POST"
    return verb or "/v1beta/" in path or "x-goog-api-key" in request.headers
