"""What the journal says of sessions: that one was opened, forked or closed, and every turn as far as it is new."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from palmette.chat.message import Message, Tool
from palmette.engine.api import Completion, FinishReason, Sampling
from palmette.gateway.ask import Ask
from palmette.gateway.call import Turn
from palmette.gateway.journal import frames


class Opened(msgspec.Struct, frozen=True, tag="opened", omit_defaults=True):
    """A session was opened, or forked from another."""

    key: str
    sampling: Sampling
    cap: int | None = None
    forked_from: str | None = None
    label: str = ""  # what it is a session of, for whoever finds it again


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """A session was closed; its tree went to whoever closed it."""

    key: str


class Recorded(msgspec.Struct, frozen=True, tag="turn", omit_defaults=True):
    """A turn. What it has in common with the turn number `onto` (none: -1), and tools like that one's, are left out."""

    key: str
    call: str
    index: int  # of the request in its session
    onto: int
    ids: bytes  # int32, the prompt behind prompt and answer of `onto`
    messages: tuple[Message, ...]
    answer: Message  # as parsed, calls without the ids they got
    token_ids: bytes  # int32
    logprobs: bytes  # float64
    finish_reason: str
    version: int
    raw: bool = False  # the prompt came as token ids
    forced: int = 0  # tokens at the end of the prompt that begin the answer
    tools: tuple[Tool, ...] | None = None
    routes: tuple[bytes, str, tuple[int, ...]] | None = None  # bytes, dtype, shape

    def completion(self) -> Completion:
        """Return what was sampled."""
        routes = None
        if self.routes is not None:
            data, dtype, shape = self.routes
            routes = np.frombuffer(data, np.dtype(dtype)).reshape(shape)
        return Completion(
            token_ids=tuple(np.frombuffer(self.token_ids, np.int32).tolist()),
            logprobs=tuple(np.frombuffer(self.logprobs, np.float64).tolist()),
            finish_reason=FinishReason(self.finish_reason),
            version=self.version,
            routes_TLK=routes,
        )


Record = Opened | Closed | Recorded


def recorded(
    key: str, turn: Turn, onto: Turn | None, prompt: Sequence[int], answer: Message, index: int, ask: Ask
) -> Recorded:
    """Return the record of a turn that goes on from `onto`; `answer` is as it was parsed."""
    known = onto.prompt_tokens + len(onto.completion.token_ids) if onto else 0
    completion, routes = turn.completion, turn.completion.routes_TLK
    return Recorded(
        key=key,
        call=turn.id,
        index=index,
        onto=onto.number if onto else -1,
        ids=array("i", prompt[known:]).tobytes(),
        messages=turn.messages[len(onto.messages) + 1 :] if onto else turn.messages,
        answer=answer,
        token_ids=array("i", completion.token_ids).tobytes(),
        logprobs=array("d", completion.logprobs).tobytes(),
        finish_reason=str(completion.finish_reason),
        version=completion.version,
        raw=ask.prompt_ids is not None,
        forced=turn.forced,
        tools=None if onto and onto.tools == turn.tools else turn.tools,
        routes=None if routes is None else (routes.tobytes(), routes.dtype.str, routes.shape),
    )


def write(record: Record) -> bytes:
    """Return a record as the bytes of one frame."""
    return msgspec.msgpack.encode(record)


def read(paths: Iterable[Path]) -> Iterable[Record]:
    """Yield all records of the files of a journal, oldest first, cutting off torn ends."""
    decoder = msgspec.msgpack.Decoder(Record)
    for path in paths:
        for frame in frames(path):
            yield decoder.decode(frame)


def parse(frame: bytes) -> Record:
    """Return the record that `write` wrote."""
    return msgspec.msgpack.decode(frame, type=Record)
