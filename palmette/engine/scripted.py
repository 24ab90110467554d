"""An engine that replays given completions: for tests, demonstrations and dry runs; needs no model and no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmette.engine.api import Completion, ContextExhausted, Each, EngineError, FinishReason, Sampling

Script = Callable[[Sequence[int]], Sequence[int]] | Sequence[Sequence[int]]


class ScriptedEngine:
    """Answers the n-th request with the n-th completion, or every prompt with what a function makes of it.

    A completion is cut after a stop id of the request and at `max_tokens` or the context's end, as a model's would
    be; a script that ends by itself counts as stopped. `calls` are the prompts in the order they came. Log-probs are
    a fixed function of a token and its position, so `score` agrees with `complete`. `delay_s` is how long each
    request stays under way; while streaming, its tokens come evenly over that time.
    """

    def __init__(
        self, script: Script, *, version: int = 0, context_tokens: int = 1 << 20, delay_s: float = 0.0
    ) -> None:
        self.calls: list[tuple[int, ...]] = []
        self._script = script
        self._version = version
        self._context = context_tokens
        self._delay_s = delay_s
        self._closed = asyncio.Event()

    @property
    def version(self) -> int:
        """Weight version that the next completion will carry."""
        return self._version

    @property
    def context_tokens(self) -> int:
        """Most tokens (prompt and completion together) of one sequence."""
        return self._context

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Replay one completion. Raises `ContextExhausted`, `ValueError`; `EngineError` when the script is over."""
        completion = self._answer(prompt_ids, sampling)
        await self._wait(self._delay_s)
        return completion

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Do as `complete` does, and tell `each` every token."""
        completion = self._answer(prompt_ids, sampling)
        for token, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
            await self._wait(self._delay_s / len(completion.token_ids))
            each(token, logprob)
        return completion

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return the fixed log-probs of tokens 1..T-1."""
        ids = _checked(token_ids)
        if len(ids) > self._context:
            raise ContextExhausted(f"the sequence has {len(ids)} tokens, the context {self._context}")
        self._check_open()
        return tuple(_logprob(ids[t], t) for t in range(1, len(ids)))

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Take the new version; a script has no weights."""
        self._check_open()
        self._version = version

    async def close(self) -> None:
        """Stop; requests still under way raise `EngineError`. Idempotent."""
        self._closed.set()

    def _answer(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        prompt, version = _checked(prompt_ids), self._version
        if len(prompt) >= self._context:
            raise ContextExhausted(f"the prompt has {len(prompt)} tokens, the context {self._context}")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {sampling.max_tokens}")
        self._check_open()
        self.calls.append(prompt)
        token_ids, reason = _cut(self._next(prompt), sampling, self._context - len(prompt))
        return Completion(
            token_ids=token_ids,
            logprobs=tuple(_logprob(t, len(prompt) + i) for i, t in enumerate(token_ids)),
            finish_reason=reason,
            version=version,
        )

    def _next(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        if callable(self._script):
            token_ids = self._script(prompt)
        elif len(self.calls) <= len(self._script):
            token_ids = self._script[len(self.calls) - 1]
        else:
            raise EngineError(f"the script has {len(self._script)} completions, this is request {len(self.calls)}")
        return _checked(token_ids)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EngineError("the engine is closed")

    async def _wait(self, delay_s: float) -> None:
        if not delay_s:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._closed.wait(), delay_s)
        except TimeoutError:
            return
        raise EngineError("the engine was closed")


def _checked(token_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(token_ids)
    if not ids:
        raise ValueError("no token ids were given")
    for token in ids:
        if not isinstance(token, int) or token < 0:
            raise ValueError(f"token ids must be non-negative ints, not {token!r}")
    return ids


def _cut(token_ids: tuple[int, ...], sampling: Sampling, room: int) -> tuple[tuple[int, ...], FinishReason]:
    limit = min(sampling.max_tokens, room)
    for index, token in enumerate(token_ids[:limit]):
        if token in sampling.stop_ids:
            return token_ids[: index + 1], FinishReason.STOP
    if len(token_ids) > limit:
        return token_ids[:limit], FinishReason.LENGTH
    return token_ids, FinishReason.STOP


def _logprob(token: int, position: int) -> float:
    return -(1 + (31 * token + 7 * position) % 97) / 64
