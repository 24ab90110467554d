"""The Chat Completions dialect: a body becomes an `Ask`, a turn becomes a response or a stream of chunks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from palmette.chat.live import Said
from palmette.chat.message import ToolCall
from palmette.chat.template import Renderer
from palmette.engine.api import FinishReason
from palmette.gateway import sse
from palmette.gateway.ask import Ask
from palmette.gateway.call import Call, Turn
from palmette.gateway.choice import read_openai
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
    read_top_k,
)
from palmette.gateway.openai_messages import read_messages, read_tools
from palmette.gateway.refusal import Refusal, openai_error
from palmette.gateway.told import NOTHING, Told

FIELDS: dict[str, Fate] = {
    "messages": "honoured",
    "tools": "honoured",
    "tool_choice": "honoured",  # see palmette/gateway/choice.py for what can be demanded
    "max_tokens": "honoured",  # the least of it, the session's and the engine's bound
    "max_completion_tokens": "honoured",
    "stop": "honoured",  # see palmette/gateway/stops.py for what stays exact
    "stream": "honoured",
    "stream_options": "honoured",
    "logprobs": "honoured",
    "return_token_ids": "honoured",
    "model": "honoured",  # echoed: a session has one model, reached under any name
    "temperature": "imposed",  # the rollout decides; heeded by `palmette serve`, where there is no rollout
    "top_p": "imposed",
    "top_k": "imposed",
    "seed": "imposed",
    "n": "refused",  # unless 1
    "top_logprobs": "refused",  # unless 0
    "response_format": "refused",  # unless text
    "functions": "refused",  # the form before `tools`
    "function_call": "refused",
    "audio": "refused",
    "modalities": "refused",  # unless ["text"]
    "logit_bias": "refused",  # unless empty
    "web_search_options": "refused",
    "prediction": "refused",
    "frequency_penalty": "ignored",
    "presence_penalty": "ignored",
    "parallel_tool_calls": "ignored",
    "reasoning_effort": "ignored",
    "prompt_cache_key": "ignored",
    "metadata": "ignored",
    "thinking": "ignored",
    "store": "ignored",
    "user": "ignored",
    "service_tier": "ignored",
}
"""What becomes of each field of a request; a field not named here is ignored, as agents send many of their own."""

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logit_bias": ({},),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request of this dialect: what is asked, and in which form the answer is wanted."""

    ask: Ask
    model: str
    stream: bool
    include_usage: bool
    logprobs: bool
    return_token_ids: bool
    told: Told = field(default=NOTHING, compare=False, repr=False)
    media_type: str = sse.MEDIA_TYPE
    ping: bytes = sse.COMMENT

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of a response that is not streamed."""
        completion = turn.completion
        choice: dict[str, Any] = {
            "index": 0,
            "message": _answer(turn),
            "finish_reason": _finish_reason(turn),
            "logprobs": logprobs(completion.token_ids, completion.logprobs, renderer) if self.logprobs else None,
        }
        body = self.envelope(turn.id, "chat.completion") | {"choices": [choice], "usage": usage(turn)}
        body["system_fingerprint"] = fingerprint(turn)
        if self.return_token_ids:
            choice["token_ids"] = completion.token_ids
            body["prompt_token_ids"] = turn.prompt_ids
        return orjson.dumps(body)

    def writer(self, call: Call, renderer: Renderer) -> _Writer:
        """Return what writes a streamed response: role, text, calls, finish, usage if asked, [DONE]."""
        return _Writer(self, call, renderer)

    def envelope(self, identity: str, kind: str) -> dict[str, Any]:
        """Return what every object of an answer has."""
        return {"id": f"chatcmpl-{identity}", "object": kind, "created": int(time.time()), "model": self.model}


def read(body: bytes, told: Told = NOTHING) -> ChatRequest:
    """Parse a request body behind what was `told`. Raises `Refusal` (400) naming the field that is wrong."""
    fields = read_object(read_json(body, "body"), "body")
    check_table(fields, FIELDS, _ALLOWED)
    options = fields.get("stream_options")
    options = {} if options is None else read_object(options, "stream_options")
    choice = read_openai(fields.get("tool_choice"), read_tools(fields.get("tools")), within="allowed_tools")
    limits = [read_integer(fields, name, 1) for name in ("max_tokens", "max_completion_tokens")]
    told = read_messages(fields.get("messages"), told)
    ask = Ask(
        messages=told.messages,
        tools=choice.tools,
        demand=choice.demand,
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        temperature=read_number(fields, "temperature", 0.0, 2.0),
        top_p=read_number(fields, "top_p", 0.0, 1.0),
        top_k=read_top_k(fields),
        seed=read_integer(fields, "seed"),
        stop=read_stops(fields, "stop"),
    )
    return ChatRequest(
        ask=ask,
        told=told,
        model=read_model(fields),
        stream=read_flag(fields, "stream"),
        include_usage=read_flag(options, "include_usage", "stream_options."),
        logprobs=read_flag(fields, "logprobs"),
        return_token_ids=read_flag(fields, "return_token_ids"),
    )


DIALECT = Dialect(
    name="openai_chat", fields=FIELDS, read=read, refuse=openai_error, growth=Growth(items="messages", read=read)
)


class _Writer:
    """Chunks; the ids and log-probs of tokens whose text is held back come with the next chunk, as vLLM sends them."""

    def __init__(self, request: ChatRequest, call: Call, renderer: Renderer) -> None:
        self._request = request
        self._renderer = renderer
        self._call = call
        self._envelope = request.envelope(call.id, "chat.completion.chunk")
        if request.include_usage:
            self._envelope["usage"] = None
        self._ids: list[int] = []
        self._logprobs: list[float] = []

    def begin(self) -> bytes:
        """Tell the role, and the prompt's ids if asked."""
        first = {"prompt_token_ids": self._call.prompt_ids} if self._request.return_token_ids else {}
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return sse.event(self._envelope | first | {"choices": [choice]})

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Tell text, a chunk a piece."""
        self._ids += token_ids
        self._logprobs += logprobs
        names = {"reasoning": "reasoning_content", "content": "content"}
        return b"".join(self._chunk({names[piece.kind]: piece.text}) for piece in pieces)

    def end(self, turn: Turn) -> bytes:
        """Tell calls, the reason, usage if asked, and [DONE]."""
        self._envelope["system_fingerprint"] = fingerprint(turn)
        chunks = [self._chunk({"malformed": turn.answer.malformed})] if turn.answer.malformed else []
        for index, call in enumerate(map(_call, turn.answer.tool_calls)):
            head = {"index": index, "id": call["id"], "type": "function"}
            named = head | {"function": {"name": call["function"]["name"], "arguments": ""}}
            chunks.append(self._chunk({"tool_calls": [named]}))
            told = {"index": index, "function": {"arguments": call["function"]["arguments"]}}
            chunks.append(self._chunk({"tool_calls": [told]}))
        chunks.append(self._chunk({}, _finish_reason(turn)))
        if self._request.include_usage:
            chunks.append(sse.event(self._envelope | {"choices": [], "usage": usage(turn)}))
        return b"".join([*chunks, b"data: [DONE]\n\n"])

    def fail(self, refusal: Refusal) -> bytes:
        """Tell the error; there is no [DONE] after it."""
        return sse.event(openai_error(refusal))

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
        if self._request.logprobs:
            choice["logprobs"] = logprobs(self._ids, self._logprobs, self._renderer)
        if self._request.return_token_ids:
            choice["token_ids"] = self._ids
        self._ids, self._logprobs = [], []
        return sse.event(self._envelope | {"choices": [choice]})


def logprobs(token_ids: Sequence[int], values: Sequence[float], renderer: Renderer) -> dict[str, Any]:
    """Return sampled tokens and their log-probs (both _T) as OpenAI writes them."""
    content = []
    for token_id, logprob in zip(token_ids, values, strict=True):
        text = renderer.decode([token_id])
        content.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
    return {"content": content, "refusal": None}


def _answer(turn: Turn) -> dict[str, Any]:
    answer = turn.answer
    message: dict[str, Any] = {"role": "assistant", "content": answer.content or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [_call(call) for call in answer.tool_calls]
    elif not answer.content:
        message["content"] = ""
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.malformed:
        message["malformed"] = answer.malformed  # ours alone: why a call in `content` could not be read
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = orjson.dumps(dict(call.arguments)).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _finish_reason(turn: Turn) -> str:
    if turn.completion.finish_reason is FinishReason.LENGTH:
        return "length"
    return "tool_calls" if turn.answer.tool_calls else "stop"


def usage(turn: Turn) -> dict[str, int]:
    """Return the numbers of tokens as OpenAI writes them."""
    prompt, completion = turn.prompt_tokens, len(turn.completion.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def fingerprint(turn: Turn) -> str:
    """Return the name of the weights that answered, ``weights-VERSION``."""
    return f"weights-{turn.completion.version}"
