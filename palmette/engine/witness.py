"""An engine that remembers what another one was given and what it answered, to compare a record with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from palmette.engine.api import Completion, Each, Engine, Sampling, StreamingEngine


class Witness:
    """Passes everything on to `inner`; `calls` are the prompts and completions in the order they were complete.

    Also streams where `inner` cannot, all tokens at the end. `on_answer` is called after each.
    """

    def __init__(self, inner: Engine, on_answer: Callable[[], None] | None = None) -> None:
        self.calls: list[tuple[tuple[int, ...], Completion]] = []
        self._inner, self._on_answer = inner, on_answer

    @property
    def version(self) -> int:
        """Weight version that the next completion will carry."""
        return self._inner.version

    @property
    def context_tokens(self) -> int:
        """Most tokens of one sequence."""
        return self._inner.context_tokens

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion. Raises what `inner` raises."""
        return self._seen(prompt_ids, await self._inner.complete(prompt_ids, sampling))

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Sample one completion and tell its tokens. Raises what `inner` raises."""
        if isinstance(self._inner, StreamingEngine):
            return self._seen(prompt_ids, await self._inner.stream(prompt_ids, sampling, each))
        completion = await self._inner.complete(prompt_ids, sampling)
        for token, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
            each(token, logprob)
        return self._seen(prompt_ids, completion)

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probs of tokens 1..T-1."""
        return await self._inner.score(token_ids)

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Replace the weights."""
        await self._inner.load(weights, version)

    async def close(self) -> None:
        """Close `inner`. Idempotent."""
        await self._inner.close()

    def _seen(self, prompt_ids: Sequence[int], completion: Completion) -> Completion:
        self.calls.append((tuple(prompt_ids), completion))
        if self._on_answer:
            self._on_answer()
        return completion
