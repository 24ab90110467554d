"""The Google generateContent dialect: bodies of :generateContent, :streamGenerateContent and :countTokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from palmette.chat.live import Said
from palmette.chat.message import Tool
from palmette.chat.template import Renderer
from palmette.engine.api import FinishReason
from palmette.gateway import sse
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
    read_list,
    read_number,
    read_stops,
)
from palmette.gateway.gemini_contents import read_contents, read_proto, read_system, read_tools
from palmette.gateway.refusal import ContextRefusal, Refusal, malformed
from palmette.gateway.told import NOTHING, Told

FIELDS: dict[str, Fate] = {
    "contents": "honoured",
    "systemInstruction": "honoured",
    "tools": "honoured",  # functionDeclarations; tools that a server would run are refused
    "toolConfig": "honoured",  # see palmette/gateway/choice.py for what can be demanded
    "generationConfig": "honoured",  # by CONFIG_FIELDS
    "returnTokenIds": "honoured",  # ours: ids and log-probs beside the candidates
    "cachedContent": "refused",
    "safetySettings": "ignored",
    "labels": "ignored",
    "store": "ignored",
    "serviceTier": "ignored",
    "model": "ignored",  # the path names it, and a session has one model, reached under any name
}
"""What becomes of each field of a request."""

CONFIG_FIELDS: dict[str, Fate] = {
    "maxOutputTokens": "honoured",  # the least of it, the session's and the engine's bound
    "stopSequences": "honoured",  # see palmette/gateway/stops.py for what stays exact
    "responseLogprobs": "honoured",
    "temperature": "imposed",
    "topP": "imposed",
    "topK": "imposed",
    "seed": "imposed",
    "candidateCount": "refused",  # unless 1
    "logprobs": "refused",  # unless 0: the sampled token's log-prob is told, no others
    "responseMimeType": "refused",  # unless text/plain
    "responseSchema": "refused",
    "responseJsonSchema": "refused",
    "responseModalities": "refused",  # unless ["TEXT"]
    "speechConfig": "refused",
    "presencePenalty": "ignored",
    "frequencyPenalty": "ignored",
    "thinkingConfig": "ignored",
    "mediaResolution": "ignored",
    "audioTimestamp": "ignored",
    "routingConfig": "ignored",
}
"""What becomes of each field of `generationConfig`."""

_CONFIG = "generationConfig."
_CALLING = "toolConfig.functionCallingConfig"
_MODES: dict[Any, Mode] = {"AUTO": "auto", "ANY": "required", "NONE": "none", "MODE_UNSPECIFIED": "auto"}
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "candidateCount": (1,),
    "logprobs": (0,),
    "responseMimeType": ("text/plain",),
    "responseModalities": (["TEXT"],),
}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A request of this dialect; `array` asks for a stream as one JSON array instead of events."""

    ask: Ask
    model: str
    stream: bool
    array: bool
    logprobs: bool
    return_token_ids: bool
    told: Told = field(default=NOTHING, compare=False, repr=False)
    ping: bytes = b""  # Google's own clients read every line as data

    @property
    def media_type(self) -> str:
        """Content type of a stream."""
        return "application/json" if self.array else sse.MEDIA_TYPE

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of a response that is not streamed."""
        answer, parts = turn.answer, []
        if answer.reasoning:
            parts.append({"text": answer.reasoning, "thought": True})
        if answer.content or not answer.tool_calls:
            parts.append({"text": answer.content})
        return orjson.dumps(self.ended(turn, [*parts, *_calls(turn)], renderer))

    def writer(self, call: Call, renderer: Renderer) -> _Writer:
        """Return what writes a streamed response: pieces of text, then the calls and how it ended."""
        return _Writer(self, call, renderer)

    def part(self, identity: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a response, or a piece of one."""
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        return {"candidates": [candidate], "modelVersion": self.model, "responseId": identity}

    def ended(self, turn: Turn, parts: Sequence[Mapping[str, Any]], renderer: Renderer) -> dict[str, Any]:
        """Return the last piece of a response."""
        completion = turn.completion
        body = self.part(turn.id, parts)
        candidate = body["candidates"][0]
        candidate["finishReason"] = "MAX_TOKENS" if completion.finish_reason is FinishReason.LENGTH else "STOP"
        if self.logprobs:
            pairs = zip(completion.token_ids, completion.logprobs, strict=True)
            candidate["logprobsResult"] = {
                "chosenCandidates": [
                    {"token": renderer.decode([token_id]), "tokenId": token_id, "logProbability": logprob}
                    for token_id, logprob in pairs
                ]
            }
        prompt, sampled = turn.prompt_tokens, len(completion.token_ids)
        body["usageMetadata"] = {"promptTokenCount": prompt, "candidatesTokenCount": sampled}
        body["usageMetadata"]["totalTokenCount"] = prompt + sampled
        if self.return_token_ids:
            body |= {"promptTokenIds": turn.prompt_ids, "tokenIds": completion.token_ids}
            body["logprobs"] = completion.logprobs
        return body


