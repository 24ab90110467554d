"""The Anthropic Messages dialect: bodies of /v1/messages and its count_tokens, and what answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from palmette.chat.live import Said
from palmette.chat.message import Tool
from palmette.chat.template import Renderer
from palmette.engine.api import FinishReason
from palmette.gateway import sse
from palmette.gateway.anthropic_messages import read_messages, read_system, read_tools
from palmette.gateway.ask import Ask
from palmette.gateway.call import Call, Turn
from palmette.gateway.choice import Choice, Mode, choose
from palmette.gateway.dialect import Dialect, Growth
from palmette.gateway.fields import (
    Fate,
    check_table,
    read_flag,
    read_integer,
    read_json,
    read_model,
    read_number,
    read_object,
    read_stops,
    read_string,
)
from palmette.gateway.refusal import ContextRefusal, Refusal, malformed
from palmette.gateway.told import NOTHING, Told

FIELDS: dict[str, Fate] = {
    "messages": "honoured",
    "system": "honoured",
    "tools": "honoured",  # the client's own; server tools, but those that this table's reader names, are refused
    "tool_choice": "honoured",  # see palmette/gateway/choice.py for what can be demanded
    "max_tokens": "honoured",  # the least of it, the session's and the engine's bound; may be left out
    "stop_sequences": "honoured",  # see palmette/gateway/stops.py for what stays exact
    "stream": "honoured",
    "model": "honoured",  # echoed: a session has one model, reached under any name
    "return_token_ids": "honoured",  # ours: ids and log-probs beside the message, under vLLM's names
    "temperature": "imposed",
    "top_p": "imposed",
    "top_k": "imposed",
    "mcp_servers": "refused",  # unless empty
    "container": "refused",
    "output_format": "refused",
    "thinking": "ignored",  # a model that reasons does so; blocks that come back are read as reasoning
    "context_management": "ignored",  # agents that ask for it also manage without
    "output_config": "honoured",  # a `format` is refused; the rest of it (effort) is ignored
    "metadata": "ignored",
    "cache_control": "ignored",  # here and on every block
    "service_tier": "ignored",
    "speed": "ignored",
    "diagnostics": "ignored",
}
"""What becomes of each field of a request."""

_ALLOWED: dict[str, tuple[Any, ...]] = {"mcp_servers": ([],)}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """A request of this dialect: what is asked, and in which form the answer is wanted."""

    ask: Ask
    model: str
    stream: bool
    return_token_ids: bool
    told: Told = field(default=NOTHING, compare=False, repr=False)
    media_type: str = sse.MEDIA_TYPE
    ping: bytes = sse.event({"type": "ping"}, "ping")

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of a response that is not streamed."""
        answer = turn.answer
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": _SIGNATURE})
        if answer.content:
            content.append({"type": "text", "text": answer.content})
        content += _calls(turn)
        message = self.envelope(turn.id, turn.prompt_tokens, len(turn.completion.token_ids))
        message |= {"content": content} | _ending(turn)
        if self.return_token_ids:
            message["prompt_token_ids"] = turn.prompt_ids
            message |= _tokens(turn)
        return orjson.dumps(message)

    def writer(self, call: Call, renderer: Renderer) -> _Writer:
        """Return what writes a streamed response: a message that starts empty, its blocks, and how it ended."""
        return _Writer(self, call)

    def envelope(self, identity: str, prompt_tokens: int, sampled: int = 0) -> dict[str, Any]:
        """Return a message without content."""
        usage = {"input_tokens": prompt_tokens, "output_tokens": sampled}
        usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        envelope = {"id": f"msg_{identity}", "type": "message", "role": "assistant", "model": self.model}
        return envelope | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def read(body: bytes, told: Told = NOTHING) -> MessagesRequest:
    """Parse a request body behind what was `told`. Raises `Refusal` (400) naming the field that is wrong."""
    fields = read_object(read_json(body, "body"), "body")
    check_table(fields, FIELDS, _ALLOWED)
    _check_format(fields)
    choice = _choice(fields.get("tool_choice"), read_tools(fields))
    system, told = read_system(fields.get("system")), read_messages(fields, told)
    ask = Ask(
        messages=(*system, *told.messages),
        tools=choice.tools,
        demand=choice.demand,
        max_tokens=read_integer(fields, "max_tokens", 1),
        temperature=read_number(fields, "temperature", 0.0, 2.0),
        top_p=read_number(fields, "top_p", 0.0, 1.0),
        top_k=read_integer(fields, "top_k", 0),
        stop=read_stops(fields, "stop_sequences"),
    )
    return MessagesRequest(
        ask=ask,
        told=told,
        model=read_model(fields),
        stream=read_flag(fields, "stream"),
        return_token_ids=read_flag(fields, "return_token_ids"),
    )


