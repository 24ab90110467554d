"""What is said to other people's endpoints, read as text: requests, and answers whole or streamed.

Of a request only messages and tools are read: what the endpoint took is the endpoint's affair. What it keeps of a
conversation by itself (Responses' `previous_response_id` and `conversation`) is not known here and cannot be told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from palmette.chat.message import Message
from palmette.gateway import (
    anthropic,
    anthropic_messages,
    gemini,
    gemini_contents,
    openai_chat,
    openai_messages,
    openai_responses,
    responses_items,
)
from palmette.gateway.ask import Ask
from palmette.gateway.dialect import Dialect
from palmette.gateway.fields import read_json, read_object
from palmette.gateway.refusal import Refusal, unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheard:
    """An answer: what it says, and the tokens that the endpoint counted (None where it did not)."""

    message: Message
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How one dialect is overheard: its requests, and its answers, whole and streamed.

    A stream ends with an event that holds one of `ends`; `key` is the header in which a client shows its key.
    """

    dialect: Dialect
    asked: Callable[[dict[str, Any]], Ask]
    whole: Callable[[Any], Overheard]
    streamed: Callable[[Iterator[Any]], Any]  # puts the events together to what `whole` reads
    ends: tuple[bytes, ...]
    key: str = "authorization"


class Ear:
    """Hears a streamed answer piece by piece, all of which is in `heard`."""

    def __init__(self, listening: Listening) -> None:
        self.heard = bytearray()
        self._ends = listening.ends
        self._at = -1  # where the last event begins to be the last

    def take(self, piece: bytes) -> bool:
        """Take the next piece; say whether the last event is there."""
        start = max(0, len(self.heard) - max(map(len, self._ends)))
        self.heard += piece
        if self._at < 0:
            found = [at for end in self._ends if (at := self.heard.find(end, start)) >= 0]
            self._at = min(found, default=-1)
        return self._at >= 0 and any(blank in self.heard[self._at :] for blank in (b"\n\n", b"\r\n\r\n"))


def read_asked(listening: Listening, body: bytes) -> Ask | None:
    """Return the messages and tools of a request, None where they cannot be told (pictures and the like)."""
    try:
        return listening.asked(read_object(read_json(body, "body"), "body"))
    except Refusal:
        return None


