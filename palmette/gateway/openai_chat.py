"""The Chat Completions dialect: a body becomes an `Ask`, a `Turn` becomes a response or a stream of chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from palmette.chat.message import ToolCall
from palmette.chat.template import Renderer
from palmette.engine.api import FinishReason
from palmette.gateway.fields import read_flag, read_integer, read_json, read_number, read_object
from palmette.gateway.openai_messages import read_messages, read_tools
from palmette.gateway.refusal import Refusal
from palmette.gateway.session import Ask, Turn

FIELDS: dict[str, Literal["honoured", "imposed", "ignored", "refused"]] = {
    "messages": "honoured",
    "tools": "honoured",
    "tool_choice": "honoured",  # "none" hides the tools; "required" and a named tool are read as "auto"
    "max_tokens": "honoured",  # the least of it, the session's and the engine's bound
    "max_completion_tokens": "honoured",
    "stream": "honoured",
    "stream_options": "honoured",
    "logprobs": "honoured",
    "return_token_ids": "honoured",
    "model": "honoured",  # echoed: a session has one model
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
    "stop": "ignored",  # an engine stops at token ids, and agents do not depend on it
    "frequency_penalty": "ignored",
    "presence_penalty": "ignored",
    "parallel_tool_calls": "ignored",
    "reasoning_effort": "ignored",
    "prompt_cache_key": "ignored",
    "metadata": "ignored",
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


def read(body: bytes) -> ChatRequest:
    """Parse a request body. Raises `Refusal` (400) naming the field that is wrong."""
    fields = read_object(read_json(body, "body"), "body")
    for name, fate in FIELDS.items():
        value = fields.get(name)
        if fate == "refused" and value is not None and value not in _ALLOWED.get(name, ()):
            raise Refusal(400, f"Unsupported parameter: '{name}' is not supported by this gateway.", param=name)
    options = fields.get("stream_options")
    options = {} if options is None else read_object(options, "stream_options")
    hidden = fields.get("tool_choice") == "none"
    tools = read_tools(fields.get("tools"))
    limits = [read_integer(fields, name, 1) for name in ("max_tokens", "max_completion_tokens")]
    ask = Ask(
        messages=read_messages(fields.get("messages")),
        tools=() if hidden else tools,
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        temperature=read_number(fields, "temperature", 0.0, 2.0),
        top_p=read_number(fields, "top_p", 0.0, 1.0),
        top_k=read_integer(fields, "top_k", -1),
        seed=read_integer(fields, "seed"),
    )
    model = fields.get("model")
    return ChatRequest(
        ask=ask,
        model=model if isinstance(model, str) else "palmette",
        stream=read_flag(fields, "stream"),
        include_usage=read_flag(options, "include_usage", "stream_options."),
        logprobs=read_flag(fields, "logprobs"),
        return_token_ids=read_flag(fields, "return_token_ids"),
    )


def write(request: ChatRequest, turn: Turn, renderer: Renderer) -> bytes:
    """Return the body of a response that is not streamed."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": _answer(turn),
        "finish_reason": _finish_reason(turn),
        "logprobs": _logprobs(turn, renderer) if request.logprobs else None,
    }
    body = _envelope(request, turn, "chat.completion") | {"choices": [choice], "usage": _usage(turn)}
    if request.return_token_ids:
        choice["token_ids"] = turn.completion.token_ids
        body["prompt_token_ids"] = turn.prompt_ids
    return orjson.dumps(body)


def stream(request: ChatRequest, turn: Turn, renderer: Renderer) -> Iterator[bytes]:
    """Yield the server-sent events of a streamed response: role, text, calls, finish, usage if asked, [DONE]."""
    envelope = _envelope(request, turn, "chat.completion.chunk")
    if request.include_usage:
        envelope["usage"] = None
    first = {"prompt_token_ids": turn.prompt_ids} if request.return_token_ids else {}
    for delta in _deltas(turn):
        yield _event(envelope | first | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        first = {}
    last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": _finish_reason(turn)}
    if request.logprobs:
        last["logprobs"] = _logprobs(turn, renderer)
    if request.return_token_ids:
        last["token_ids"] = turn.completion.token_ids
    yield _event(envelope | {"choices": [last]})
    if request.include_usage:
        yield _event(envelope | {"choices": [], "usage": _usage(turn)})
    yield b"data: [DONE]\n\n"


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


def _deltas(turn: Turn) -> Iterator[dict[str, Any]]:
    message = _answer(turn)
    yield {"role": "assistant", "content": ""}
    for name in ("reasoning_content", "content", "malformed"):
        if message.get(name):
            yield {name: message[name]}
    for index, call in enumerate(message.get("tool_calls", ())):
        head = {"index": index, "id": call["id"], "type": "function"}
        yield {"tool_calls": [head | {"function": {"name": call["function"]["name"], "arguments": ""}}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": call["function"]["arguments"]}}]}


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = orjson.dumps(dict(call.arguments)).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _finish_reason(turn: Turn) -> str:
    if turn.completion.finish_reason is FinishReason.LENGTH:
        return "length"
    return "tool_calls" if turn.answer.tool_calls else "stop"


def _usage(turn: Turn) -> dict[str, int]:
    prompt, completion = len(turn.prompt_ids), len(turn.completion.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprobs(turn: Turn, renderer: Renderer) -> dict[str, Any]:
    content = []
    for token_id, logprob in zip(turn.completion.token_ids, turn.completion.logprobs, strict=True):
        text = renderer.decode([token_id])
        content.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
    return {"content": content, "refusal": None}


def _envelope(request: ChatRequest, turn: Turn, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{turn.id}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "system_fingerprint": f"weights-{turn.completion.version}",
    }


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