def _check_format(fields: Mapping[str, Any]) -> None:
    """Refuse a wanted schema of the answer. Raises `Refusal`."""
    config = fields.get("output_config")
    if config is not None and read_object(config, "output_config").get("format") is not None:
        raise malformed("output_config.format", "answers are not constrained to a schema.")


def _choice(value: Any, tools: tuple[Tool, ...]) -> Choice:
    fields = {"type": "auto"} if value is None else read_object(value, "tool_choice")
    kind = fields.get("type")
    if kind == "tool":
        return choose("required", [read_string(fields, "name", "tool_choice")], tools, "tool_choice")
    modes: dict[Any, Mode] = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in modes:
        raise malformed("tool_choice", "expected the type auto, any, tool or none.")
    return choose(modes[kind], None, tools, "tool_choice")


def refuse(refusal: Refusal) -> dict[str, Any]:
    """Return an error body; a full context has the sentence that Claude Code compacts upon."""
    kind = _KINDS.get(refusal.status) or ("invalid_request_error" if refusal.status < 500 else "api_error")
    message = refusal.message
    if isinstance(refusal, ContextRefusal):
        message = f"prompt is too long: {refusal.prompt_tokens} tokens > {refusal.context_tokens} maximum"
    return {"type": "error", "error": {"type": kind, "message": message}}


def count(tokens: int) -> dict[str, Any]:
    """Return the body that answers count_tokens."""
    return {"input_tokens": tokens}


DIALECT = Dialect(name="anthropic", fields=FIELDS, read=read, refuse=refuse, growth=Growth(items="messages", read=read))
_SIGNATURE = "cGFsbWV0dGU="  # clients send it back and want it not empty; we look at the reasoning itself


class _Writer:
    """Blocks one after another: reasoning, text, and a block for each call."""

    def __init__(self, request: MessagesRequest, call: Call) -> None:
        self._request = request
        self._call = call
        self._index = -1
        self._open: str | None = None

    def begin(self) -> bytes:
        """Start the message."""
        message = self._request.envelope(self._call.id, self._call.prompt_tokens)
        if self._request.return_token_ids:
            message["prompt_token_ids"] = self._call.prompt_ids
        return _event("message_start", {"message": message})

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Tell text, in a block of its kind."""
        events = []
        for piece in pieces:
            thinking = piece.kind == "reasoning"
            if self._open != piece.kind:
                events.append(self._close())
                empty = {"type": "thinking", "thinking": "", "signature": ""} if thinking else _EMPTY_TEXT
                events.append(self._start(piece.kind, empty))
            delta = {"thinking_delta": "thinking"} if thinking else {"text_delta": "text"}
            events += [self._delta({"type": kind, name: piece.text}) for kind, name in delta.items()]
        return b"".join(events)

    def end(self, turn: Turn) -> bytes:
        """Tell the calls and how the message ended."""
        events = [self._close()]
        for call in _calls(turn):
            events.append(self._start("call", call | {"input": {}}))
            told = orjson.dumps(call["input"]).decode()
            events += [self._delta({"type": "input_json_delta", "partial_json": told}), self._close()]
        ending = _ending(turn) | (_tokens(turn) if self._request.return_token_ids else {})
        usage = {"output_tokens": len(turn.completion.token_ids)}
        events += [_event("message_delta", {"delta": ending, "usage": usage}), _event("message_stop", {})]
        return b"".join(events)

    def fail(self, refusal: Refusal) -> bytes:
        """Tell the error, which ends the stream."""
        return sse.event(refuse(refusal), "error")

    def _start(self, kind: str, block: Mapping[str, Any]) -> bytes:
        self._index += 1
        self._open = kind
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "reasoning" else b""
        self._open = None
        return signed + _event("content_block_stop", {"index": self._index})


_EMPTY_TEXT = {"type": "text", "text": ""}


def _event(kind: str, data: Mapping[str, Any]) -> bytes:
    return sse.event({"type": kind, **data}, kind)


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}
        for call in turn.answer.tool_calls
    ]


def _ending(turn: Turn) -> dict[str, Any]:
    if turn.completion.finish_reason is FinishReason.LENGTH:
        reason = "max_tokens"
    else:
        reason = "tool_use" if turn.answer.tool_calls else "end_turn"
    if turn.stop is not None and reason == "end_turn":
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": turn.stop}


def _tokens(turn: Turn) -> dict[str, Any]:
    return {"token_ids": turn.completion.token_ids, "logprobs": turn.completion.logprobs}
