"""What the gateway says when it does not answer; each dialect writes it in its own error format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request the gateway does not answer, e.g. ``Refusal(400, "messages must be a list", param="messages")``.

    `param` names the field that is at fault, `code` and `kind` are OpenAI's words for what happened.
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
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = dict(headers or {})


class ContextRefusal(Refusal):
    """The 400 that agents compact upon: OpenAI's code and sentence, word for word; others have sentences of theirs."""

    def __init__(self, context_tokens: int, prompt_tokens: int) -> None:
        super().__init__(
            400,
            f"This model's maximum context length is {context_tokens} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
        self.context_tokens = context_tokens
        self.prompt_tokens = prompt_tokens


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """Return ``{"error": {message, type, param, code}}``."""
    told = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
    return {"error": told}


def malformed(param: str, message: str) -> Refusal:
    """Return the 400 for a field that cannot be read; `param` is its path, e.g. ``messages[2].role``."""
    return Refusal(400, f"Invalid '{param}': {message}", param=param)


def unsupported(param: str) -> Refusal:
    """Return the 400 for a field that asks for what this gateway does not do."""
    return Refusal(400, f"Unsupported parameter: '{param}' is not supported by this gateway.", param=param)


def unknown_session() -> Refusal:
    """Return the 404 for a key nobody issued or that was closed; the key itself is never echoed."""
    return Refusal(404, "No such session: it was never opened or is closed.", code="session_not_found")


def misdirected() -> Refusal:
    """Return the 421 for a request whose session lives in a process that this connection cannot go to now."""
    return Refusal(421, "Another request is under way on this connection; ask on one of its own.", code="misdirected")


def engine_failed(reason: str) -> Refusal:
    """Return the 503 for an engine that failed to answer."""
    return Refusal(503, f"The engine failed to answer: {reason}", kind="server_error", code="engine_error")


def not_kept(reason: str) -> Refusal:
    """Return the 503 for an answer that could not be written down, and so is not given."""
    return Refusal(503, f"The answer could not be kept: {reason}", kind="server_error", code="journal_error")


def broken() -> Refusal:
    """Return the 500 for a fault of our own."""
    return Refusal(500, "The gateway failed; its log says why.", kind="server_error")


def overloaded(retry_after_s: int, reason: str) -> Refusal:
    """Return the 429 for a gateway with too many requests under way, of all sessions or of one."""
    whose = "of this session " if reason == "session_full" else ""
    return Refusal(
        429,
        f"Too many requests {whose}are under way; try again later.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(retry_after_s), "x-palmette-reason": reason},
    )


def draining(retry_after_s: int) -> Refusal:
    """Return the 503 for a gateway that is about to stop."""
    return Refusal(
        503,
        "The gateway is about to stop and takes no more requests.",
        kind="server_error",
        code="shutting_down",
        headers={"retry-after": str(retry_after_s), "x-palmette-reason": "draining"},
    )