def overhear(listening: Listening, body: bytes, *, stream: bool) -> Overheard | None:
    """Return what an answer says, None for one that cannot be read or broke off."""
    try:
        return listening.whole(listening.streamed(_events(body)) if stream else orjson.loads(body))
    except (Refusal, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None  # it was somebody else's, and has been passed on as it is


def _events(body: bytes) -> Iterator[Any]:
    for line in body.split(b"\n"):
        if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
            yield orjson.loads(data)


def _chat_asked(fields: dict[str, Any]) -> Ask:
    messages = openai_messages.read_messages(fields.get("messages")).messages
    return Ask(messages=messages, tools=openai_messages.read_tools(fields.get("tools")))


def _chat(answer: Any) -> Overheard:
    message = dict(answer["choices"][0]["message"])
    message["role"] = "assistant"
    message["reasoning_content"] = message.get("reasoning_content") or message.get("reasoning")
    return Overheard(message=_chat_message(message), **_counts(answer, "prompt_tokens", "completion_tokens"))


def _chat_message(message: dict[str, Any]) -> Message:
    """Return the message; where arguments are no JSON it is told as malformed, like one of our own."""
    try:
        return openai_messages.read_messages([message]).messages[0]
    except Refusal as refusal:
        text = "\n".join(str(call.get("function", call)) for call in message.get("tool_calls") or ())
        said = f"{message.get('content') or ''}\n{text}".strip()
        return Message(role="assistant", content=said, malformed=refusal.message)


def _chat_streamed(events: Iterator[Any]) -> Any:
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    calls: dict[int, dict[str, Any]] = {}
    usage: Mapping[str, Any] = {}
    ended = False
    for event in events:
        usage = event.get("usage") or usage
        for choice in event["choices"][:1]:
            delta = choice.get("delta") or {}
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for part in delta.get("tool_calls") or ():
                call = calls.setdefault(part["index"], {"id": "", "function": {"name": "", "arguments": ""}})
                call["id"] = part.get("id") or call["id"]
                for name in ("name", "arguments"):
                    call["function"][name] += (part.get("function") or {}).get(name) or ""
            ended = ended or choice.get("finish_reason") is not None
    if not ended:
        raise ValueError("the stream broke off")
    message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {"choices": [{"message": message}], "usage": usage}


def _messages_asked(fields: dict[str, Any]) -> Ask:
    system = anthropic_messages.read_system(fields.get("system"))
    messages = anthropic_messages.read_messages(fields).messages
    return Ask(messages=(*system, *messages), tools=anthropic_messages.read_tools(fields))


def _messages(answer: Any) -> Overheard:
    told = {"messages": [{"role": "assistant", "content": answer["content"]}]}
    [message] = anthropic_messages.read_messages(told).messages
    return Overheard(message=message, **_counts(answer, "input_tokens", "output_tokens"))


def _messages_streamed(events: Iterator[Any]) -> Any:
    blocks: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    ended = False
    for event in events:
        match event["type"]:
            case "message_start":
                usage |= event["message"].get("usage") or {}
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                for name in ("text", "thinking", "partial_json"):
                    if name in delta:
                        block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                usage |= event.get("usage") or {}
            case "message_stop":
                ended = True
            case "error":
                raise ValueError("the stream broke off")
    if not ended:
        raise ValueError("the stream broke off")
    for block in blocks.values():
        if told := block.pop("partial_json", ""):
            block["input"] = orjson.loads(told)
    return {"content": [blocks[index] for index in sorted(blocks)], "usage": usage}


def _responses_asked(fields: dict[str, Any]) -> Ask:
    for name in ("previous_response_id", "conversation"):
        if fields.get(name) is not None:
            raise unsupported(name)
    given = fields.get("instructions")
    system = (Message(role="system", content=given),) if isinstance(given, str) and given else ()
    messages = responses_items.read_input(fields.get("input")).messages
    tools = tuple(tool for tool, _ in responses_items.read_tools(fields).values())
    return Ask(messages=(*system, *messages), tools=tools)


def _responses(answer: Any) -> Overheard:
    if answer["status"] not in ("completed", "incomplete"):
        raise ValueError("it failed")
    [message] = responses_items.read_input(answer["output"]).messages
    return Overheard(message=message, **_counts(answer, "input_tokens", "output_tokens"))


def _responses_streamed(events: Iterator[Any]) -> Any:
    """Return the response of the last event, which holds all of it."""
    for event in events:
        if event["type"] in ("response.completed", "response.incomplete"):
            return event["response"]
    raise ValueError("the stream broke off")


def _gemini_asked(fields: dict[str, Any]) -> Ask:
    told = gemini_contents.read_proto(fields, "body")
    system = gemini_contents.read_system(told.get("systemInstruction"))
    messages = gemini_contents.read_contents(told).messages
    return Ask(messages=(*system, *messages), tools=gemini_contents.read_tools(told))


def _gemini(answer: Any) -> Overheard:
    if isinstance(answer, list):  # a stream without events
        answer = _gemini_streamed(iter(answer))
    content = answer["candidates"][0]["content"] | {"role": "model"}
    [message] = gemini_contents.read_contents({"contents": [content]}).messages
    told = {"usage": answer.get("usageMetadata")}
    return Overheard(message=message, **_counts(told, "promptTokenCount", "candidatesTokenCount"))


def _gemini_streamed(events: Iterator[Any]) -> Any:
    parts: list[Any] = []
    usage: Any = {}
    ended = False
    for event in events:
        usage = event.get("usageMetadata") or usage
        for candidate in event.get("candidates", ())[:1]:
            parts += (candidate.get("content") or {}).get("parts", ())
            ended = ended or candidate.get("finishReason") is not None
    if not ended:
        raise ValueError("the stream broke off")
    return {"candidates": [{"content": {"parts": parts}}], "usageMetadata": usage}


def _counts(answer: Any, prompt: str, completion: str) -> dict[str, int | None]:
    usage: Mapping[str, Any] = {}
    with contextlib.suppress(AttributeError):
        usage = answer.get("usage") or {}
    return {"prompt_tokens": usage.get(prompt), "completion_tokens": usage.get(completion)}


LISTENINGS: dict[str, Listening] = {
    "/chat/completions": Listening(
        dialect=openai_chat.DIALECT, asked=_chat_asked, whole=_chat, streamed=_chat_streamed, ends=(b"\ndata: [DONE]",)
    ),
    "/responses": Listening(
        dialect=openai_responses.DIALECT,
        asked=_responses_asked,
        whole=_responses,
        streamed=_responses_streamed,
        ends=(b"\nevent: response.completed", b"\nevent: response.incomplete", b"\nevent: response.failed"),
    ),
    "/messages": Listening(
        dialect=anthropic.DIALECT,
        asked=_messages_asked,
        whole=_messages,
        streamed=_messages_streamed,
        ends=(b'"message_stop"',),
        key="x-api-key",
    ),
}
_GEMINI = Listening(
    dialect=gemini.DIALECT,
    asked=_gemini_asked,
    whole=_gemini,
    streamed=_gemini_streamed,
    ends=(b'"finishReason"',),
    key="x-goog-api-key",
)
LISTENINGS |= {":generateContent": _GEMINI, ":streamGenerateContent": _GEMINI}
"""By the end of a request's path."""