def read(
    body: bytes, told: Told = NOTHING, *, model: str = "palmette", stream: bool = False, array: bool = False
) -> GenerateRequest:
    """Parse a request body behind what was `told`; the rest comes from its path.

    Raises `Refusal` (400) naming the field that is wrong.
    """
    fields = read_proto(read_json(body, "body"), "body")
    check_table(fields, FIELDS, {})
    given = fields.get("generationConfig")
    config = {} if given is None else read_proto(given, "generationConfig")
    check_table(config, CONFIG_FIELDS, _ALLOWED, _CONFIG)
    choice = _choice(fields, read_tools(fields))
    system, told = read_system(fields.get("systemInstruction")), read_contents(fields, told)
    ask = Ask(
        messages=(*system, *told.messages),
        tools=choice.tools,
        demand=choice.demand,
        max_tokens=read_integer(config, "maxOutputTokens", 1, _CONFIG),
        temperature=read_number(config, "temperature", 0.0, 2.0, _CONFIG),
        top_p=read_number(config, "topP", 0.0, 1.0, _CONFIG),
        top_k=_whole(config, "topK"),
        stop=read_stops(config, "stopSequences", _CONFIG),
        seed=read_integer(config, "seed", prefix=_CONFIG),
    )
    return GenerateRequest(
        ask=ask,
        told=told,
        model=model,
        stream=stream,
        array=array,
        logprobs=read_flag(config, "responseLogprobs", _CONFIG),
        return_token_ids=read_flag(fields, "returnTokenIds"),
    )


def read_count(body: bytes) -> GenerateRequest:
    """Parse the body of :countTokens, which holds contents, or a whole request under `generateContentRequest`."""
    fields = read_proto(read_json(body, "body"), "body")
    whole = fields.get("generateContentRequest")
    return read(body if whole is None else orjson.dumps(whole))


def count(tokens: int) -> dict[str, Any]:
    """Return the body that answers :countTokens."""
    return {"totalTokens": tokens}


def refuse(refusal: Refusal) -> dict[str, Any]:
    """Return an error body in the form of google.rpc.Status."""
    default = "INVALID_ARGUMENT" if refusal.status < 500 else "INTERNAL"
    message = refusal.message
    if isinstance(refusal, ContextRefusal):
        message = (
            f"The input token count ({refusal.prompt_tokens}) exceeds the maximum number of tokens allowed "
            f"({refusal.context_tokens})."
        )
    error: dict[str, Any] = {"code": refusal.status, "message": message}
    error["status"] = _STATUS.get(refusal.status, default)
    if refusal.param:
        violation = {"field": refusal.param, "description": message}
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return {"error": error}


DIALECT = Dialect(name="gemini", fields=FIELDS, read=read, refuse=refuse)


def dialect(model: str, *, stream: bool, array: bool) -> Dialect:
    """Return the dialect of one path."""
    whole = partial(read, model=model, stream=stream, array=array)
    growth = Growth(items="contents", read=whole)
    return Dialect(name=DIALECT.name, fields=FIELDS, read=whole, refuse=refuse, growth=growth)


class _Writer:
    """Responses that add up to the whole one."""

    def __init__(self, request: GenerateRequest, call: Call, renderer: Renderer) -> None:
        self._request = request
        self._id = call.id
        self._renderer = renderer
        self._between = b"["

    def begin(self) -> bytes:
        """Nothing comes before the first piece."""
        return b""

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Tell text, a piece each."""
        thought = {"reasoning": {"thought": True}, "content": {}}
        return b"".join(
            self._event(self._request.part(self._id, [{"text": piece.text} | thought[piece.kind]])) for piece in pieces
        )

    def end(self, turn: Turn) -> bytes:
        """Tell the calls, the reason and the usage."""
        calls = _calls(turn)
        last = self._request.ended(turn, calls or [{"text": ""}], self._renderer)
        return self._event(last) + (b"]" if self._request.array else b"")

    def fail(self, refusal: Refusal) -> bytes:
        """Tell the error, which ends the stream."""
        return self._event(refuse(refusal)) + (b"]" if self._request.array else b"")

    def _event(self, data: Mapping[str, Any]) -> bytes:
        if not self._request.array:
            return b"data: " + orjson.dumps(data) + b"\r\n\r\n"
        between, self._between = self._between, b",\r\n"
        return between + orjson.dumps(data)


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"id": call.id, "name": call.name, "args": dict(call.arguments)}}
        for call in turn.answer.tool_calls
    ]


def _choice(fields: Mapping[str, Any], tools: tuple[Tool, ...]) -> Choice:
    given = fields.get("toolConfig")
    config = {} if given is None else read_proto(given, "toolConfig")
    given = config.get("functionCallingConfig")
    calling = {} if given is None else read_proto(given, _CALLING)
    mode = calling.get("mode", "AUTO")
    if not isinstance(mode, str) or mode not in _MODES:
        raise malformed(f"{_CALLING}.mode", f"expected one of {', '.join(_MODES)}: calls are not held to a schema.")
    names = read_list(calling, "allowedFunctionNames", f"{_CALLING}.")
    if not all(isinstance(name, str) for name in names):
        raise malformed(f"{_CALLING}.allowedFunctionNames", "expected names.")
    return choose(_MODES[mode], names or None, tools, f"{_CALLING}.{'allowedFunctionNames' if names else 'mode'}")


def _whole(config: Mapping[str, Any], name: str) -> int | None:
    """Return an integer that Google's schema calls a number (64.0 is 64)."""
    value = config.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return read_integer(config, name, 0, _CONFIG)
