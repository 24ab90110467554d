"""When two requests mean the same conversation, although agents rewrite what they were given.

Agents send back what the gateway answered with other spaces, key order, call ids, cache marks, inserted defaults and
extra keys (`docs/agents.md` lists who does what). A conversation is therefore known by a chain of digests over what its
messages *say*: roles, text, and calls as parsed arguments, with call ids replaced by the call's position. Reasoning is
left out: agents drop or keep it, and the sampled tokens hold it anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from palmette.chat.message import Message, Tool, ToolCall
from palmette.gateway.call import Turn

Digest = bytes
_WALKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A conversation walked along what is known: n + 1 digests of its n messages, and where an answer was ours."""

    digests: tuple[Digest, ...]
    turns: tuple[Turn | None, ...]  # n: the turn that an assistant message is the answer of
    call_ids: tuple[str, ...]  # of all calls in order: the id at index p is that of the call at position p

    @property
    def end(self) -> Digest:
        """Digest of the whole conversation."""
        return self.digests[-1]

    @property
    def answered(self) -> tuple[int, Turn | None]:
        """The last answer of ours that something was said behind, and the number of messages up to it."""
        for length in range(len(self.turns) - 1, 0, -1):
            if self.turns[length - 1] is not None:
                return length, self.turns[length - 1]
        return 0, None


class Known:
    """The conversations that one session has answered.

    The last few walks are kept, so that a conversation which grows is walked from where it has grown.
    """

    def __init__(self) -> None:
        self._answers: dict[Digest, list[Turn]] = {}
        self._walked: list[tuple[tuple[Message, ...], tuple[Tool, ...], Walk]] = []  # the latest first

    def walk(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Walk:
        """Follow a conversation, reading each assistant message as the answer given at that point if it means that."""
        digests, turns, ids = self._walked_before(messages, tools)
        digests = digests or [_link(b"", [[tool.name, tool.description, _plain(tool.parameters)] for tool in tools])]
        digest, begun = digests[-1], len(turns)
        for message in messages[begun:]:
            turn = self._answer(digest, message) if message.role == "assistant" else None
            digest = _link(digest, _said(turn.answer if turn else message, ids))
            digests.append(digest)
            turns.append(turn)
            ids += (call.id for call in message.tool_calls)
        walk = Walk(digests=tuple(digests), turns=tuple(turns), call_ids=tuple(ids))
        self._walked = [(tuple(messages), tuple(tools), walk), *self._walked[: _WALKS - 1]]
        return walk

    def learn(self, walk: Walk, turn: Turn) -> Digest:
        """Remember the answer to a conversation; return the digest of both."""
        answers = self._answers.setdefault(walk.end, [])
        answers.append(turn)
        if len(answers) > 1:  # what a walk took for the answer may now be the earlier of two
            self._walked = []
        return _link(walk.end, _said(turn.answer, ()))

    def copy(self) -> Known:
        """Return the same knowledge, to grow apart from here."""
        known = Known()
        known._answers = {digest: list(turns) for digest, turns in self._answers.items()}
        return known

    def _walked_before(
        self, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> tuple[list[Digest], list[Turn | None], list[str]]:
        """Return digests, turns and ids of calls of the longest beginning that an earlier walk shares with this one."""
        length, best = -1, None
        for walked, offered, walk in self._walked:
            if tuple(tools) != offered:
                continue
            common = len(walked)
            if tuple(messages[:common]) != walked:  # else done at once: messages are mostly the very same objects
                pairs = enumerate(zip(messages, walked, strict=False))
                common = next((at for at, (one, other) in pairs if one != other), min(len(messages), common))
            if common > length:
                length, best = common, walk
            if common == len(walked):
                break
        if best is None:
            return [], [], []
        ids = best.call_ids if length == len(best.turns) else _call_ids(messages[:length])
        return list(best.digests[: length + 1]), list(best.turns[:length]), list(ids)

    def _answer(self, digest: Digest, message: Message) -> Turn | None:
        """Return the turn whose answer `message` is: the latest that says the same, else one with defaults inserted."""
        turns = self._answers.get(digest, [])
        if not turns:
            return None
        said = _link(b"", _said(message, ()))
        same = (turn for turn in reversed(turns) if _link(b"", _said(turn.answer, ())) == said)
        near = (turn for turn in reversed(turns) if _grown(turn.answer, message))
        return next(same, None) or next(near, None)


def position(call_ids: Sequence[str], identity: str | None) -> int | None:
    """Return the position of the latest call of an id, None for an id that no call has."""
    if not identity or identity not in call_ids:
        return None
    return len(call_ids) - 1 - call_ids[::-1].index(identity)


def _call_ids(messages: Iterable[Message]) -> list[str]:
    return [call.id for message in messages for call in message.tool_calls]


def _grown(answer: Message, message: Message) -> bool:
    """Say whether `message` is `answer` with arguments added to calls that carry our ids (Claude Code does so)."""
    return (
        bool(answer.tool_calls)
        and answer.content.strip() == message.content.strip()
        and len(answer.tool_calls) == len(message.tool_calls)
        and all(_grew(*pair) for pair in zip(answer.tool_calls, message.tool_calls, strict=True))
    )


def _grew(ours: ToolCall, theirs: ToolCall) -> bool:
    kept = {name: theirs.arguments[name] for name in ours.arguments if name in theirs.arguments}
    same = _link(b"", _plain(kept)) == _link(b"", _plain(ours.arguments))
    return same and (ours.id, ours.name) == (theirs.id, theirs.name)


def _said(message: Message, call_ids: Sequence[str]) -> list[Any]:
    if message.role == "assistant":
        calls = [[call.name, _plain(call.arguments)] for call in message.tool_calls]
        return ["assistant", message.content.strip(), calls]
    return [message.role, message.content, position(call_ids, message.tool_call_id)]


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
