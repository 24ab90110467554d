"""Answers of other people's endpoints, read as text: whole, or put together from their streamed events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from palmette.chat.message import Message
from palmette.gateway import anthropic, anthropic_messages, openai_chat, openai_messages
from palmette.gateway.dialect import Dialect
from palmette.gateway.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheard:
    """An answer: what it says, and the tokens that the endpoint counted (None where it did not)."""

    message: Message
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How one dialect is overheard: its requests, and its answers, whole and streamed."""

    dialect: Dialect
    whole: Callable[[Any], Overheard]
    streamed: Callable[[Iterator[Any]], Any]  # puts the events together to what `whole` reads


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


def _counts(answer: Any, prompt: str, completion: str) -> dict[str, int | None]:
    usage: Mapping[str, Any] = {}
    with contextlib.suppress(AttributeError):
        usage = answer.get("usage") or {}
    return {"prompt_tokens": usage.get(prompt), "completion_tokens": usage.get(completion)}


LISTENINGS: dict[str, Listening] = {
    "/chat/completions": Listening(dialect=openai_chat.DIALECT, whole=_chat, streamed=_chat_streamed),
    "/messages": Listening(dialect=anthropic.DIALECT, whole=_messages, streamed=_messages_streamed),
}
"""By the end of a request's path."""
