"""What the gateway says when it does not answer, in OpenAI's error format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request the gateway does not answer; becomes ``{"error": {message, type, param, code}}`` with `status`.

    Example: ``Refusal(400, "messages must be a list", param="messages")``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = dict(headers or {})


def malformed(param: str, message: str) -> Refusal:
    """Return the 400 for a field that cannot be read; `param` names it as OpenAI does, e.g. ``messages[2].role``."""
    return Refusal(400, f"Invalid '{param}': {message}", param=param)


def unknown_session() -> Refusal:
    """Return the 404 for a key nobody issued or that was closed; the key itself is never echoed."""
    return Refusal(404, "No such session: it was never opened or is closed.", code="session_not_found")


def context_exhausted(context_tokens: int, prompt_tokens: int) -> Refusal:
    """Return the 400 that agents compact upon: OpenAI's code and sentence, word for word."""
    return Refusal(
        400,
        f"This model's maximum context length is {context_tokens} tokens. However, your messages resulted in "
        f"{prompt_tokens} tokens. Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )


def engine_failed(reason: str) -> Refusal:
    """Return the 503 for an engine that failed to answer."""
    return Refusal(503, f"The engine failed to answer: {reason}", kind="server_error", code="engine_error")


def overloaded(retry_after_s: int) -> Refusal:
    """Return the 429 for a gateway with too many requests under way."""
    return Refusal(
        429,
        "Too many requests are under way; try again later.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(retry_after_s)},
    )
