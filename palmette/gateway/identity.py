"""When two requests mean the same conversation, although agents rewrite what they were given.

Agents send back what the gateway answered with other spaces, key order, call ids, cache marks and extra keys
(`scaffolds_and_benchmarks.md` 3.1 lists who does what). A conversation is therefore known by a chain of digests over
what its messages *say*: roles, text, and calls as parsed arguments, with call ids replaced by the call's position.
Reasoning is left out: agents drop or keep it, and the sampled tokens hold it anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from palmette.chat.message import Message, Tool

Digest = bytes


def start(tools: Sequence[Tool]) -> Digest:
    """Return the digest of a conversation that offers `tools` and has no message yet."""
    return _link(b"", [[tool.name, tool.description, _plain(tool.parameters)] for tool in tools])


def chain(messages: Iterable[Message], tools: Sequence[Tool]) -> list[Digest]:
    """Return n + 1 digests: of the empty conversation and after each of n messages."""
    digests = [start(tools)]
    positions: dict[str, int] = {}
    calls = 0
    for message in messages:
        digests.append(_link(digests[-1], _said(message, positions)))
        for call in message.tool_calls:
            positions[call.id] = calls
            calls += 1
    return digests


def follow(digest: Digest, answer: Message) -> Digest:
    """Return the digest of the conversation `digest` after the assistant's `answer`."""
    return _link(digest, _said(answer, {}))


def call_ids(messages: Iterable[Message]) -> list[str]:
    """Return the ids of all calls in order: the id at index p is that of the call at position p."""
    return [call.id for message in messages for call in message.tool_calls]


def _said(message: Message, positions: Mapping[str, int]) -> list[Any]:
    if message.role == "assistant":
        calls = [[call.name, _plain(call.arguments)] for call in message.tool_calls]
        return ["assistant", message.content.strip(), calls]
    return [message.role, message.content, positions.get(message.tool_call_id or "")]


def _plain(value: Any) -> Any:
    """Return a JSON value in which 1.0 is 1, as a JavaScript agent would send it back."""
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _link(previous: Digest, said: Any) -> Digest:
    return blake2b(previous + orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
