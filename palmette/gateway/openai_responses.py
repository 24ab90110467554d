"""The OpenAI Responses dialect: a body becomes an `Ask`, a turn becomes a response or a stream of typed events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from palmette.chat.live import Said
from palmette.chat.message import Message
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
)
from palmette.gateway.refusal import Refusal, malformed, openai_error
from palmette.gateway.responses_items import Offered, read_input, read_tools, write_call
from palmette.gateway.told import NOTHING, Told

FIELDS: dict[str, Fate] = {
    "input": "honoured",
    "instructions": "honoured",
    "tools": "honoured",  # functions, custom tools, namespaces; tools that a server would run are left out
    "tool_choice": "honoured",  # see palmette/gateway/choice.py for what can be demanded
    "max_output_tokens": "honoured",  # the least of it, the session's and the engine's bound
    "text": "honoured",  # a format other than text is refused
    "stream": "honoured",
    "model": "honoured",  # echoed: a session has one model, reached under any name
    "return_token_ids": "honoured",  # ours: ids and log-probs beside the output, under vLLM's names
    "temperature": "imposed",
    "top_p": "imposed",
    "previous_response_id": "refused",  # nothing is stored: send the whole conversation, as `store: false` means
    "conversation": "refused",
    "background": "refused",  # unless false
    "prompt": "refused",
    "top_logprobs": "refused",  # unless 0
    "store": "ignored",
    "include": "ignored",
    "reasoning": "ignored",
    "parallel_tool_calls": "ignored",
    "max_tool_calls": "ignored",
    "truncation": "ignored",
    "prompt_cache_key": "ignored",
    "client_metadata": "ignored",
    "metadata": "ignored",
    "service_tier": "ignored",
    "stream_options": "ignored",
    "safety_identifier": "ignored",
    "user": "ignored",
}
"""What becomes of each field of a request."""

_ALLOWED: dict[str, tuple[Any, ...]] = {"background": (False,), "top_logprobs": (0,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """A request of this dialect: what is asked, how its tools were offered, in which form the answer is wanted."""

    ask: Ask
    offered: Mapping[str, Offered]
    model: str
    stream: bool
    return_token_ids: bool
    told: Told = field(default=NOTHING, compare=False, repr=False)
    media_type: str = sse.MEDIA_TYPE
    ping: bytes = sse.COMMENT

    def write(self, turn: Turn, renderer: Renderer) -> bytes:
        """Return the body of a response that is not streamed."""
        return orjson.dumps(self.finished(turn))

    def writer(self, call: Call, renderer: Renderer) -> _Writer:
        """Return what writes a streamed response: items added, told and done one after another."""
        return _Writer(self, call)

    def finished(self, turn: Turn) -> dict[str, Any]:
        """Return the whole response."""
        answer, output = turn.answer, []
        if answer.reasoning:
            output.append(_reasoning(turn.id, answer.reasoning))
        if answer.content or not answer.tool_calls:
            output.append(_message(turn.id, answer.content))
        output += [write_call(call, self.offered) for call in answer.tool_calls]
        prompt, sampled = turn.prompt_tokens, len(turn.completion.token_ids)
        cut = turn.completion.finish_reason is FinishReason.LENGTH
        done: dict[str, Any] = {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": sampled,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + sampled,
            },
        }
        if self.return_token_ids:
            done |= {"prompt_token_ids": turn.prompt_ids, "token_ids": turn.completion.token_ids}
            done["logprobs"] = turn.completion.logprobs
        return self.begun(turn.id) | done

    def begun(self, identity: str) -> dict[str, Any]:
        """Return a response without output."""
        return {
            "id": f"resp_{identity}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": self.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "store": False,
            "usage": None,
        }


def read(body: bytes, told: Told = NOTHING) -> ResponsesRequest:
    """Parse a request body. Raises `Refusal` (400) naming the field that is wrong."""
    fields = read_object(read_json(body, "body"), "body")
    _check_text(fields)
    check_table(fields, FIELDS, _ALLOWED)
    instructions = fields.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise malformed("instructions", "expected a string.")
    system = (Message(role="system", content=instructions),) if instructions else ()
    tools = read_tools(fields)
    choice = read_openai(fields.get("tool_choice"), [tool for tool, _ in tools.values()], within=None)
    told = read_input(fields.get("input"), told)
    ask = Ask(
        messages=(*system, *told.messages),
        tools=choice.tools,
        demand=choice.demand,
        max_tokens=read_integer(fields, "max_output_tokens", 1),
        temperature=read_number(fields, "temperature", 0.0, 2.0),
        top_p=read_number(fields, "top_p", 0.0, 1.0),
    )
    return ResponsesRequest(
        ask=ask,
        told=told,
        offered={name: offered for name, (_, offered) in tools.items()},
        model=read_model(fields),
        stream=read_flag(fields, "stream"),
        return_token_ids=read_flag(fields, "return_token_ids"),
    )


def count(tokens: int) -> dict[str, Any]:
    """Return the body that answers a count of input tokens."""
    return {"object": "response.input_tokens", "input_tokens": tokens}


DIALECT = Dialect(
    name="openai_responses", fields=FIELDS, read=read, refuse=openai_error, growth=Growth(items="input", read=read)
)


class _Writer:
    """Typed events with a running number; an item is added, told and done before the next."""

    def __init__(self, request: ResponsesRequest, call: Call) -> None:
        self._request = request
        self._id = call.id
        self._number = 0
        self._index = -1
        self._open: str | None = None
        self._text = ""

    def begin(self) -> bytes:
        """Say that the response has begun."""
        response = self._request.begun(self._id)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def said(self, pieces: Sequence[Said], token_ids: Sequence[int], logprobs: Sequence[float]) -> bytes:
        """Tell text, in an item of its kind."""
        events = []
        for piece in pieces:
            if self._open != piece.kind:
                events += [self._close(), self._start(piece.kind)]
            self._text += piece.text
            if piece.kind == "content":
                events.append(self._part("response.output_text.delta", delta=piece.text, logprobs=[]))
            else:
                events.append(self._part("response.reasoning_summary_text.delta", delta=piece.text))
        return b"".join(events)

    def end(self, turn: Turn) -> bytes:
        """Tell the calls and the whole response."""
        nothing = self._index < 0 and not turn.answer.tool_calls
        events = [self._start("content")] if nothing else []  # an answer of nothing is an empty message
        events.append(self._close())
        events += [self._call(write_call(call, self._request.offered)) for call in turn.answer.tool_calls]
        response = self._request.finished(turn)
        events.append(self._event(f"response.{response['status']}", response=response))
        return b"".join(events)

    def fail(self, refusal: Refusal) -> bytes:
        """Say that the response has failed."""
        error = {"code": refusal.code or "server_error", "message": refusal.message}
        response = self._request.begun(self._id) | {"status": "failed", "error": error}
        return self._event("response.failed", response=response)

    def _event(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        return sse.event({"type": kind, "sequence_number": self._number - 1} | data, kind)

    def _item(self) -> dict[str, Any]:
        return (_message if self._open == "content" else _reasoning)(self._id, self._text)

    def _part(self, kind: str, **data: Any) -> bytes:
        place = {"content_index": 0} if self._open == "content" else {"summary_index": 0}
        return self._event(kind, item_id=self._item()["id"], output_index=self._index, **place, **data)

    def _start(self, kind: str) -> bytes:
        self._index += 1
        self._open, self._text = kind, ""
        item = self._item()
        empty = item | ({"status": "in_progress", "content": []} if kind == "content" else {"summary": []})
        added = self._event("response.output_item.added", output_index=self._index, item=empty)
        if kind == "content":
            return added + self._part("response.content_part.added", part=item["content"][0])
        return added + self._part("response.reasoning_summary_part.added", part=item["summary"][0])

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        item = self._item()
        if self._open == "content":
            told = self._part("response.output_text.done", text=self._text, logprobs=[])
            told += self._part("response.content_part.done", part=item["content"][0])
        else:
            told = self._part("response.reasoning_summary_text.done", text=self._text)
            told += self._part("response.reasoning_summary_part.done", part=item["summary"][0])
        self._open = None
        return told + self._event("response.output_item.done", output_index=self._index, item=item)

    def _call(self, item: dict[str, Any]) -> bytes:
        self._index += 1
        key, kind = ("arguments", "function_call_arguments")
        if item["type"] == "custom_tool_call":
            key, kind = ("input", "custom_tool_call_input")
        begun = item | {key: "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": self._index}
        done = place | {key: item[key]} | ({"name": item["name"]} if key == "arguments" else {})
        return b"".join(
            [
                self._event("response.output_item.added", output_index=self._index, item=begun),
                self._event(f"response.{kind}.delta", **place, delta=item[key]),
                self._event(f"response.{kind}.done", **done),
                self._event("response.output_item.done", output_index=self._index, item=item),
            ]
        )


def _message(identity: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"type": "message", "id": f"msg_{identity}", "role": "assistant", "status": "completed"}
    return message | {"content": content}


def _reasoning(identity: str, text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{identity}", "summary": [{"type": "summary_text", "text": text}]}


def _check_text(fields: Mapping[str, Any]) -> None:
    """Refuse a wanted format of the answer; its verbosity is not our affair."""
    text = fields.get("text")
    if text is None:
        return
    wanted = read_object(text, "text").get("format")
    if wanted is not None and read_object(wanted, "text.format").get("type") != "text":
        raise malformed("text.format", "only text is supported: answers are not constrained to a schema.")
