"""An engine in one process that others use: ids and log-probs travel as arrays, tokens as they are sampled."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from palmette.engine.api import (
    Completion,
    ContextExhausted,
    Each,
    Engine,
    EngineError,
    FinishReason,
    Sampling,
    StreamingEngine,
)
from palmette.gateway.channel import Broken, Channel, Failed

_ERRORS: dict[str, type[Exception]] = {
    "context": ContextExhausted,
    "engine": EngineError,
    "value": ValueError,
}


class Lender:
    """Does with an engine what others ask over their channels."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: dict[tuple[Channel, int], asyncio.Task[None]] = {}

    def terms(self) -> dict[str, Any]:
        """Return what a `Borrowed` has to know of the engine."""
        return {
            "version": self._engine.version,
            "context_tokens": self._engine.context_tokens,
            "streams": isinstance(self._engine, StreamingEngine),
        }

    @property
    def under_way(self) -> int:
        """Number of requests that the engine is at."""
        return len(self._under_way)

    def take(self, channel: Channel, kind: str, number: int, said: list[Any]) -> bool:
        """Take a message, if it is one for an engine."""
        if kind == "cancel":
            task = self._under_way.get((channel, said[0]))
            if task is not None:
                task.cancel()
        elif kind in ("complete", "stream"):
            self._begin(channel, number, self._sample(channel, number, said[0], said[1], live=kind == "stream"))
        elif kind == "score":
            self._begin(channel, number, self._score(channel, number, said[0]))
        else:
            return False
        return True

    def forget(self, channel: Channel) -> None:
        """Stop what was asked over a channel that has ended."""
        for (asker, _), task in list(self._under_way.items()):
            if asker is channel:
                task.cancel()

    def _begin(self, channel: Channel, number: int, doing: Any) -> None:
        task = self._under_way[channel, number] = asyncio.ensure_future(self._told(channel, number, doing))
        task.add_done_callback(lambda _: self._under_way.pop((channel, number), None))

    async def _told(self, channel: Channel, number: int, doing: Any) -> None:
        """Do it, and say why if it cannot be done."""
        try:
            channel.answer(number, await doing)
        except ContextExhausted as error:
            channel.fail(number, "context", str(error))
        except ValueError as error:
            channel.fail(number, "value", str(error))
        except Exception as error:  # the edge of this process: whatever it was, it was the engine's
            channel.fail(number, "engine", str(error) or type(error).__name__)

    async def _sample(self, channel: Channel, number: int, ids: bytes, how: Any, *, live: bool) -> dict[str, Any]:
        prompt, sampling = array("i", ids), msgspec.convert(how, Sampling, strict=False)
        if live and isinstance(self._engine, StreamingEngine):
            telling = _Telling(channel, number, self._engine)
            done = await self._engine.stream(prompt, sampling, telling.each)
            telling.flush()
        else:
            done = await self._engine.complete(prompt, sampling)
        routes = done.routes_TLK
        return {
            "ids": array("i", done.token_ids).tobytes(),
            "logprobs": array("d", done.logprobs).tobytes(),
            "finish": str(done.finish_reason),
            "version": done.version,
            "routes": None if routes is None else (routes.tobytes(), routes.dtype.str, routes.shape),
        }

    async def _score(self, channel: Channel, number: int, ids: bytes) -> bytes:
        return array("d", await self._engine.score(array("i", ids))).tobytes()


class _Telling:
    """Tells tokens as they come, those of one moment together."""

    def __init__(self, channel: Channel, number: int, engine: Engine) -> None:
        self._channel, self._number, self._engine = channel, number, engine
        self._ids, self._logprobs = array("i"), array("d")

    def each(self, token_id: int, logprob: float) -> None:
        if not self._ids:
            asyncio.get_running_loop().call_soon(self.flush)
        self._ids.append(token_id)
        self._logprobs.append(logprob)

    def flush(self) -> None:
        if self._ids:
            said = (self._ids.tobytes(), self._logprobs.tobytes(), self._engine.version)
            self._channel.tell("tokens", *said, number=self._number)
            self._ids, self._logprobs = array("i"), array("d")


class Borrowed:
    """An engine of another process, to be used over a channel; it does not stream (see `Streamed`).

    Raises what that engine raises: `ContextExhausted`, `ValueError`, and `EngineError` for all else.
    """

    def __init__(self, channel: Channel, *, version: int, context_tokens: int) -> None:
        self._channel = channel
        self.version = version
        self.context_tokens = context_tokens
        self._each: dict[int, Each] = {}

    def take(self, kind: str, number: int, said: list[Any]) -> bool:
        """Take a message, if it tells of tokens."""
        if kind != "tokens":
            return False
        each = self._each.get(number)
        self.version = said[2]
        if each is not None:
            for token_id, logprob in zip(array("i", said[0]), array("d", said[1]), strict=True):
                each(token_id, logprob)
        return True

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion."""
        return await self._sample("complete", prompt_ids, sampling, None)

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probs of all tokens but the first."""
        return tuple(array("d", await self._ask(None, "score", array("i", token_ids).tobytes())))

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Weights are the owner's affair."""
        raise EngineError("weights are loaded in the process that has the engine")

    async def close(self) -> None:
        """The owner closes the engine."""

    async def _sample(self, kind: str, prompt: Sequence[int], sampling: Sampling, each: Each | None) -> Completion:
        ids = prompt.tobytes() if isinstance(prompt, array) and prompt.typecode == "i" else array("i", prompt).tobytes()
        told = await self._ask(each, kind, ids, sampling)
        routes = told["routes"]
        self.version = told["version"]
        return Completion(
            token_ids=tuple(array("i", told["ids"])),
            logprobs=tuple(array("d", told["logprobs"])),
            finish_reason=FinishReason(told["finish"]),
            version=told["version"],
            routes_TLK=None if routes is None else np.frombuffer(routes[0], np.dtype(routes[1])).reshape(routes[2]),
        )

    async def _ask(self, each: Each | None, kind: str, *said: Any) -> Any:
        number, answer = self._channel.ask(kind, *said)
        if each is not None:
            self._each[number] = each
        try:
            return await answer
        except asyncio.CancelledError:
            self._channel.tell("cancel", number)
            raise
        except Failed as error:
            raise _ERRORS[error.kind](str(error)) from None
        except Broken as error:
            raise EngineError(str(error)) from None
        finally:
            self._each.pop(number, None)


class Streamed(Borrowed):
    """One that tells tokens as they are sampled."""

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Sample one completion and tell its tokens."""
        return await self._sample("stream", prompt_ids, sampling, each)
